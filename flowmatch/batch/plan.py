"""The list of clips of a run: which clips, the folder of each, and the share of a machine."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from flowmatch.io._files import FilePath
from flowmatch.io._video_stream import is_url, without_password


class Clip(NamedTuple):
    """A clip of a plan.

    Attributes:
        source: Absolute path, pattern of pictures, or URL.
        name: Folder of its flows in the output, such as ``"street"`` or ``"monday/street"``.
    """

    source: str
    name: str


def plan_clips(clips: Sequence[FilePath], shard: tuple[int, int] = (0, 1)) -> list[Clip]:
    """Return the clips with the names of their folders, or the share of one machine.

    A clip is named after its file, folder or URL, without the suffix. If two would have one name,
    all names begin with as many folders as it takes to tell them apart. Names depend on the whole
    list, never on the shard.

    Args:
        clips: Videos, folders or patterns of pictures, and URLs.
        shard: Number of the share, from 0, and the number of shares: (1, 4) takes clips 1, 5, 9...

    Raises:
        ValueError: A clip is listed twice, two clips differ in their suffix only, a clip has no
            name, or the shard is out of range.

    Example:
        >>> [clip.name for clip in plan_clips(["monday/a.mp4", "sunday/a.mp4", "sunday/b.mp4"])]
        ['monday/a', 'sunday/a', 'sunday/b']
        >>> [clip.name for clip in plan_clips(["a.mp4", "b.mp4", "c.mp4"], shard=(0, 2))]
        ['a', 'c']
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"the shard must be I of N with I from 0 to N-1, got {index} of {count}")
    texts = [os.fspath(clip) for clip in clips]
    sources = [text if is_url(text) else os.path.normpath(Path(text).absolute()) for text in texts]
    twice = [source for source, times in Counter(sources).items() if times > 1]
    if twice:
        raise ValueError(f"{without_password(twice[0])} is listed twice")
    parts = [_parts(source) for source in sources]
    for text, names in zip(texts, parts, strict=True):
        if not names:
            raise ValueError(f"a clip cannot be named after {without_password(text)!r}")
    names = _distinct([without_password(source) for source in sources], parts)
    return [Clip(*pair) for pair in zip(sources, names, strict=True)][index::count]


def _parts(source: str) -> list[str]:
    """Return the parts of a source that may name it, the last without its suffix."""
    if is_url(source):
        # A chain such as zip://clip.mp4::s3://bucket/archive.zip is named after what it unpacks.
        url = urlsplit(without_password(source.partition("::")[0]))
        path = PurePosixPath(url.netloc.rpartition("@")[2].replace(":", "_"), "." + url.path)
        parts = [unquote(part) for part in path.parts]
    else:
        parts = list(PurePosixPath(source.replace(os.sep, "/")).parts[1:])
    if parts and not Path(source).is_dir():
        parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
    # Patterns of pictures: left*.png is named left, and frames/*.png is named frames.
    clean = (re.sub(r"[*?\[\]/\\\x00-\x1f]", "", part).strip(". ") for part in parts)
    return [part for part in clean if part]


def _distinct(sources: list[str], parts: list[list[str]]) -> list[str]:
    """Return the shortest ends of the paths that are all different."""
    for length in range(1, 1 + max(map(len, parts), default=0)):
        names = ["/".join(names[-length:]) for names in parts]
        if len({name.casefold() for name in names}) == len(names):
            return names
    owners: dict[str, str] = {}
    for source, name in zip(sources, ("/".join(names).casefold() for names in parts), strict=True):
        if name in owners:
            raise ValueError(
                f"{owners[name]} and {source} would be written to one folder, because their names "
                "differ in their suffixes only; rename one, or use two runs"
            )
        owners[name] = source
    return []
