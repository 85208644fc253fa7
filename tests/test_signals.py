"""Signals end a program in order, whatever it is doing when they come."""

import signal
import time

import pytest

from flowmatch._signals import sigterm_as_exit
from flowmatch.cli import main


@pytest.mark.parametrize(
    ("raised", "status"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130)], ids=str
)
def test_a_signal_in_an_import_of_compiled_code_is_no_import_error(
    raised, status, monkeypatch, capsys
):
    def work() -> None:
        try:
            if isinstance(raised, SystemExit):
                signal.raise_signal(signal.SIGTERM)
            raise raised
        except BaseException as error:  # as pybind11 does while a module is initialised
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("flowmatch.cli.program", lambda **_: work())
    assert main(["info"]) == status
    assert "initialization" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_in_a_finaliser_is_not_lost(number, expected, capsys):
    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(number)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(expected), sigterm_as_exit():
            Finalised()
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
