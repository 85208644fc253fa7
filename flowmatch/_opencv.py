"""Import of OpenCV, with an explanation if its installation is broken; the shift of its SIFT."""

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

__all__ = ["SIFT_SHIFT", "cv2"]

SIFT_SHIFT = 0.25
"""Distance by which keypoints of ``cv2.SIFT`` lie too far right and too far down, in pixels.

SIFT enlarges an image twice, and OpenCV's enlargement shifts it by a quarter of a pixel. Callers
subtract this after detection and add it before description. The option
``enable_precise_upscale`` of newer versions has no shift, but finds 2 % fewer correct matches.

Reference:
    github.com/opencv/opencv/issues/23123
"""
