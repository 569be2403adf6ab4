"""Addresses for workers that are started by hand."""

from __future__ import annotations

import socket
from pathlib import Path

from perfsuite.llama.addresses import is_made, own_address


def test_a_port_is_made_once_somebody_listens_there() -> None:
    address = own_address("tcp", "unused")
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    assert host == "127.0.0.1"
    assert not is_made(address)
    with socket.create_server((host, int(port))):
        assert is_made(address)
    assert not is_made(address)


def test_a_path_is_made_once_it_is_there(tmp_path: Path) -> None:
    address = own_address("unix", str(tmp_path))
    assert not is_made(address)
    Path(address.removeprefix("unix://")).touch()
    assert is_made(address)
