from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Between
from perfsuite.llama.diagnosis.routes import ROUTES, open_routes
from perfsuite.llama.diagnosis.sweep import CALL_PHASES, Caller, Key, Samples, sweep_keys
from runtime.rpc import RpcClient

FEW = (1, 64)
BUSY = Between(trusted_bytes=1 << 16, device_bytes=1 << 16, device_flops=1 << 26)


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, RpcClient]]:
    with open_routes(tuple(ROUTES), BUSY, 1) as opened:
        yield dict(opened)


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_carries_every_kind_of_call(clients: dict[str, RpcClient], route: str) -> None:
    caller, samples = Caller(clients[route], BUSY), Samples()
    for cold in (True, False):
        for key in sweep_keys(cold, FEW):
            seconds = caller.measure(key)
            assert set(seconds) == set(CALL_PHASES)
            assert all(0 <= value < 10 for value in seconds.values())
            samples.add(key, seconds)
    constants = samples.route()
    assert constants.sent["transport"].sizes == (1024, 64 * 1024)
    assert constants.per_call_s("transport") > 0
    sizes, times = samples.round_trips("sent", cold=False)
    assert set(sizes) == {1024, 64 * 1024}
    assert min(times) > 0


def test_an_unknown_route_is_refused() -> None:
    with pytest.raises(MeasurementError, match="pigeon"), open_routes(("pigeon",), BUSY, 1):
        pass


def test_roads_leave_no_process_behind() -> None:
    before = psutil.Process().children(recursive=True)
    with open_routes(("shared-memory",), BUSY, 1):
        assert len(psutil.Process().children(recursive=True)) == len(before) + 1
    assert psutil.Process().children(recursive=True) == before


def call(**phases: float) -> dict[str, float]:
    return {**dict.fromkeys(CALL_PHASES, 0.0), **phases}


def test_constants_are_medians_of_the_cold_calls() -> None:
    samples = Samples()
    for kind in ("sent", "received"):
        for rows in FEW:
            for factor in (1, 2, 30):  # one of three was disturbed
                samples.add(Key(kind, rows, True), call(serialize=factor * rows))
            samples.add(Key(kind, rows, False), call(serialize=1e-6))
    samples.add(Key("one tensor", 1, True), call(serialize=2.0, transport=2.0))
    samples.add(Key("three tensors", 1, True), call(serialize=5.0, transport=1.0))
    route = samples.route()
    assert route.sent["serialize"].seconds == (2.0, 128.0)
    assert route.per_tensor_s["serialize"] == 1.5
    assert route.per_tensor_s["transport"] == 0.0  # a tensor more never makes a call cheaper
