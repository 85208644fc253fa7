"""``flowmatch bench``: rows, page, and messages about bad input."""

import json

import pytest

from flowmatch.cli import main


def test_bench_writes_rows_and_a_page(tmp_path, capsys):
    file, page = tmp_path / "rows.json", tmp_path / "page.html"
    words = ["bench", "correlation", "--rounds", "2", "--shape", "1,8,12,16,2,1"]
    assert main([*words, "--json", str(file), "--html", str(page)]) == 0
    content = json.loads(file.read_text())
    rows = content["rows"]
    assert {row["pass"] for row in rows} == {"forward", "forward+backward"}
    assert {row["implementation"] for row in rows} >= {"flowmatch", "torch: row matmul"}
    assert all(row["agrees"] and row["median_ms"] > 0 for row in rows)
    assert content["versions"]["torch"] and content["ceilings"]["gflops"] > 0
    assert "1,8,12,16,2,1" in capsys.readouterr().out
    assert page.read_text().count("<rect") == len(rows)

    page.unlink()  # written again, from the file
    assert main(["bench", "--from", str(file), "--markdown", "--html", str(page)]) == 0
    assert "| correlation | 1,8,12,16,2,1, float32 | forward |" in capsys.readouterr().out
    assert page.read_text().count("<rect") == len(rows)


def test_json_alone_on_stdout(capsys):
    words = ["bench", "correlation", "--rounds", "2", "--shape", "1,8,12,16,2,1"]
    assert main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda:99"], "cuda:99 is not here"),
        (["--json", "nofolder/x.json"], "there is no folder nofolder"),
        (["--html", "nofolder/x.html"], "there is no folder nofolder"),
        (["correlation", "--shape", "1,2"], "is B,C,H,W,radius,stride, as integers"),
        (["--shape", "1,2"], "--shape needs one op by name"),
        (["--from", "text.json"], "is not what `flowmatch bench --json` writes"),
        (["--from", "deep.json"], "is not what `flowmatch bench --json` writes"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("text")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
