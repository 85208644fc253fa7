"""Thousands of pairs of images: each image is described once, each pair is a file, runs resume."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from flowmatch.io import read_image
from flowmatch.io._files import FilePath, existing_file
from flowmatch.matching.describe import describe
from flowmatch.matching.files import (
    about_matches,
    read_matches,
    write_colmap_features,
    write_colmap_matches,
    write_matches,
)
from flowmatch.matching.filter import decide_matches
from flowmatch.matching.keypoints import detect
from flowmatch.matching.match import (
    Features,
    Matches,
    check_geometry,
    fit_geometry,
    match_features,
)
from flowmatch.matching.networks import DescriptorNetwork, SimilarityNetwork

_LONGEST = 200  # characters of a file's name; file systems allow 255 bytes


class Pair(NamedTuple):
    """The names of two images, relative to the folder of all."""

    first: str
    second: str

    def file(self) -> str:
        """Return the name of the file for its matches; no other pair has the same."""
        return f"{quote(self.first, safe='')}&{quote(self.second, safe='')}.npz"


@dataclass(frozen=True)
class PairOptions:
    """What the matches of a list are; files with different ones are computed again.

    Attributes:
        descriptor: What the network is, for the record.
        detector: As in `match_images`, like all that follow.
        keypoints: As there.
        ratio: As there.
        mutual: As there.
        decide: What the decision network is, for the record; None for none.
        above: As there.
        model: As there, without ``"essential"``.
        threshold: As there.
        magnification: As there.
        precision: As there.
    """

    descriptor: str
    detector: str = "sift"
    keypoints: int = 8000
    ratio: float | None = 0.8
    mutual: bool = True
    decide: str | None = None
    above: float = 0.0
    model: str | None = "fundamental"
    threshold: float = 3.0
    magnification: float | None = None
    precision: str = "float32"


@dataclass
class PairReport:
    """How far a list is.

    Attributes:
        computed: Pairs matched by this run.
        kept: Pairs that were there already.
        failed: Pairs that could not be matched, and why.
    """

    computed: int = 0
    kept: int = 0
    failed: list[tuple[Pair, str]] = field(default_factory=list)


def read_pairs(path: FilePath) -> list[Pair]:
    r"""Read a list of pairs: two names a line, parted by a tab, or by spaces if there is none.

    Empty lines and those that begin with # are left out, as are repetitions.

    Args:
        path: A text file, UTF-8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line does not hold two names, a name is not one, or there is no line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.txt"
        >>> _ = path.write_text("a.jpg b.jpg\na.jpg c/d.jpg\n")
        >>> read_pairs(path)[1].file()
        'a.jpg&c%2Fd.jpg.npz'
    """
    path = existing_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    pairs: dict[Pair, None] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        names = [name.strip() for name in (line.split("\t") if "\t" in line else line.split())]
        if len(names) != 2 or not all(names) or any("\0" in name for name in names):
            raise ValueError(
                f"{path}:{number}: expected two names, parted by a tab or a space, got {line!r}"
            )
        pair = Pair(*names)
        if len(pair.file()) > _LONGEST:
            raise ValueError(f"{path}:{number}: names are too long for a file: {line!r}")
        pairs[pair] = None
    if not pairs:
        raise ValueError(f"{path}: expected a pair of names on each line, got no pair")
    return list(pairs)


class _Descriptions:
    """Features of the images that were needed last: pairs of a list mostly share one."""

    def __init__(
        self, network: DescriptorNetwork | str, root: Path, options: PairOptions, most: int = 32
    ) -> None:
        self.network, self.root, self.options, self.most = network, root, options, most
        self.known: OrderedDict[str, Features] = OrderedDict()

    def of(self, name: str) -> Features:
        if name in self.known:
            self.known.move_to_end(name)
            return self.known[name]
        image = read_image(self.root / name)
        options = self.options
        keypoints = detect(image, options.detector, keypoints=options.keypoints)
        descriptors = describe(
            self.network, image, keypoints,
            magnification=options.magnification, precision=options.precision,
        )  # fmt: skip
        self.known[name] = Features(keypoints, descriptors)
        if len(self.known) > self.most:
            self.known.popitem(last=False)
        return self.known[name]


def match_pairs(
    network: DescriptorNetwork | str,
    pairs: Sequence[Pair],
    root: FilePath,
    folder: FilePath,
    options: PairOptions,
    *,
    decide: SimilarityNetwork | str | None = None,
    overwrite: bool = False,
    progress: Callable[[PairReport], None] | None = None,
) -> PairReport:
    """Match pairs of images, a file each; what is there already, of the same pictures, is kept.

    Args:
        network: As in `match_images`.
        pairs: Those of `read_pairs`.
        root: The folder that their names start from.
        folder: Where to write to, made if need be. Files are whole or not there.
        options: How to match.
        decide: As in `match_images`.
        overwrite: Compute again what is there.
        progress: Called after each pair.

    Returns:
        What was done; a pair that fails is reported there, and the others go on.

    Raises:
        ValueError: An option is out of range.
        OSError: The folder cannot be written to.
    """
    if options.model == "essential":
        raise ValueError("a list of pairs has no intrinsics for essential matrices")
    check_geometry(options.model, options.threshold)
    root, folder = Path(root), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = PairReport()
    descriptions = _Descriptions(network, root, options)
    for pair in pairs:
        target = folder / pair.file()
        about = f"{options} of {_stamp(root / pair.first)} and {_stamp(root / pair.second)}"
        # Older records have the options alone.
        if not overwrite and _is_there(target, (about, repr(options))):
            report.kept += 1
        else:
            try:
                matches = _match(descriptions, pair, options, decide)
            except (ValueError, OSError, MemoryError) as error:
                report.failed.append((pair, str(error) or type(error).__name__))
            else:
                write_matches(target, matches, about)
                report.computed += 1
        if progress is not None:
            progress(report)
    return report


def _stamp(picture: Path) -> str:
    """Tell pictures of one name in several folders apart, or before and after a change."""
    try:
        about = picture.stat()
    except (OSError, ValueError):  # reading it will say why
        return "nothing"
    return f"{about.st_size} bytes at {about.st_mtime_ns}"


def _is_there(path: Path, abouts: Sequence[str]) -> bool:
    try:
        return path.exists() and about_matches(path) in abouts
    except ValueError:  # damaged: computed again
        return False


def _match(
    descriptions: _Descriptions,
    pair: Pair,
    options: PairOptions,
    decide: SimilarityNetwork | str | None,
) -> Matches:
    first, second = (descriptions.of(name) for name in pair)
    pairs, distance = match_features(first, second, ratio=options.ratio, mutual=options.mutual)
    similar = None
    if decide is not None:
        a, b = (read_image(descriptions.root / name) for name in pair)
        pairs, distance, similar = decide_matches(
            decide, (a, b), (first.keypoints, second.keypoints), pairs, distance,
            above=options.above, magnification=options.magnification,
        )  # fmt: skip
    matches = fit_geometry(
        first.keypoints, second.keypoints, pairs, distance,
        model=options.model, threshold=options.threshold,
    )  # fmt: skip
    return matches._replace(similarity=similar)


def write_colmap(folder: FilePath, matches: FilePath, pairs: Sequence[Pair]) -> Path:
    """Write the features and matches of a list for COLMAP to import.

    Args:
        folder: Where to write to: ``features/NAME.txt`` for each image, and ``matches.txt``.
        matches: The folder of `match_pairs`.
        pairs: Those to write; what is missing there is left out.

    Returns:
        The path of ``matches.txt``.

    Raises:
        ValueError: A name is absolute, or leaves the folder of the images.
    """
    outside = [name for pair in pairs for name in pair if _leaves_its_folder(name)]
    if outside:
        raise ValueError(
            "for COLMAP, names have to be relative to the folder of the images and stay in it, "
            f"got {outside[0]!r}"
        )
    features, target = Path(folder) / "features", Path(folder) / "matches.txt"
    features.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()

    def found() -> Iterator[tuple[str, str, Matches]]:
        for pair in pairs:
            source = Path(matches) / pair.file()
            if not source.exists():
                continue
            one = read_matches(source)
            for name, keypoints in zip(pair, (one.first, one.second), strict=True):
                if name not in written:
                    (features / name).parent.mkdir(parents=True, exist_ok=True)
                    write_colmap_features(features / f"{name}.txt", keypoints)
                    written.add(name)
            yield *pair, one

    write_colmap_matches(target, found())
    return target


def _leaves_its_folder(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts
