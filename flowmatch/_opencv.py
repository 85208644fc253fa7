"""OpenCV, imported in one place, so that a broken installation is explained in one sentence."""

try:
    import cv2
except ModuleNotFoundError as error:
    raise ImportError(
        "this part of flowmatch needs OpenCV, which is not installed: "
        "pip install opencv-python-headless"
    ) from error
except ImportError as error:
    # Nearly always libGL.so.1 on a machine without a display; the headless wheel does not need it.
    raise ImportError(
        f"OpenCV is installed but does not load ({error}): "
        "pip uninstall opencv-python, then pip install opencv-python-headless"
    ) from error

__all__ = ["cv2"]
