"""The counter of instructions on a fixed text, and the table of budgets."""

import pytest

from . import __main__ as sass
from .count import blocks_per_multiprocessor, count, functions, loops, short_names

# Copies two words a round and multiplies: the loop over slices, with a loop that stages inside.
TEXT = """
\t\tFunction : _Z17nearest_mma_kernelIfEvl
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.64 R2, desc[UR4][R4.64] ;  /* 0x0000000404027981 */
                                                                    /* 0x000ea2000c1e1b00 */
        /*0020*/                   IADD3 R4, R4, 0x8, RZ ;
        /*0030*/              @!P1 IADD3 R5, R5, 0x8, RZ ;
        /*0040*/                   STS.64 [R6], R2 ;
        /*0050*/              @!P0 BRA 0x10 ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/                   LDSM.16.M88.4 R8, [R7] ;
        /*0080*/                   LDS R9, [R7+0x10] ;
        /*0090*/                   HMMA.1688.F32.TF32 R12, R8, R9, R12 ;
        /*00a0*/                   HMMA.1688.F32.TF32 R16, R8, R9, R16 ;
        /*00b0*/                   HMMA.1688.F32.TF32 R20, R8, R9, R20 ;
        /*00c0*/                   HMMA.1688.F32.TF32 R24, R8, R9, R24 ;
        /*00d0*/                   ISETP.NE.AND P2, PT, R7, R6, PT ;
        /*00e0*/                   BAR.RED.OR.DEFER_BLOCKING 0x0, P3 ;
        /*00f0*/               @P4 BRA 0xe0 ;
        /*0100*/               @P5 BRA 0x0 ;
        /*0110*/                   EXIT ;
        /*0120*/                   BRA 0x120;
\t\tFunction : _Z5plainv
        /*0000*/                   EXIT ;
"""


def test_functions_and_their_names():
    found = functions(TEXT)
    assert list(found) == ["_Z17nearest_mma_kernelIfEvl", "_Z5plainv"]
    assert len(found["_Z17nearest_mma_kernelIfEvl"]) == 19
    assert found["_Z17nearest_mma_kernelIfEvl"][3][:2] == (0x30, "IADD3")
    names = [
        "_ZN9flowmatch4cuda19_GLOBAL__N__1_x_cu_18correlation_kernelIfLi9EEEvl",
        "_Z14hamming_kernelI6__halfEvl",
    ]
    assert list(short_names(names[1:]).values()) == ["hamming_kernel<half>"]


def test_loops_are_nested():
    found = loops(functions(TEXT)["_Z17nearest_mma_kernelIfEvl"])
    spans = {(loop.begin, loop.end): loop for loop in found}
    assert set(spans) == {(0, 17), (1, 6), (14, 16)}
    assert list(spans[0, 17].indices()) == [0, *range(6, 14), 16]


def test_counts():
    numbers = count("nearest_mma_kernel<float>", functions(TEXT)["_Z17nearest_mma_kernelIfEvl"])
    assert numbers["per_math"] == 10 / 4
    assert numbers["loads"] == 2 / 4
    assert numbers["staging"] == 5 / 2  # a load, two additions, a store and a branch
    assert numbers["evaluation"] == 2 / 64  # from the last product: a branch, and the barrier
    assert count("plain", functions(TEXT)["_Z5plainv"]) == {}
    assert "staging" not in count("splat", functions(TEXT)["_Z17nearest_mma_kernelIfEvl"])


def test_blocks_of_a_multiprocessor():
    assert blocks_per_multiprocessor(128, 256, 0, "sm_90") == 2  # registers
    assert blocks_per_multiprocessor(129, 256, 0, "sm_90") == 1
    assert blocks_per_multiprocessor(32, 128, 0, "sm_90") == 16  # threads
    assert blocks_per_multiprocessor(32, 128, 46 << 10, "sm_90") == 4  # shared memory
    assert blocks_per_multiprocessor(32, 128, 46 << 10, "sm_80") == 3


@pytest.fixture
def budget(tmp_path, monkeypatch):
    monkeypatch.setattr(sass, "BUDGET", tmp_path / "budget.txt")
    return sass.BUDGET


def test_the_table_is_written_and_read(budget):
    table = {
        ("a<float>", "sm_80"): {"threads": (256.0, None), "blocks": (2.0, None)},
        ("b", "sm_90"): {"registers": (160.0, 128.0), "staging": (9.0, 12.0)},
    }
    sass.write(table)
    table["b", "sm_90"]["staging"] = (9.0, None)  # the target is met, and no longer said
    assert sass.read() == table
    assert "160>128" in budget.read_text()


def test_what_is_worse_than_the_budget_is_reported():
    budget = {"blocks": (2.0, None), "staging": (12.0, None), "registers": (160.0, 128.0)}
    key = ("kernel", "sm_90")

    def check(**values):
        return sass.compared(key, {name: (v, None) for name, v in values.items()}, budget)

    assert check(blocks=2, staging=11.9, registers=160) == []
    assert check(blocks=1) == ["kernel sm_90: blocks 1, budget 2"]
    assert check(staging=12.1, registers=161) == [
        "kernel sm_90: staging 12.1, budget 12",
        "kernel sm_90: registers 161, budget 160",
    ]
    assert sass.compared(key, {}, None) == ["kernel sm_90: has no line in budget.txt"]


def test_the_table_has_both_architectures_of_every_kernel():
    table = sass.read()
    assert {arch for _, arch in table} == set(sass.ARCHITECTURES)
    kernels = {kernel for kernel, _ in table}
    assert {(kernel, arch) for kernel in kernels for arch in sass.ARCHITECTURES} == set(table)
