"""Flow of many clips: in one process, in several, in shards of any scheduler, or by Ray Data.

    fm.batch.write_clips(["a.mp4", "s3://bucket/b.mp4"], "flow", jobs=2)

Each clip gets a folder of its own. A run that ends early goes on where it stopped.
"""

from flowmatch.batch.clip import ClipFlow, ClipReport
from flowmatch.batch.options import ClipOptions
from flowmatch.batch.plan import Clip, plan_clips
from flowmatch.batch.run import BatchReport, write_clips

__all__ = [
    "BatchReport",
    "Clip",
    "ClipFlow",
    "ClipOptions",
    "ClipReport",
    "plan_clips",
    "write_clips",
]
