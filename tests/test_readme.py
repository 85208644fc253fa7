"""The README is short, names every command, and its links exist; test_docs.py runs its code."""

import re
from pathlib import Path

import pytest

from flowmatch.cli._tree import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_it_is_one_short_page():
    assert len(README.splitlines()) <= 150


def test_there_are_examples():
    assert len(BLOCKS) >= 3
    assert all(len(block.splitlines()) <= 6 for block in BLOCKS)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"demo", "test", "docs"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_lead_somewhere_and_nothing_is_left_to_fill_in():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    assert not re.findall(r"^[A-Z_]{4,}$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_named(command):
    """By itself, or in the same line as its group."""
    group, _, name = command.rpartition(" ")
    lines = [line for line in README.splitlines() if re.search(rf"\b{group}\b", line)]
    assert any(re.search(rf"(?<![\w-]){name}(?![\w-])", line) for line in lines), command
