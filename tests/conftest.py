"""What the tests of both trees share."""

from __future__ import annotations

import pytest

# Installed beside us, and of no use to the sessions that tests run, each of which would import them: of
# 1.3 s that a session's start takes, hypothesis takes 0.8 s and anyio 0.2 s.
_WITHOUT = "-p no:hypothesispytest -p no:anyio"


@pytest.fixture(autouse=True)
def _sessions_without_plugins_that_they_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", _WITHOUT)


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Pytest's own, which has just put away the options of the session that runs the tests."""
    monkeypatch.setenv("PYTEST_ADDOPTS", _WITHOUT)
    return pytester
