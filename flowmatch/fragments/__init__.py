"""Fragments of surfaces: descriptors of scans, and the rigid motions between them."""

from flowmatch.fragments.describe import describe, field_patches
from flowmatch.fragments.fpfh import fpfh
from flowmatch.fragments.keypoints import iss_keypoints, uniform_keypoints, voxel_down
from flowmatch.fragments.networks import MODELS, Descriptor3D, FieldDescriptor, SpinDescriptor
from flowmatch.fragments.normals import estimate_normals, local_frames
from flowmatch.fragments.ransac import ransac
from flowmatch.fragments.refine import refine_motion
from flowmatch.fragments.register import RegisterOptions, Registration, register

__all__ = [
    "MODELS",
    "Descriptor3D",
    "FieldDescriptor",
    "RegisterOptions",
    "Registration",
    "SpinDescriptor",
    "describe",
    "estimate_normals",
    "field_patches",
    "fpfh",
    "iss_keypoints",
    "local_frames",
    "ransac",
    "refine_motion",
    "register",
    "uniform_keypoints",
    "voxel_down",
]
