"""What every transport does alike: both ends of each route, in one process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import ProtocolError
from runtime.tensors import DTYPES, Payload, TensorSpec
from runtime.transports.base import (
    LISTEN_S,
    ClientChannel,
    PeerGone,
    ReceiveTimeout,
    ServerChannel,
    Transport,
)
from runtime.transports.registry import TRANSPORTS, serve

PATIENCE_S = 20.0  # for what must happen at once: a hang shows, a busy machine does not
ROUTES = [(transport, scheme) for transport in TRANSPORTS.values() for scheme in transport.routes]
ARENA_BYTES = 1 << 20
EACH = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

specs = st.builds(
    TensorSpec,
    st.sampled_from(list(DTYPES.values())),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
)


@dataclass
class Route:
    """Both ends of a way between two processes."""

    transport: Transport
    client: ClientChannel
    server: ServerChannel

    def prepare(self) -> None:
        """Make room, and let the server learn of it, which it does as it waits for a message."""
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(self.server.receive)
            self.client.prepare(ARENA_BYTES)
            self.client.send(b"a message")
            assert bytes(received.result(PATIENCE_S)) == b"a message"
        self.server.send(b"its answer")
        assert bytes(self.client.receive()) == b"its answer"


@pytest.fixture(params=ROUTES, ids=lambda route: route[1])
def route(request: pytest.FixtureRequest) -> Iterator[Route]:
    """As a worker and the process that started it find each other."""
    transport, scheme = request.param
    with transport.meet(scheme) as meeting:
        endpoint = meeting.endpoint
        if meeting.descriptors:  # of which a worker has its own copy
            endpoint = f"fd://{os.dup(meeting.descriptors[0])}"
        server = next(serve(endpoint, transport.name))
        client = meeting.connect()
        client.set_timeout(PATIENCE_S)
        with closing(server), closing(client):
            yield Route(transport, client, server)


def values_of(spec: TensorSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(spec.nbytes)
    return torch.randint(-9, 9, spec.shape, generator=generator).to(spec.dtype)


def decoded(payload: Payload) -> Payload:
    """What the other side finds in the message."""
    return payload if isinstance(payload, int) else bytes(payload)


@pytest.mark.parametrize("messages", [[b"a"], [b"\x00" * 60_000, b"b", b"c" * 7]], ids=len)
def test_messages_arrive_whole_and_in_turn(route: Route, messages: Sequence[bytes]) -> None:
    for message in messages:
        route.client.send(message)
        assert bytes(route.server.receive()) == message
        route.server.send(message[::-1])
        assert bytes(route.client.receive()) == message[::-1]


@given(spec=specs)
@EACH
def test_a_tensor_arrives_as_it_was(route: Route, spec: TensorSpec) -> None:
    route.prepare()
    values = values_of(spec)
    sent = route.client.empty(spec).copy_(values)
    assert sent.is_contiguous()
    copies = route.client.payload_copies
    payload = route.client.pack(sent)
    route.client.send(b"with it")
    route.server.receive()
    route.server.expect(1)
    arrived = route.server.unpack("x", spec, decoded(payload))
    route.server.send(b"answered")
    route.client.receive()
    assert TensorSpec.of(arrived) == spec
    assert torch.equal(arrived, values)
    assert torch.equal(sent, values)
    shares = route.transport.shares_memory
    assert route.client.payload_copies - copies == (0 if shares else 1)


@given(first=specs, second=specs)
@EACH
def test_results_come_to_where_the_client_looks_for_them(
    route: Route, first: TensorSpec, second: TensorSpec
) -> None:
    route.prepare()
    wanted = [first, second]
    places = route.client.reserve(wanted)
    assert len(places) == (2 if route.transport.shares_memory else 0)
    named = [decoded(payload) for _, payload in places]
    results = [
        route.server.destination(index, spec, named).copy_(values_of(spec))
        for index, spec in enumerate(wanted)
    ]
    route.client.send(b"a request")
    route.server.receive()
    payloads = [] if places else [decoded(route.server.pack(result)) for result in results]
    route.server.send(b"its reply")
    route.client.receive()
    route.client.expect(len(payloads))
    found = [tensor for tensor, _ in places] or [
        route.client.unpack("x", spec, payload)
        for spec, payload in zip(wanted, payloads, strict=True)
    ]
    for spec, result in zip(wanted, found, strict=True):
        assert torch.equal(result, values_of(spec))


def test_a_payload_of_another_kind_of_route_is_refused_by_name(route: Route) -> None:
    route.prepare()
    spec = TensorSpec(torch.float32, (4,))
    foreign: Payload = bytes(16) if route.transport.shares_memory else 0
    with pytest.raises(ProtocolError) as caught:
        route.server.unpack("inputs[3].payload", spec, foreign)
    assert caught.value.field == "inputs[3].payload"


def test_the_client_waits_as_long_as_it_was_told(route: Route) -> None:
    route.client.send(b"never answered")
    route.client.set_timeout(0.1)
    started = time.monotonic()
    with pytest.raises(ReceiveTimeout):
        route.client.receive()
    assert 0.09 < time.monotonic() - started < PATIENCE_S


def test_the_server_never_waits_for_long_without_a_look_at_signals(route: Route) -> None:
    started = time.monotonic()
    with pytest.raises(ReceiveTimeout):
        route.server.receive()
    assert time.monotonic() - started < LISTEN_S + PATIENCE_S


def test_the_end_of_the_server_is_told_and_stays(route: Route) -> None:
    route.prepare()
    route.client.send(b"a last message")
    route.server.close()
    for _ in range(2):
        with pytest.raises(PeerGone):
            route.client.receive()
    with pytest.raises(PeerGone):
        route.client.send(b"to nobody")


def test_closing_twice_is_closing_once(route: Route) -> None:
    route.prepare()
    for channel in (route.client, route.server):
        channel.close()
        channel.close()


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=lambda row: row.name)
def test_a_transport_is_known_by_its_usual_address(transport: Transport) -> None:
    assert transport.scheme == next(iter(transport.routes))
    assert TRANSPORTS[transport.name] is transport
