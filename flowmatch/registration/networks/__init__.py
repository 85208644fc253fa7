"""Networks that describe keypoints of scans."""

from collections.abc import Callable

from flowmatch.registration.networks.base import SIZE, FieldDescriptor
from flowmatch.registration.networks.spin import Spin
from flowmatch.registration.networks.threedmatch import ThreeDMatch, slim

MODELS: dict[str, Callable[..., FieldDescriptor]] = {
    "3dmatch": ThreeDMatch,
    "slim": slim,
    "spin": Spin,
}
"""Constructors of descriptor networks by name."""

__all__ = ["MODELS", "SIZE", "FieldDescriptor", "Spin", "ThreeDMatch", "slim"]
