"""The CPU kernels that this machine would not choose by itself give the same results."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("narrow", ["base", "avx2", "avx512"])
def test_narrower_instruction_sets(narrow, request):
    """All that compares an op with its reference or with itself, once more on a narrower path."""
    environment = {**os.environ, "FLOWMATCH_CPU": narrow, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/ops"]
    done = subprocess.run(
        [*command, "-k", "(equals_reference or never_shows) and not float64"],
        env=environment,
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
