"""Import of OpenCV, with an explanation if its installation is broken."""

try:
    import cv2
except ModuleNotFoundError as error:
    raise ImportError(
        "this part of flowmatch needs OpenCV, which is not installed: "
        "pip install opencv-python-headless"
    ) from error
except ImportError as error:
    # Usually libGL.so.1 is missing on a machine without a display; the headless wheel needs none.
    raise ImportError(
        f"OpenCV is installed but does not load ({error}): "
        "pip uninstall opencv-python, then pip install opencv-python-headless"
    ) from error

__all__ = ["cv2"]
