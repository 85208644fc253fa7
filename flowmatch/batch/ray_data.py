"""Clips on the machines of a Ray cluster, by Ray Data."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flowmatch.batch.clip import ClipFlow, ClipReport, report_of_row
from flowmatch.batch.options import ClipOptions
from flowmatch.batch.plan import Clip
from flowmatch.io._files import reason_of
from flowmatch.io._video_stream import without_password

_RETRIES = 3  # of a clip whose worker is lost: one that takes all memory must not go on for ever


def write_by_ray(
    clips: Sequence[Clip],
    output: Path,
    options: ClipOptions,
    device: str | None,
    jobs: int | None,
    address: str,
) -> Iterator[ClipReport]:
    """Yield the report of each clip, as the clips become ready.

    A worker that is lost is started again, and its clip goes on at the pair where it stopped.

    Args:
        clips: The clips.
        output: Folder of all clips, which all machines see.
        options: Options of the flows.
        device: Device of all workers; None gives each a GPU, if the cluster has any.
        jobs: Number of workers; None is one for each GPU or, without any, for each core.
        address: Address of the cluster; ``"local"`` starts one on this machine, and ``"auto"``
            takes the one that was started here. A connection that exists is used.

    Raises:
        ImportError: Ray is not installed.
        OSError: The cluster cannot be reached.
    """
    ray = _import_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address)
    try:
        missing = {clip.name: clip for clip in clips}
        for row in _rows(ray, clips, output, options, device, jobs):
            report = report_of_row(row)
            if missing.pop(report.name, None):
                yield report
        for clip in missing.values():
            error = f"its worker was lost {_RETRIES + 1} times"
            yield ClipReport(without_password(clip.source), clip.name, error=error)
    finally:
        if is_ours:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"--ray needs Ray: pip install 'flowmatch[ray]' ({error})") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # noqa: BLE001 - of many kinds
        raise OSError(f"the Ray cluster {address} cannot be reached: {reason_of(error)}") from error


def _rows(
    ray: Any,
    clips: Sequence[Clip],
    output: Path,
    options: ClipOptions,
    device: str | None,
    jobs: int | None,
) -> Iterator[dict[str, Any]]:
    """Yield a row of `ClipFlow` for each clip."""
    if not clips:
        return
    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    on_gpus = gpus > 0 and device in (None, "cuda")
    jobs = min(jobs or (gpus if on_gpus else cores), len(clips))
    threads = max(1, cores // max(jobs, 1))
    rows = ray.data.from_items([clip._asdict() for clip in clips], override_num_blocks=len(clips))
    rows.context.enable_progress_bars = False
    rows.context.max_errored_blocks = -1  # clips that lose each worker are found at the end
    with warnings.catch_warnings():
        # Ray has no other argument for the number of retries yet, and removes this one in 2.64.
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        rows = rows.map_batches(
            ClipFlow,
            fn_constructor_kwargs={
                "output": output, "options": options, "threads": threads,
                "device": device or (None if on_gpus else "cpu"),
            },
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=jobs, max_tasks_in_flight_per_actor=1),
            num_gpus=1 if on_gpus else 0,
            num_cpus=1 if on_gpus else threads,
            ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
        )  # fmt: skip
    yield from rows.iter_rows()
