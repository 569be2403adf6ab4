"""A pytest plugin of ``perfsuite compare``'s own run: only tests with a gate, and what failed goes to a file.

The file is JSON: ``{"failures": {node id: text}, "collected": number of tests with a gate}``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OPTION = "--perf-failures"
_FIXTURE = "latency_gate"


class Failures:
    """What failed in this run, by node id, and the last line of why."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, str] = {}
        self._collected = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave only tests with a gate."""
        others = [item for item in items if _FIXTURE not in getattr(item, "fixturenames", ())]
        if others:
            items[:] = [item for item in items if item not in others]
            config.hook.pytest_deselected(items=others)
        self._collected = len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be collected."""
        if report.failed:
            self._found[report.nodeid] = _why(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that failed."""
        if report.failed:
            self._found[report.nodeid] = _why(report)

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        content = {"failures": self._found, "collected": self._collected}
        self._path.write_text(json.dumps(content), encoding="utf-8")


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the error that a test failed with, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)  # the last of a chain of errors
    if crash is not None:
        return " ".join(str(crash.message).removeprefix("Failed: ").split())
    lines = report.longreprtext.splitlines()
    marked = [line[2:].strip() for line in lines if line.startswith("E ")]
    return " ".join(" ".join(marked or lines).split())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where to write."""
    parser.addoption(OPTION, type=Path, help="file for what failed, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Take part where a file was named."""
    path = config.getoption(OPTION)
    if path is not None:
        config.pluginmanager.register(Failures(path), "perfsuite-only-gated")
