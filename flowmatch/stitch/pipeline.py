"""Photos in, panoramas out: every stage in one line."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch.matching.networks import DescriptorNetwork
from flowmatch.stitch.cameras import MODELS, Cameras
from flowmatch.stitch.compose import Composite, Style, compose
from flowmatch.stitch.crop import largest_rectangle
from flowmatch.stitch.estimate import WAVES, estimate_cameras
from flowmatch.stitch.matching import (
    LeftOut,
    Pair,
    Progress,
    View,
    groups_of,
    look_at,
    match_views,
    why_alone,
)
from flowmatch.stitch.photos import Image, Photo, open_photos
from flowmatch.stitch.report import Report

Source = str | os.PathLike[str] | ArrayLike


class Panorama(NamedTuple):
    """One picture of several photos.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB.
        mask: ``[H, W]`` bool: where photos are; the image is black elsewhere.
        cameras: Of its photos, in the order in which they were given.
        left_out: The photos that are in no panorama, each with the reason.
        messages: What did not work at first.
        others: Panoramas of photos that do not overlap with these, smaller ones.
    """

    image: Image
    mask: NDArray[np.bool_]
    cameras: Cameras
    left_out: tuple[LeftOut, ...] = ()
    messages: tuple[str, ...] = ()
    others: tuple["Panorama", ...] = ()


class Group(NamedTuple):
    """Photos that hang together, and their cameras.

    Attributes:
        photos: Numbers of the photos, ascending.
        cameras: As many, in that order.
        messages: What did not work at first.
    """

    photos: tuple[int, ...]
    cameras: Cameras
    messages: tuple[str, ...]


class Registration(NamedTuple):
    """What is known of all photos before any panorama is painted.

    Attributes:
        groups: Each will be a panorama; the largest first.
        left_out: The photos in none of them, in the order in which they were given.
        views: What was seen of the photos.
        pairs: All pairs of views.
    """

    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]
    views: tuple[View, ...]
    pairs: tuple[Pair, ...]


def stitch(
    images: Sequence[Source],
    *,
    network: DescriptorNetwork | str = "rootsift",
    detector: str = "sift",
    keypoints: int = 4000,
    ratio: float | None = 0.8,
    confidence: float = 1.0,
    model: str = "rotation",
    wave: str = "auto",
    megapixels: float = 0.6,
    cameras: Cameras | None = None,
    style: Style | None = None,
    verbose: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Panorama:
    """Stitch photos to a panorama; their order does not matter.

    Photos are read one at a time, whenever a stage needs them, so memory holds the panorama and
    one photo however many there are.

    Args:
        images: Files, or uint8 RGB ``[H, W, 3]`` or gray ``[H, W]``; at least two.
        network: As in `match_images`.
        detector: As in `match_images`.
        keypoints: As in `match_images`.
        ratio: As in `match_images`.
        confidence: Pairs of which ``inliers / (8 + 0.3 * matches)`` is at least that overlap.
        model: ``"rotation"``: a camera that turned, at any place of the world; ``"affine"``: scans
            and other flat things from above, which are shifted, turned and scaled.
        wave: Straightens the horizon: ``"auto"``, ``"horizontal"``, ``"vertical"``, ``"none"``.
        megapixels: To which photos are reduced for finding keypoints.
        cameras: Known ones, from `Panorama.cameras` or `read_cameras`: nothing is matched then.
        style: How the panorama is put together; None takes `Style()`.
        verbose: A folder for pictures of all stages and ``report.json``.
        progress: Called with the stage, what is done, and of how many.

    Returns:
        The panorama of most photos; other photos that overlap make `Panorama.others`.

    Raises:
        ValueError: An argument is out of range, or no two photos overlap; it says by how much each
            failed.
        OSError: The folder `verbose` cannot be written.

    Example:
        >>> texture = np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)
        >>> wide = texture.repeat(8, axis=0).repeat(8, axis=1)
        >>> panorama = stitch([wide[:, :300], wide[:, 180:]], model="affine")
        >>> panorama.image.shape
        (240, 480, 3)

    Reference:
        Brown and Lowe, Automatic Panoramic Image Stitching Using Invariant Features, IJCV 2007.
        Cameras, exposure, seams and blending are those of OpenCV's module stitching.
    """
    photos = open_photos(images)
    style = style or Style()
    report = Report(verbose) if verbose is not None else None
    if cameras is not None:
        return reuse(photos, cameras, style, progress=progress, report=report)
    registration = register(
        photos, network, detector=detector, keypoints=keypoints, ratio=ratio,
        confidence=confidence, model=model, wave=wave, megapixels=megapixels,
        progress=progress, report=report,
    )  # fmt: skip
    first, *others = paint(photos, registration, style, progress=progress, report=report)
    return first._replace(left_out=registration.left_out, others=tuple(others))


def register(
    photos: Sequence[Photo],
    network: DescriptorNetwork | str = "rootsift",
    *,
    detector: str = "sift",
    keypoints: int = 4000,
    ratio: float | None = 0.8,
    confidence: float = 1.0,
    model: str = "rotation",
    wave: str = "auto",
    megapixels: float = 0.6,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Registration:
    """Find out which photos overlap, and their cameras.

    Args:
        photos: At least two, of `open_photos`.
        network: As in `stitch`, like all others.
        detector: As in `stitch`.
        keypoints: As in `stitch`.
        ratio: As in `stitch`.
        confidence: As in `stitch`.
        model: As in `stitch`.
        wave: As in `stitch`.
        megapixels: As in `stitch`.
        progress: As in `stitch`.
        report: Is shown what was found.

    Returns:
        At least one group.

    Raises:
        ValueError: As in `stitch`.
    """
    _check(photos, confidence, model, wave, megapixels)
    views, unreadable = look_at(
        photos, network, detector=detector, keypoints=keypoints, megapixels=megapixels,
        progress=progress,
    )  # fmt: skip
    pairs = match_views(views, model=model, ratio=ratio, progress=progress)
    left_out = list(unreadable)
    groups = []
    for members in groups_of(pairs, len(views), confidence):
        if len(members) == 1:
            left_out.append(why_alone(members[0], pairs, views, confidence))
            continue
        try:
            groups.append(_group(members, views, pairs, model, wave, confidence))
        except ValueError as error:
            left_out += [LeftOut(views[k].name, str(error)) for k in members]
    given = [photo.name for photo in photos]
    left_out.sort(key=lambda photo: given.index(photo.name))
    found = Registration(tuple(groups), tuple(left_out), tuple(views), tuple(pairs))
    if report:
        report.registration(photos, found.views, found.pairs, found.left_out, confidence)
    if not groups:
        raise ValueError(_no_panorama(len(photos), left_out))
    return found


def paint(
    photos: Sequence[Photo],
    registration: Registration,
    style: Style,
    *,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Iterator[Panorama]:
    """Yield the panoramas of a registration, the one of most photos first.

    Args:
        photos: Those that were registered.
        registration: Of `register`.
        style: As in `stitch`.
        progress: As in `stitch`.
        report: Is shown all stages.

    Yields:
        Panoramas, one for each group.

    Raises:
        ValueError: A panorama would be too large.
        OSError: A photo cannot be read any more.
    """
    for number, group in enumerate(registration.groups, 1):
        chosen = [photos[k] for k in group.photos]
        witness = (
            report.start(number, group.photos, group.cameras, group.messages) if report else None
        )
        composite = compose(chosen, group.cameras, style, progress=progress, witness=witness)
        image, mask = _finish(composite, style)
        if witness:
            witness.result(composite.image, image)
        yield Panorama(image, mask, group.cameras, messages=group.messages)


def reuse(
    photos: Sequence[Photo],
    cameras: Cameras,
    style: Style,
    *,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Panorama:
    """Paint a panorama with cameras that are known already.

    Args:
        photos: As many as cameras, in their order, or with their names in any order. With names,
            there may be more photos; they are left out.
        cameras: From the same photos or from others of the same rig.
        style: As in `stitch`.
        progress: As in `stitch`.
        report: Is shown all stages.

    Returns:
        The panorama.

    Raises:
        ValueError: The photos do not fit the cameras.
        OSError: A photo cannot be read.
    """
    chosen = list(photos)
    by_name = {photo.name: photo for photo in photos}
    if len(photos) > len(cameras.cameras) and by_name.keys() >= set(cameras.names):
        chosen = [by_name[name] for name in cameras.names]
    left_out = [LeftOut(p.name, "it has no camera") for p in photos if p not in chosen]
    numbers = [photos.index(photo) for photo in chosen]
    witness = report.start(1, numbers, cameras, ()) if report else None
    composite = compose(chosen, cameras, style, progress=progress, witness=witness)
    image, mask = _finish(composite, style)
    if witness:
        witness.result(composite.image, image)
    return Panorama(image, mask, cameras, tuple(left_out))


def _check(
    photos: Sequence[Photo], confidence: float, model: str, wave: str, megapixels: float
) -> None:
    if len(photos) < 2:
        raise ValueError(f"a panorama needs at least two photos, got {len(photos)}")
    for name, value, known in (("model", model, MODELS), ("wave", wave, WAVES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, number in (("confidence", confidence), ("megapixels", megapixels)):
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be positive, got {number}")


def _group(
    members: list[int],
    views: Sequence[View],
    pairs: Sequence[Pair],
    model: str,
    wave: str,
    confidence: float,
) -> Group:
    place = {view: k for k, view in enumerate(members)}
    inside = [
        pair._replace(first=place[pair.first], second=place[pair.second])
        for pair in pairs
        if pair.first in place and pair.second in place
    ]
    chosen = [views[k] for k in members]
    cameras, messages = estimate_cameras(
        chosen, inside, model=model, wave=wave, confidence=confidence
    )
    # From here on in the order in which people gave them.
    order = sorted(range(len(chosen)), key=lambda k: chosen[k].photo)
    numbers = tuple(chosen[k].photo for k in order)
    given = cameras._replace(cameras=tuple(cameras.cameras[k] for k in order))
    return Group(numbers, given, tuple(messages))


def _no_panorama(photos: int, left_out: Sequence[LeftOut]) -> str:
    reasons = "; ".join(f"{photo.name}: {photo.reason}" for photo in left_out)
    return f"no two of the {photos} photos make a panorama: {reasons}"


def _finish(composite: Composite, style: Style) -> tuple[Image, NDArray[np.bool_]]:
    """Crop, if asked to."""
    if not style.crop:
        return composite.image, composite.mask
    image = largest_rectangle(composite.mask).cut(composite.image)
    return image, np.ones(image.shape[:2], np.bool_)
