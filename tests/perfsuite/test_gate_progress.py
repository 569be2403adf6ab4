"""What a gate says while it measures: nothing of a short one, and of a long one a line now and then."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from perfsuite.gate_progress import GateProgress


def without_capturing() -> pytest.Config:
    plugins = SimpleNamespace(getplugin=lambda name: None)
    return SimpleNamespace(pluginmanager=plugins)  # type: ignore[return-value]


def test_it_speaks_after_two_seconds_and_then_every_five(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [100.0]
    progress = GateProgress(without_capturing(), "mine", lambda: now[0])
    for second in range(16):
        now[0] = 100.0 + second
        progress(second)
    assert capsys.readouterr().err.splitlines() == [
        f"latency gate: mine: {second} processes, {second} s" for second in (2, 7, 12)
    ]


def test_it_is_seen_while_pytest_captures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from perfsuite.gate_progress import GateProgress

        def test_it(pytestconfig):
            print("captured")
            GateProgress(pytestconfig, "mine", iter([0.0, 9.0]).__next__)(3)
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "latency gate: mine: 3 processes, 9 s" in result.stderr.str()
    assert "captured" not in result.stdout.str()
