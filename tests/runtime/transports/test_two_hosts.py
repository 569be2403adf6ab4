"""A worker on another host: over a link that delays, loses and breaks, forwards are right and errors typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.peers import PATIENCE_S
from tests.runtime.transports.two_hosts import DEADLINE_S

ROOT = Path(__file__).parents[3]
TUN = Path("/dev/net/tun")
ALONE = ["unshare", "--user", "--map-root-user", "--net"]


def missing() -> str:
    """Why there can be no second host here; an empty text if there can."""
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} cannot be opened"
    tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return f"no network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    reason = missing()
    if reason:
        pytest.skip(f"needs a second host: {reason}")
    finished = subprocess.run(
        [*ALONE, sys.executable, "-m", "tests.runtime.transports.two_hosts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return dict(json.loads(finished.stdout))


@pytest.mark.slow
class TestALink:
    def test_that_delays_and_loses_changes_no_logit(self, seen: dict[str, Any]) -> None:
        assert seen["right over a link that delays and loses"]
        assert seen["right over a short break"]

    def test_that_breaks_is_a_deadline_that_is_kept(self, seen: dict[str, Any]) -> None:
        error, seconds = seen["link lost"]
        assert error == "WorkerTimeout"
        assert DEADLINE_S <= seconds < DEADLINE_S + PATIENCE_S
        assert seen["the call after that"][0] == "WorkerError"
        assert seen["nobody can be reached"][0] == "EndpointError"
        assert seen["closing took"] < PATIENCE_S

    def test_that_is_mended_carries_a_new_conversation(self, seen: dict[str, Any]) -> None:
        assert seen["right after the break"]
        assert seen["a new handshake"]
