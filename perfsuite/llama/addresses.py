"""Addresses of this host for workers that are started by hand."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

_TCP = "tcp"
_CONNECT_S = 1.0


def own_address(scheme: str, folder: str) -> str:
    """Return an address of ``scheme`` at which nobody listens: a free port, or a path in ``folder``."""
    if scheme == _TCP:
        with socket.create_server(("127.0.0.1", 0)) as free:
            return f"{_TCP}://127.0.0.1:{free.getsockname()[1]}"
    return f"{scheme}://{folder}/s"  # short: a path may have no more than 107 bytes


def is_made(endpoint: str) -> bool:
    """Whether a worker has made its address, and listens there if it is a port."""
    scheme, _, address = endpoint.partition("://")
    if scheme != _TCP:
        return Path(address).exists()
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), _CONNECT_S):
        return True
    return False
