"""The app end to end, in headless Chromium: upload, look, download, cancel, two users.

Skipped, by name, without playwright or Chromium. FLOWMATCH_CHROMIUM names the browser; if it is
set, these tests run or fail.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import flowmatch as fm
from flowmatch.app.tabs import TABS

CHROMIUM = os.environ.get("FLOWMATCH_CHROMIUM") or shutil.which("chromium")
if "FLOWMATCH_CHROMIUM" not in os.environ:
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright  # noqa: E402

PATIENCE = 120_000  # milliseconds, for a busy machine
expect.set_options(timeout=PATIENCE // 2)
DONE = ".fm-done, .fm-doubtful, .fm-failed"


class Server:
    """The command ``flowmatch app`` in another process."""

    def __init__(self, temporary):
        command = [sys.executable, "-m", "flowmatch", "app", "--port", "0", "--device", "cpu"]
        environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line + self.process.stderr.read()
        self.url = found[0]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        with self.process.stderr as stderr:
            messages = stderr.read()
        return self.process.wait(60), messages


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(temporary):
    server = Server(temporary)
    yield server
    if server.process.poll() is None:
        server.end()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Return a function that opens the app as another user; all requests must stay on loopback."""
    requested, errors, contexts = [], [], []

    def visit(width=1400):
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("#flow-run")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert len(requested) > 5
    hosts = {urlsplit(url).hostname for url in requested if url.startswith("http")}
    assert hosts == {"127.0.0.1"}
    assert {urlsplit(url).scheme for url in requested} <= {"http", "data", "blob"}
    assert not errors


@pytest.fixture(scope="module")
def frames(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("frames")
    paths = [folder / f"frame_{k}.png" for k in range(3)]
    for k, path in enumerate(paths):
        fm.io.write_image(path, photo[40 + k : 136 + k, 100 + 3 * k : 228 + 3 * k])
    return paths


def panel(page, tab):
    """Open a tab and return what is in it."""
    page.get_by_role("tab", name=tab, exact=True).click()
    return page.get_by_role("tabpanel").filter(has=page.locator(f"#{tab.lower()}-run"))


def upload(page, tab, *fields):
    part = panel(page, tab)
    inputs = part.locator("input[type=file]")
    for k, files in enumerate(fields):
        with page.expect_response(lambda response: "/upload?" in response.url):
            inputs.nth(k).set_input_files(files)
    return part


def run(page, tab):
    """Start the job of a tab when its files are there, and return its result when it is done."""
    page.click(f"#{tab.lower()}-run")
    status = page.locator(f"#{tab.lower()}-status")
    status.locator(DONE).wait_for()
    return status


def download(page, status, name):
    with page.expect_download() as download:
        status.get_by_role("link", name=name, exact=True).click()
    assert download.value.suggested_filename == name
    return Path(download.value.path())


def check_pictures(status, count):
    pictures = status.locator("img")
    expect(pictures).to_have_count(count)
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50


def test_flow_of_two_pictures(visit, frames):
    page = visit()
    part = upload(page, "Flow", *frames[:2])
    part.get_by_label("fast", exact=True).check()
    status = run(page, "Flow")
    expect(status).to_contain_text("Flow of 128 x 96 pixels")
    check_pictures(status, 6)
    downloaded = fm.io.read_flow(
        download(page, status, "flow.flo").rename(frames[0].parent / "d.flo")
    )
    expected = fm.estimate_flow(
        *map(fm.io.read_image, frames[:2]), options=fm.FlowOptions(quality="fast")
    )
    np.testing.assert_allclose(downloaded, expected, atol=1e-4)


def test_errors_are_one_line_and_the_next_job_works(visit, frames, tmp_path):
    page = visit()
    status = run(page, "Flow")
    expect(status).to_have_text("First picture: add a file first")
    bad = tmp_path / "my bad.png"
    bad.write_bytes(frames[0].read_bytes()[:300])
    upload(page, "Matches", bad, frames[1])
    status = run(page, "Matches")
    expect(status).to_have_text(re.compile(r"^\s*my bad\.png [^/]*$"))
    expect(page.get_by_test_id("toast-body").last).to_contain_text("my bad.png")
    upload(page, "Alignment", *frames[:2])
    check_pictures(run(page, "Alignment"), 3)


def test_clip(visit, frames):
    page = visit()
    upload(page, "Clip", frames)
    status = run(page, "Clip")
    expect(status).to_contain_text("2 pairs of frames of 128 x 96 pixels")
    video = download(page, status, "flow.mp4").rename(frames[0].parent / "d.mp4")
    assert fm.io.read_frames(video).count == 2
    seconds = status.locator("video").evaluate(
        "video => new Promise(done => { const ask = () => video.readyState ? done(video.duration)"
        " : setTimeout(ask, 50); ask(); })"
    )
    assert 0 < seconds < 1


def test_matches(visit, frames):
    page = visit()
    upload(page, "Matches", frames[0], frames[2])
    status = run(page, "Matches")
    a, b = (fm.io.read_image(frames[k]) for k in (0, 2))
    expected = fm.match_images(a, b)
    expect(status).to_contain_text(
        f"{expected.inliers.sum()} of {len(expected.matches)} matches agree on a homography"
    )
    check_pictures(status, 1)
    table = download(page, status, "matches.csv").read_text().splitlines()
    assert len(table) == 1 + len(expected.matches)


def test_panorama(visit, photo, tmp_path):
    for name, part in (("left.png", photo[:, :300]), ("right.png", photo[:, 150:])):
        fm.io.write_image(tmp_path / name, part)
    page = visit()
    part = upload(page, "Panorama", [tmp_path / "left.png", tmp_path / "right.png"])
    part.get_by_label("affine, for scans").check()
    status = run(page, "Panorama")
    expect(status).to_contain_text("1 panorama of 2 of the 2 photos")
    check_pictures(status, 1)
    picture = download(page, status, "panorama.jpg").rename(tmp_path / "d.jpg")
    height, width = fm.io.read_image(picture).shape[:2]
    assert abs(width - 451) < 5
    assert abs(height - 300) < 5


def test_scans(visit, tmp_path):
    scan = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    paths = [tmp_path / "a.ply", tmp_path / "b.ply"]
    for path, shift in zip(paths, (0, 5), strict=True):
        fm.io.write_cloud(path, scan + np.float32(shift))
    page = visit()
    part = upload(page, "Scans", paths)
    part.get_by_label("Voxel, m").fill("0.2")
    status = run(page, "Scans")
    check_pictures(status, 1)
    moved = download(page, status, "moved.ply").rename(tmp_path / "d.ply")
    np.testing.assert_allclose(fm.io.read_cloud(moved), fm.io.read_cloud(paths[1]), atol=0.02)


def test_two_users_and_a_cancelled_job(visit, photo, frames, tmp_path):
    large = np.tile(photo, (3, 3, 1))
    for k in (0, 1):
        fm.io.write_image(tmp_path / f"{k}.png", large[k : k + 800, k : k + 1200])
    first, second = visit(), visit()
    part = upload(first, "Flow", tmp_path / "0.png", tmp_path / "1.png")
    part.get_by_label("best", exact=True).check()  # minutes
    first.click("#flow-run")
    status = first.locator("#flow-status")
    expect(status).to_contain_text("Estimating the flow both ways")
    upload(second, "Alignment", *frames[:2])
    second.click("#alignment-run")
    waiting = second.locator("#alignment-status")
    expect(waiting).to_contain_text("Waiting for jobs")
    second.wait_for_timeout(1500)
    expect(waiting).to_contain_text("Waiting for jobs")
    first.click("#flow-cancel")
    expect(status).to_have_text("Cancelled.")
    waiting.locator(DONE).wait_for()  # its job ran, as soon as the other one was stopped
    check_pictures(waiting, 3)
    expect(first.locator("#flow-run")).to_be_enabled()
    expect(status).to_have_text("Cancelled.")


def test_a_user_who_leaves_stops_the_job(visit, frames, photo, tmp_path):
    large = np.tile(photo, (3, 3, 1))
    fm.io.write_image(tmp_path / "a.png", large[:800, :1200])
    page = visit()
    part = upload(page, "Flow", tmp_path / "a.png", tmp_path / "a.png")
    part.get_by_label("best", exact=True).check()
    page.click("#flow-run")
    expect(page.locator("#flow-status")).to_contain_text("Estimating")
    page.close()
    other = visit()
    upload(other, "Alignment", *frames[:2])
    check_pictures(run(other, "Alignment"), 3)


def test_a_narrow_window_is_not_wider_than_its_tabs(visit):
    page = visit(width=400)
    for tab in TABS:
        button = page.get_by_role("tab", name=tab.name, exact=True)
        if not button.is_visible():
            page.locator(".overflow-menu > button").click()
            page.locator(".overflow-dropdown").get_by_text(tab.name, exact=True).click()
        else:
            button.click()
        page.locator(f"#{tab.name.lower()}-run").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_sigterm_removes_all_files(server, temporary):  # the last test: it ends the server
    folders = list(temporary.glob("flowmatch-app-*"))
    assert len(folders) == 1
    assert list(folders[0].rglob("*.flo"))
    status, messages = server.end()
    assert status == 143
    assert not list(temporary.glob("flowmatch-app-*"))
    assert "Traceback" not in messages
