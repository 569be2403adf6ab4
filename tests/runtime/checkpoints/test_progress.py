"""The bar of a long step."""

from __future__ import annotations

import pytest

from runtime.checkpoints.progress import progress_bar


def test_the_bar_is_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar("Working", shown=True) as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("Working", shown=True) as advance:
        advance(1, 2)
    captured = capsys.readouterr()
    assert "Working" in captured.err
    assert captured.out == ""


def test_nothing_is_shown_that_is_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar("Working", shown=False) as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""


def test_an_error_of_the_work_is_the_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(OSError, match="the disk is full"), progress_bar("Working", shown=True):
        raise OSError("the disk is full")
