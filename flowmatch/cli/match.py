"""``flowmatch match``: matches of two images, or of thousands of pairs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from flowmatch.cli._cameras import CAMERA_HELP, camera_matrix, parse_camera
from flowmatch.cli._messages import messages
from flowmatch.cli._options import (
    INPUT,
    KEYPOINTS,
    MODEL,
    OUTPUT,
    DetectorName,
    DetectorWeights,
    DeviceName,
    Magnification,
    Masks,
    MatcherName,
    MatcherWeights,
    Precision,
    WhiteLevel,
    check_output_folder,
    check_target,
)
from flowmatch.cli._pairs import PairSource, folder_of, match_list
from flowmatch.devices import choose_device
from flowmatch.draw import draw_matches
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.io.masked import MaskedImage, find_masks, read_masked
from flowmatch.matching.features import Matches
from flowmatch.matching.files import MATCH_SUFFIXES, write_matches
from flowmatch.matching.filter import load_comparator
from flowmatch.matching.match import match_described
from flowmatch.matching.methods import extract_features, load_methods
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.pose import MIN_PARALLAX, RelativePose, relative_pose, write_points

EXAMPLES = (
    "flowmatch match first.jpg second.jpg -o matches.png -o matches.npz",
    "flowmatch match photos --all -o matches --colmap",
)
GEOMETRY = "Geometry"
POINTS_SUFFIX = ".ply"


def command(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FIRST SECOND|FOLDER",
            help="Two images; or a folder of images, for a list of pairs.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write: a picture (.png, .jpg), matches (.npz, .csv, .json) or, with "
            "--geometry essential, points (.ply); may be given several times. For a list, a "
            "folder, which is created if it does not exist.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    colmap: Annotated[
        bool,
        typer.Option(
            "--colmap",
            help="Database and text files for COLMAP, in addition, in the folder colmap; for a "
            "list.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Computation of all pairs, also of those whose files exist; for a list.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with the names of two images in each line.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    every_pair: Annotated[
        bool, typer.Option("--all", help="List of all pairs of FOLDER.", rich_help_panel=INPUT)
    ] = False,
    sequential: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="List of the pairs of each image of FOLDER, sorted by name, with the next N.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    retrieval: Annotated[
        tuple[Path, int] | None,
        typer.Option(
            metavar="INDEX K",
            help="List of the pairs of each image of an index, which flowmatch index writes, with "
            "its K most similar.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the images that --pairs or --retrieval names, as FOLDER.",
            show_default="that of the list or of the index",
            rich_help_panel=INPUT,
        ),
    ] = None,
    white: WhiteLevel = None,
    model: Annotated[
        str,
        typer.Option(
            help="Descriptor: rootsift, sift, orb, a name that flowmatch weights list prints, or a "
            "file: .safetensors or published weights.",
            rich_help_panel=MODEL,
        ),
    ] = "default",
    filter: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Network that compares the patches of each match, rejects dissimilar ones and "
            "ranks the rest: a file; siam or 2ch, which do not improve on the default descriptor.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            help="Similarity that --filter demands; 0 is the decision boundary of the networks.",
            rich_help_panel=MODEL,
        ),
    ] = 0.0,
    device: DeviceName = None,
    precision: Precision = "float32",
    detector: DetectorName = "sift",
    detector_weights: DetectorWeights = None,
    keypoints: Annotated[
        int,
        typer.Option(help="Maximum number of keypoints per image.", rich_help_panel=KEYPOINTS),
    ] = 8000,
    max_side: Annotated[
        int | None,
        typer.Option(
            help="Longer side to which larger images are reduced before keypoints are detected, "
            "pixels. Results are in pixels of the images as given.",
            show_default="not reduced",
            rich_help_panel=KEYPOINTS,
        ),
    ] = None,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror",
            help="Second image mirrored left to right, such as a reflection or a scanned negative; "
            "results are in pixels of it as given.",
            rich_help_panel=KEYPOINTS,
        ),
    ] = False,
    masks: Masks = None,
    matcher: MatcherName = "nearest",
    matcher_weights: MatcherWeights = None,
    ratio: Annotated[
        float,
        typer.Option(
            help="Threshold of the ratio test: largest distance of a match over that of the second "
            "nearest neighbour; 1 accepts all.",
            rich_help_panel=KEYPOINTS,
        ),
    ] = 0.8,
    mutual: Annotated[
        bool,
        typer.Option(help="Restriction to mutual nearest neighbours.", rich_help_panel=KEYPOINTS),
    ] = True,
    magnification: Magnification = None,
    geometry: Annotated[
        str | None,
        typer.Option(
            help="Geometric model of the inliers: homography, fundamental, essential or none.",
            show_default="homography; for a list fundamental",
            rich_help_panel=GEOMETRY,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(help="Maximum error of an inlier, pixels.", rich_help_panel=GEOMETRY),
    ] = 3.0,
    guided: Annotated[
        bool,
        typer.Option(
            help="Second pass over keypoints without an inlier, where the homography expects them.",
            rich_help_panel=GEOMETRY,
        ),
    ] = True,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="FX,FY,CX,CY|FILE",
            help=f"Camera of all images, for --geometry essential or for --colmap: {CAMERA_HELP}",
            show_default=False,
            rich_help_panel=GEOMETRY,
        ),
    ] = None,
) -> None:
    """Match two images, or the pairs of a list.

    With --geometry essential and --camera, the pose of the second camera is printed, as JSON: a
    point X in front of the first is R X + t in front of the second; t has length 1.

    The status is 0 if more matches agree on a geometric model than chance explains, in at least
    one pair of a list; 1 if not; 2 for bad input. A run over a list may be interrupted; the same
    command continues.
    """
    options: dict[str, Any] = {
        "detector": detector,
        "detector_weights": detector_weights,
        "keypoints": keypoints,
        "max_side": max_side,
        "matcher": matcher,
        "matcher_weights": matcher_weights,
        "ratio": ratio,
        "mutual": mutual,
        "threshold": threshold,
        "guided": guided,
        "magnification": magnification,
        "precision": precision,
        "filter_model": filter,
        "min_score": min_score,
    }
    _check(filter is not None or min_score == 0, "--min-score needs --filter")
    target = choose_device(device)
    source = PairSource(pairs, every_pair, sequential, retrieval)
    _check(len(source.names()) < 2, f"expected one of {' and '.join(source.names())}")
    intrinsics = parse_camera(camera) if camera is not None else None
    if not source.names():
        _check(camera is None or geometry == "essential", "--camera needs --geometry essential")
        _check(
            root is None and not colmap and not overwrite,
            "--root, --colmap, --overwrite need a list: FOLDER --all, FOLDER --sequential, "
            "--retrieval or --pairs",
        )
        first, second = _two_images(images)
        points = (POINTS_SUFFIX,) if geometry == "essential" else ()
        targets = _checked_outputs(output, points)
        K = None if intrinsics is None else (camera_matrix(intrinsics),) * 2
        chosen = MatchOptions(geometry=_geometry(geometry, "homography"), intrinsics=K, **options)
        if filter:
            chosen = replace(chosen, filter_model=load_comparator(filter, target))
        _check(geometry != "essential" or not mirror, "no motion of a camera mirrors: no --mirror")
        _match_two((model, target), (first, second), masks, targets, chosen, mirror)
        return
    (name,) = source.names()
    folder = folder_of(name, [*(images or []), *([] if root is None else [root])])
    _check(not mirror, f"{name} takes no --mirror")
    _check(camera is None or colmap, f"{name} takes --camera with --colmap only")
    _check(len(output or []) == 1, f"{name} needs one -o FOLDER")
    assert output is not None
    check_output_folder(output[0])
    chosen = MatchOptions(geometry=_geometry(geometry, "fundamental"), **options)
    match_list(
        source.read(folder), output[0], model=model, device=target,
        options=chosen, masks=masks, colmap=colmap, camera=intrinsics, overwrite=overwrite,
    )  # fmt: skip


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _two_images(images: list[Path] | None) -> tuple[Path, Path]:
    given = images or []
    _check(
        not (len(given) == 1 and given[0].is_dir()),
        f"{given[0] if given else ''} is a folder: --all, --sequential N or --pairs FILE chooses "
        "its pairs",
    )
    _check(len(given) == 2, f"expected two images, or a list of pairs, got {len(given)}")
    return given[0], given[1]


def _checked_outputs(output: list[Path] | None, more: tuple[str, ...]) -> list[Path]:
    for path in output or []:
        check_target(path, (*IMAGE_SUFFIXES, *MATCH_SUFFIXES, *more))
    return output or []


def _geometry(name: str | None, default: str) -> str | None:
    if name is None:
        return default
    return None if name == "none" else name


def _match_two(
    model: tuple[str, torch.device],
    images: tuple[Path, Path],
    masks: Path | None,
    targets: list[Path],
    options: MatchOptions,
    mirror: bool,
) -> None:
    methods = load_methods(*model, options)  # before the images are read
    black = find_masks(images, masks) if masks is not None else (None, None)
    pictures = [read_masked(path, mask) for path, mask in zip(images, black, strict=True)]
    if mirror:
        pictures[1] = _mirrored(pictures[1])
    a, b = (picture.image for picture in pictures)
    features = [
        extract_features(picture.image, methods.extractor, options, picture.mask)
        for picture in pictures
    ]
    matches = match_described(
        (features[0], features[1]), options, (a, b), model[1], methods.matcher
    )
    if mirror:
        matches, b = matches.unmirrored(b.shape[1]), b[:, ::-1]
    pose = None
    if options.geometry == "essential" and options.intrinsics is not None and matches.trusted:
        K0, K1 = (np.asarray(K, np.float64) for K in options.intrinsics)
        pose = relative_pose(matches, K0, K1)
        if pose is not None:
            typer.echo(_pose_line(pose))
    for path in targets:
        if path.suffix.lower() == POINTS_SUFFIX:
            if pose is not None:
                write_points(path, pose, matches, a)
            continue
        if path.suffix.lower() in MATCH_SUFFIXES:
            write_matches(path, matches, f"{images[0]} {images[1]}")
        else:
            write_image(path, draw_matches(a, b, *matches.points(), matches.inliers))
    if pose is None:
        targets = [path for path in targets if path.suffix.lower() != POINTS_SUFFIX]
    files = f"in {', '.join(map(str, targets))}" if targets else "nothing was written (-o FILE)"
    messages.print(f"{_describe(matches)}, {files}")
    if pose is not None and pose.parallax < MIN_PARALLAX:
        messages.print(
            f"the camera has hardly moved (parallax {pose.parallax:.2f} degrees): the translation "
            "and the points mean nothing"
        )
    if not matches.trusted:
        raise typer.Exit(1)


def _mirrored(picture: MaskedImage) -> MaskedImage:
    mask = picture.mask
    return picture._replace(
        image=np.ascontiguousarray(picture.image[:, ::-1]),
        mask=None if mask is None else np.ascontiguousarray(mask[:, ::-1]),
    )


def _pose_line(pose: RelativePose) -> str:
    """Return a pose as one line of JSON."""
    return json.dumps(
        {
            "rotation": pose.rotation.round(6).tolist(),
            "translation": pose.translation.round(6).tolist(),
            "rotation_degrees": round(pose.angle, 3),
            "parallax_degrees": round(pose.parallax, 3),
            "points": len(pose.points),
            "median_error_px": round(float(np.median(pose.errors)), 3),
        }
    )


def _describe(matches: Matches) -> str:
    line = (
        f"{len(matches.matches)} matches of {len(matches.keypoints0.xy)} and "
        f"{len(matches.keypoints1.xy)} keypoints"
    )
    geometry = matches.geometry
    if geometry is None:
        return line
    model = geometry if geometry == "homography" else f"{geometry} matrix"
    if matches.matrix is None:
        return f"{line}, no {model} agrees with them"
    line += f", {matches.inliers.sum()} inliers of {'an' if model[0] == 'e' else 'a'} {model}"
    return line if matches.trusted else f"{line}: no more than chance explains"
