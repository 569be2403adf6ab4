"""What every test run needs before anything imports torch or transformers."""

from __future__ import annotations

import os

import pytest

from perfsuite.llama import stage_workload

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork

pytest_plugins = ["pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what the gated stages run, and how budgets and stored outputs are accepted."""
    stage_workload.declare(parser)
    parser.addoption(
        "--update-budgets",
        action="store_true",
        help="record calls, bytes and copies as they are now (perfsuite/test_budgets.py)",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="store what perfsuite shows and writes as it is now (golden/ beside the tests)",
    )


@pytest.fixture(autouse=True)
def _sessions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a session that a test runs not take itself for one of pytest-xdist's workers."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
