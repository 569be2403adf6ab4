"""Messages between the measuring process and the processes that it measures: one JSON object a line.

Strictly request and answer over one socket. The measuring side sends:

    {"start": {...}}      once, to a new server; answered by {"ready": [node ids]} when it has collected
    {"open": {"node": id, "benchmark": name, "cpu": 1, "delays": {}}}
                          a fresh process runs that test up to that gate; {"opened": {...}}
    {"calibrate": {"role": "subject", "run_s": 5e-4}}
                          {"loops": 10, "seconds": 5.2e-5}: calls that make a run of at least so long
    {"measure": {"role": "subject", "runs": 3, "loops": 10, "discarded": 1}}
                          {"seconds": [...], "phases": [...], "cpu_s": 0.1, "waited": 0.0}
    {"close": {}}         the test is torn down and its process ends; {"closed": {"peak_bytes": ...}}

Any answer may be {"error": text} instead. A server answers "start" itself; everything between "open"
and "close" is answered by the process that it forked, over the same socket.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

_CHUNK = 1 << 16


class Ended(Exception):
    """The other end has closed its side."""


class Late(Exception):
    """No answer came within the deadline."""


class Lines:
    """One end of the connection. Raises ``Ended`` where the other end is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Ended from error

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the next message.

        Nothing is read beyond it, because both ends speak in turn: a process forked in between may
        read the next one.

        Raises:
            Late: if it does not come within ``timeout_s`` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Late
                self._connection.settimeout(left)
            try:
                chunk = self._connection.recv(_CHUNK)
            except TimeoutError as error:
                raise Late from error
            except OSError as error:
                raise Ended from error
            if not chunk:
                raise Ended
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
