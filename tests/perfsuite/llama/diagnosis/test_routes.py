"""Routes to workers that compute nothing: real channels, real processes, none of them left."""

from __future__ import annotations

import psutil
import pytest
import torch

from perfsuite.errors import MeasurementError
from perfsuite.llama.bursts import Between
from perfsuite.llama.diagnosis.routes import ROUTES, open_routes
from runtime.operations import Call
from runtime.tensors import TensorSpec
from runtime.transports.registry import TRANSPORTS

IDLE = Between(0, 0, 0)


def test_there_is_a_route_for_every_address_of_every_transport() -> None:
    assert len(ROUTES) == sum(len(transport.routes) for transport in TRANSPORTS.values())
    for name, (transport, scheme) in ROUTES.items():
        assert transport.routes[scheme] == name


def test_an_unknown_route_is_refused_with_the_known_ones_and_starts_nothing() -> None:
    before = psutil.Process().children()
    with (
        pytest.raises(MeasurementError, match=r"no transport 'pigeon'; there are .*shared-memory"),
        open_routes(["shared-memory", "pigeon"], IDLE, 1),
    ):
        pass
    assert psutil.Process().children() == before


def test_calls_cross_and_the_workers_end_with_the_context() -> None:
    before = set(psutil.Process().children())
    names = ["zmq-ipc", "shared-memory"]
    with open_routes(names, IDLE, 1) as clients:
        assert list(clients) == names
        started = set(psutil.Process().children()) - before
        assert len(started) == len(names)
        for client in clients.values():
            client.prepare(1 << 20)
            token_ids = client.channel.empty(TensorSpec(torch.int64, (1, 7))).zero_()
            (hidden,) = client.call(Call("embedding"), token_ids)
            assert hidden.shape == (1, 7, 256)
            assert bool((hidden == 1).all())
    gone, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    assert len(gone) == len(names)
