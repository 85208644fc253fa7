"""Pages of the documentation: their Python runs, their commands exist and take the options."""

import inspect
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from flowmatch.cli import main
from flowmatch.cli._tree import COMMANDS, GROUPS, load_command
from flowmatch.io import write_cloud, write_image

ROOT = Path(__file__).parents[1]
DOCS = [*sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in DOCS if page.relative_to(ROOT).parts[1] not in ("gallery", "weights")),
]
INDEX = json.loads((ROOT / "flowmatch" / "weights" / "index.json").read_text())


def name_of(page):
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else ""


def blocks(page, language):
    """Yield (line number, text) of each block of code of that language."""
    text = page.read_text()
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, match.start(1)), match[1]


def commands_in(text):
    """Return the lines that begin with ``flowmatch``; a backslash continues a line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("flowmatch ")]


def split(line):
    """Return the name of a command and the words that follow it."""
    words = shlex.split(line, comments=True)[1:]
    for length in (2, 1):
        if " ".join(words[:length]) in COMMANDS:
            return " ".join(words[:length]), words[length:]
    raise AssertionError(f"there is no such command: {line}")


def parse(line):
    """Insist that the command exists, knows all options, and has what it requires."""
    name, words = split(line)
    command = load_command(name)
    context = command.context_class(command, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(args=list(words))
    assert not rest, f"{line}: {rest} is more than it takes"
    for parameter in command.params:
        value = values.get(parameter.name)
        assert value not in (None, (), [], "") or not parameter.required, (
            f"{line}: {parameter.name} is missing"
        )
        kind = parameter.type_descriptor.annotation
        if kind in (int, float) and value is not None:
            kind(value)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Put the files that the examples read into the current folder."""
    monkeypatch.chdir(tmp_path)
    photo, scene = data.chelsea(), data.stereo_motorcycle()[0]
    write_image("a.png", photo[60:220, 100:300])
    write_image("b.png", photo[64:224, 105:305])
    Path("photos").mkdir()
    for k in range(3):
        write_image(f"photos/{k}.png", scene[80:400, 180 * k : 180 * k + 360])
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 3, (4000, 2))
    z = np.sin(3 * xy[:, 0]) * np.cos(2 * xy[:, 1]) + 0.3 * np.sin(5 * xy.sum(axis=1))
    points = np.column_stack([xy, z])
    write_cloud("a.ply", points)
    write_cloud("b.ply", points[:, [1, 2, 0]] + [1, 2, 3])


def test_there_are_pages():
    assert len([page for page in PAGES if list(blocks(page, "python"))]) >= 12


@pytest.mark.parametrize(
    "page", [page for page in PAGES if list(blocks(page, "python"))], ids=name_of
)
def test_python_runs(page, files):
    """The blocks of a page run in order, as a reader would type them."""
    names = {}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, name_of(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page):
    for _, text in blocks(page, "(?:bash|console)"):
        for line in commands_in(text):
            parse(line)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    known = {option for name in COMMANDS for option in options_of(name)}
    for code in re.findall(r"`([^`\n]+)`", text):
        words = code.split()
        if re.match(r"flowmatch [a-z]", code) and words[1:] not in [[group] for group in GROUPS]:
            name, words = split(code)
            assert {word for word in words if word.startswith("-")} <= options_of(name), code
        elif code.startswith("--"):
            assert code.split()[0] in known, f"{code}: no command has this option"


def options_of(name):
    """Return all options of a command."""
    params = load_command(name).params
    return {opt for param in params for opt in (*param.opts, *param.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("task, name", [(task, name) for task in INDEX for name in INDEX[task]])
def test_cards_are_complete(task, name):
    """The card of each file of weights has what its page shows; its commands parse."""
    entry = INDEX[task][name]
    card = entry["card"]
    assert card["purpose"].endswith(".") and card["licence"] and card["limits"]
    columns = len(card["figures"]["columns"])
    assert card["figures"]["rows"]
    assert all(len(row) == columns for row in card["figures"]["rows"])
    for line in (*entry["command"], *card["figures"]["command"]):
        parse(line)


def test_cards_say_how_to_use_weights_of_every_task():
    text = (ROOT / "docs" / "_ext" / "weight_cards.py").read_text()
    for task in INDEX:
        assert f'    "{task}": "' in text, task


def test_every_command_is_documented():
    text = "\n".join(page.read_text() for page in PAGES)
    for name in COMMANDS:
        assert f"flowmatch {name}" in text, name


def test_public_functions_of_the_front_door_are_documented():
    import flowmatch as fm

    text = "\n".join(page.read_text() for page in PAGES)
    for name in fm.__all__:
        if inspect.isfunction(getattr(fm, name)):
            assert f"fm.{name}" in text, name


@pytest.mark.parametrize("page", ["README.md", "docs/operators/benchmark.md"])
def test_speeds_are_those_that_were_measured(page, capsys):
    """The table is what the command above it prints."""
    pattern = r"`flowmatch (bench[^`]* --from \S+ --markdown)`:\n\n(.*?)\n\n"
    text = re.search(pattern, (ROOT / page).read_text(), re.DOTALL)
    assert text is not None
    words = [str(ROOT / word) if word.endswith(".json") else word for word in text[1].split()]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == text[2].strip()


def test_folders_of_the_tree_exist():
    tree = next(text for _, text in blocks(ROOT / "docs" / "design.md", "text"))
    assert "flowmatch/\n" in tree
    folder = ROOT
    for line in tree.splitlines():
        folder = ROOT / {"csrc/": "csrc", "flowmatch/": "flowmatch"}.get(line.split()[0], folder)
        column = line[:25]
        names = [name for name in column.split() if name.endswith(("/", ".py"))]
        for name in names:
            parent = folder if line.startswith(" ") else ROOT
            assert (parent / name).exists(), name


@pytest.mark.parametrize("demo", sorted((ROOT / "demos").glob("*.py")), ids=lambda path: path.stem)
def test_demos_are_short_and_use_public_names(demo):
    text = demo.read_text()
    assert len(text.splitlines()) <= 40
    for module in re.findall(r"^(?:from|import) (flowmatch\S*)", text, re.MULTILINE):
        public = ("flowmatch", "flowmatch.flow.synthetic")
        assert module in public or (module, demo.stem) == ("flowmatch.cli", "flow_of_a_clip")
    order = (ROOT / "docs" / "_ext" / "demo_order.py").read_text()
    assert f'"{demo.stem}"' in order, "the demo has no place in the gallery"
