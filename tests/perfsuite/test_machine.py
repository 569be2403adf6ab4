from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perfsuite.machine import fingerprint


def test_it_needs_nothing_that_only_linux_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert fingerprint(2)["cores"] == (os.cpu_count() or 1)


def test_torch_counts_where_it_is_imported_and_is_not_imported_for_that() -> None:
    code = (
        "import sys; from perfsuite.machine import fingerprint\n"
        "found = fingerprint(1); print(found['torch'], found['cuda'], 'torch' in sys.modules)\n"
        "import torch; print(fingerprint(1)['torch'] == torch.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "None None False\nTrue\n"
