"""Options of the flow of many clips."""

from dataclasses import dataclass, field

from flowmatch.flow.options import SequenceOptions


@dataclass(frozen=True)
class ClipOptions:
    """Options of `write_clips`, the same for all clips.

    Attributes:
        sequence: Options of the flows and of their files.
        model: Name of weights, or a file of them.
        weights: File of weights, whatever the model.
        start: First frame of each clip.
        stop: Frame to stop before; None reads to the end.
        stride: Step between frames.
        scale: Factor on the size of the frames.
        white: Value of white in pictures of 16 bits; None is what the file states.
        reconnect: Number of attempts in a row to go on with a stream (`read_frames`).
        batch: Number of pairs that the network sees at once.
        overwrite: Remove the files of an earlier run, and compute all clips.
        video: Also write a video of the frames beside their flows.
        pictures: Also write a coloured picture of each flow.
        max_flow: Motion of full colour in them, in pixels; None fits one value to each clip.
        parquet: Put the flows of a clip into one Parquet file, instead of a file for each pair.

    Raises:
        ValueError: The maximum is not positive, or the batch is empty.

    Example:
        >>> ClipOptions(SequenceOptions(suffix=".png"), stride=2).sequence.suffix
        '.png'
    """

    sequence: SequenceOptions = field(default_factory=SequenceOptions)
    model: str = "default"
    weights: str | None = None
    start: int = 0
    stop: int | None = None
    stride: int = 1
    scale: float = 1.0
    white: int | None = None
    reconnect: int = 0
    batch: int = 1
    overwrite: bool = False
    video: bool = False
    pictures: bool = False
    max_flow: float | None = None
    parquet: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be 1 or more pairs, got {self.batch}")
        if self.max_flow is not None and not 0 < self.max_flow < float("inf"):
            raise ValueError(f"max_flow must be a positive number of pixels, got {self.max_flow}")
