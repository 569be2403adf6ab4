"""Delay injection: phases made really slower on request, to see an alarm go off.

It wraps a session from outside. Neither the client's hot path nor the worker knows of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from msgspec.structs import replace

from runtime.errors import InputError
from runtime.operations import Call
from runtime.rpc import RpcClient
from runtime.trace import RpcRecord

CALL_PHASES = ("serialize", "transport", "device", "deserialize")
PHASES = (*CALL_PHASES, "trusted")
TOTAL = "total"  # the whole forward pass, as if the device took longer

_SLEEP_S = 2e-3  # longer waits sleep but for their end: a sleep ends when the kernel likes


class Delays:
    """Factors by phase, at least 1 each; phases that are not named stay as they are."""

    def __init__(self, factors: Mapping[str, float]) -> None:
        """Check the factors.

        Raises:
            InputError: for an unknown phase, or a factor that is below 1 or not finite.
        """
        self.factors = dict(factors)
        for phase, factor in self.factors.items():
            if phase not in (*PHASES, TOTAL):
                raise InputError(
                    f"slowdown: {phase!r} is no phase; choose one of {', '.join((*PHASES, TOTAL))}"
                )
            if not 1.0 <= factor < math.inf:
                raise InputError(f"slowdown: {phase} must be at least 1 and finite, got {factor}")

    def longer(self, phase: str, seconds: float) -> float:
        """Return by how many seconds ``phase``, which took ``seconds``, is to become longer."""
        return (self.factors.get(phase, 1.0) - 1.0) * max(seconds, 0.0)

    def stretched(self, record: RpcRecord, outside_s: float) -> RpcRecord:
        """Return the record of the same call with its phases made longer.

        ``outside_s`` is the time since the call before it, which counts for the whole forward pass.
        """
        worker = record.worker
        whole = self.longer(TOTAL, record.total_s + outside_s)
        more = {
            f"{phase}_s": self.longer(phase, getattr(record, f"{phase}_s")) for phase in CALL_PHASES
        }
        more["device_s"] += whole
        # The worker's own share grows by the factor of its phase.
        own = {
            f"{phase}_s": getattr(worker, f"{phase}_s")
            + self.longer(phase, getattr(worker, f"{phase}_s"))
            for phase in ("deserialize", "device", "serialize")
        }
        own["device_s"] += whole
        return replace(
            record,
            total_s=record.total_s + sum(more.values()),
            worker=replace(worker, **own),
            **{name: getattr(record, name) + seconds for name, seconds in more.items()},
        )


class DelayedRpcClient(RpcClient):
    """A client whose calls take longer: each is made, then waited for, and its record says so."""

    def __init__(self, *arguments: Any, delays: Delays) -> None:
        super().__init__(*arguments)
        self._delays = delays
        self._finished = math.inf  # when the call before this one ended

    def call(
        self, call: Call, *inputs: torch.Tensor, cache: tuple[int, ...] = ()
    ) -> Sequence[torch.Tensor]:
        """As ``RpcClient.call``, with the delays."""
        outside_s = 0.0
        if self.records:
            outside_s = time.perf_counter() - self._finished
            _wait(self._delays.longer("trusted", outside_s))
        outputs = super().call(call, *inputs, cache=cache)
        record = self.records[-1]
        self.records[-1] = longer = self._delays.stretched(record, outside_s)
        # What this method does itself is not to be taken for trusted time.
        _wait_until(longer.started_s + longer.total_s)
        self._finished = longer.started_s + longer.total_s
        return outputs


def parse_factor(text: str) -> tuple[str, float]:
    """Return the phase and the factor of ``PHASE=FACTOR``.

    Raises:
        InputError: if it has another form.
    """
    phase, equals, factor = text.partition("=")
    try:
        return phase, float(factor) if equals else math.nan
    except ValueError:
        raise InputError(f"slowdown: {text!r} must be PHASE=FACTOR") from None


def _wait(seconds: float) -> None:
    _wait_until(time.perf_counter() + seconds)


def _wait_until(end: float) -> None:
    left = end - time.perf_counter()
    if left > _SLEEP_S:
        time.sleep(left - _SLEEP_S / 2)
    while time.perf_counter() < end:
        pass
