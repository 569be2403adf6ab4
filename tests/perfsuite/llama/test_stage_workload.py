"""What the gated stages run, as ini settings."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from perfsuite.llama.stage_workload import StageWorkload, declare

SETTINGS = {
    "perf_model": "tiny",
    "perf_tokens": "64",
    "perf_stages": "",
    "perf_device": "cpu",
    "perf_threads": "1",
}


def config(**changes: str) -> Any:
    return SimpleNamespace(getini={**SETTINGS, **changes}.__getitem__)


def test_settings_have_defaults() -> None:
    declared: dict[str, Any] = {}
    parser = SimpleNamespace(addini=lambda name, text, default: declared.update({name: default}))
    declare(parser)  # type: ignore[arg-type]
    assert declared == {name: SETTINGS[name] for name in SETTINGS if name != "perf_threads"}


def test_latencies_hang_on_what_is_run_and_threads_belong_to_the_machine() -> None:
    workload = StageWorkload.of(config(perf_tokens="16", perf_threads="0"))
    assert workload == StageWorkload("tiny", 16, "cpu", 0)
    assert workload.as_key() == {"model": "tiny", "tokens": 16, "device": "cpu"}


@pytest.mark.parametrize("name", ["perf_tokens", "perf_threads"])
@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1 "])
def test_a_length_that_is_none_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"{name} = {text}: must be a number"):
        StageWorkload.of(config(**{name: text}))


def test_it_imports_nothing_that_takes_long() -> None:
    """Every start of pytest in this repository pays for it."""
    code = (
        "import sys, perfsuite.llama.stage_workload\n"
        "print(sorted({'torch', 'numpy', 'runtime', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
