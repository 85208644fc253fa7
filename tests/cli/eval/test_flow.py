"""``flowmatch eval flow``: table, JSON, page, and one line about bad input."""

import json
import re

import numpy as np
import pytest
import torch

import flowmatch.flow
from flowmatch.cli import main
from flowmatch.io import write_flow, write_image


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    """Replace the network by a method whose flow is always (3, 4)."""
    asked = {}

    def load(name="default", *, weights=None, device="cpu"):
        asked.update(name=name, weights=weights, device=device)
        return "network"

    def estimate_flow(first, second, *, model, options):
        assert model == "network"
        asked["options"] = options
        return np.full((*first.shape[:2], 2), (3, 4), np.float32)

    monkeypatch.setattr(flowmatch.flow, "load", load)
    monkeypatch.setattr(flowmatch.flow, "estimate_flow", estimate_flow)
    return asked


def pair_in(folder, flow=(3.0, 4.0), occluded=None):
    folder.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for name in ("frame1.png", "frame2.png"):
        write_image(folder / name, picture)
    write_flow(folder / "flow.flo", np.full((24, 32, 2), flow, np.float32))
    if occluded is not None:
        write_image(folder / "occ.png", np.full((24, 32), occluded, np.uint8))


def test_table(tmp_path, capsys):
    pair_in(tmp_path / "a [red]sofa[bold]")
    pair_in(tmp_path / "tree", (3, 0))
    assert main(["eval", "flow", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["EPE", "Fl-all", ">1px", ">3px", ">5px", "s0-10", "ms", "MB"]
    for line in ("a [red]sofa[bold]", "tree", "mean (2 pairs)"):
        assert line in [line.strip() for line in out.splitlines()]
    ours = [line[1:7] for line in lines if line[:1] == ["flowmatch"]]
    assert ours == [
        ["0.000", "0.0", "0.0", "0.0", "0.0", "0.00"],
        ["4.000", "100.0", "100.0", "100.0", "0.0", "4.00"],
        ["2.000", "50.0", "50.0", "50.0", "0.0", "2.00"],
    ]
    still = [line[1:7] for line in lines if line[:1] == ["zero"]]
    assert still[0] == ["5.000", "100.0", "100.0", "100.0", "0.0", "5.00"]
    assert [line[0] for line in lines if len(line) == 9][:5] == [
        "flowmatch", "dis", "dis+refine", "farneback", "zero",
    ]  # fmt: skip
    assert "2 pairs, equally weighted in a mean; flowmatch is default on" in out


def test_columns_line_up_and_fit(tmp_path, capsys):
    pair_in(tmp_path / "x" / ("long_name_" * 12), (300.0, 4.0), occluded=255)
    pair_in(tmp_path / "y" / "short", occluded=0)
    assert main(["eval", "flow", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    table = out[: out.index("2 pairs, equally")].splitlines()
    assert max(map(len, out.splitlines())) <= 120
    assert "…" not in out
    assert {"match", "unmatch", "s40+"} <= set(table[0].split())
    # Every number of a column ends where its heading ends.
    ends = [match.end() for match in re.finditer(r"\S+", table[0])]
    rows = [
        line for line in table if re.match(r"  (flowmatch|dis|dis\+refine|farneback|zero) ", line)
    ]
    assert len(rows) == 5 * (2 + 2 + 1)  # sequences, groups, mean
    for row in rows:
        assert [match.end() for match in re.finditer(r"\S+", row)][1:] == ends
    assert rows[0].split()[1] == "297.000"


def test_many_sequences_show_their_groups_only(tmp_path, capsys):
    for group in ("clean", "final"):
        for index in range(21):
            pair_in(tmp_path / group / f"scene_{index}")
    assert main(["eval", "flow", str(tmp_path), "--no-baselines"]) == 0
    out = capsys.readouterr().out
    assert "scene_" not in out
    assert [line.strip() for line in out.splitlines() if " pairs)" in line] == [
        "clean, mean (21 pairs)",
        "final, mean (21 pairs)",
        "mean (42 pairs)",
    ]


def test_json_alone_on_stdout(tmp_path, capsys):
    pair_in(tmp_path / "sofa")
    pair_in(tmp_path / "torn")
    (tmp_path / "torn" / "frame2.png").unlink()
    assert main(["eval", "flow", str(tmp_path), "--json", "-", "--no-baselines"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["flowmatch"] == "default"
    (mean,) = result["mean"]
    assert (mean["method"], mean["pairs"], mean["epe"], mean["s40_plus"]) == (
        "flowmatch", 1, 0.0, None,
    )  # fmt: skip
    assert result["skipped"][0]["name"] == "torn"
    assert re.fullmatch(r"skipped torn: .*frame2\.\* does not exist\n", err)


def test_skipped_pairs_are_counted_below_the_table(tmp_path, capsys):
    pair_in(tmp_path / "sofa")
    pair_in(tmp_path / "torn")
    (tmp_path / "torn" / "flow.flo").write_bytes(b"PIEH")
    assert main(["eval", "flow", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "1 pair could not be read" in out
    assert err.startswith("skipped torn: ")


def test_options_reach_the_network(tmp_path, oracle):
    pair_in(tmp_path / "sofa")
    weights = tmp_path / "mine.safetensors"
    arguments = [
        "--model",
        "large",
        "--weights",
        str(weights),
        "--device",
        "cpu",
        "--refine",
        "--zoom",
        "2",
        "--no-with-dis",
        "--quality",
        "best",
    ]
    assert main(["eval", "flow", str(tmp_path), *arguments]) == 0
    assert oracle == {
        "name": "large",
        "weights": weights,
        "device": torch.device("cpu"),
        "options": flowmatch.flow.FlowOptions("best", refine=True, zoom=2.0, with_dis=False),
    }


def test_each_quality_is_a_method_of_its_own(tmp_path, oracle, capsys):
    pair_in(tmp_path / "sofa")
    words = ["--quality", "fast", "--quality", "best", "--json", "-", "--no-baselines"]
    assert main(["eval", "flow", str(tmp_path), *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in result["mean"]] == ["flowmatch fast", "flowmatch best"]
    assert oracle["options"] == flowmatch.flow.FlowOptions("best")
    assert (result["quality"], result["refine"]) == (["fast", "best"], None)


def test_the_default_is_good_quality(tmp_path, oracle, capsys):
    pair_in(tmp_path / "sofa")
    assert main(["eval", "flow", str(tmp_path), "--no-baselines", "--device", "cpu"]) == 0
    assert oracle["options"] == flowmatch.flow.FlowOptions("good")
    out = capsys.readouterr().out
    assert "flowmatch is default on cpu, good quality." in out
    assert "Fewer than 10 pairs are smoke numbers" in out


def test_rendered_pairs_have_an_interval(capsys):
    words = ["eval", "flow", "--synthetic", "10", "--no-baselines"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "smoke" not in out
    for name in ("slow (3 pairs)", "very fast (2 pairs)", "mean (10 pairs)"):
        assert name in out
    assert re.search(r"95 % bootstrap interval over the pairs: flowmatch [\d.]+ to [\d.]+\.", out)
    assert main([*words, "--json", "-"]) == 0
    (mean,) = json.loads(capsys.readouterr().out)["mean"]
    assert mean["epe_low"] < mean["epe"] < mean["epe_high"]


@pytest.mark.parametrize("words", [[], ["{folder}", "--synthetic", "2"]])
def test_a_folder_or_rendered_pairs_are_needed(words, tmp_path, capsys):
    assert main(["eval", "flow", *(word.format(folder=tmp_path) for word in words)]) == 2
    assert "name a FOLDER with ground truth" in capsys.readouterr().err


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    for folder in (tmp_path / "nowhere", tmp_path):
        assert main(["eval", "flow", str(folder)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert str(folder) in err


def test_help(capsys):
    assert main(["eval", "--help"]) == 0
    assert "flow" in capsys.readouterr().out


def test_page_has_pictures_and_tables(tmp_path, capsys):
    pair_in(tmp_path / "data" / "<b>sofa")
    pair_in(tmp_path / "data" / "tree", (3, 0))
    page = tmp_path / "page.html"
    assert main(["eval", "flow", str(tmp_path / "data"), "--html", str(page)]) == 0
    assert str(page) in capsys.readouterr().err
    text = page.read_text()
    assert text.count("<figure>") == 2 * 7  # frames, truth, ours, DIS, an error map for each
    assert text.count("data:image/jpeg;base64,") == 2 * 7
    assert "&lt;b&gt;sofa" in text
    assert "<b>sofa" not in text
    assert text.count("<table>") == 3  # the mean, and one for each
    assert "<td><b>0.000</b>" in text


def test_a_missing_folder_of_the_page_is_an_error_before_the_work(tmp_path, capsys):
    assert (
        main(["eval", "flow", str(tmp_path / "none"), "--html", str(tmp_path / "no/p.html")]) == 2
    )
    assert "there is no folder" in capsys.readouterr().err
