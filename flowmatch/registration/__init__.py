"""Fragments of surfaces: descriptors of scans, and the rigid motions between them."""

from flowmatch.registration.describe import describe, field_patches
from flowmatch.registration.fpfh import fpfh
from flowmatch.registration.icp import refine_motion
from flowmatch.registration.keypoints import iss_keypoints, uniform_keypoints, voxel_down
from flowmatch.registration.networks import MODELS, Descriptor3D, FieldDescriptor, SpinDescriptor
from flowmatch.registration.normals import estimate_normals, local_frames
from flowmatch.registration.ransac import ransac
from flowmatch.registration.register import RegisterOptions, Registration, register

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
