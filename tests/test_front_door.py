"""The front door: names that most people need, imported lazily, with one grammar."""

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import flowmatch as fm
from flowmatch.catalogue import TASKS
from flowmatch.progress import ProgressCallback

VERBS = {  # what is positional: the images, scans or files
    "estimate_flow": ("first", "second"),
    "estimate_both_ways": ("first", "second"),
    "match_images": ("first", "second"),
    "align_images": ("first", "second"),
    "register_scans": ("source", "target"),
    "stitch_photos": ("photos",),
    "track_boxes": ("frames", "boxes"),
    "track_points": ("frames", "points"),
    "build_index": ("folder", "output"),
    "search": ("index", "image"),
    "localise_photo": ("photo", "index"),
}


def parameters(name):
    return inspect.signature(getattr(fm, name)).parameters


@pytest.mark.parametrize("name", VERBS)
def test_images_come_first_and_all_else_by_keyword(name):
    kinds = {p.name: p.kind for p in parameters(name).values()}
    positional = [n for n, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY]
    assert tuple(positional) == VERBS[name]
    assert inspect.Parameter.VAR_KEYWORD not in kinds.values()


@pytest.mark.parametrize("name", VERBS)
def test_one_word_means_one_thing(name):
    for parameter in parameters(name).values():
        default, annotation = parameter.default, str(parameter.annotation)
        match parameter.name:
            case "model":
                # With None, the options choose: a method of theirs may need no network.
                assert default is None or isinstance(default, str)
                for kind in ("str", "Path", "Module"):
                    assert kind in annotation, f"{name}: model is {annotation}"
            case "device":
                assert default is None
            case "progress":
                assert default is None
                assert ProgressCallback.__name__ in annotation
            case "options":
                assert dataclasses.is_dataclass(default)
                assert type(default).__dataclass_params__.frozen


def test_models_may_be_named_everywhere_but_where_an_index_knows_its_own():
    for name in VERBS.keys() - {"search"}:
        assert {"model", "device"} <= parameters(name).keys(), name


def test_results_have_types():
    for name in VERBS:
        annotation = inspect.signature(getattr(fm, name)).return_annotation
        assert annotation is not inspect.Signature.empty, name
        assert "dict" not in str(annotation), name


@pytest.mark.parametrize("task", TASKS)
def test_tasks_export_the_same_names(task):
    module = getattr(fm, task)
    assert {"load", "available", "save_weights", "MODELS"} <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert isinstance(module.available(), dict)


def test_load_takes_a_task_and_a_name_or_a_file(tmp_path):
    model = fm.load("align/default")
    assert isinstance(model, fm.align.AlignNet) and not model.training
    fm.align.save_weights(tmp_path / "a.safetensors", fm.align.AlignNet(), "align")
    assert isinstance(fm.load(tmp_path / "a.safetensors"), fm.align.AlignNet)
    assert "flow/recurrent-pyramid" in fm.available()
    with pytest.raises(ValueError, match="TASK/NAME with a task of flow, matching"):
        fm.load("default")
    with pytest.raises(ValueError, match="no weights named 'x' ship"):
        fm.load("flow/x")
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        fm.load(tmp_path / "b.safetensors")


def test_every_name_resolves_and_others_do_not():
    for name in fm.__all__:
        assert getattr(fm, name) is not None
    assert set(fm.__all__) <= set(dir(fm))
    with pytest.raises(AttributeError, match="no attribute 'estimate'"):
        _ = fm.estimate


def test_type_checkers_see_the_same_names():
    page = ast.parse(Path(fm.__file__).read_text())
    block = next(node for node in page.body if isinstance(node, ast.If))
    names = {alias.name for node in block.body for alias in node.names}
    assert names == set(fm.__all__)


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, flowmatch; print([m for m in ('torch', 'numpy', 'cv2') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
