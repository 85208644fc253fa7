"""The one shape of progress callbacks, and how counts and rates of work are written."""

from typing import Protocol


class ProgressCallback(Protocol):
    """A function that long work calls as it goes: ``progress(stage, done, total)``.

    It is always an argument ``progress: ProgressCallback | None = None``. An exception that it
    raises ends the work.
    """

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Take note of progress.

        Args:
            stage: What is being done, such as ``"matching"``.
            done: Number of items that are done.
            total: Number of items in all; None if it is unknown.
        """


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, in the plural unless it is one.

    Example:
        >>> counted(1, "pair"), counted(2, "pair"), counted(0, "box", "boxes")
        ('1 pair', '2 pairs', '0 boxes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def rate_of(pairs: int, seconds: float) -> str:
    """Return a speed, of slow work as the time of a pair.

    Example:
        >>> rate_of(30, 2), rate_of(2, 240)
        ('15.00 pairs/s', '120 s a pair')
    """
    return (
        f"{pairs / seconds:.2f} pairs/s"
        if 10 * pairs > seconds
        else f"{seconds / pairs:.0f} s a pair"
    )
