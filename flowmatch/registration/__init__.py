"""Registration of scans: descriptors of point clouds, and the rigid motions between them."""

from flowmatch.registration.describe import describe_points, field_patches
from flowmatch.registration.fpfh import fpfh
from flowmatch.registration.graph import Edge, MultiwayRegistration, register_many
from flowmatch.registration.icp import refine_motion
from flowmatch.registration.integrate import Fragment, integrate_depth, write_fragments
from flowmatch.registration.keypoints import iss_keypoints, uniform_keypoints, voxel_down
from flowmatch.registration.networks import MODELS, FieldDescriptor, Spin, ThreeDMatch
from flowmatch.registration.normals import estimate_normals, local_frames
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.ransac import ransac
from flowmatch.registration.register import Registration, register_scans
from flowmatch.registration.store import available, load, save_weights
from flowmatch.registration.volume.tsdf import TSDFVolume

__all__ = [
    "MODELS",
    "Edge",
    "FieldDescriptor",
    "Fragment",
    "MultiwayRegistration",
    "RegisterOptions",
    "Registration",
    "Spin",
    "TSDFVolume",
    "ThreeDMatch",
    "available",
    "describe_points",
    "estimate_normals",
    "field_patches",
    "fpfh",
    "integrate_depth",
    "iss_keypoints",
    "load",
    "local_frames",
    "ransac",
    "refine_motion",
    "register_many",
    "register_scans",
    "save_weights",
    "uniform_keypoints",
    "voxel_down",
    "write_fragments",
]
