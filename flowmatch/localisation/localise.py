"""Pose of a photo by retrieval, matching and perspective-n-point."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flowmatch.io._files import FilePath
from flowmatch.io.masked import read_masked
from flowmatch.localisation.colmap_model import ColmapModel, is_colmap_model
from flowmatch.localisation.pnp import CameraPose, fit_camera_pose
from flowmatch.localisation.posed_folder import PosedFolder
from flowmatch.matching import MatchOptions
from flowmatch.matching.features import image_size
from flowmatch.matching.methods import extract_features, load_methods
from flowmatch.retrieval import search
from flowmatch.retrieval.index import Index, read_index
from flowmatch.retrieval.searcher import read_query

MIN_POINTS = 20
"""Smallest number of different pixels that must agree on a pose."""


@dataclass(frozen=True)
class LocaliseOptions:
    """Options of `localise_photo`.

    Attributes:
        count: Number of similar pictures that the photo is matched with.
        threshold: Maximum reprojection error of an inlier, pixels.
        descriptor: Descriptor of keypoints: ``"rootsift"`` or another that `match_images` takes.
        matching: Options of the matches; their geometry is not used.
    """

    count: int = 10
    threshold: float = 4.0
    descriptor: str | Path = "rootsift"
    matching: MatchOptions = field(
        default_factory=lambda: MatchOptions(keypoints=2000, geometry=None)
    )

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be positive, got {self.count}")
        if not 0 < self.threshold < np.inf:
            raise ValueError(f"threshold must be a positive number, got {self.threshold}")


_DEFAULTS = LocaliseOptions()


class Localisation(NamedTuple):
    """Pose of a photo.

    Attributes:
        result: Pose and its uncertainty; None if none was found.
        matches: Number of matches with points of the world.
        points: Number of different pixels of the photo that agree with the pose.
        pictures: Names of the pictures of the index, the most similar first, and the number of
            matches with each that agree.
        metric: Whether lengths are in metres; else in the unit of a model of COLMAP.
    """

    result: CameraPose | None
    matches: int
    points: int
    pictures: list[tuple[str, int]]
    metric: bool = True

    @property
    def trusted(self) -> bool:
        """Whether enough pixels agree on the pose that chance does not explain it."""
        return self.result is not None and self.points >= MIN_POINTS


def localise_photo(
    photo: ArrayLike | FilePath,
    index: Index | FilePath,
    *,
    camera: ArrayLike | None = None,
    folder: PosedFolder | ColmapModel | FilePath | None = None,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: LocaliseOptions = _DEFAULTS,
) -> Localisation:
    """Find where a photo was taken, from pictures with known poses, and depth or a sparse model.

    The most similar pictures of the index are matched with the photo; the depth of matched pixels,
    or the keypoints of a model of COLMAP beside them, give points of the world, and these and the
    photo's pixels give the pose.

    Args:
        photo: File, or uint8 image: RGB ``[H, W, 3]`` or gray ``[H, W]``.
        index: An index of the folder ``color``, or its file.
        camera: Intrinsics ``[3, 3]`` of the photo; None takes those of the folder.
        folder: Depth, poses and intrinsics, or a model of COLMAP; None takes the folder that holds
            the index's pictures' folder.
        model: Model that the index was made with, as `search` takes it.
        device: Device of the networks; None takes a GPU if torch can use one.
        options: Number of pictures, threshold and matching.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged, no picture of the index has a pose, or the photo has another
            size than the pictures and no camera is given.

    Example:
        >>> result = localise_photo("photo.jpg", "office.safetensors")  # doctest: +SKIP
        >>> result.result.pose[:3, 3]  # doctest: +SKIP

    Reference:
        Sattler et al., Are Large-Scale 3D Models Really Necessary for Accurate Visual
        Localization?, CVPR 2017; Sarlin et al., From Coarse to Fine, CVPR 2019.
    """
    content = index if isinstance(index, Index) else read_index(index)
    posed = _read_posed(content.root.parent if folder is None else folder)
    image = read_query(photo)
    results = search(content, image, model=model, device=device, count=len(content.entries))
    names = [(r.name, posed.key(r.name)) for r in results]
    names = [(name, frame) for name, frame in names if frame in posed.poses][: options.count]
    if not names:
        raise ValueError(f"{posed.folder}: expected poses of pictures of the index, got none")
    K = posed.camera if camera is None else np.asarray(camera, np.float64)
    if K is None:
        raise ValueError(
            f"{posed.folder} has several cameras, or one with distortion: the photo needs its own"
        )
    found = _match_pictures(image, content.root, names, posed, camera is None, device, options)
    return _fit(names, found, K, options.threshold)._replace(metric=posed.metric)


def _read_posed(folder: PosedFolder | ColmapModel | FilePath) -> PosedFolder | ColmapModel:
    if isinstance(folder, PosedFolder | ColmapModel):
        return folder
    return ColmapModel(folder) if is_colmap_model(folder) else PosedFolder(folder)


class _Correspondences(NamedTuple):
    """Pixels of a photo and points of the world: ``[N, 2]``, ``[N, 3]``; place of the picture."""

    pixels: NDArray[np.float32]
    points: NDArray[np.float64]
    places: NDArray[np.int64]


def _match_pictures(
    image: NDArray[np.uint8],
    root: Path,
    names: list[tuple[str, str]],
    posed: PosedFolder | ColmapModel,
    same_camera: bool,
    device: str | torch.device | None,
    options: LocaliseOptions,
) -> _Correspondences:
    """Match a photo with pictures, and look up the points of the world."""
    methods = load_methods(options.descriptor, device, options.matching)
    features = extract_features(image, methods.extractor, options.matching)
    parts = [
        _Correspondences(np.empty((0, 2), np.float32), np.empty((0, 3)), np.empty(0, np.int64))
    ]
    for place, (name, frame) in enumerate(names):
        picture = read_masked(root / name)
        size, expected = image_size(picture.image), image_size(image)
        if same_camera and size != expected:
            raise ValueError(
                f"a photo of {expected[0]} x {expected[1]} pixels needs its camera: {name} has "
                f"{size[0]} x {size[1]}"
            )
        other = extract_features(picture.image, methods.extractor, options.matching, picture.mask)
        xy, xy_other = methods.matcher.match(features, other).points()
        points, known = posed.points(frame, xy_other, size)
        parts.append(_Correspondences(xy[known], points[known], np.full(int(known.sum()), place)))
    return _Correspondences(*map(np.concatenate, zip(*parts, strict=True)))


def _fit(
    names: list[tuple[str, str]],
    found: _Correspondences,
    camera: NDArray[np.float64],
    threshold: float,
) -> Localisation:
    result = fit_camera_pose(found.points, found.pixels, camera, threshold=threshold)
    inliers = np.zeros(len(found.places), np.bool_) if result is None else result.inliers
    counts = np.bincount(found.places[inliers], minlength=len(names)).tolist()
    # A pixel may be matched in each picture: that is one observation.
    different = len(np.unique(np.rint(found.pixels[inliers]), axis=0))
    pictures = [(name, count) for (name, _), count in zip(names, counts, strict=True)]
    return Localisation(result, len(found.places), different, pictures)
