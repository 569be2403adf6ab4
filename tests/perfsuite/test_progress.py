"""The bar of a long run: on a terminal only, and drawn between the runs."""

from __future__ import annotations

import threading

import pytest

from perfsuite.progress import RunProgress


def run(capsys: pytest.CaptureFixture[str]) -> str:
    with RunProgress(3) as progress:
        before = threading.active_count()
        progress.begin_run("fused", -1)
        progress.begin_run("[red]fused", 0)
        progress.say("nearly done")
        assert threading.active_count() == before  # whose thread would disturb what is timed
    return capsys.readouterr().err


def test_where_there_is_no_terminal_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(capsys) == ""


def test_a_terminal_shows_which_run_it_is_and_how_many_are_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    shown = run(capsys)
    for words in ("warm-up: fused", "round 1: [red]fused", "nearly done"):
        assert words in shown
    # A run that was announced last is still to end.
    assert "0/3" in shown
    assert "1/3" in shown
    assert "2/3" not in shown
