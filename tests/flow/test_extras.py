"""Flow without kornia: help and estimation work, training names the extra to install."""

import os
import subprocess
import sys

import pytest

from flowmatch.flow.data.augment import Augmentation, AugmentedPairs

HIDDEN = "import sys; sys.modules['kornia'] = None; from flowmatch.cli import main; "


def run(*words):
    code = f"{HIDDEN}sys.exit(main({list(words)!r}))"
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def test_help_needs_no_kornia():
    for words in (["train", "flow", "-h"], ["synth", "flow", "-h"]):
        assert run(*words).returncode == 0


def test_the_extra_is_named_before_the_first_step(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kornia"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"pip install 'flowmatch\[train\]'"):
        AugmentedPairs([], Augmentation((64, 96)))
