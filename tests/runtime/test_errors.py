"""One tree of errors, so that a caller can catch whatever the runtime raises on purpose by its root."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import runtime
from runtime import SplitError, errors
from runtime.checkpoints.template_process import Refused
from runtime.errors import (
    InputError,
    ProtocolError,
    WorkerDied,
    WorkerError,
    WorkerRefused,
    WorkerTimeout,
)
from runtime.transports.base import PeerGone, ReceiveTimeout

# Between a channel and who speaks over it, and within a template's process: where they become errors of the tree.
SIGNALS = {PeerGone, ReceiveTimeout, Refused}


def test_every_error_that_the_runtime_defines_belongs_to_the_tree() -> None:
    found = set()
    for module in pkgutil.walk_packages(runtime.__path__, "runtime."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, BaseException) and kind.__module__.startswith("runtime."):
                found.add(kind)
    assert found > SIGNALS
    for kind in found - SIGNALS:
        assert issubclass(kind, SplitError), kind
        assert kind.__module__ == errors.__name__, kind
        assert kind.__doc__


def test_a_bad_argument_is_a_value_error_too() -> None:
    """As of any function of Python's own."""
    with pytest.raises(ValueError, match="stage: "):
        raise InputError("stage: 'warp' is unknown")


@pytest.mark.parametrize("kind", [WorkerDied, WorkerTimeout, WorkerRefused])
def test_a_worker_that_failed_is_caught_however_it_failed(kind: type[WorkerError]) -> None:
    with pytest.raises(WorkerError):
        raise kind("worker: ")


def test_a_malformed_message_says_which_field_and_why() -> None:
    error = ProtocolError("inputs[0].shape", "must have 3 dimensions")
    assert (error.field, error.problem) == ("inputs[0].shape", "must have 3 dimensions")
    assert str(error) == "inputs[0].shape: must have 3 dimensions"


@pytest.mark.parametrize("kind", [SplitError, InputError, WorkerDied])
def test_an_error_is_one_line_that_no_terminal_obeys_whatever_it_quotes(
    kind: type[SplitError],
) -> None:
    quoted = "\x1b[2J\n  " + "x" * 10**6 + "\ud800\u202e"
    text = str(kind(f"model: {quoted}; fetch it again"))
    assert text.isprintable()
    assert len(text) < 2100
    assert text.startswith("model: \N{REPLACEMENT CHARACTER}[2J x")
    assert text.endswith("; fetch it again")
