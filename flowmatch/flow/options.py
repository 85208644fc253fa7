"""Options of flow estimation, for one pair of images and for a whole clip."""

from dataclasses import dataclass, field

from flowmatch.devices import check_precision

SMALLEST_TILE = 64
LARGEST_WHOLE = 2_300_000
"""Number of pixels above which frames are split into tiles: more than 1920 x 1080."""
AUTOMATIC_TILE = 1024
LARGEST_OF_THESE = 2**24
"""Number of pixels above which tiles are smaller, so that an 8K pair takes less than 2 GB."""
SMALLER_TILE = 768
QUALITIES = ("fast", "good", "best")
SUFFIXES = (".flo", ".png", ".npz", ".pfm")


@dataclass(frozen=True)
class FlowOptions:
    """Options of `estimate_flow`; `quality` is the one that most uses need.

    - ``"fast"``: the network alone.
    - ``"good"``: the network's flow and the flow of a classical method, DIS, both refined; each
      pixel takes the flow that both frames confirm better (`combine_flows`).
    - ``"best"``: the same choice among more flows: also of the network on frames of twice the size,
      and in a clip of the previous pair.

    The other options are for experts: `refine` and `with_dis` replace one part of the quality, so
    ``quality="fast", refine=True`` is the refined network, and ``with_dis=False`` is good without
    DIS.

    Attributes:
        quality: ``"fast"``, ``"good"`` or ``"best"``.
        refine: Minimise a variational energy, starting from each flow (`refine_flow`): much better
            below a pixel; it runs on the network's device. None does so unless the quality is fast.
        with_dis: Include the flow of DIS (`flowmatch.flow.baselines.dis`) in the choice; it runs on
            the CPU, and the network then runs in both directions. None does so unless the quality
            is fast.
        zoom: Factor by which images are enlarged for the network, 0.25 to 4: small objects that
            move fast are found better at 2, for four times the work.
        tile: Side of the square tiles that large images are split into, which bounds the memory.
            None takes images of up to 2.3 million pixels whole, tiles of 1024 pixels of larger
            ones, and of 768 pixels above 16.8 million; a side as long as the image's never splits.
            Each tile follows the motion that is found at a lower resolution.
        overlap: Number of pixels that neighbouring tiles share, at most half a tile; the flow fades
            from one tile to the next. None takes an eighth of a tile, at least 64, or a quarter of
            smaller tiles.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for the convolutions.

    Raises:
        ValueError: A value is unknown or out of range.

    Example:
        >>> FlowOptions().refines, FlowOptions(quality="fast").refines
        (True, False)
    """

    quality: str = "good"
    refine: bool | None = None
    with_dis: bool | None = None
    zoom: float = 1.0
    tile: int | None = None
    overlap: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            raise ValueError(f"quality must be {', '.join(QUALITIES)}, got {self.quality!r}")
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

    @property
    def refines(self) -> bool:
        """Whether flows are refined: `refine`, or what the quality implies."""
        return self.quality != "fast" if self.refine is None else self.refine

    @property
    def includes_dis(self) -> bool:
        """Whether DIS takes part in the choice: `with_dis`, or what the quality implies."""
        return self.quality != "fast" if self.with_dis is None else self.with_dis

    def tile_side(self, height: int, width: int) -> int | None:
        """Return the side of the tiles of an image, or None if it is not split."""
        side = self.tile
        if side is None and height * width > LARGEST_WHOLE:
            side = AUTOMATIC_TILE if height * width <= LARGEST_OF_THESE else SMALLER_TILE
        return None if side is None or side >= max(height, width) else side

    def overlap_of(self, tile: int) -> int:
        """Return the number of pixels that neighbouring tiles of a side share."""
        return min(tile // 4, max(64, tile // 8)) if self.overlap is None else self.overlap


@dataclass(frozen=True)
class SequenceOptions:
    """Options of `write_sequence`; flows of different options are never mixed in a folder.

    Attributes:
        flow: Options of each pair's flow.
        weights: Identity of the network in the folder's record. None takes the digest of the
            weights, for a network that is given by name or file.
        suffix: Format of the files: ``.flo``, ``.png`` (KITTI), ``.npz`` or ``.pfm``.
        bidirectional: Also write the backward flow and the occlusion masks.
        warm_start: Initialise the network for each pair with the flow written for the previous
            pair, if there is one.
        confidence: Also write the confidence of each flow (`judge_flow`), as PNG of 16 bits.

    Raises:
        ValueError: The suffix is unknown, or a warm start is combined with tiles or zoom.

    Example:
        >>> SequenceOptions(FlowOptions(quality="best"), suffix=".png").flow.quality
        'best'
    """

    flow: FlowOptions = field(default_factory=FlowOptions)
    weights: str | None = None
    suffix: str = ".flo"
    bidirectional: bool = False
    warm_start: bool = False
    confidence: bool = False

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
