"""Read and write optical flow, pictures, videos and point clouds."""

from flowmatch.io._files import replace_when_done
from flowmatch.io._white import white_level
from flowmatch.io.cloud import (
    depth_to_points,
    read_cloud,
    read_depth,
    read_intrinsics,
    write_cloud,
)
from flowmatch.io.cloud_file import (
    BARE_SUFFIXES,
    CLOUD_SUFFIXES,
    SCAN_SUFFIXES,
    merge_cloud_files,
    move_cloud_file,
)
from flowmatch.io.flow import read_flow, write_flow
from flowmatch.io.image import IMAGE_SUFFIXES, list_images, read_image, read_rgba, write_image
from flowmatch.io.mesh import MESH_SUFFIXES, require_trimesh, write_mesh
from flowmatch.io.metadata import Metadata, read_metadata
from flowmatch.io.poses import read_motion, read_poses
from flowmatch.io.video import Frames, SkippedFrame, read_frames
from flowmatch.io.video_writer import VideoWriter

__all__ = [
    "BARE_SUFFIXES",
    "CLOUD_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MESH_SUFFIXES",
    "SCAN_SUFFIXES",
    "Frames",
    "Metadata",
    "SkippedFrame",
    "VideoWriter",
    "depth_to_points",
    "list_images",
    "merge_cloud_files",
    "move_cloud_file",
    "read_cloud",
    "read_depth",
    "read_flow",
    "read_frames",
    "read_image",
    "read_intrinsics",
    "read_metadata",
    "read_motion",
    "read_poses",
    "read_rgba",
    "replace_when_done",
    "require_trimesh",
    "white_level",
    "write_cloud",
    "write_flow",
    "write_image",
    "write_mesh",
]
