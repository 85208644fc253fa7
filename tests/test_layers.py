"""Imports go downwards only: rooms on one floor do not know each other."""

import ast
from pathlib import Path

import pytest

import flowmatch

PACKAGE = Path(flowmatch.__file__).parent

FLOORS = {
    "_lazy": 0, "_opencv": 0, "_signals": 0, "progress": 0, "imaging": 0, "io": 0, "draw": 0,
    "tensor_files": 0,
    "ops": 1, "geometry": 1, "devices": 1, "training": 1, "metrics": 1, "units": 1,
    "zoo": 2, "descriptor_losses": 2, "compat": 2,
    "flow": 3, "matching": 3, "registration": 3, "align": 3, "metric_learning": 3,
    "batch": 4, "retrieval": 4, "selfsupervised": 4, "tracking": 4, "stitch": 4, "bench": 4,
    "export": 4,
    "catalogue": 5, "app": 5, "localisation": 5, "hub": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip
# Floor 0 may use its own foundations; nothing else on a floor may see its neighbours.
FOUNDATIONS = {"_opencv", "imaging", "io"}


def imports(file):
    """Yield (line, module) of every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            names = {alias.name for alias in node.names}
            if node.module == "flowmatch":
                yield from ((node.lineno, f"flowmatch.{name}") for name in names)
            else:
                yield node.lineno, node.module


def test_every_room_has_a_floor():
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__"} <= FLOORS.keys()


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_arrows_go_down(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for line, module in imports(file):
        if room == "__init__" or not module.startswith("flowmatch."):
            continue
        other = module.split(".")[1]
        if other in (room, "__version__"):
            continue
        allowed = FLOORS[other] < FLOORS[room] or (other in FOUNDATIONS and FLOORS[room] == 0)
        assert allowed, f"{file}:{line}: {room} (floor {FLOORS[room]}) imports {other}"


@pytest.mark.parametrize("room", ["io", "draw", "_opencv.py", "imaging.py", "progress.py"])
def test_floor_0_never_sees_torch(room):
    path = PACKAGE / room
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        assert not [m for _, m in imports(file) if m.split(".")[0] == "torch"], file


# What a wing of a room never imports: networks know no data, evaluation no training.
WINGS = {
    "networks": ("data", "synthetic", "training", "evaluation"),
    "data": ("training", "evaluation"),
    "synthetic": ("networks", "training", "evaluation"),
    "evaluation": ("training",),
    "training": ("evaluation",),
}


@pytest.mark.parametrize(
    "file",
    sorted(file for file in PACKAGE.glob("*/*/*.py") if file.parts[-2] in WINGS),
    ids=lambda f: str(f.relative_to(PACKAGE)),
)
def test_wings_keep_to_the_inner_rule(file):
    room, wing = file.parts[-3:-1]
    for line, module in imports(file):
        for forbidden in WINGS[wing]:
            assert not f"{module}.".startswith(f"flowmatch.{room}.{forbidden}."), f"{file}:{line}"


def test_rooms_with_many_files_have_wings():
    for room in (path for path in PACKAGE.iterdir() if path.is_dir()):
        files = [file for file in room.glob("*.py") if not file.name.startswith("_")]
        assert len(files) <= 20, f"{room.name}/ has {len(files)} files on its top level"


def test_losses_know_no_network():
    files = [*PACKAGE.rglob("losses.py"), PACKAGE / "descriptor_losses.py"]
    assert len(files) >= 5
    for file in files:
        assert not any("networks" in module for _, module in imports(file)), file


def test_csrc_knows_no_python_and_cuda_no_torch():
    sources = [f for f in (PACKAGE.parent / "csrc").rglob("*") if f.is_file()]
    assert sources
    for file in sources:
        text = file.read_text()
        assert "Python.h" not in text, file
        if file.name != "stable.h":
            assert "#include <torch/" not in text, file
