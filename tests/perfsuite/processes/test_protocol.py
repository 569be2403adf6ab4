"""One JSON object a line, in turn: nothing is read beyond the message that was asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfsuite.processes.protocol import Ended, Late, Lines

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
messages = st.dictionaries(st.text(), values, max_size=4)


@pytest.fixture
def ends() -> Iterator[tuple[Lines, socket.socket]]:
    ours, theirs = socket.socketpair()
    lines = Lines(ours)
    yield lines, theirs
    lines.close()
    theirs.close()


@given(message=messages)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_message_arrives_as_it_was_sent(
    ends: tuple[Lines, socket.socket], message: dict[str, Any]
) -> None:
    lines, theirs = ends
    Lines(theirs).send(message)
    assert lines.receive(5.0) == message


def test_what_belongs_to_the_next_message_is_kept(ends: tuple[Lines, socket.socket]) -> None:
    lines, theirs = ends
    theirs.sendall(b'{"a": 1}\n{"b": "line\\nend"}\n{"c"')
    assert lines.receive(5.0) == {"a": 1}
    assert lines.receive(5.0) == {"b": "line\nend"}
    theirs.sendall(b": 3}\n")
    assert lines.receive(5.0) == {"c": 3}


def test_a_large_message_comes_in_pieces(ends: tuple[Lines, socket.socket]) -> None:
    lines, theirs = ends
    raw = b'{"a": "' + b"x" * 100_000 + b'"}\n'
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.sendall(raw)
    assert len(lines.receive(5.0)["a"]) == 100_000


@pytest.mark.parametrize("begun", [b"", b'{"a"'], ids=["nothing", "half a message"])
def test_what_does_not_come_in_time_is_late(
    ends: tuple[Lines, socket.socket], begun: bytes
) -> None:
    lines, theirs = ends
    theirs.sendall(begun)
    started = time.monotonic()
    with pytest.raises(Late):
        lines.receive(0.05)
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("begun", [b"", b'{"a"'], ids=["nothing", "half a message"])
def test_the_end_of_the_other_side_is_told_at_once(
    ends: tuple[Lines, socket.socket], begun: bytes
) -> None:
    lines, theirs = ends
    theirs.sendall(begun)
    theirs.close()
    with pytest.raises(Ended):
        lines.receive()
    with pytest.raises(Ended):
        lines.send({"a": "x"})
