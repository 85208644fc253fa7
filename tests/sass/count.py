"""Functions, loops and instruction counts of disassembled kernels."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

MATH = {"HMMA", "IMMA", "BMMA", "HGMMA", "FFMA", "DFMA", "POPC"}
PRODUCTS = {"HMMA", "IMMA", "BMMA", "HGMMA"}
FIGURES = {"nearest_mma_kernel": 64}  # of a thread in a tile
STAGED = ("correlation_", "nearest_", "pairwise_")  # kernels that copy operands
_FUNCTION = re.compile(r"Function : (\S+)")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_BITS = re.compile(r"\.(8|U8|S8|16|U16|S16|32|64|128)(?=\.|$)")
_SIZES = {"double": 8, "half": 2, "bfloat16": 2}


@dataclass
class Loop:
    """Instructions [begin, end) of a function, as its indices."""

    begin: int
    end: int
    inner: list["Loop"] = field(default_factory=list)

    def indices(self) -> Iterator[int]:
        """The loop's instructions outside of its inner loops."""
        at = self.begin
        for loop in sorted(self.inner, key=lambda loop: loop.begin):
            yield from range(at, loop.begin)
            at = max(at, loop.end)
        yield from range(at, self.end)


def functions(text: str) -> dict[str, list[tuple[int, str, str]]]:
    """The (address, opcode, predicate and operands) of each function that cuobjdump prints."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for line in text.splitlines():
        if name := _FUNCTION.search(line):
            code = found.setdefault(name[1], [])
        elif match := _INSTRUCTION.search(line):
            code.append((int(match[1], 16), match[3], f"{match[2] or ''}{match[4]}"))
    return found


def loops(code: list[tuple[int, str, str]]) -> list[Loop]:
    """All loops, each with those directly inside it; loops with the same head are one."""
    index = {address: i for i, (address, *_) in enumerate(code)}
    ends: dict[int, int] = {}
    for i, (address, op, operands) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)\s*$", operands) if op.split(".")[0] == "BRA" else None
        if target and int(target[1], 16) < address and int(target[1], 16) in index:
            head = index[int(target[1], 16)]
            ends[head] = max(ends.get(head, 0), i + 1)
    found = [Loop(begin, end) for begin, end in ends.items()]
    for loop in found:
        around = [o for o in found if o.begin <= loop.begin and loop.end <= o.end and o is not loop]
        if around:
            min(around, key=lambda o: o.end - o.begin).inner.append(loop)
    return found


def count(name: str, code: list[tuple[int, str, str]]) -> dict[str, float]:
    """``per_math``, ``loads``, ``staging``, ``evaluation``; absent where they have no meaning."""
    found = loops(code)
    bases = [[code[i][1].split(".")[0] for i in loop.indices()] for loop in found]
    counts = [Counter(ops) for ops in bases]
    result: dict[str, float] = {}

    def total(n: Counter[str], ops: set[str]) -> int:
        return sum(n[op] for op in ops)

    kinds = PRODUCTS if any(total(n, PRODUCTS) for n in counts) else MATH
    depth = {
        id(loop): sum(o.begin <= loop.begin and loop.end <= o.end for o in found) for loop in found
    }
    deepest = sorted(zip(found, counts, strict=True), key=lambda pair: depth[id(pair[0])])
    busy = [(loop, n) for loop, n in deepest if total(n, kinds)]
    level = depth[id(busy[-1][0])] if busy else 0
    candidates = [n for loop, n in busy if kinds is PRODUCTS or depth[id(loop)] == level]
    busiest = max(candidates, key=lambda n: total(n, kinds), default=Counter())
    if math := total(busiest, kinds):
        result["per_math"] = busiest.total() / math
        if kinds is PRODUCTS:
            result["loads"] = (busiest["LDS"] + busiest["LDSM"]) / math
    size = next((n for type, n in _SIZES.items() if f"<{type}" in name), 4)
    staged = 0.0
    for loop, n in zip(found, counts, strict=True) if name.startswith(STAGED) else ():
        if not n["LDGSTS"] and not (n["LDG"] and n["STS"]):
            continue
        near = [n, *(m for outer, m in zip(found, counts, strict=True) if loop in outer.inner)]
        if kinds is PRODUCTS and not any(total(m, PRODUCTS) for m in near):
            continue  # copies something else
        ops = [code[i][1] for i in loop.indices()]
        elements = sum(_bytes(op) for op in ops if op.startswith("LDG")) / size
        others = n.total() - total(n, MATH | {"LDS", "LDSM", "BAR"})
        if elements >= 2:
            staged = max(staged, others / elements)
    if staged:
        result["staging"] = staged
    figures = next((n for kernel, n in FIGURES.items() if name.startswith(kernel)), None)
    if figures:
        products = max(i for i, (_, op, _) in enumerate(code) if op.split(".")[0] in PRODUCTS)
        result["evaluation"] = _shortest(code, products, "BAR.RED") / figures
    return result


def _shortest(code: list[tuple[int, str, str]], begin: int, goal: str) -> int:
    """The fewest instructions on a way from one to the next whose opcode begins with `goal`."""
    index = {address: i for i, (address, *_) in enumerate(code)}
    reached, front, steps = {begin}, [begin], 0
    while front:
        steps += 1
        following = set()
        for i in front:
            _, op, operands = code[i]
            target = re.search(r"0x([0-9a-f]+)\s*$", operands) if op.startswith("BRA") else None
            if target and int(target[1], 16) in index:
                following.add(index[int(target[1], 16)])
            if not (target and "@" not in operands) and op != "EXIT" and i + 1 < len(code):
                following.add(i + 1)
        front = sorted(following - reached)
        if any(code[i][1].startswith(goal) for i in front):
            return steps
        reached |= following
    return 0


def _bytes(op: str) -> int:
    match = _BITS.search(op)
    return int(match[1].lstrip("US")) // 8 if match else 4


def short_names(mangled: list[str]) -> dict[str, str]:
    """Names of kernels without namespaces and parameters, such as ``hamming_kernel<half,4>``."""
    run = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    )
    names = {}
    for name, full in zip(mangled, run.stdout.splitlines(), strict=True):
        plain = full.replace("flowmatch::cuda::", "").replace("(anonymous namespace)::", "")
        plain = re.sub(
            r"\(\w+\)(?=\d)", "", plain.removeprefix("void ")
        )  # (int)9, in older filters
        plain = plain.split("(")[0].replace("__nv_", "").replace("__", "")
        names[name] = plain.replace(" ", "")
    return names


def blocks_per_multiprocessor(registers: int, threads: int, shared: int, arch: str) -> int:
    """How many blocks fit, by registers, threads and shared memory."""
    warps = -(-threads // 32)
    warp_registers = -(-registers // 8) * 8 * 32
    memory = {"sm_80": 164, "sm_90": 228}[arch] << 10
    return min(65536 // warp_registers // warps, 2048 // threads, memory // (shared + 1024), 32)
