"""The frames of a clip with their numbers, from a video or any other iterable."""

from collections.abc import Iterable, Iterator, Sized

from flowmatch.imaging import Image, as_rgb
from flowmatch.io.video import Frames


def numbered_frames(frames: Iterable[Image]) -> Iterator[tuple[int, Image]]:
    """Yield the frames of a clip, RGB ``[H, W, 3]`` of one size, with their numbers from 0.

    Args:
        frames: `Frames`, of which those that cannot be read leave a gap in the numbers, or pictures
            ``[H, W, 3]`` or ``[H, W]``, uint8.

    Raises:
        ValueError: A picture is no image or has another size than the first, or there is none.
    """
    first = None
    for number, picture in frames.numbered() if isinstance(frames, Frames) else enumerate(frames):
        image = as_rgb(picture, f"frame {number}")
        first = first or image.shape
        if image.shape != first:
            raise ValueError(
                f"frame {number} must be {first[1]} x {first[0]} pixels like the first, "
                f"got {image.shape[1]} x {image.shape[0]}"
            )
        yield number, image
    if first is None:
        raise ValueError("a clip of at least one frame is expected, got none")


def clip_length(frames: Iterable[Image]) -> int | None:
    """Return the expected number of frames; None if it is unknown."""
    if isinstance(frames, Frames):
        return frames.count
    return len(frames) if isinstance(frames, Sized) else None
