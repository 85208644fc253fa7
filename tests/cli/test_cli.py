"""The command line as a whole: help, version, status, imports, and one line for errors."""

import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmatch import __version__
from flowmatch.cli import _warnings_in_one_line, main, program
from flowmatch.cli._tree import COMMANDS, GROUPS, load_command, module_name
from flowmatch.io import write_image


@pytest.fixture
def pair(tmp_path, photo):
    for name, shift in (("a", 0), ("b", 3)):
        picture = np.roll(photo, shift, axis=1)[60:188, 60:252]
        write_image(tmp_path / f"{name}.png", picture)
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


@pytest.mark.parametrize("words", [["flow", "--no-such-option"], ["nonsense"], ["eval"], []])
def test_bad_usage_is_status_2(words, capsys):
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_name_that_is_nearly_right_is_corrected(capsys):
    assert main(["flwo"]) == 2
    assert "Did you mean 'flow'?" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flowmatch {__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("path", ["", *GROUPS, *COMMANDS])
def test_help(path, flag, capsys):
    assert main([*path.split(), flag]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Usage" in out
    if not path:
        for status in ("0 done", "1 the command ran", "2 bad input", "130 interrupted"):
            assert status in out


@pytest.mark.parametrize("path", COMMANDS)
def test_the_table_of_commands_is_true(path):
    """Each command lies in the file of its name, and its help begins as in the table."""
    command = load_command(path)
    assert command.help.split("\n\n")[0] == COMMANDS[path].help
    assert command.callback.__module__ == module_name(path)
    assert command.name == path.split()[-1]


def options(path):
    return [option for option in load_command(path).params if option.param_type_name == "option"]


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_sentences_that_begin_with_a_noun(path):
    for parameter in load_command(path).params:
        assert parameter.help, parameter.name
        assert parameter.help[0].isupper(), parameter.help
        assert parameter.help.endswith("."), parameter.help
        first = parameter.help.split()[0].lower()
        assert first not in ("of", "and", "for", "in", "at", "by", "to", "with", "what"), path


def test_an_option_has_one_meaning():
    """The same name has the same type and, if it takes a file, the same metavar everywhere."""
    kinds = {}
    for path in COMMANDS:
        for option in options(path):
            for name in option.opts:
                kinds.setdefault(name, {})[path] = option.is_flag, option.metavar
    mixed = {name: kinds for name, kinds in kinds.items() if len(set(kinds.values())) > 1}
    assert not mixed
    assert not {"--out", "--sheet", "--every", "--descriptor", "--decide", "--set"} & kinds.keys()
    for path, kind in kinds["--output"].items():
        assert kinds["-o"][path] == kind


@pytest.mark.parametrize("path", COMMANDS)
def test_two_examples_that_parse(path):
    """Both examples of each command are accepted by the real parser."""
    module = sys.modules[module_name(path)] if load_command(path) else None
    assert len(module.EXAMPLES) == 2
    for example in module.EXAMPLES:
        program, *words = shlex.split(example)
        assert program == "flowmatch"
        if words == ["--version"]:
            continue
        name = " ".join(words[: 2 if words[0] in GROUPS else 1])
        words = words[len(name.split()) :]
        context = load_command(name).make_context(name, words)
        assert not context.args
        missing = context.params.get("output", "") is None
        assert not (name == "flow" and missing), example


def run(*words):
    """Run the command in a process of its own; return status, stdout and stderr."""
    line = [sys.executable, "-m", "flowmatch", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["eval", "-h"]])
def test_help_imports_neither_torch_nor_opencv(words):
    code = f"""
import sys
from flowmatch.cli import main
assert main({words!r}) == 0
commands = [name for name in sys.modules if name.startswith("flowmatch.cli.")]
assert commands == ["flowmatch.cli._tree"], commands
assert not {{"torch", "cv2", "numpy", "scipy"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_completion_knows_the_commands(monkeypatch):
    """A shell asks in this way for the words that may follow ``flowmatch fl``."""
    monkeypatch.setenv("_FLOWMATCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "flowmatch fl")
    monkeypatch.setenv("COMP_CWORD", "1")
    code = "from flowmatch.cli import program; program(prog_name='flowmatch')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["flow"], done.stderr


def test_c_libraries_print_nothing_before_our_line(pair, tmp_path):
    """OpenCV, libpng and FFmpeg write to stderr themselves."""
    broken, video = tmp_path / "broken.png", tmp_path / "broken.mp4"
    broken.write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    video.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(1000))
    for words, message in (
        (["match", pair[0], str(broken)], f"{broken} is damaged"),
        (["flow", str(video), "-o", str(tmp_path / "out")], "is neither a video"),
        (["flow", "63", "-o", str(tmp_path / "out")], "camera 63 cannot be opened"),
    ):
        status, _, err = run(*words)
        assert status == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1


def test_an_unwritable_target_is_named(pair):
    status, _, err = run("align", *pair, "-o", "/proc/picture.png", "--model", "identity")
    assert status == 2
    assert err.startswith("error: /proc/picture-warped.png cannot be written: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["numpy", "cuda", "cpu"],
)
def test_too_little_memory_is_one_line(error, pair, tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("flowmatch.cli.flow.write_sequence", fails)
    assert main(["flow", *pair, "-o", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: there is not enough memory")


def test_other_errors_of_torch_are_not_hidden(pair, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("flowmatch.cli.flow.write_sequence", fails)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["flow", *pair, "-o", str(tmp_path / "out")])


def test_the_app_has_all_commands():
    names = {command.name for command in program.registered_commands}
    for group in program.registered_groups:
        names |= {f"{group.name} {c.name}" for c in group.typer_instance.registered_commands}
    assert names == COMMANDS.keys()


def test_warnings_are_one_line():
    """Without the line of the source that gave them."""
    with _warnings_in_one_line():
        mine = warnings.formatwarning("dark", UserWarning, "/x/flowmatch/io/image.py", 3, "code")
        others = warnings.formatwarning("old", UserWarning, "/x/torch/nn.py", 3, "code")
    assert mine == "warning: dark\n"
    assert others == "/x/torch/nn.py:3: UserWarning: old\n  code\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(pair, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, path in zip((b"a.png", b"\xff.png"), pair, strict=True):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(Path(path).read_bytes())
    assert main(["match", str(folder), "--all", "-o", str(tmp_path / "m")]) == 0
    assert (tmp_path / "m" / "a.png&%FF.png.npz").exists()
    capsys.readouterr()
    assert main(["match", str(folder), "--all", "-o", str(tmp_path / "c"), "--colmap"]) == 2
    assert "\\udcff" in capsys.readouterr().err
