"""Localisation of held-out frames of a rendered wall."""

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.localisation import Localisation
from flowmatch.localisation.evaluation import evaluate as module
from flowmatch.localisation.evaluation.evaluate import evaluate, score
from flowmatch.localisation.posed_folder import PosedFolder
from tests.localisation.room import pose_at, write_room


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "room"
    xs = np.linspace(-0.8, 0.8, 6)
    write_room(folder, [pose_at(x, 0.1, -0.2, (0.02, 0.04 * k, 0)) for k, x in enumerate(xs)])
    return folder


def test_matches_give_better_poses_than_descriptors_alone(folder):
    calls = []
    scores = evaluate(folder, 3, model="rootsift", progress=lambda *call: calls.append(call))
    assert (scores.frames, scores.indexed) == (["0", "3"], 4)
    assert calls[-1] == ("localise", 2, 2) and calls[3] == ("describe", 4, 4)
    own, similar = scores.methods["localise"], scores.methods["most similar picture"]
    assert own.median_degrees < 0.5 and own.median_metres < 0.02
    assert (own.right, own.trusted, own.wrong_trusted) == (2, 2, 0)
    # The frames are 32 cm apart and turned by 0.04.
    assert similar.median_metres == pytest.approx(0.32, abs=1e-6)
    assert similar.median_degrees == pytest.approx(np.rad2deg(0.04), abs=0.1)
    assert similar.trusted is None
    regression = scores.methods["regression"]
    assert own.median_metres < regression.median_metres < 1
    assert scores.methods["regression, trained frames"].median_metres < regression.median_metres


def test_held_out_frames_are_not_in_the_index(folder, monkeypatch):
    indexes = []

    def localise(image, index, **options):
        indexes.append({entry.name for entry in index.entries})
        return Localisation(None, 0, 0, [("1.png", 0)])

    monkeypatch.setattr(module, "localise_photo", localise)
    scores = evaluate(folder, 3, model="rootsift")
    assert indexes == [{"1.png", "2.png", "4.png", "5.png"}] * 2
    own = scores.methods["localise"]
    assert np.isnan(own.median_degrees) and np.isnan(own.largest_metres)
    assert (own.right, own.trusted, own.wrong_trusted) == (0, 0, 0)


def test_a_blank_frame_has_no_pose(tmp_path):
    write_room(tmp_path / "room", [pose_at(x, 0, 0, (0, 0, 0)) for x in (-0.2, 0, 0.2)])
    cv2.imwrite(str(tmp_path / "room/color/0.png"), np.full((240, 320, 3), 128, np.uint8))
    scores = evaluate(tmp_path / "room", 3, model="rootsift")
    assert scores.frames == ["0"]
    assert np.isnan(scores.methods["localise"].median_metres)
    assert np.isnan(scores.methods["most similar picture"].median_metres)


def test_scores():
    moved, turned = pose_at(0.03, 0, 0.04, (0, 0, 0)), pose_at(0, 0, 0, (0, np.deg2rad(6), 0))
    truth = [np.eye(4)] * 4
    result = score([moved, turned, np.eye(4), None], truth, [True, True, False, False])
    assert (result.right, result.trusted, result.wrong_trusted) == (2, 2, 1)
    assert result.median_degrees == pytest.approx(3, abs=1e-6)  # of 0, 0, 6 and infinity
    assert result.median_metres == pytest.approx(0.025)
    assert np.isnan(result.largest_degrees)
    assert score([turned], truth[:1]).largest_degrees == pytest.approx(6)


def test_wrong_input(folder):
    with pytest.raises(ValueError, match="every must be at least 2, got 1"):
        evaluate(folder, 1)
    posed = PosedFolder(folder)
    posed.poses = {"0": posed.poses["0"]}
    with pytest.raises(ValueError, match="expected at least two pictures with poses, got 1"):
        evaluate(posed)
