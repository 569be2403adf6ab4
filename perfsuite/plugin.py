"""The gate as a pytest plugin, loaded by its entry point. A test asks for the fixture ``latency_gate``.

Imports nothing that takes long: every start of pytest pays for it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from perfsuite import settings
from perfsuite.errors import PerfsuiteError
from perfsuite.latency_gate import SESSION, latency_gate, pytest_itemcollected
from perfsuite.session import GATED, MeasuringSession
from perfsuite.session_report import SessionReport

__all__ = ["latency_gate", "pytest_itemcollected"]

_MEASURING = pytest.StashKey[MeasuringSession]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and ini settings."""
    settings.declare(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Let what follows ``--update-baselines`` be a test's name, as after any option."""
    before = list(args)
    settings.separate(args)
    if args != before:
        early_config.known_args_namespace = parser.parse_known_args(args)


def pytest_configure(config: pytest.Config) -> None:
    """Check what was asked before anything is measured."""
    try:
        session = MeasuringSession(config)
    except PerfsuiteError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SESSION] = config.stash[_MEASURING] = session
    # Its reports come without a configuration, so that it is a plugin of its own.
    config.pluginmanager.register(session, "perfsuite-session")
    config.add_cleanup(session.close)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Know which tests have a gate."""
    session.config.stash[_MEASURING].collected(session)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note that not every test is run."""
    if items:
        items[0].config.stash[_MEASURING].whole = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Mark the reports of tests with a gate, for whichever process reads them."""
    report = yield
    if "latency_gate" in getattr(item, "fixturenames", ()):
        report.user_properties.append((GATED, True))
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report, and give a run that judged less than it was to an exit status of its own."""
    status = SessionReport(session.config.stash[_MEASURING]).finish(session.exitstatus)
    if status is not None:
        session.exitstatus = status


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the outcomes."""
    SessionReport(config.stash[_MEASURING]).summarize(terminalreporter)
