"""The plan that all tabs share: files and options on the left, the result on the right."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from flowmatch.app import status
from flowmatch.app.inputs import Component, Inputs, read_inputs
from flowmatch.app.job import Task, internal_error, run_job
from flowmatch.app.tasks import TaskResult

KEPT = 6 * 3600.0
"""Time after which files are removed, seconds."""


class Tab(NamedTuple):
    """A tab of the app.

    Attributes:
        name: Title of the tab, also its identifier in the page.
        about: What it does, in one sentence.
        task: Function that does it.
        inputs: Function that makes the components of files and options.
        columns: Number of pictures in a row of the result.
        run: Text of the button.
    """

    name: str
    about: str
    task: Task
    inputs: Callable[[], Inputs]
    columns: int
    run: str


class Settings(NamedTuple):
    """What all jobs share.

    Attributes:
        uploads: Folder of files that the server may show: those of users, and the results.
        results: Folder of the results, below `uploads`.
        device: Device of the networks.
        time_limit: Longest time of a job, seconds.
    """

    uploads: Path
    results: Path
    device: str
    time_limit: float


def picture(label: str) -> Component:
    """Return a field for one picture."""
    return gr.Image(
        label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"],
        height=210, buttons=["fullscreen"],
    )  # fmt: skip


def several(label: str, types: list[str], height: int = 150) -> Component:
    """Return a field for several files.

    Args:
        label: Text above it.
        types: Kinds or suffixes that the browser offers.
        height: Height in pixels.
    """
    return gr.File(label=label, file_count="multiple", file_types=types, height=height)


def add_tab(tab: Tab, settings: Settings) -> None:
    """Add a tab to the page that is being built."""
    name = tab.name.lower()
    with gr.Tab(tab.name, id=name), gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="fm-inputs"):
            gr.Markdown(tab.about, elem_classes="fm-about")
            inputs = tab.inputs()
            with gr.Row(elem_classes="fm-buttons"):
                run = gr.Button(tab.run, variant="primary", elem_id=f"{name}-run", min_width=120)
                cancel = gr.Button(
                    "Cancel", interactive=False, elem_id=f"{name}-cancel", min_width=90
                )
        with gr.Column(scale=8, min_width=320, elem_classes="fm-results"):
            state = gr.HTML(status.idle(), elem_id=f"{name}-status", elem_classes="fm-html")
    outputs = [state, run, cancel]

    def show(text: str, busy: bool) -> list[Any]:
        return [text, gr.update(interactive=not busy), gr.update(interactive=busy)]

    def work(*values: Any) -> Iterator[list[Any]]:
        began = time.monotonic()
        remove_old(settings.results)
        folder = Path(tempfile.mkdtemp(dir=settings.results))
        result = None
        try:
            arguments = read_inputs(inputs, values, settings.uploads)
            arguments |= {"folder": folder, "device": settings.device}
            for update in run_job(tab.task, arguments, settings.time_limit):
                seconds = time.monotonic() - began
                if not isinstance(update, TaskResult):
                    yield show(status.running(update, seconds), True)
                    continue
                result = update
                yield show(status.finished(result, seconds, tab.columns), False)
        except (ValueError, OSError, RuntimeError) as error:
            message = status.without_folders(str(error), settings.uploads)
            yield show(status.failed(message), False)
            gr.Warning(message, title="Error")  # not gr.Error, which would cover the result
        except Exception as error:
            message = status.without_folders(internal_error(error), settings.uploads)
            yield show(status.failed(message), False)
        finally:
            if result is None:
                shutil.rmtree(folder, ignore_errors=True)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    job = run.click(
        lambda: show(status.waiting(), True), None, outputs, queue=False, **private
    ).then(
        work, [*inputs.files.values(), *inputs.options.values()], outputs,
        preprocess=False, concurrency_id="jobs", **private,
    )  # fmt: skip
    cancel.click(None, cancels=[job], **private)
    # For the page, a cancelled job fails, after its last update: nothing overwrites the message.
    job.failure(lambda: show(status.cancelled(), False), None, outputs, queue=False, **private)


def remove_old(results: Path) -> None:
    """Remove the folders of results that are older than `KEPT`."""
    for folder in results.iterdir():
        with suppress(OSError):  # removed by another job
            if time.time() - folder.stat().st_mtime > KEPT:
                shutil.rmtree(folder, ignore_errors=True)
