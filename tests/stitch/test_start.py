"""A panorama by SIFT starts fast: PyTorch is not imported."""

import subprocess
import sys

from flowmatch.io import write_image

SCRIPT = """
import sys
from flowmatch.cli import main
status = main(["stitch", *sys.argv[1:], "--detector", "{detector}", "--model", "{model}"])
assert status == 0, status
assert "torch" not in sys.modules and "kornia" not in sys.modules
"""


def test_stitch_does_not_import_torch(photos, tmp_path):
    for k, photo in enumerate(photos):
        write_image(tmp_path / f"{k}.png", photo)
    for detector, model in (("sift", "rootsift"), ("orb", "orb")):
        script = SCRIPT.format(detector=detector, model=model)
        words = [str(tmp_path), "-o", str(tmp_path / "panorama.jpg")]
        run = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        assert "3 photos (0.png, 1.png, 2.png)" in run.stderr


def test_imports_are_light():
    for module in ("flowmatch", "flowmatch.cli", "flowmatch.stitch", "flowmatch.cli.stitch"):
        script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0, module
