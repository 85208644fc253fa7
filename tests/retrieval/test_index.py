"""The index on disk: what is described again, what a damaged one says, what is found."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowmatch.io import write_image
from flowmatch.retrieval import (
    Searcher,
    TrunkDescriber,
    VladDescriber,
    read_index,
    update_index,
    write_index,
)
from flowmatch.retrieval.describe import describer_of
from flowmatch.retrieval.index import Entry, Index
from flowmatch.retrieval.network import RetrievalNet


class Mean:
    """Describes pictures by their colour, and counts."""

    about = "mean colour"

    def __init__(self):
        self.calls = 0

    def fit(self, images):
        self.fitted = len(list(images))

    def state(self):
        return {"fitted": torch.tensor([self.fitted])}

    def restore(self, state):
        self.fitted = int(state["fitted"])

    def __call__(self, image):
        self.calls += 1
        return torch.nn.functional.normalize(torch.from_numpy(image).float().mean((0, 1)), dim=0)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for name, colour in {
        "red": (200, 0, 0),
        "green": (0, 200, 0),
        "more/blue": (0, 0, 200),
    }.items():
        write_image(root / f"{name}.png", np.full((8, 9, 3), colour, np.uint8))
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("not listed")
    return root


def test_round_trip(folder, tmp_path):
    made = update_index(folder, tmp_path / "i.safetensors", Mean())
    assert [entry.name for entry in made.entries] == ["green.png", "more/blue.png", "red.png"]
    found = read_index(tmp_path / "i.safetensors")
    assert found.entries == made.entries
    assert found.root.resolve() == folder.resolve()
    assert found.descriptors.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert found.state["fitted"].tolist() == [3]
    [(entry, reason)] = found.failed
    assert entry.name == "broken.jpg" and "not an image" in reason
    # Both may be moved together.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    folder.rename(moved / "pictures")
    (tmp_path / "i.safetensors").rename(moved / "i.safetensors")
    assert read_index(moved / "i.safetensors").root.resolve() == (moved / "pictures").resolve()


def test_only_what_is_new_is_described(folder, tmp_path):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, Mean())
    again = Mean()
    reports = []
    update_index(folder, path, again, progress=lambda report: reports.append(vars(report).copy()))
    assert again.calls == 0 and again.fitted == 3
    assert reports[-1] == {"total": 4, "described": 0, "kept": 4, "removed": 0, "failed": 0}
    write_image(folder / "red.png", np.full((30, 40, 3), (0, 200, 200), np.uint8))
    write_image(folder / "broken.jpg", np.full((8, 8, 3), (200, 200, 0), np.uint8))
    (folder / "green.png").unlink()
    third = Mean()
    found = update_index(folder, path, third)
    assert third.calls == 2 and not found.failed
    names = [entry.name for entry in read_index(path).entries]
    assert names == ["more/blue.png", "broken.jpg", "red.png"]
    colour = read_index(path).descriptors[names.index("red.png")]
    torch.testing.assert_close(colour.float(), torch.tensor([0, 0.7071, 0.7071]), atol=1e-3, rtol=0)


def test_an_interrupted_run_goes_on(folder, tmp_path):
    path = tmp_path / "i.safetensors"

    class Interrupted(Mean):
        def __call__(self, image):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(image)

    with pytest.raises(KeyboardInterrupt):
        update_index(folder, path, Interrupted())
    assert len(read_index(path).entries) == 2
    rest = Mean()
    assert len(update_index(folder, path, rest).entries) == 3
    assert rest.calls == 1


def test_refuses_another_describer_folder_or_name(folder, tmp_path):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, Mean())
    other = Mean()
    other.about = "median colour"
    with pytest.raises(ValueError, match="made by 'mean colour'"):
        update_index(folder, path, other)
    assert update_index(folder, path, other, overwrite=True).about == "median colour"
    with pytest.raises(ValueError, match="is about"):
        update_index(folder / "more", path, other)
    with pytest.raises(ValueError, match=r"\.safetensors"):
        update_index(folder, tmp_path / "i.npz", other)
    with pytest.raises(FileNotFoundError, match="no folder"):
        update_index(folder / "none", path, other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        update_index(tmp_path / "empty", path, other)


def damaged(path, change):
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size))["__metadata__"]
    content = json.loads(metadata["content"])
    tensors = load_file(path)
    change(content, tensors)
    save_file(tensors, path, metadata | {"content": json.dumps(content)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: c.pop("root"), "damaged index"),
        (lambda c, t: c["files"].pop(), "must be float16"),
        (lambda c, t: c["files"][0].pop(), "damaged index"),
        (lambda c, t: c["files"][0].__setitem__(0, "../../secret.png"), "outside"),
        (lambda c, t: c["files"][0].__setitem__(0, "/secret.png"), "outside"),
        (lambda c, t: t.pop("descriptors"), "damaged index"),
        (lambda c, t: t["descriptors"].fill_(torch.nan), "not finite"),
        (lambda c, t: t.__setitem__("descriptors", torch.zeros(3, 3)), "must be float16"),
    ],
)
def test_refuses_damage(folder, tmp_path, change, message):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, Mean())
    damaged(path, change)
    with pytest.raises(ValueError, match=message):
        read_index(path)


def test_refuses_what_is_no_index(tmp_path):
    path = tmp_path / "i.safetensors"
    for content in (b"", b"\xff" * 64, b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, or no index"):
            read_index(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no index"):
        read_index(path)
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path / "none.safetensors")


def test_a_cut_file_is_refused(folder, tmp_path):
    path = tmp_path / "i.safetensors"
    update_index(folder, path, Mean())
    whole = path.read_bytes()
    for length in (4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged, or no index"):
            read_index(path)


def test_search_and_faiss(tmp_path):
    vectors = torch.nn.functional.normalize(torch.randn(400, 16), dim=1)
    entries = [Entry(f"{k}.png", 1, 1) for k in range(400)]
    write_index(tmp_path / "i.safetensors", Index("random", tmp_path, entries, vectors.half()))
    index = read_index(tmp_path / "i.safetensors")
    query = vectors[7] + 0.1 * vectors[9]
    scores = vectors @ query / query.norm()
    found = Searcher(index).search(query, 5)
    assert [r.name for r in found] == [f"{k}.png" for k in scores.argsort(descending=True)[:5]]
    assert found[0].score == pytest.approx(float(scores[7]), abs=1e-3)
    assert Searcher(index).search(query, 3, expand=2)[0].name == "7.png"
    with pytest.raises(ValueError, match="nothing in the query"):
        Searcher(index).search(torch.zeros(16))
    with pytest.raises(ValueError, match="expected"):
        Searcher(index).search(torch.ones(4))
    with pytest.raises(ValueError, match="k must be"):
        Searcher(index).search(query, 0)
    with pytest.raises(ValueError, match="empty"):
        Searcher(Index("nothing", tmp_path))
    pytest.importorskip("faiss")
    assert Searcher(index, approximate=True).search(query, 1)[0].name == "7.png"


def test_pictures_of_nothing_are_not_found(folder, tmp_path):
    write_image(folder / "blank.png", np.zeros((8, 9, 3), np.uint8))
    index = update_index(folder, tmp_path / "i.safetensors", Mean())
    assert [entry.name for entry in index.entries] == ["green.png", "more/blue.png", "red.png"]
    assert [(entry.name, reason) for entry, reason in index.failed][0] == (
        "blank.png",
        "nothing in it can be described",
    )
    # Older indexes hold them, with a score above those of pictures that are less than unlike.
    entries = [Entry("blank.png", 1, 1), *index.entries]
    old = Index("old", folder, entries, torch.cat([torch.zeros(1, 3), index.descriptors]).half())
    found = Searcher(old).search(torch.tensor([0.9, 0.1, -0.1]))
    assert [result.name for result in found] == ["red.png", "green.png", "more/blue.png"]
    with pytest.raises(ValueError, match="empty"):
        Searcher(Index("old", folder, entries[:1], old.descriptors[:1]))


def test_describers(photo):
    describer = VladDescriber(words=8, keypoints=100, side=200)
    with pytest.raises(RuntimeError, match="no vocabulary"):
        describer(photo)
    describer.fit([photo])
    found = describer(photo)
    assert found.shape == (8 * 128,)
    assert float(found.norm()) == pytest.approx(1, abs=1e-5)
    again = VladDescriber.from_about(describer.about)
    again.restore(describer.state())
    assert again.about == describer.about
    assert torch.equal(again(photo), found)
    assert not again(np.zeros((50, 60, 3), np.uint8)).any()
    with pytest.raises(ValueError, match="vocabulary"):
        again.restore({"vocabulary": torch.zeros(3, 128)})
    with pytest.raises(ValueError, match="made by VLAD"):
        VladDescriber.from_about("mean colour")
    with pytest.raises(ValueError, match="give that network"):
        VladDescriber.from_about("vlad net.pth 12 words=8 keypoints=9 side=9 seed=0")
    with pytest.raises(ValueError, match="was made with 'net.pth 12', not with 'net.pth 13'"):
        VladDescriber.from_about(
            "vlad net.pth 12 words=8 keypoints=9 side=9 seed=0", torch.nn.Identity(), "net.pth 13"
        )
    with pytest.raises(ValueError, match="as many keypoints"):
        VladDescriber().fit([np.zeros((50, 60, 3), np.uint8)])


def test_the_describer_of_an_index_is_found():
    network = RetrievalNet(4).eval()
    made = TrunkDescriber.of_network(network, "w 1")
    assert describer_of(made.about, network=(network, "w 1")).about == made.about
    for given, message in (((network, "w 2"), "not by 'trunk w 2 GeM"), (None, "give those")):
        with pytest.raises(ValueError, match=message):
            describer_of(made.about, network=given)
    assert describer_of("vlad sift words=8 keypoints=9 side=9 seed=0").descriptor == "sift"


def test_trunk_at_scales(photo):
    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=2), torch.nn.ReLU())
    one = TrunkDescriber(trunk, name="t")(photo)
    more = TrunkDescriber(trunk, name="t", scales=(1.0, 0.5), side=200)(photo[..., 0])
    for found in (one, more):
        assert found.shape == (4,)
        assert float(found.norm()) == pytest.approx(1, abs=1e-5)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = trunk(image).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)[0]
    torch.testing.assert_close(one, expected / expected.norm())
