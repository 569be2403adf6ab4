"""The stages and the unsplit model as what the gate pairs, both in fresh processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import runtime
from perfsuite.errors import MeasurementError
from perfsuite.forked.servers import Server, Workload, start_driver, start_unsplit
from perfsuite.gate.pairing import Open
from runtime import STAGES
from runtime.devices.cpu import has_bfloat16_products


class StageServers:
    """The two servers of a run, started at the first use, and again after one has failed.

    ``close`` ends them and all that they started.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._running = ExitStack()
        self._servers: tuple[Server, Server] | None = None

    def openers(self, stage: str, slowdown: Mapping[str, float]) -> tuple[Open, Open]:
        """Return what opens ``stage``, slower by factors, and what opens its yardstick, the unsplit model.

        What they open raises MeasurementError where a process fails.
        """
        split, unsplit = self._started()
        workload = vars(self._workload)
        dtype = _computed_dtype(stage, self._workload.device)
        return (
            split.opener({"stage": stage, "slowdown": dict(slowdown), **workload}),
            unsplit.opener({"dtype": dtype, **workload}),
        )

    def _started(self) -> tuple[Server, Server]:
        if self._servers is None or any(server.failed for server in self._servers):
            self.close()
            tree = Path(runtime.__file__).resolve().parents[1]
            self._servers = (
                start_driver(tree, "the runtime", MeasurementError),
                start_unsplit(MeasurementError),
            )
            for server in self._servers:
                self._running.callback(server.close)
        return self._servers

    def close(self) -> None:
        """End both, if they run."""
        self._running.close()
        self._servers = None


def _computed_dtype(stage: str, device: str) -> str:
    """Return what the stage's products are made in: the yardstick's, emulated, would be of another kind."""
    if device == "cpu" and not has_bfloat16_products():
        return "float32"
    return STAGES[stage].dtype
