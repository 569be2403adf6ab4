"""What a gate says while it measures."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext
from typing import Any, cast

import pytest

from perfsuite.gate_progress import GateProgress


def test_progress_is_told_after_two_seconds_and_then_every_five(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    config = Namespace(pluginmanager=Namespace(getplugin=lambda name: None))
    progress = GateProgress(cast("Any", config), "mine", lambda: now)
    told = []
    for seconds in range(15):
        now = float(seconds)
        progress(seconds)
        if capsys.readouterr().err:
            told.append(seconds)
    assert told == [2, 7, 12]
    now = 20.0
    progress(9)
    assert capsys.readouterr().err == "latency gate: mine: 9 processes, 20 s\n"


def test_progress_is_seen_though_pytest_captures(capsys: pytest.CaptureFixture[str]) -> None:
    opened = []

    class Manager:
        def global_and_fixture_disabled(self) -> nullcontext[None]:
            opened.append(1)
            return nullcontext()

    now = 0.0
    config = Namespace(pluginmanager=Namespace(getplugin=lambda name: Manager()))
    progress = GateProgress(cast("Any", config), "mine", lambda: now)
    now = 3.0
    progress(4)
    assert opened == [1]
    assert capsys.readouterr().err == "\nlatency gate: mine: 4 processes, 3 s"
