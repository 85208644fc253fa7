"""Files in and out: optical flow, pictures, videos."""

from flowmatch.io._files import replace_when_done
from flowmatch.io.flow import read_flow, write_flow
from flowmatch.io.image import IMAGE_SUFFIXES, read_image, write_image
from flowmatch.io.video import Frames, SkippedFrame, read_frames
from flowmatch.io.video_writer import VideoWriter

__all__ = [
    "IMAGE_SUFFIXES",
    "Frames",
    "SkippedFrame",
    "VideoWriter",
    "read_flow",
    "read_frames",
    "read_image",
    "replace_when_done",
    "write_flow",
    "write_image",
]
