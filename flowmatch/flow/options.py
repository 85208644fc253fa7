"""Options of flow estimation, for one pair of images and for a whole clip."""

from dataclasses import dataclass, field

from flowmatch.devices import check_precision

SMALLEST_TILE = 64
SUFFIXES = (".flo", ".png", ".npz", ".pfm")


@dataclass(frozen=True)
class FlowOptions:
    """Options of `estimate_flow`; the defaults are the fastest way to a flow.

    Attributes:
        refine: Minimise a variational energy, starting from the network's flow (`refine_flow`):
            much better below a pixel; it runs on the CPU.
        with_dis: Take the flow of a classical method (`flowmatch.flow.baselines.dis`) at the
            pixels that it explains better (`combine_flows`); the network then runs in both
            directions.
        zoom: Factor by which images are enlarged for the network, 0.25 to 4: small objects that
            move fast are found better at 2, for four times the work.
        tile: Side of the square tiles that large images are split into, which bounds the memory;
            None does not split. Motion longer than `overlap` is lost at the borders of tiles.
        overlap: Number of pixels that neighbouring tiles share, at most half a tile; the flow fades
            from one tile to the next. None takes 64, or a quarter of smaller tiles.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for the convolutions.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> FlowOptions(tile=512).zoom
        1.0
    """

    refine: bool = False
    with_dis: bool = False
    zoom: float = 1.0
    tile: int | None = None
    overlap: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise ValueError(f"tile must be at least {SMALLEST_TILE} pixels, got {self.tile}")
        if self.overlap is not None:
            largest = (self.tile or 2 * self.overlap) // 2
            if not 0 <= self.overlap <= largest:
                raise ValueError(
                    f"overlap must be 0 to half a tile, got {self.overlap} of {self.tile}"
                )
        if not 0.25 <= self.zoom <= 4:  # not the negation, which NaN would pass
            raise ValueError(f"zoom must be 0.25 to 4, got {self.zoom}")


BEST = FlowOptions(zoom=2.0, with_dis=True, refine=True)
"""Options of the most accurate flow; they take about ten times the time of the defaults."""


@dataclass(frozen=True)
class SequenceOptions:
    """Options of `write_sequence`; flows of different options are never mixed in a folder.

    Attributes:
        flow: Options of each pair's flow.
        weights: Identity of the network in the folder's record. None takes the digest of the
            weights, for a network that is given by name or file.
        suffix: Format of the files: ``.flo``, ``.png`` (KITTI), ``.npz`` or ``.pfm``.
        bidirectional: Also write the backward flow and the occlusion masks.
        warm_start: Initialise each pair with the flow written for the previous pair, if there is
            one.

    Raises:
        ValueError: The suffix is unknown, or a warm start is combined with tiles, zoom or
            ``with_dis``.

    Example:
        >>> SequenceOptions(FlowOptions(refine=True), suffix=".png").flow.refine
        True
    """

    flow: FlowOptions = field(default_factory=FlowOptions)
    weights: str | None = None
    suffix: str = ".flo"
    bidirectional: bool = False
    warm_start: bool = False

    def __post_init__(self) -> None:
        if self.suffix not in SUFFIXES:
            raise ValueError(f"suffix must be one of {', '.join(SUFFIXES)}, got {self.suffix!r}")
        if not self.warm_start:
            return
        if self.flow.tile is not None:
            raise ValueError(f"a warm start needs whole frames, without tiles, got tile "
                             f"{self.flow.tile}")  # fmt: skip
        if self.flow.zoom != 1:
            raise ValueError(f"a warm start needs frames at their own size, got zoom "
                             f"{self.flow.zoom}")  # fmt: skip
        if self.flow.with_dis:
            raise ValueError("a warm start has one direction, and with_dis needs both")
