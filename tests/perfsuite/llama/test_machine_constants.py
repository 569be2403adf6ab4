from __future__ import annotations

import pytest

from perfsuite.llama.machine_constants import Curve, MachineConstants, Rate, Route, rate_key
from perfsuite.llama.workload import Operation
from runtime.traffic import CallTraffic


def test_a_curve_is_straight_between_its_points_and_goes_on() -> None:
    curve = Curve((1000, 2000, 4000), (1.0, 3.0, 4.0))
    assert [curve.at(size) for size in (1000, 1500, 2000, 3000, 4000)] == [1.0, 2.0, 3.0, 3.5, 4.0]
    assert curve.at(0) == 1.0
    assert curve.at(6000) == 5.0
    assert Curve((1000,), (1.0,)).at(5000) == 1.0


def test_a_call_costs_itself_its_bytes_each_way_and_its_tensors() -> None:
    route = Route(
        sent={"serialize": Curve((0, 100), (1.0, 3.0))},
        received={"serialize": Curve((0, 100), (1.0, 2.0))},
        per_tensor_s={"serialize": 0.25},
    )
    assert route.per_call_s("serialize") == 1.0
    call = CallTraffic("matmul", bytes_sent=50, bytes_received=200, tensors=4)
    assert route.seconds("serialize", call) == pytest.approx(1.0 + 1.0 + 2.0 + 0.5)


def operation(*shape: int) -> Operation:
    return Operation("device", "fused_layer", "linear", shape, "float32", "arena")


def constants(*rates: Rate) -> MachineConstants:
    return MachineConstants({}, {rate_key(operation(1, 1, 1)): rates}, 1e9)


def test_a_measured_shape_takes_what_was_measured() -> None:
    known = constants(Rate((64, 8, 8), 1e9), Rate((128, 8, 8), 2e9))
    assert known.seconds(operation(128, 8, 8)) == 2 * 128 * 64 / 2e9


def test_a_shape_between_two_others_has_their_mean_rate() -> None:
    known = constants(Rate((64, 8, 8), 1e9), Rate((256, 8, 8), 4e9))
    assert known.seconds(operation(128, 8, 8)) == pytest.approx(2 * 128 * 64 / 2e9)


def test_the_nearer_shape_counts_more() -> None:
    known = constants(Rate((64, 8, 8), 1e9), Rate((1024, 8, 8), 4e9))
    near, far = (operation(rows, 8, 8) for rows in (80, 800))
    assert near.work / known.seconds(near) < 1.2e9
    assert far.work / known.seconds(far) > 3.5e9


def test_an_operation_that_was_never_measured_is_said() -> None:
    with pytest.raises(KeyError, match="softmax"):
        constants().seconds(Operation("trusted", "matmul", "softmax", (1, 1), "float32", "arena"))


def test_the_peak_is_of_the_element_type() -> None:
    known = constants(Rate((64, 8, 8), 1e9), Rate((1024, 8, 8), 4e9))
    assert known.peak_flops("float32") == 4e9
    with pytest.raises(ValueError, match="empty"):
        known.peak_flops("bfloat16")
