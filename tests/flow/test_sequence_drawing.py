"""Drawing of the flow of a clip."""

import numpy as np
import pytest
from torch import nn

from flowmatch.flow.options import FlowOptions, SequenceOptions
from flowmatch.flow.sequence import CONFIDENCE, write_sequence
from flowmatch.flow.sequence_drawing import check_video, common_scale, draw_sequence
from flowmatch.io.confidence import read_confidence, write_confidence
from flowmatch.io.flow import write_flow
from flowmatch.io.image import read_image, write_image
from flowmatch.io.video import read_frames


class Brightness(nn.Module):
    """Returns the change of brightness, in grey levels, as the flow; counts its pairs."""

    def __init__(self):
        super().__init__()
        self.pairs = 0

    def forward(self, first, second):
        self.pairs += len(first)
        change = 255 * (second - first).mean(dim=(1, 2, 3))
        return [change.view(-1, 1, 1, 1).expand(-1, 2, *first.shape[2:])]


FAST = FlowOptions(quality="fast")  # the network alone
OPTIONS = SequenceOptions(FAST, weights="test")


def run(clip, out, options=OPTIONS, **settings):
    model = Brightness()
    report = write_sequence(read_frames(clip), out, model=model, options=options, **settings)
    return model, report


def test_drawing(clip, tmp_path):
    run(clip, tmp_path / "out")
    out, frames = tmp_path / "out", read_frames(clip)
    scale = draw_sequence(frames, out, ".flo", video=out / "flow.mp4", pictures=out / "pictures")
    assert scale == pytest.approx(np.hypot(10, 10), rel=0.01)
    drawn = list(read_frames(out / "flow.mp4"))
    assert len(drawn) == 5
    assert drawn[0].shape[1] > 2 * 24
    assert len(list((out / "pictures").glob("*.png"))) == 5


def test_a_video_that_cannot_be_written_is_refused_at_the_start(clip, tmp_path):
    for k in range(2):
        write_image(tmp_path / f"wide{k}.png", np.zeros((8, 8200, 3), np.uint8))
    wide = read_frames(tmp_path / "wide*.png")
    with pytest.raises(ValueError, match="H.264 holds no frames of 16412 x 16 pixels"):
        check_video(wide, tmp_path / "flow.mp4")
    check_video(read_frames(clip), tmp_path / "flow.mp4")
    assert not (tmp_path / "flow.mp4").exists()


def test_common_scale_is_of_the_whole_clip(tmp_path):
    for i, length in enumerate((1.0, 7.0)):
        write_flow(tmp_path / f"{i}.flo", np.full((8, 8, 2), [length, 0], np.float32))
    files = [tmp_path / "0.flo", tmp_path / "1.flo"]
    assert common_scale(files) == pytest.approx(7.0, rel=0.01)
    write_flow(tmp_path / "still.flo", np.zeros((8, 8, 2), np.float32))
    assert common_scale([tmp_path / "still.flo"]) == 1.0  # noise is not scaled to full colour


def test_confidence_is_written_kept_and_drawn(clip, tmp_path):
    options = SequenceOptions(FAST, weights="test", confidence=True, bidirectional=True)
    out, frames = tmp_path / "out", read_frames(clip)
    run(clip, out, options)
    names = {f"00000{i}{end}" for i in range(5) for end in (CONFIDENCE, "_confidence_backward.png")}
    assert names <= {file.name for file in out.iterdir()}
    assert read_confidence(out / f"000000{CONFIDENCE}").shape == (20, 24)
    _, report = run(clip, out, options)
    assert report.kept == 5
    with pytest.raises(ValueError, match="confidence differ"):
        run(clip, out, SequenceOptions(FAST, weights="test", bidirectional=True))
    draw_sequence(frames, out, ".flo", pictures=tmp_path / "plain")
    write_confidence(out / f"000000{CONFIDENCE}", np.zeros((20, 24)))
    draw_sequence(frames, out, ".flo", pictures=tmp_path / "none", confidence=True)
    assert (read_image(tmp_path / "none" / "000000.png") == 128).all()
    assert (read_image(tmp_path / "plain" / "000000.png") != 128).any()
