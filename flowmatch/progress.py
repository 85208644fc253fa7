"""The one shape of progress callbacks."""

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
