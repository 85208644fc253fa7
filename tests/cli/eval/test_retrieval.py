"""``flowmatch eval retrieval``: scores of the descriptors."""

import json

from flowmatch.cli import main
from flowmatch.cli.eval import retrieval


def test_json(views, capsys, monkeypatch):
    monkeypatch.setattr(retrieval, "_VLAD", ("rootsift",))
    words = ["eval", "retrieval", str(views / "pictures"), "--views", "2", "--json", "-"]
    assert main(words) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert set(methods) == {"vlad rootsift", "backbone of align"}
    assert 0 < methods["vlad rootsift"]["mean_ap"] <= 1
    assert methods["vlad rootsift"]["dim"] == 64 * 128
