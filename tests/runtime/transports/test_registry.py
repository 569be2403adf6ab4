"""Addresses: which transport can speak over which, and what is wrong with the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtime import SplitLlama
from runtime.errors import EndpointError
from runtime.transports.registry import connect, parse_endpoint, serve
from tests.runtime.peers import (
    Footprint,
    free_port,
    tiny,
)

AT_ONCE_S = 2.0


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        ("tcp://127.0.0.1:5555", "zmq-msgpack"),
        ("tcp://localhost:1", "zmq-msgpack"),
        ("tcp://[::1]:65535", "zmq-msgpack"),
        ("ipc:///run/worker", "zmq-msgpack"),
        ("unix:///run/worker", "shared-memory"),
        ("unix://relative", "shared-memory"),
        ("unix:///" + "x" * 106, "shared-memory"),
    ],
)
def test_an_address_reads_as_it_was_written(text: str, transport: str) -> None:
    assert str(parse_endpoint(text, transport)) == text


@pytest.mark.parametrize(
    ("text", "transport", "problem"),
    [
        ("", "zmq-msgpack", "ipc://..., tcp://..."),
        ("127.0.0.1:5555", "zmq-msgpack", "ipc://..., tcp://..."),
        ("http://127.0.0.1:5555", "zmq-msgpack", "ipc://..., tcp://..."),
        ("TCP://127.0.0.1:5555", "zmq-msgpack", "ipc://..., tcp://..."),
        ("unix:///run/worker", "zmq-msgpack", "zmq-msgpack transport"),
        ("tcp://127.0.0.1:5555", "shared-memory", "unix://..."),
        ("ipc:///run/worker", "shared-memory", "shared-memory transport"),
        ("tcp://", "zmq-msgpack", "host:port"),
        ("tcp://127.0.0.1", "zmq-msgpack", "host:port"),
        ("tcp://:5555", "zmq-msgpack", "host:port"),
        ("tcp://127.0.0.1:", "zmq-msgpack", "host:port"),
        ("tcp://127.0.0.1:0", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:65536", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:-1", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:http", "zmq-msgpack", "1..65535"),
        ("tcp://127.0.0.1:" + "1" * 5000, "zmq-msgpack", "1..65535"),
        ("ipc://", "zmq-msgpack", "no path"),
        ("unix://", "shared-memory", "no path"),
        ("unix:///" + "x" * 107, "shared-memory", "107 bytes"),
        ("ipc:///" + "\N{SNOWMAN}" * 36, "zmq-msgpack", "107 bytes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_wrong_address_is_refused_with_what_is_wrong(
    text: str, transport: str, problem: str
) -> None:
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(text, transport)
    assert str(caught.value).startswith("endpoint: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1:{port}",
        "tcp://no.such.host.invalid:5555",
        "tcp://127..0.0.1:5555",
        "tcp://" + "x" * 70 + ":5555",
        "ipc://{folder}/nobody",
        "unix://{folder}/nobody",
        "unix://{folder}",
        "unix://{folder}/no\0body",
        "unix://{folder}/\udcff",
        "ipc://{folder}/\udcff",
    ],
    ids=lambda text: text[:22].encode("ascii", "replace").decode(),
)
def test_an_address_at_which_nobody_listens_is_an_error_at_once(text: str, tmp_path: Path) -> None:
    stage = "shared-memory" if text.startswith("unix") else "baseline"
    before = Footprint.of()
    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"^endpoint: "):
        SplitLlama.launch(tiny(), stage, endpoint=text.format(port=free_port(), folder=tmp_path))
    assert time.monotonic() - started < AT_ONCE_S
    assert Footprint.of() == before


@pytest.mark.parametrize("text", ["fd://", "fd://x", "fd://-1", "fd://99999", "fd://0", "fd://1e3"])
def test_what_is_no_inherited_socket_is_refused(text: str) -> None:
    with pytest.raises(EndpointError, match=r"^endpoint: "):
        serve(text, "shared-memory")
    with pytest.raises(EndpointError, match=r"^endpoint: "):
        serve(text, "zmq-msgpack")
    with pytest.raises(EndpointError, match="does not fit"):
        connect(text, "shared-memory")
