"""What every test run needs before anything imports torch or transformers."""

from __future__ import annotations

import os

import pytest

from perfsuite.llama import stage_workload

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork

pytest_plugins = ["pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what the gated stages run."""
    stage_workload.declare(parser)
