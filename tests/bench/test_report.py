"""The HTML page and the Markdown table show the given results."""

import re
from dataclasses import replace

from flowmatch.bench import Row, html_page, markdown

OURS = Row("correlation", "PWC", "forward", "flowmatch", "cpu", "float32", 2, 5.0, 0.1, 7, 100.0,
           0.5, 9.0, 32.0, True)  # fmt: skip
PEER = replace(OURS, implementation="torch: <idiom>", median_ms=20.0, gflops=25.0)
LIAR = replace(OURS, implementation="fast & wrong", median_ms=1.0, agrees=False)
REFERENCE = replace(OURS, implementation="reference", median_ms=2000.0)
UNCOUNTED = replace(OURS, op="nearest", gflops=None, ceiling_fraction=None, intensity=None)
ROWS = [OURS, PEER, LIAR, REFERENCE, UNCOUNTED]


def test_markdown_compares_with_the_fastest_correct_peer():
    lines = markdown(ROWS).splitlines()
    assert len(lines) == 4
    assert lines[2] == (
        "| correlation | PWC, float32 | forward | 5 ms | 50% | 4.0× torch: <idiom> | 10%, 10% |"
    )
    assert lines[3] == "| nearest | PWC, float32 | forward | 5 ms |  |  | 10% |"


def test_noisy_measurements_are_marked():
    noisy = replace(PEER, spread=0.16)
    assert markdown([OURS, noisy]).endswith("| 4.0× torch: <idiom> | 10%, **16%** |")
    content = {"device": "", "ceilings": {"gflops": 200.0, "gbytes": 20.0}}
    page = html_page(content, [OURS, noisy])
    assert "20 ms, 4.0× ours, spread 16%" in page and page.count("spread") == 1


def test_page_has_a_bar_for_each_row_and_a_roofline():
    content = {"device": "a <machine>", "ceilings": {"gflops": 200.0, "gbytes": 20.0}}
    page = html_page(content, ROWS)
    assert page.count("<rect") == len(ROWS)
    assert page.count("<circle") == 1  # only cases with known flops
    assert "a &lt;machine&gt;" in page and "torch: &lt;idiom&gt;" in page
    assert "20 ms, 4.0× ours" in page and "DISAGREES" in page
    assert "2 s, 400.0× ours" in page
    assert not re.search(r"nan|inf\b", page)


def test_page_without_a_roofline():
    content = {"device": "", "ceilings": {"gflops": 200.0, "gbytes": 20.0}}
    assert "Roofline" not in html_page(content, [UNCOUNTED])
