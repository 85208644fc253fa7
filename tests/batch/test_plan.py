"""Lists of clips: names, shares, and what is refused."""

import pytest

from flowmatch.batch import plan_clips


def names(*clips):
    return [clip.name for clip in plan_clips(clips)]


def test_names():
    assert names("a.mp4", "b.tar.mp4", "c") == ["a", "b.tar", "c"]
    assert names("x/a.mp4", "y/a.mp4", "y/b.mp4") == ["x/a", "y/a", "y/b"]
    assert names("1/left/data", "2/left/data") == ["1/left/data", "2/left/data"]
    assert names("../odd/./a.mp4", "b/../A.mp4") == ["odd/a", names("A.mp4", "z/a.mp4")[0]]
    assert names("left*.png", "frames/*.png", "f[0-9]/a?.png") == ["left", "frames", "a"]
    assert names(
        "rtsp://viewer:secret@host:554/stream", "https://host/b%20c/clip.mp4?token=1/2",
        "s3://bucket/key/d.mp4", "zip://in/e.mp4::s3://bucket/archive.zip", "rtsp://camera",
    ) == ["stream", "clip", "d", "e", "camera"]  # fmt: skip
    assert names("rtsp://one:554/stream", "rtsp://two/stream") == ["one_554/stream", "two/stream"]


def test_a_folder_keeps_its_dots(tmp_path):
    (tmp_path / "v1.2").mkdir()
    assert names(tmp_path / "v1.2") == ["v1.2"]


def test_sources_are_absolute_paths_and_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_clips(["sub/../a.mp4", "rtsp://host//x?y=../z"])
    assert [clip.source for clip in plan] == [str(tmp_path / "a.mp4"), "rtsp://host//x?y=../z"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shares_are_disjoint_and_complete(count):
    clips = [f"{folder}/{k}.mp4" for folder in "ab" for k in range(7)]
    whole = plan_clips(clips)
    shares = [plan_clips(clips, (index, count)) for index in range(count)]
    assert sorted(sum(shares, [])) == sorted(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (["a.mp4", "./a.mp4"], r"/a\.mp4 is listed twice"),
        (["rtsp://u:secret@h/s"] * 2, r"rtsp://u:\*\*\*@h/s is listed twice"),
        (["x/a.mp4", "x/a.avi"], r"x/a\.mp4 and .*x/a\.avi would be written to one folder"),
        (["/"], "cannot be named after '/'"),
    ],
    ids=["twice", "stream", "suffix", "root"],
)
def test_bad_lists(clips, message):
    with pytest.raises(ValueError, match=message):
        plan_clips(clips)


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0, 0)])
def test_bad_shards(shard):
    with pytest.raises(ValueError, match="I of N with I from 0 to N-1"):
        plan_clips(["a.mp4"], shard)
