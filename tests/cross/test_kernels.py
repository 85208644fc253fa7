"""Kernels that clang compiled, for x86-64 and ARM, against the references.

``make cross`` runs these tests. Programs for ARM are linked by GCC's cross compiler and run under
qemu-user; where these are missing, only clang's compilation is tested.
"""

import functools
import os
import platform
import shutil
import subprocess

import pytest
import torch

from flowmatch.ops.correlation_lookup_reference import (
    correlation_lookup_grad_reference,
    correlation_lookup_reference,
)
from flowmatch.ops.correlation_reference import (
    correlation_grad_reference,
    correlation_reference,
)
from flowmatch.ops.distance_field import distance_field_reference
from flowmatch.ops.nearest_reference import nearest_hamming_reference, nearest_reference
from flowmatch.ops.pairwise_distance import pairwise_distance_reference
from flowmatch.ops.splat import splat_grad_reference, splat_reference

from .build import GCC, ROOT, clang, program

pytestmark = pytest.mark.cross

MACHINES = [  # and the instruction set
    ("x86_64", "base"),
    ("x86_64", "avx2"),
    ("x86_64", "avx512"),
    ("x86_64", "all"),  # with the extensions that not every CPU with AVX-512 has
    ("aarch64", "base"),
]
TYPES = ["float32", "float64", "float16", "bfloat16"]
TOLERANCES = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}


@functools.cache
def compiled(machine):
    return program(machine)


@pytest.fixture(scope="module", params=MACHINES, ids="-".join)
def kernel(request):
    """Function that runs a kernel on a machine; it returns the rest of the outputs as bytes."""
    machine, instructions = request.param
    if shutil.which(GCC[machine]) is None:
        pytest.skip(f"{GCC[machine]} is missing (Debian: g++-aarch64-linux-gnu)")
    path = compiled(machine)
    command = [] if machine == platform.machine() else [shutil.which(f"qemu-{machine}")]
    if None in command:
        pytest.skip(f"compiled but not run: qemu-{machine} is missing (Debian: qemu-user)")
    environment = {name: value for name, value in os.environ.items() if name != "FLOWMATCH_CPU"}
    if instructions != "all":
        environment["FLOWMATCH_CPU"] = instructions

    def run(op, kind, numbers, inputs, outputs):
        content = b"".join(raw(tensor) for tensor in inputs)
        arguments = [op, kind, *(repr(number) for number in numbers)]
        result = subprocess.run(
            [*command, path, *arguments], input=content, env=environment, capture_output=True
        )
        assert result.returncode == 0, result.stderr
        return tensors(result.stdout, outputs)

    return run


def raw(tensor):
    return bytes(tensor.contiguous().view(torch.uint8).numpy())


def tensors(content, outputs):
    """Split the bytes of a program's output into tensors like `outputs`."""
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    parts = flat.split([output.nbytes for output in outputs])
    pairs = zip(parts, outputs, strict=True)
    return [part.clone().view(output.dtype).view(output.shape) for part, output in pairs]


def random(*shape, kind="float64"):
    return torch.randn(*shape, dtype=torch.float64).to(getattr(torch, kind))


def assert_near(actual, expected, kind):
    for one, other in zip(actual, expected, strict=True):
        scale = other.abs().max().item() + 1e-3
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCES[kind] * scale)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 0, 0, 1, 0, 0),
        (2, 5, 7, 37, 2, 2, 2, 0, 0),
        (1, 33, 13, 70, 4, 4, 1, 0, 0),
        (1, 7, 9, 40, 1, 5, 1, 2, -6),
    ],
    ids=str,
)
def test_correlation(kernel, shape, kind):
    B, C, H, W, *_, stride, down, right = shape
    radii, offset = shape[4:6], (down, right)
    f1, f2 = (random(B, C, H, W, kind=kind) for _ in range(2))
    expected = correlation_reference(f1, f2, radii, stride, offset=offset)
    actual = kernel("correlation", kind, shape, [f1, f2], [expected])
    assert_near(actual, [expected], kind)
    g = random(*expected.shape, kind=kind)
    for first in (True, False):
        expected = correlation_grad_reference(g, f1, radii, stride, first, offset=offset)
        actual = kernel("correlation_grad", kind, [*shape, int(first)], [g, f1], [expected])
        assert_near(actual, [expected], kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1, 1, 0, 0), (2, 37, 5, 7, 6, 5, 2, 3), (1, 130, 3, 5, 9, 9, 4, 4)]
)
def test_correlation_lookup(kernel, shape, kind):
    B, C, H, W, H2, W2, *radii = shape
    f1, f2 = random(B, H, W, C, kind=kind), random(B, H2, W2, C, kind=kind)
    wide = "float64" if kind == "float64" else "float32"
    coords = (8 * torch.rand(B, 2, H, W) - 1).to(getattr(torch, wide))
    scales = [0.75, 0.5]
    expected = correlation_lookup_reference(f1, f2, coords, *scales, *radii)
    numbers, inputs = [*shape, *scales], [f1, f2, coords]
    actual = kernel("correlation_lookup", kind, numbers, inputs, [expected])
    assert_near(actual, [expected], kind)
    g = random(*expected.shape, kind=kind)
    expected = correlation_lookup_grad_reference(g, *inputs, *scales, *radii)
    actual = kernel("correlation_lookup_grad", kind, numbers, [g, *inputs], expected)
    assert_near(actual, expected, kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (2, 70, 131, 33, 3), (1, 30, 90, 16, 50)], ids=str
)
def test_nearest(kernel, shape, metric, kind):
    B, N, M, D, k = shape
    # Whole numbers, whose distances are exact: equal ones are in order of their indices.
    query, reference = (random(B, n, D).mul(2).round().to(getattr(torch, kind)) for n in (N, M))
    expected = nearest_reference(query, reference, k, metric, None, None, None, True)
    actual = kernel("nearest", kind, [*shape, metric], [query, reference], expected)
    assert_near(actual[:1], expected[:1], kind)
    assert torch.equal(actual[1], expected[1])
    assert torch.equal(actual[2], expected[2])


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (2, 70, 131, 4, 3), (1, 9, 90, 5, 40), (1, 20, 50, 40, 2)], ids=str
)
def test_nearest_hamming(kernel, shape):
    B, N, M, words, k = shape
    query, reference = (torch.randint(0, 256, (B, n, 8 * words), dtype=torch.uint8) for n in (N, M))
    expected = nearest_hamming_reference(query, reference, k, None, None, None, True)
    actual = kernel("nearest_hamming", "bits", shape, [query, reference], expected)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("metric", [0, 1], ids=["l2", "dot"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 35, 67, 19)], ids=str)
def test_pairwise_distance(kernel, shape, metric, kind):
    B, N, M, D = shape
    x, y = random(B, N, D, kind=kind), random(B, M, D, kind=kind)
    y[:, 0] = x[:, 0]  # where cancellation shows
    expected = pairwise_distance_reference(x, y, metric)
    actual = kernel("pairwise_distance", kind, [*shape, metric], [x, y], [expected])
    assert_near(actual, [expected], kind)


@pytest.mark.parametrize("kind", TYPES[:2])
@pytest.mark.parametrize("points", [300, 20_000])
def test_distance_field(kernel, points, kind):
    cloud, centres = torch.rand(points, 3, dtype=torch.float64), torch.rand(3, 3)
    cloud, centres = (t.to(getattr(torch, kind)) for t in (cloud, centres))
    frames = torch.linalg.qr(random(3, 3, 3))[0].to(cloud.dtype)
    keys = torch.zeros(points, dtype=torch.int64)  # one cell
    counts, grid, size, voxel, truncation = [1, 1, 1], [-5.0, -5.0, -5.0, 11.0], 9, 0.05, 3.0
    expected = distance_field_reference(
        cloud, keys, centres, frames, counts, grid, size, voxel, truncation
    )
    numbers = [points, 3, size, voxel, truncation, *grid, *counts]
    actual = kernel("distance_field", kind, numbers, [cloud, keys, centres, frames], [expected])
    assert_near(actual, [expected], kind)


@pytest.mark.parametrize("kind", TYPES[:2])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 9, 13)], ids=str)
def test_splat(kernel, shape, kind):
    B, _, H, W = shape
    image, g, flow = random(*shape, kind=kind), random(*shape, kind=kind), random(B, 2, H, W)
    flow = (3 * flow).to(image.dtype)
    expected = splat_reference(image, flow)
    assert_near(kernel("splat", kind, shape, [image, flow], [expected]), [expected], kind)
    expected = splat_grad_reference(g, image, flow)
    actual = kernel("splat_grad", kind, shape, [g, image, flow], expected)
    assert_near(actual, expected, kind)


@pytest.mark.parametrize("source", sorted((ROOT / "csrc").rglob("*.cpp")), ids=lambda p: p.stem)
def test_clang_compiles_the_sources_for_macos(source, tmp_path):
    clang("aarch64-macos", "-O0", "-c", source, "-o", tmp_path / "object.o")
