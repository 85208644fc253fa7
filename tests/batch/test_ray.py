"""Ray Data on a local cluster: a worker that is killed loses nothing; the files are the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.conftest import NAMES, digests

pytest.importorskip("ray", reason="the extra ray is not installed")

# In a process of its own: Ray leaves threads and sockets behind, and warns about itself.
SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
import ray
from flowmatch.batch import write_clips
from tests.batch.conftest import OPTIONS

output, clips = Path(sys.argv[1]), sys.argv[2:]
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
killed = []


def kill():
    '''Kill a worker when it has written a flow.'''
    import psutil

    while not list(output.rglob("*.flo")):
        time.sleep(0.01)
    for child in psutil.Process().children(recursive=True):
        if "ClipFlow" in child.name() or "MapWorker" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGKILL)
            killed.append(child.pid)
            return


thread = threading.Thread(target=kill, daemon=True)
thread.start()
report = write_clips(clips, output, options=OPTIONS, device="cpu", jobs=2, ray="local")
thread.join(5)
again = write_clips(clips, output, options=OPTIONS, device="cpu", jobs=2, ray="local")
ray.shutdown()
print(json.dumps({
    "killed": len(killed), "pairs": report.pairs, "failed": [c.error for c in report.failed],
    "names": sorted(c.name for c in report.reports), "again": [c.computed for c in again.reports],
}))
"""


def test_a_worker_is_killed_in_the_middle(clips, serial, tmp_path):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), *map(str, clips)]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {
        "killed": 1, "pairs": 12, "failed": [], "names": NAMES, "again": [0] * 4,
    }  # fmt: skip
    assert digests(tmp_path / "out") == digests(serial)
