"""The README's Python runs as it stands, and the commands it names exist."""

import re
from pathlib import Path

import pytest

from flowmatch.cli import main
from flowmatch.io.image import write_image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS)
def test_python_runs(code, tmp_path, monkeypatch, photo):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", photo[:128, :128])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_commands_exist():
    commands = set(
        re.findall(
            r"flowmatch (flow|match|stitch|register|fuse|align|index|search|identify|"
            r"eval (?:flow|matching|registration|metric-learning|align|retrieval|video)|"
            r"train (?:flow|matching|metric-learning|align|registration|retrieval|video)|"
            r"synth (?:flow|matching|registration)|weights convert|bench|info)",
            README,
        )
    )
    assert len(commands) >= 5
    for command in commands:
        assert main([*command.split(), "--help"]) == 0


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|^    )make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_lead_somewhere_and_nothing_is_left_to_fill_in():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
    assert not re.findall(r"^[A-Z_]{4,}$", README, flags=re.MULTILINE)


def test_speeds_are_those_that_were_measured(capsys):
    """The table is what the command above it prints."""
    text = re.search(r"`flowmatch (bench --from \S+ --markdown)`:\n\n(.*?)\n\n", README, re.DOTALL)
    assert text is not None
    words = text[1].split()
    words[2] = str(ROOT / words[2])
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == text[2].strip()


def test_folders_of_the_map_exist():
    for name in re.findall(r"^\| `([a-z/]+/)`", README, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name
