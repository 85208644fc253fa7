"""Streams by URL: they are read as they are, end, time out, and are connected again on request."""

import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from flowmatch.io import VideoWriter, _video_stream, read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return the bytes of an MP4 of eight frames of values 20, 40, ..."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 10) as video:
        for k in range(8):
            video.write(np.full((48, 64, 3), 20 * k + 20, np.uint8))
    return path.read_bytes()


@pytest.fixture(scope="module")
def live(clip, tmp_path_factory):
    """Return the bytes of the same clip as Motion JPEG, which states no length."""
    import av

    path = tmp_path_factory.mktemp("live") / "clip.mjpeg"
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for k in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * k + 20, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def numbers(frames):
    return [round((float(frame.mean()) - 20) / 20) for frame in frames]


class _Server(BaseHTTPRequestHandler):
    """Sends `content` to GET, whole or from a byte on; the first `cuts` answers only half of it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.paths.append(self.path)
        content, state = self.server.content, self.server
        self.close_connection = True
        if len(state.paths) > state.most:
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        ranged = state.seekable and "Range" in self.headers
        self.send_response(206 if ranged else 200)
        if state.seekable:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        body = content[start:] if state.seekable else content
        if state.cuts:
            state.cuts -= 1
            body = body[: len(body) // 2]
        if not state.seekable:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def served(content, *, cuts=0, seekable=True, most=1000):
    """Yield the address of a server on the loopback, and the paths that it was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.content, server.cuts, server.seekable, server.most = content, cuts, seekable, most
    server.paths = []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch):
    monkeypatch.setattr(_video_stream, "PAUSE", 0.02)


def test_a_url_reaches_the_reader_as_it_is(clip):
    with served(clip) as (address, paths):
        url = f"{address}/a%20b//clip.mp4?token=x//y&z=[1]"
        frames = read_frames(url, start=1, stride=2)
        assert (frames.name, frames.files, frames.count, frames.rate) == (url, (), 4, 5)
        assert numbers(frames) == [1, 3, 5, 7]
        assert numbers(frames) == [1, 3, 5, 7]  # a second connection
        assert frames.skipped == []
    assert set(paths) == {"/a%20b//clip.mp4?token=x//y&z=[1]"}


def test_a_server_that_accepts_one_connection(live):
    with served(live, seekable=False, most=1) as (address, paths):
        frames = read_frames(address)
        assert frames.count is None
        assert numbers(frames) == list(range(8))
    assert len(paths) == 1


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "http", "https", "tcp"])
def test_nobody_listens(scheme):
    with pytest.raises(OSError, match=rf"^{scheme}://127\.0\.0\.1:9/x cannot be opened: Conn"):
        read_frames(f"{scheme}://127.0.0.1:9/x")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_never_answers(scheme, monkeypatch):
    monkeypatch.setattr(_video_stream, "OPEN_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(OSError, match="cannot be opened: no answer within 0.3 s"):
            read_frames(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x")
        assert time.monotonic() - began < 5


def test_a_server_that_falls_silent(tmp_path, monkeypatch):
    """What came is kept, and the reason stands with the frame that is missing."""
    monkeypatch.setattr(_video_stream, "READ_TIMEOUT", 0.5)
    noise = np.random.default_rng(0).integers(0, 255, (8, 96, 128, 3), np.uint8)
    with VideoWriter(tmp_path / "clip.avi", 10) as video:
        for picture in noise:
            video.write(picture)
    content = (tmp_path / "clip.avi").read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    done = threading.Event()

    def answer():
        connection, _ = server.accept()
        with connection:
            connection.sendall(head + content[: len(content) // 2])
            done.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        frames = read_frames(f"http://127.0.0.1:{server.getsockname()[1]}/x")
        assert 3 <= len(list(frames)) <= 4
        assert "nothing came for 0.5 s" in str(frames.skipped[-1])
        done.set()
        thread.join()


def test_passwords_are_not_shown():
    for user in ("viewer", ""):
        with pytest.raises(OSError, match="cannot be opened") as error:
            read_frames(f"rtsp://{user}:secret@127.0.0.1:9/x")
        assert f"rtsp://{user}:***@127.0.0.1:9/x" in str(error.value)
        assert "secret" not in str(error.value)


def test_pages_and_unknown_schemes():
    with served(b"<html>no video</html>") as (address, _), pytest.raises(OSError, match="Invalid"):
        read_frames(f"{address}/page.html")
    with pytest.raises(OSError, match="nonsense://x cannot be opened: Protocol not found"):
        read_frames("nonsense://x")


def test_a_file_that_breaks_off(clip):
    content = clip
    with served(content, cuts=1) as (address, _):
        frames = read_frames(f"{address}/clip.mp4", reconnect=3)
        assert numbers(frames) == list(range(8))
        assert frames.skipped == []


def test_a_live_stream_is_opened_again(live):
    with served(live, seekable=False, most=3) as (address, paths):
        frames = read_frames(address, reconnect=2)
        pairs = [(n, round((float(frame.mean()) - 20) / 20)) for n, frame in frames.numbered()]
    # After each connection one number is missing, so that no pair spans the gap.
    assert pairs == [(9 * c + k, k) for c in range(3) for k in range(8)]
    assert [s.index for s in frames.skipped] == [8, 17, 26]
    assert {s.reason for s in frames.skipped} == {"the connection was lost"}
    assert len(paths) >= 5  # three that gave frames, two that did not


def test_a_live_stream_ends_without_reconnect(live):
    with served(live, seekable=False) as (address, paths):
        frames = read_frames(address)
        assert numbers(frames) == list(range(8))
    assert (len(paths), frames.skipped) == (1, [])
