"""Options of the registration of scans."""

from dataclasses import dataclass

SAMPLING = ("uniform", "iss")


@dataclass(frozen=True)
class RegisterOptions:
    """Options of `register_scans` and `register_many`.

    Attributes:
        voxel: Side of the down-sampling voxels, metres. None takes a twentieth of the median
            distance of a scan's points from their median: 5 cm for a room.
        keypoints: Maximum number of keypoints per scan.
        sampling: Keypoint sampling: ``"uniform"``, or ``"iss"``, which prefers strongly curved
            places.
        trials: Number of triplets that RANSAC samples.
        scale: Whether the source's scale is estimated too, as for photogrammetry or another unit;
            `register_scans` only. It takes several times as long.
        icp: Whether motions are refined by generalised ICP, see `refine_motion`.
        seed: Random seed for keypoint sampling and RANSAC.
    """

    voxel: float | None = None
    keypoints: int = 4000
    sampling: str = "uniform"
    trials: int = 400_000
    scale: bool = False
    icp: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.sampling not in SAMPLING:
            raise ValueError(f"sampling must be uniform or iss, got {self.sampling!r}")
        if self.keypoints < 3 or self.trials < 1 or not (self.voxel is None or self.voxel > 0):
            raise ValueError(
                "at least 3 keypoints, 1 trial and a positive voxel are needed, "
                f"got {self.keypoints}, {self.trials} and {self.voxel}"
            )
