"""The command ``flowmatch``: one file a command, holding arguments and progress, no logic."""

import sys
from collections.abc import Sequence

import torch
import typer

from flowmatch.cli import (
    align,
    bench,
    flow,
    fuse,
    identify,
    index,
    info,
    match,
    register,
    search,
    stitch,
    video,
    weights,
)
from flowmatch.cli.eval import align as eval_align
from flowmatch.cli.eval import flow as eval
from flowmatch.cli.eval import matching as eval_matching
from flowmatch.cli.eval import metric_learning as eval_metric_learning
from flowmatch.cli.eval import retrieval as eval_retrieval
from flowmatch.cli.options import console
from flowmatch.cli.synth import flow as synth
from flowmatch.cli.synth import registration as synth_registration
from flowmatch.cli.train import align as train_align
from flowmatch.cli.train import flow as train
from flowmatch.cli.train import metric_learning as train_metric_learning
from flowmatch.cli.train import registration as train_registration
from flowmatch.cli.train import retrieval as train_retrieval

app = typer.Typer(
    name="flowmatch",
    help="Dense correspondence and optical flow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("flow")(flow.flow)
app.command("match")(match.match)
app.command("register")(register.register_command)
app.command("fuse")(fuse.fuse_command)
app.command("stitch")(stitch.stitch)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("identify")(identify.identify)
app.command("info")(info.info)
app.command("bench")(bench.bench)
eval.eval_app.command("matching")(eval_matching.eval_patches)
eval.eval_app.command("metric-learning")(eval_metric_learning.eval_similarity)
train.train_app.command("metric-learning")(train_metric_learning.train_similarity)
train.train_app.command("video")(video.train_video_command)
eval.eval_app.command("video")(video.eval_video)
app.command("align")(align.align_command)
eval.eval_app.command("align")(eval_align.eval_align)
train.train_app.command("registration")(train_registration.train_fragments_command)
synth.synth_app.command("registration")(synth_registration.synth_fragments)
eval.eval_app.command("retrieval")(eval_retrieval.eval_retrieval)
train.train_app.command("retrieval")(train_retrieval.train_retrieval_command)
app.add_typer(eval.eval_app, name="eval")
train.train_app.command("align")(train_align.train_align_command)
app.add_typer(train.train_app, name="train")
app.add_typer(synth.synth_app, name="synth")
app.add_typer(weights.weights_app, name="weights")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; bad input gives one line on stderr and status 2.

    Args:
        arguments: The words after ``flowmatch``; None takes those of the process.

    Returns:
        0 when all went well, 1 when ``register`` or ``align`` found nothing to trust, 2 for bad
        input, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=words, prog_name="flowmatch")
    except SystemExit as done:  # which is how typer ends, well or not
        return int(done.code or 0)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        console.print(f"error: {_in_words(error)}")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
        console.print("error: there is not enough memory" + (f": {said}" if said else ""))
        return 2
    return 0


def _in_words(error: Exception) -> str:
    """Return the message; of what a DataLoader's worker raised, without its traceback."""
    said = str(error)
    if said.startswith("Caught ") and "Original Traceback" in said:
        return said.strip().splitlines()[-1].partition(": ")[2]
    return said


def _is_out_of_memory(error: Exception) -> bool:
    """Tell what NumPy, CUDA and, in words only, PyTorch's CPU allocator raise from a defect."""
    kinds = MemoryError, torch.OutOfMemoryError
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
