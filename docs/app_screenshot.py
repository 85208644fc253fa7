"""Draw tasks/app.jpg, the picture of the browser app in Chromium."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from skimage import data

import flowmatch as fm


def main() -> None:
    """Compute the flow of a stereo pair in the app, and take a picture of the page."""
    server = subprocess.Popen(
        [sys.executable, "-m", "flowmatch", "app", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    url = re.findall(r"http\S+/", server.stderr.readline())[0]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 940})
        page.set_default_timeout(600_000)
        page.goto(url)
        for k, picture in enumerate(data.stereo_motorcycle()[:2]):
            file = Path(folder) / f"{k}.png"
            fm.io.write_image(file, picture)
            with page.expect_response(lambda response: "/upload?" in response.url):
                page.locator("input[type=file]").nth(k).set_input_files(file)
        page.click("#flow-run")
        page.locator("#flow-status .fm-done").wait_for()
        page.wait_for_load_state("networkidle")
        target = Path(__file__).parent / "tasks" / "app.jpg"
        page.screenshot(path=target, type="jpeg", quality=80)
        browser.close()
    server.terminate()
    server.wait()


main()
