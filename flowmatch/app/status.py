"""HTML of what a tab is doing, and of its results."""

import re
from html import escape
from pathlib import Path
from urllib.parse import quote

from flowmatch.app.job import Progress
from flowmatch.app.tasks import Shown, TaskResult
from flowmatch.io.video_writer import VIDEO_SUFFIXES


def idle() -> str:
    """Return the status of a tab that has done nothing yet."""
    return _box("idle", "<p>Results appear here.</p>")


def waiting() -> str:
    """Return the status of a job that other jobs may be ahead of."""
    return _box("busy", "<p><b>Waiting</b> for jobs that were sent before</p>" + _bar(None))


def running(progress: Progress, seconds: float) -> str:
    """Return the status of a job that runs.

    Example:
        >>> "3 of 12" in running(Progress("flow", 3, 12), 1.5)
        True
    """
    stage, done, total = progress
    count = f"{done} of {total}, " if total else f"{done}, " if done else ""
    share = done / total if total else None
    words = f"<p><b>{escape(stage.capitalize())}</b> <span>{count}{seconds:.0f} s</span></p>"
    return _box("busy", words + _bar(share))


def cancelled() -> str:
    """Return the status of a job that was cancelled."""
    return _box("idle", "<p>Cancelled.</p>")


def failed(message: str) -> str:
    """Return the status of a job that ended with an error."""
    return _box("failed", f"<p role='alert'>{escape(message)}</p>")


def finished(result: TaskResult, seconds: float, columns: int) -> str:
    """Return a result: its summary, figures and notes, its pictures, and links to its files.

    Args:
        result: Result whose files the server may show.
        seconds: Time that it took.
        columns: Number of pictures in a row of a wide window.
    """
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in (*result.facts, ("Time", f"{seconds:.1f} s"))
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    words = _box(
        "done" if result.trusted else "doubtful",
        f"<p><b>{escape(result.summary)}</b></p><dl>{facts}</dl>"
        + (f"<ul>{notes}</ul>" if notes else ""),
    )
    figures = "".join(_figure(shown) for shown in result.shown)
    files = "".join(
        f"<li><a href='{_url(file)}' download='{escape(file.name, quote=True)}'>"
        f"{escape(file.name)}</a><span>{_size(file)}</span></li>"
        for file in result.files
    )
    return (
        f"{words}<div class='fm-figures fm-columns-{columns}'>{figures}</div>"
        f"<h3 class='fm-heading'>Files</h3><ul class='fm-files'>{files}</ul>"
    )


def without_folders(text: str, folder: Path) -> str:
    """Return a message with the names of files below a folder instead of their paths.

    Example:
        >>> without_folders("/tmp/x/1f/a.png is empty", Path("/tmp/x"))
        'a.png is empty'
    """
    return re.sub(re.escape(str(folder)) + r"/(?:[^/\s]+/)*", "", text)


def _box(state: str, content: str) -> str:
    return f"<div class='fm-status fm-{state}'>{content}</div>"


def _bar(share: float | None) -> str:
    if share is None:
        return "<div class='fm-bar fm-unknown'><i></i></div>"
    return f"<div class='fm-bar'><i style='width:{100 * min(share, 1):.0f}%'></i></div>"


def _figure(shown: Shown) -> str:
    caption = f"<figcaption>{escape(shown.caption)}</figcaption>"
    url = _url(shown.file)
    if shown.file.suffix in VIDEO_SUFFIXES:
        return f"<figure><video src='{url}' controls loop muted></video>{caption}</figure>"
    smaller = _url(shown.reduced or shown.file)
    text = escape(shown.caption, quote=True)
    picture = f"<a href='{url}' target='_blank'><img src='{smaller}' alt='{text}'></a>"
    return f"<figure>{picture}{caption}</figure>"


def _url(file: Path) -> str:
    return f"gradio_api/file={quote(str(file))}"


def _size(file: Path) -> str:
    size, units = float(file.stat().st_size), ["B", "KB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
