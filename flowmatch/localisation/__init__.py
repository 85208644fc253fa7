"""Pose of the camera of a photo in a place whose pictures have known poses."""

from flowmatch.localisation.localise import Localisation, LocaliseOptions, localise_photo
from flowmatch.localisation.pnp import CameraPose, fit_camera_pose
from flowmatch.localisation.posed_folder import PosedFolder

__all__ = [
    "CameraPose",
    "Localisation",
    "LocaliseOptions",
    "PosedFolder",
    "fit_camera_pose",
    "localise_photo",
]
