"""The budgets against a runtime that was really changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = "        (scores,) = self._rpc.call(\n"
TWICE = """        self._rpc.call(
            Call("matmul", layer, transpose_b=True),
            keys.view(matrices, tokens, size),
            keys.view(matrices, tokens, size),
        )
"""


def budgets_of(folder: Path) -> subprocess.CompletedProcess[str]:
    chosen = "closed_formula and 64 and shared-memory"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "perfsuite/test_budgets.py", "-q", "-k", chosen],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
def test_a_runtime_that_sends_the_keys_twice_is_caught(tmp_path: Path) -> None:
    for name in ("runtime", "perfsuite"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    assert budgets_of(tmp_path).returncode == 0
    changed = tmp_path / "runtime/forward.py"
    source = changed.read_text()
    assert source.count(CALL) == 1
    changed.write_text(source.replace(CALL, TWICE + CALL))
    result = budgets_of(tmp_path)
    assert result.returncode == 1
    assert "rpc_count" in result.stdout
    assert "bytes_sent" in result.stdout
