"""Localisation of held-out frames of a rendered wall."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch._opencv import cv2
from flowmatch.localisation import Localisation
from flowmatch.localisation.colmap_model import ColmapModel
from flowmatch.localisation.evaluation import evaluate as module
from flowmatch.localisation.evaluation.evaluate import evaluate, in_metres, score
from flowmatch.localisation.pnp import CameraPose
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


def test_poses_of_a_model_of_colmap_become_metres(folder, monkeypatch):
    posed = PosedFolder(folder)
    turn = Rotation.from_rotvec([0.3, -0.2, 1.0]).as_matrix()
    in_model = {}
    for name, pose in posed.poses.items():
        moved = np.eye(4)  # half the size, turned and shifted
        moved[:3, :3], moved[:3, 3] = turn @ pose[:3, :3], 0.5 * turn @ pose[:3, 3] + (1, 2, 3)
        in_model[f"{name}.png"] = moved
    model = ColmapModel.__new__(ColmapModel)
    model.folder, model.camera = "model", posed.camera
    model.poses = {name: in_model[name] for name in ("1.png", "2.png", "4.png", "5.png")}
    pose, none = in_metres([in_model["3.png"], None], model, posed)
    assert none is None
    np.testing.assert_allclose(pose, posed.poses["3"], atol=1e-9)

    def localise(image, index, *, folder, **options):
        assert folder is model
        frame = next(answers)
        result = CameraPose(in_model[frame], np.ones(30, bool), 0.1, 0.0, 0.0)
        return Localisation(result, 30, 30, [("1.png", 30)], metric=False)

    answers = iter(("0.png", "3.png"))
    monkeypatch.setattr(module, "localise_photo", localise)
    own = evaluate(folder, 3, model="rootsift", sparse=model).methods["localise"]
    assert own.right == 2 and own.largest_metres < 1e-6 and own.largest_degrees < 1e-3
    model.poses["3.png"] = in_model["3.png"]
    with pytest.raises(ValueError, match=r"without the frames that are held out, got 3\.png"):
        evaluate(folder, 3, model="rootsift", sparse=model)
    model.poses = {"1.png": in_model["1.png"], "other.png": np.eye(4)}
    with pytest.raises(ValueError, match="expected two frames or more that have recorded poses"):
        in_metres([], model, posed)


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
