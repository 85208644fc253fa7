"""CPU kernels for narrower instruction sets than that of this machine."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("narrow", ["base", "avx2", "avx512"])
def test_narrower_instruction_sets(narrow, request):
    """Run the tests that compare ops with their references, with a narrower instruction set."""
    environment = {**os.environ, "FLOWMATCH_CPU": narrow, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/ops"]
    result = subprocess.run(
        [*command, "-k", "(equals_reference or first_pass) and not float64"],
        env=environment,
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout
