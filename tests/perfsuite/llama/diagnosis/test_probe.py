from __future__ import annotations

from contextlib import closing

import psutil
import pytest

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Burst
from perfsuite.llama.diagnosis.probe import Probe
from perfsuite.llama.workload import Operation

LINEAR = Operation("device", "fused_layer", "linear", (8, 16, 32), "float32", "arena")
NORMED = Operation("device", "fused_layer", "normed", (8, 16), "float32", "arena")


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_each_operation_of_a_burst_is_timed_and_nothing_is_left() -> None:
    before = children()
    one, other = Burst("device", (NORMED, LINEAR)), Burst("device", (LINEAR,))
    with closing(Probe({one: 1, other: 3}, 1)) as probe:
        assert [len(probe.run(burst)) for burst in (one, other, one)] == [2, 1, 2]
        assert min(probe.run(one)) > 0
        assert probe.sweep() > 0
    assert children() == before


def test_a_burst_that_no_device_computes_is_told_with_its_reason() -> None:
    wrong = Operation("trusted", "matmul", "softmax", (1, 8), "float32", "arena")
    burst = Burst("trusted", (wrong,))
    with (
        closing(Probe({burst: 1}, 1)) as probe,
        pytest.raises(MeasurementError, match="softmax"),
    ):
        probe.run(burst)


def test_a_probe_that_dies_is_told() -> None:
    before = {child.pid for child in children()}
    burst = Burst("device", (LINEAR,))
    with closing(Probe({burst: 1}, 1)) as probe:
        probe.run(burst)
        (process,) = (child for child in children() if child.pid not in before)
        process.kill()
        process.wait()
        with pytest.raises(MeasurementError, match="ended"):
            probe.run(burst)
