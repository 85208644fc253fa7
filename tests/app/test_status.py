"""The HTML of results and errors."""

from pathlib import Path

from flowmatch.app.job import Progress
from flowmatch.app.status import failed, finished, running, without_folders
from flowmatch.app.tasks import Shown, TaskResult


def test_text_of_files_is_escaped():
    evil = "<script>alert(1)</script>"
    result = TaskResult(evil, facts=((evil, evil),), notes=(evil,))
    for page in (failed(evil), finished(result, 1, 1), running(Progress(evil, 0, None), 1)):
        assert "<script" not in page.lower()
        assert "&lt;" in page


def test_results_show_pictures_and_link_files(tmp_path):
    for name in ("a b.png", "small.jpg", "clip.mp4", "it's.flo"):
        (tmp_path / name).write_bytes(bytes(1500))
    shown = (
        Shown(tmp_path / "a b.png", "one", tmp_path / "small.jpg"),
        Shown(tmp_path / "clip.mp4", "two"),
    )
    page = finished(TaskResult("done", shown=shown, files=(tmp_path / "it's.flo",)), 2.345, 2)
    assert f"<a href='gradio_api/file={tmp_path}/a%20b.png'" in page
    assert f"<img src='gradio_api/file={tmp_path}/small.jpg' alt='one'>" in page
    assert f"<video src='gradio_api/file={tmp_path}/clip.mp4'" in page
    assert f"<a href='gradio_api/file={tmp_path}/it%27s.flo' download='it&#x27;s.flo'>" in page
    assert "<span>1.5 KB</span>" in page
    assert "<dt>Time</dt><dd>2.3 s</dd>" in page
    assert "fm-done" in page
    assert "fm-doubtful" in finished(TaskResult("doubt", trusted=False), 1, 1)


def test_progress_is_a_share_or_a_time():
    assert "width:25%" in running(Progress("flow", 3, 12), 1)
    assert "3 of 12, 5 s" in running(Progress("flow", 3, 12), 5.2)
    assert "fm-unknown" in running(Progress("reading", 0, None), 1)


def test_folders_of_the_server_are_not_told():
    folder = Path("/tmp/flowmatch-app-x")
    text = "/tmp/flowmatch-app-x/3e1/my scan 1.ply: and /tmp/flowmatch-app-x/results/a/b.flo, /etc"
    assert without_folders(text, folder) == "my scan 1.ply: and b.flo, /etc"
