"""Distance fields against the reference and scipy's k-d tree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from flowmatch.ops import active_kernel, distance_field
from flowmatch.ops.distance_field import distance_field_reference

CASES = [  # points, centres, size, truncation
    (1, 1, 1, 1.0),
    (50, 3, 7, 3.0),
    (3000, 4, 12, 5.0),
    (3000, 3, 9, 2.5),
    (200, 2, 30, 5.0),  # the size of 3DMatch
    (20_000, 2, 7, 8.0),  # dense: the kernel sorts points into cells
]


def cloud(case, dtype=torch.float32, device="cpu"):
    P, K, *_ = case
    points = 0.3 * torch.rand(P, 3, dtype=torch.float64)
    centres = 0.4 * torch.rand(K, 3, dtype=torch.float64) - 0.05
    return points.to(device, dtype), centres.to(device, dtype)


def rotations(count, dtype=torch.float32, device="cpu"):
    return torch.linalg.qr(torch.randn(count, 3, 3, dtype=torch.float64))[0].to(device, dtype)


def by_tree(points, centres, size, voxel, truncation, frames=None):
    """Distance fields from a tree's nearest neighbours of all voxels."""
    steps = voxel * (np.arange(size) - (size - 1) / 2)
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    local = np.stack([x, y, z], -1).reshape(-1, 3)
    tree = cKDTree(points.double().cpu().numpy())
    fields = []
    for k, centre in enumerate(centres.double().cpu().numpy()):
        voxels = local if frames is None else local @ frames[k].double().cpu().numpy()
        distance = tree.query(voxels + centre)[0]
        fields.append(1 - np.minimum(distance, truncation * voxel) / (truncation * voxel))
    return torch.from_numpy(np.array(fields)).view(-1, size, size, size)


def test_is_compiled(device):
    assert active_kernel("distance_field", device) == "compiled"


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_reference(case, dtype, turned, device):
    points, centres = cloud(case, dtype, device)
    frames = rotations(len(centres), dtype, device) if turned else None
    result = distance_field(points, centres, size=case[2], truncation=case[3], frames=frames)
    assert result.dtype == dtype
    expected = by_tree(points, centres, case[2], 0.01, case[3], frames)
    atol = 1e-12 if dtype == torch.float64 else 5e-6
    torch.testing.assert_close(result.cpu().double(), expected, rtol=0, atol=atol)
    axes = torch.eye(3, dtype=dtype, device=device).repeat(len(centres), 1, 1)
    stated = distance_field_reference(
        points, torch.empty(0), centres, axes if frames is None else frames, [], [],
        case[2], 0.01, case[3],
    )  # fmt: skip
    torch.testing.assert_close(stated, result, rtol=0, atol=max(atol, 2e-6))


def test_known_values(device):
    """One point, one voxel to the right of the keypoint."""
    points = torch.tensor([[1.01, 2.0, 3.0]], device=device)
    centres = torch.tensor([[1.0, 2.0, 3.0]], device=device)
    field = distance_field(points, centres, size=3, truncation=2)[0]
    assert field[1, 1].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-4)
    assert field[1, 0, 2].item() == pytest.approx(0.5, abs=1e-4)
    assert field[0, 0, 0].item() == 0
    # Rotated frame: the grid's y axis points right.
    turned = torch.tensor([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]], device=device)
    field = distance_field(points, centres, size=3, truncation=2, frames=turned)[0]
    assert field[1, :, 1].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-4)


def test_far_from_the_origin(device):
    points, centres = cloud(CASES[2], torch.float64, device)
    moved = distance_field(points + 1e5, centres + 1e5, size=12)
    torch.testing.assert_close(moved, distance_field(points, centres, size=12), rtol=0, atol=1e-7)


def test_keypoints_far_apart(device):
    """Over a thousand kilometres cells cannot be small, or their number would overflow."""
    points, centres = cloud(CASES[1], torch.float64, device)
    apart = torch.tensor([[0.0, 0, 0], [1e6, 0, 0]], dtype=torch.float64, device=device)
    result = distance_field(
        torch.cat([points + at for at in apart]), torch.cat([centres + at for at in apart]), size=7
    )
    torch.testing.assert_close(result[:3], result[3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(result[:3], distance_field(points, centres, size=7))


def test_what_is_not_finite_is_ignored(device):
    points, centres = cloud(CASES[1], device=device)
    bad = torch.tensor([[float("nan"), 0, 0], [float("inf"), 0, 0]], device=device)
    result = distance_field(torch.cat([bad, points]), torch.cat([bad, centres]), size=7)
    assert result[:2].count_nonzero() == 0
    assert torch.equal(result[2:], distance_field(points, centres, size=7))
    assert distance_field(bad, bad, size=3).count_nonzero() == 0


@pytest.mark.parametrize(("points", "centres"), [(0, 2), (5, 0), (0, 0)])
def test_empty(points, centres, device):
    field = distance_field(*(torch.zeros(n, 3, device=device) for n in (points, centres)), size=4)
    assert field.shape == (centres, 4, 4, 4) and field.count_nonzero() == 0


def test_registration(device):
    points, centres = cloud(CASES[1], device=device)
    arguments = (points, centres, rotations(3, device=device), 7, 0.01, 3.0)
    torch.library.opcheck(torch.ops.flowmatch.cloud_distance_field.default, arguments)
    keys = torch.zeros(len(points), dtype=torch.int64, device=device)
    cells = (points, keys, *arguments[1:3], [1, 1, 1], [0.0, 0.0, 0.0, 1.0], *arguments[3:])
    torch.library.opcheck(torch.ops.flowmatch.distance_field.default, cells)


def test_compiles_and_exports(device):
    points, centres = cloud(CASES[1], device=device)
    expected = distance_field(points, centres, size=7)
    compiled = torch.compile(lambda p, c: distance_field(p, c, size=7), fullgraph=True)
    assert torch.equal(compiled(points, centres), expected)

    class Net(torch.nn.Module):
        def forward(self, p, c):
            return distance_field(p, c, size=7)

    program = torch.export.export(Net(), (points, centres))
    assert torch.equal(program.module()(points, centres), expected)
    sizes = {0: torch.export.Dim.DYNAMIC}  # any number of points and of keypoints
    dynamic = torch.export.export(Net(), (points, centres), dynamic_shapes=(sizes, sizes))
    some = dynamic.module()(points[:-1], centres[:-1])
    assert torch.equal(some, distance_field(points[:-1], centres[:-1], size=7))


def test_meta_device_and_half_types(device):
    assert distance_field(*(torch.empty(n, 3, device="meta") for n in (9, 2))).shape[0] == 2
    points, centres = (t.half() for t in cloud(CASES[1], device=device))
    result = distance_field(points, centres, size=7)
    assert torch.equal(result, distance_field(points.float(), centres.float(), size=7))


def test_threads_and_the_order_of_points_do_not_change_the_bits(same_with_any_threads):
    points, centres = cloud((3000, 7, 0, 0))
    same_with_any_threads(lambda: (distance_field(points[torch.randperm(3000)], centres, size=9),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_few_and_many_points_give_the_same_bits(dtype, device):
    """With many points the kernel uses another method; repeating points changes no result."""
    points, centres = cloud((700, 3), dtype, device)
    frames = rotations(3, dtype, device)
    few, many = (
        distance_field(points.repeat(times, 1), centres, size=12, frames=frames)
        for times in (1, 100)
    )
    assert torch.equal(few, many) and few.max() > 0.5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_geometry(data):
    case = (data.draw(st.integers(1, 200)), 2, data.draw(st.integers(1, 9)), 0)
    truncation = data.draw(st.floats(0.1, 8))
    voxel = data.draw(st.floats(0.003, 0.1))
    points, centres = cloud(case, torch.float64)
    frames = rotations(2, torch.float64)
    result = distance_field(
        points, centres, size=case[2], voxel=voxel, truncation=truncation, frames=frames
    )
    expected = by_tree(points, centres, case[2], voxel, truncation, frames)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(5, 2)}, r"\[P, 3\] and \[K, 3\], got \(5, 2\)"),
        ({"centres": torch.zeros(2, 3).double()}, "centres must be floats of the type of points"),
        ({"points": torch.zeros(5, 3).int()}, "points must be floats .* got torch.int32"),
        ({"frames": torch.zeros(1, 3, 3)}, r"frames must be \[K, 3, 3\] for 2 centres"),
        ({"centres": torch.zeros(2, 3, device="meta")}, "centres must be on cpu"),
        ({"size": 0}, "1 <= size <= 256"),
        ({"voxel": 0.0}, "0 < voxel <= 1e12"),
        ({"voxel": 1e300}, "0 < voxel <= 1e12"),
        ({"truncation": float("nan")}, "0 < truncation <= 64 are needed"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        distance_field(**{"points": torch.zeros(5, 3), "centres": torch.zeros(2, 3), **change})
