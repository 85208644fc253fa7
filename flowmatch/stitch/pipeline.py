"""The stages of stitching, from photos to panoramas."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.imaging import Image
from flowmatch.io import Metadata
from flowmatch.io.metadata import sphere_xmp
from flowmatch.matching.methods import load_methods
from flowmatch.progress import ProgressCallback
from flowmatch.stitch.cameras import Cameras, turn_view
from flowmatch.stitch.compose import Composite, WarpedPhoto, compose
from flowmatch.stitch.crop import Rectangle, largest_rectangle
from flowmatch.stitch.estimate import estimate_cameras
from flowmatch.stitch.matching import (
    LeftOut,
    Pair,
    View,
    explain_ungrouped,
    extract_features,
    group_views,
)
from flowmatch.stitch.options import StitchOptions
from flowmatch.stitch.pairs import match_views
from flowmatch.stitch.photos import MaskSource, Photo, Source, open_photos

if TYPE_CHECKING:
    import torch
    from torch import nn

    from flowmatch.matching.networks import DescriptorNetwork

_DEFAULTS = StitchOptions()


class Panorama(NamedTuple):
    """A panorama of several photos.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB.
        mask: ``[H, W]`` bool, true inside the photos; the image is black elsewhere.
        cameras: Cameras of its photos, in the order of the photos.
        uncropped: ``[H', W', 3]``, the image before it was cropped.
        left_out: Photos that are in no panorama, each with the reason.
        messages: Notes about attempts that failed and about defects to expect.
        metadata: EXIF of the first photo, the colour profile if it is that of all photos, and, if
            the picture is a full circle on a sphere, what viewers need to show it as such.
        others: Smaller panoramas, of photos that do not overlap with these.
    """

    image: Image
    mask: NDArray[np.bool_]
    cameras: Cameras
    uncropped: Image
    left_out: tuple[LeftOut, ...] = ()
    messages: tuple[str, ...] = ()
    metadata: Metadata = Metadata()
    others: tuple["Panorama", ...] = ()


class PhotoGroup(NamedTuple):
    """Photos connected by overlaps.

    Attributes:
        photos: The photos, in the order in which they were given.
        cameras: Their cameras, in the same order.
        messages: Notes about attempts that failed and about defects to expect.
    """

    photos: tuple[Photo, ...]
    cameras: Cameras
    messages: tuple[str, ...]


class PhotoGroups(NamedTuple):
    """Result of `find_cameras`.

    Attributes:
        photos: All photos.
        groups: Groups of photos that overlap, one for each panorama, the largest first; perhaps
            empty.
        left_out: Photos in no group, in the order in which they were given.
        views: Features of the photos.
        pairs: Matches of all pairs of views.
    """

    photos: tuple[Photo, ...]
    groups: tuple[PhotoGroup, ...]
    left_out: tuple[LeftOut, ...]
    views: tuple[View, ...]
    pairs: tuple[Pair, ...]


def stitch_photos(
    photos: Sequence[Source],
    *,
    masks: Sequence[MaskSource] | None = None,
    model: "DescriptorNetwork | nn.Module | str | Path | None" = None,
    device: "str | torch.device | None" = None,
    options: StitchOptions = _DEFAULTS,
    progress: ProgressCallback | None = None,
) -> Panorama:
    """Stitch photos to a panorama; their order does not matter.

    Photos are read one at a time, whenever a stage needs them, so that memory is needed for the
    panorama and for one photo, however many there are.

    Args:
        photos: At least two files or uint8 images, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        masks: One for each photo, of its size: a file, bool or uint8 ``[H, W]``, or None. What is
            black or false is neither matched nor shown.
        model: Descriptor of keypoints: ``"rootsift"``, ``"sift"``, ``"orb"``; ``"default"`` or
            another name of shipped weights; a file of weights; or a network. None takes
            ``"rootsift"``, unless the options name a method that needs no descriptor.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.
        options: How photos are matched and the panorama is rendered.
        progress: Called after each photo or pair of photos of each stage.

    Returns:
        The panorama of the largest group of photos. Other photos that overlap make
        `Panorama.others`.

    Raises:
        ValueError: No two photos overlap (the message gives the reason for each photo), or the
            model is unknown.
        FileNotFoundError: A photo, a mask or the file of weights does not exist.

    Example:
        >>> texture = np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)
        >>> wide = texture.repeat(8, axis=0).repeat(8, axis=1)
        >>> options = StitchOptions(motion="affine")
        >>> stitch_photos([wide[:, :300], wide[:, 180:]], options=options).image.shape
        (240, 480, 3)

    Reference:
        Brown and Lowe, Automatic Panoramic Image Stitching Using Invariant Features, IJCV 2007.
        The initial cameras, exposure compensation, seams and blending are those of OpenCV's module
        stitching.
    """
    opened = open_photos(photos, masks)
    groups = find_cameras(opened, model=model, device=device, options=options, progress=progress)
    first, *others = render_panoramas(groups, options=options, progress=progress)
    return first._replace(left_out=groups.left_out, others=tuple(others))


def find_cameras(
    photos: Sequence[Source],
    *,
    model: "DescriptorNetwork | nn.Module | str | Path | None" = None,
    device: "str | torch.device | None" = None,
    options: StitchOptions = _DEFAULTS,
    progress: ProgressCallback | None = None,
) -> PhotoGroups:
    """Group photos that overlap, and estimate their cameras.

    Args:
        photos: At least two files or images, as `stitch_photos` takes them.
        model: Descriptor of keypoints, as `stitch_photos` takes it.
        device: Device of the network; None takes a GPU if torch can use one, and leaves a given
            network where it is.
        options: How photos are matched.
        progress: Called after each photo or pair of photos of each stage.

    Returns:
        Groups of photos with their cameras, and the features and matches on which they are based.

    Raises:
        ValueError: There are fewer than two photos, or the model is unknown.
        FileNotFoundError: A photo or the file of weights does not exist.
    """
    opened = open_photos(photos)
    if len(opened) < 2:
        raise ValueError(f"a panorama needs at least two photos, got {len(opened)}")
    matching = options.matching()
    if model is None:
        model = "rootsift" if matching.takes_model else "default"
    extractor, matcher = load_methods(model, device, matching)
    views, unreadable = extract_features(opened, extractor, options, progress)
    pairs = match_views(views, matcher, options, progress)
    left_out = list(unreadable)
    groups = []
    for members in group_views(pairs, len(views), options.confidence):
        if len(members) == 1:
            left_out.append(explain_ungrouped(members[0], pairs, views, options.confidence))
            continue
        try:
            groups.append(_estimate_group(members, views, pairs, options))
        except ValueError as error:
            left_out += [LeftOut(views[k].name, str(error)) for k in members]
    names = [photo.name for photo in opened]
    left_out.sort(key=lambda photo: names.index(photo.name))
    return PhotoGroups(tuple(opened), tuple(groups), tuple(left_out), tuple(views), tuple(pairs))


def render_panoramas(
    groups: PhotoGroups,
    *,
    options: StitchOptions = _DEFAULTS,
    progress: ProgressCallback | None = None,
    on_warped: Callable[[WarpedPhoto], None] | None = None,
    on_size: Callable[[int, int], None] | None = None,
) -> Iterator[Panorama]:
    """Render the panorama of each group, the largest group first.

    Args:
        groups: Result of `find_cameras`.
        options: How panoramas are rendered.
        progress: Called after each photo of each stage.
        on_warped: Called with each photo before it is blended.
        on_size: Called with the expected width and height before the work, see `compose`; an error
            that it raises ends the work.

    Returns:
        An iterator that renders one panorama for each group.

    Raises:
        ValueError: There is no group (the message gives the reason for each photo), or a panorama
            is too large.
        OSError: A photo cannot be read.
    """
    if not groups.groups:
        reasons = "; ".join(f"{photo.name}: {photo.reason}" for photo in groups.left_out)
        raise ValueError(f"no two of the {len(groups.photos)} photos make a panorama: {reasons}")
    return (
        render_panorama(
            group.photos,
            group.cameras,
            options=options,
            progress=progress,
            on_warped=on_warped,
            on_size=on_size,
        )._replace(messages=group.messages)
        for group in groups.groups
    )


def render_panorama(
    photos: Sequence[Source],
    cameras: Cameras,
    *,
    options: StitchOptions = _DEFAULTS,
    progress: ProgressCallback | None = None,
    on_warped: Callable[[WarpedPhoto], None] | None = None,
    on_size: Callable[[int, int], None] | None = None,
) -> Panorama:
    """Render a panorama of photos whose cameras are known; nothing is matched.

    Args:
        photos: Files or images, as many as cameras, in the order of the cameras, or with their
            names in any order. With all names there may be more photos, which are left out.
        cameras: Cameras of these photos, or of other photos of the same rig.
        options: How the panorama is rendered.
        progress: Called after each photo of each stage.
        on_warped: Called with each photo before it is blended.
        on_size: Called with the expected width and height before the work, see `compose`; an error
            that it raises ends the work.

    Returns:
        The panorama.

    Raises:
        ValueError: The photos do not fit the cameras, affine cameras are to be turned, or the
            panorama is too large.
        FileNotFoundError: A photo does not exist.
        OSError: A photo cannot be read.
    """
    opened = open_photos(photos)
    chosen = opened
    by_name = {photo.name: photo for photo in opened}
    if len(opened) > len(cameras.cameras) and by_name.keys() >= set(cameras.names):
        chosen = [by_name[name] for name in cameras.names]
    left_out = tuple(LeftOut(p.name, "it has no camera") for p in opened if p not in chosen)
    if any(options.turn):
        cameras = turn_view(cameras, *options.turn)
    composite = compose(
        chosen, cameras, options, progress=progress, on_warped=on_warped, on_size=on_size
    )
    image, mask = composite.image, composite.mask
    kept = largest_rectangle(mask) if options.crop else Rectangle(0, 0, *image.shape[1::-1])
    metadata = _metadata(chosen, composite, kept)
    if not options.crop:
        return Panorama(image, mask, cameras, image, left_out, metadata=metadata)
    cropped = kept.cut(image)
    whole = np.ones(cropped.shape[:2], np.bool_)
    return Panorama(cropped, whole, cameras, image, left_out, metadata=metadata)


def _metadata(photos: Sequence[Photo], composite: Composite, kept: Rectangle) -> Metadata:
    """Return the metadata of a panorama: of the first photo, and of a full circle."""
    profiles = {photo.metadata.icc for photo in photos}
    xmp = None
    width = kept.right - kept.left
    is_sphere = composite.projection == "spherical"
    if is_sphere and width >= math.floor(2 * math.pi * composite.radius) - 1:
        xmp = sphere_xmp(width, kept.bottom - kept.top, composite.box.top + kept.top)
    return Metadata(photos[0].metadata.exif, profiles.pop() if len(profiles) == 1 else None, xmp)


def _estimate_group(
    members: list[int], views: Sequence[View], pairs: Sequence[Pair], options: StitchOptions
) -> PhotoGroup:
    place = {view: k for k, view in enumerate(members)}
    inside = [
        pair._replace(first=place[pair.first], second=place[pair.second])
        for pair in pairs
        if pair.first in place and pair.second in place
    ]
    chosen = [views[k] for k in members]
    cameras, messages = estimate_cameras(chosen, inside, options)
    # Results are in the order in which the photos were given.
    order = sorted(range(len(chosen)), key=lambda k: chosen[k].photo.number)
    cameras = cameras._replace(cameras=tuple(cameras.cameras[k] for k in order))
    return PhotoGroup(tuple(chosen[k].photo for k in order), cameras, tuple(messages))
