"""Matching of many pairs of images: each image is described once, and a run can be continued."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from torch import nn

from flowmatch.io import replace_when_done
from flowmatch.io._files import FilePath, existing_file, message_of
from flowmatch.io._white import white_in_force
from flowmatch.io.masked import find_masks, read_masked
from flowmatch.matching.classical import CLASSICAL
from flowmatch.matching.describe import is_file_name
from flowmatch.matching.features import Features, Matches
from flowmatch.matching.files import read_matches_about, write_matches
from flowmatch.matching.filter import load_comparator
from flowmatch.matching.match import match_described
from flowmatch.matching.methods import Methods, extract_features, load_methods
from flowmatch.matching.networks import DescriptorNetwork
from flowmatch.matching.options import MatchOptions
from flowmatch.matching.store import STORE
from flowmatch.progress import ProgressCallback
from flowmatch.zoo import file_digest

_MAX_NAME = 255  # bytes of a file's name that file systems allow
_DEFAULTS = MatchOptions(geometry="fundamental")


class Pair(NamedTuple):
    """Names of two images, relative to the folder of the images."""

    first: str
    second: str

    def file(self) -> str:
        """Return the name of the file of this pair's matches; it is unique."""
        name = f"{_quoted(self.first)}&{_quoted(self.second)}"
        if len(name.encode()) > _MAX_NAME - len(".npz"):
            digest = hashlib.sha256(name.encode()).hexdigest()[:32]
            start = name.encode()[: _MAX_NAME - len(f"&{digest}.npz")].decode(errors="ignore")
            name = f"{start}&{digest}"  # with a second &, so that no other name is the same
        return f"{name}.npz"


def _quoted(name: str) -> str:
    """Percent-encode ASCII signs that file systems refuse; other letters stay as they are."""
    return "".join(
        # Names that are not UTF-8 hold single surrogates for their bytes.
        c if ord(c) > 127 and c.isprintable() else quote(c, safe="", errors="surrogateescape")
        for c in name
    )


@dataclass
class PairReport:
    """State of a run over a list of pairs.

    Attributes:
        computed: Number of pairs matched by this run.
        kept: Number of pairs kept from earlier runs.
        trusted: Number of all these with a geometric model that more matches agree on than chance
            explains, see `Matches.trusted`.
        failed: Pairs that could not be matched, with the reasons.
    """

    computed: int = 0
    kept: int = 0
    trusted: int = 0
    failed: list[tuple[Pair, str]] = field(default_factory=list)


def read_pairs(path: FilePath) -> list[Pair]:
    r"""Read a list of pairs: two names per line, separated by a tab, or by spaces without a tab.

    Empty lines, lines that begin with # and repetitions are skipped.

    Args:
        path: Text file, UTF-8.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line does not hold two valid names, or the list is empty.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.txt"
        >>> _ = path.write_text("a.jpg b.jpg\na.jpg c/d.jpg\n")
        >>> read_pairs(path)[1].file()
        'a.jpg&c%2Fd.jpg.npz'
    """
    path = existing_file(path)
    try:
        # Only ends of lines and spaces of ASCII separate: names may hold others.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    pairs: dict[Pair, None] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        names = [
            name.strip(" \r")
            for name in re.split("\t" if "\t" in line else " +", line.strip(" \r\n"))
        ]
        if len(names) != 2 or not all(names) or any("\0" in name for name in names):
            raise ValueError(
                f"{path}:{number}: expected two names, separated by a tab or a space, got {line!r}"
            )
        pair = Pair(*names)
        if any(len(part.encode()) > _MAX_NAME for name in names for part in name.split("/")):
            raise ValueError(f"{path}:{number}: names are too long for a file: {line!r}")
        pairs[pair] = None
    if not pairs:
        raise ValueError(f"{path}: expected a pair of names on each line, got no pair")
    return list(pairs)


def write_pairs(path: FilePath, pairs: Sequence[Pair]) -> None:
    r"""Write a list of pairs that `read_pairs` reads: two names per line, separated by a tab.

    Args:
        path: File to write; it gets its name only when complete.
        pairs: The pairs.

    Raises:
        ValueError: A name holds a tab or an end of a line.
        FileNotFoundError: The folder of the file does not exist.
    """
    for name in (name for pair in pairs for name in pair):
        if any(sign in name for sign in "\t\r\n"):
            raise ValueError(f"a list of pairs cannot hold the name {name!r}")
    with replace_when_done(path) as temporary:
        temporary.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")


class _FeatureCache:
    """Features of the images used most recently; consecutive pairs mostly share an image."""

    def __init__(
        self,
        methods: Methods,
        root: Path,
        options: MatchOptions,
        capacity: int = 32,
        masks: Mapping[str, Path | None] | None = None,
    ) -> None:
        self.methods, self.root, self.options, self.capacity = methods, root, options, capacity
        self.masks = masks or {}
        self.entries: OrderedDict[str, Features] = OrderedDict()

    def features(self, name: str) -> Features:
        if name in self.entries:
            self.entries.move_to_end(name)
            return self.entries[name]
        image, mask = read_masked(self.root / name, self.masks.get(name))
        self.entries[name] = extract_features(image, self.methods.extractor, self.options, mask)
        if len(self.entries) > self.capacity:
            self.entries.popitem(last=False)
        return self.entries[name]


def match_pairs(
    pairs: Sequence[Pair],
    root: FilePath,
    output: FilePath,
    *,
    masks: FilePath | None = None,
    model: DescriptorNetwork | nn.Module | str | Path = "default",
    device: str | torch.device | None = None,
    options: MatchOptions = _DEFAULTS,
    overwrite: bool = False,
    report: PairReport | None = None,
    progress: ProgressCallback | None = None,
) -> PairReport:
    """Match pairs of images and write one file per pair.

    A file that exists is kept if its images, masks, model and options are the same, so that an
    interrupted run continues when it is started again.

    Args:
        pairs: Pairs of image names, see `read_pairs`.
        root: Folder of the images.
        output: Folder of the results, created if it does not exist.
        masks: Folder of masks, see `find_masks`, with the subfolders of `root`; None: no masks.
        model: Descriptor, see `match_images`.
        device: Device of the networks; None takes a GPU if torch can use one.
        options: Options of `match_images`, without ``"essential"``; by default a fundamental matrix
            is fitted.
        overwrite: Compute all pairs again.
        report: Report to update in place, for callers that read it after an interruption.
        progress: Progress callback, called after each pair.

    Returns:
        The report. A pair that fails is listed there and does not stop the others.

    Raises:
        ValueError: `model` or an option is invalid, or no image has a mask, or one has several.
        FileNotFoundError: A file of weights, or the folder of masks, does not exist.
        OSError: The folder cannot be written to.
    """
    if options.geometry == "essential":
        raise ValueError("a list of pairs has no intrinsics for essential matrices")
    methods, record = load_methods(model, device, options), _record(model, options)
    if options.filter_model is not None:
        options = replace(options, filter_model=load_comparator(options.filter_model, device))
    cache = _FeatureCache(methods, Path(root), options, masks=_masks(pairs, Path(root), masks))
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    report = PairReport() if report is None else report
    for done, pair in enumerate(pairs, start=1):
        target = output / pair.file()
        stamps = [_stamp(cache.root / name, cache.masks.get(name)) for name in pair]
        about = f"{record} of {stamps[0]} and {stamps[1]}"
        earlier = None if overwrite else _earlier(target, about)
        if earlier is not None:
            report.kept += 1
            report.trusted += earlier.trusted
        else:
            try:
                matches = _match(cache, pair)
            except (ValueError, OSError, MemoryError) as error:
                report.failed.append((pair, message_of(error) or type(error).__name__))
            else:
                write_matches(target, matches, about)
                report.computed += 1
                report.trusted += matches.trusted
        if progress is not None:
            progress("match", done, len(pairs))
    return report


def _masks(pairs: Sequence[Pair], root: Path, folder: FilePath | None) -> dict[str, Path | None]:
    """Return the mask of each image by its name."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if folder is None:
        return dict.fromkeys(names)
    masks = find_masks([root / name for name in names], Path(folder), root=root)
    return dict(zip(names, masks, strict=True))


def _record(model: DescriptorNetwork | nn.Module | str | Path, options: MatchOptions) -> str:
    """Return a description of model and options that changes whenever the matches may change."""
    settings = {option.name: getattr(options, option.name) for option in fields(options)}
    del settings["batch"]  # it does not change the results
    if settings["filter_model"] is not None:
        settings["filter_model"] = model_digest(settings["filter_model"])
    for name in ("detector", "matcher"):
        if not isinstance(settings[name], str):
            settings[name] = model_digest(getattr(settings[name], "network", settings[name]))
        if (weights := settings[f"{name}_weights"]) is not None:
            settings[f"{name}_weights"] = file_digest(existing_file(weights))
    if white_in_force() is not None:
        settings["white"] = white_in_force()
    return f"{model_digest(model)} {settings}"


def model_digest(model: Any) -> str:
    """Return a name of a model that changes with its weights.

    Args:
        model: Model as in `match_images`: a name, a file or a network.

    Raises:
        ValueError: The name is unknown.
        FileNotFoundError: The file does not exist.

    Example:
        >>> model_digest("rootsift")
        'rootsift'
    """
    if isinstance(model, str | Path):
        if model in CLASSICAL:
            return str(model)
        return file_digest(Path(model)) if is_file_name(model) else STORE.digest(model)
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items() if isinstance(model, nn.Module) else ():
        digest.update(key.encode(errors="surrogateescape"))
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    name = getattr(model, "__qualname__", type(model).__qualname__)
    return f"{name} {digest.hexdigest()[:16]}"


def _stamp(path: Path, mask: Path | None = None) -> str:
    """Return size and time of an image file and its mask, by which new ones are recognised."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # the error is reported when the image is read
        return "nothing"
    stamp = f"{status.st_size} bytes at {status.st_mtime_ns}"
    return stamp if mask is None else f"{stamp}, mask of {_stamp(mask)}"


def _earlier(path: Path, about: str) -> Matches | None:
    """Return the matches in a file, or None unless they were found in the same way."""
    try:
        matches, description = read_matches_about(path)
    except (ValueError, FileNotFoundError):  # a damaged file is computed again
        return None
    return matches if description == about else None


def _match(cache: _FeatureCache, pair: Pair) -> Matches:
    features = cache.features(pair.first), cache.features(pair.second)
    matcher = cache.methods.matcher
    if cache.options.filter_model is None:
        return match_described(features, cache.options, matcher=matcher)
    images = [read_masked(cache.root / name, cache.masks.get(name)).image for name in pair]
    return match_described(features, cache.options, (images[0], images[1]), matcher=matcher)
