"""The stages and the unsplit model as what the gate pairs, both in fresh processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import runtime
from perfsuite.errors import MeasurementError
from perfsuite.forked.servers import Server, Servers, Workload, start_driver, start_unsplit
from perfsuite.gate.pairing import Open
from runtime import STAGES
from runtime.devices.cpu import has_bfloat16_products


class StageServers:
    """The servers of a run; ``close`` ends them and all that they started, and the next use starts new ones."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._servers = Servers(_start)
        self.close = self._servers.close

    def openers(self, stage: str, slowdown: Mapping[str, float]) -> tuple[Open, Open]:
        """Return what opens ``stage``, slower by factors, and what opens its yardstick, the unsplit model.

        What they open raises MeasurementError where a process fails.
        """
        workload = self._workload.options
        dtype = _computed_dtype(stage, self._workload.device)
        return self._servers.openers(
            (
                {"stage": stage, "slowdown": dict(slowdown), **workload},
                {"dtype": dtype, **workload},
            )
        )


def _start() -> tuple[Server, Server]:
    tree = Path(runtime.__file__).resolve().parents[1]
    return start_driver(tree, "the runtime", MeasurementError), start_unsplit(MeasurementError)


def _computed_dtype(stage: str, device: str) -> str:
    """Return what the stage's products are made in: the yardstick's, emulated, would be of another kind."""
    if device == "cpu" and not has_bfloat16_products():
        return "float32"
    return STAGES[stage].dtype
