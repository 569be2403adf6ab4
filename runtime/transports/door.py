"""Who comes in by tcp: no more at a time than a worker can bear, whoever they are and whatever they say.

ZeroMQ accepts every connection at once, before anything is known of the peer. Each takes a descriptor, and when
none is left it tries again and again, on a whole core. So the listening socket is made here, and the door is shut
while many are inside: the kernel then drops whatever asks to connect, and a peer's own kernel asks again later.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from contextlib import suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from runtime.errors import EndpointError
from runtime.transports.endpoints import inherited

HANDSHAKE_S = 3.0
"""Time for a new connection to become one of ZeroMQ's, keys included; then it is closed."""

MOST_INSIDE = 16

_BACKLOG = 16
# In which the kernel keeps a new connection to itself, if its peer says nothing. Beyond the backlog it answers with
# cookies, keeps nothing, and lets whoever returns one in at once.
_SILENT_S = 5
_LOOK_AGAIN_S = 1.0

_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)

# linux/filter.h: a program of one instruction, "return 0 bytes of the packet".
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP = struct.pack("HBBI", 6, 0, 0, 0)


class Door:
    """Knows the connections of a bound socket; through a tcp listener, lets in ``MOST_INSIDE`` at a time."""

    def __init__(self, server: zmq.Socket[bytes], listener: socket.socket | None) -> None:
        """Let ``server``, which is not bound yet, use ``listener``, which is the door's from now on."""
        self._server = server
        self._listener = listener
        if listener is not None:
            server.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))
        self._shut = False
        self._spare: int | None = None
        self._keep_spare()
        self._inside: dict[int, int] = {}  # serial numbers by descriptor
        self._serial = 0
        self._lock = threading.Lock()
        self._closing = False
        self._events = server.get_monitor_socket(_EVENTS)
        self._thread = threading.Thread(target=self._watch, name="door", daemon=True)
        self._thread.start()

    def serial_of(self, descriptor: int) -> int:
        """Return the number of the connection that has this descriptor; zero if there is none.

        Whatever happened to connections before a message arrived is known when it is asked after that.
        """
        with self._lock:
            self._look()
            return self._inside.get(descriptor, 0)

    def _watch(self) -> None:
        while not self._closing:
            with self._lock:
                self._look()
            # It wakes only for what comes after a look that found nothing.
            select.select([self._events.fileno()], [], [], _LOOK_AGAIN_S)

    def _look(self) -> None:
        """Note what has happened since the last look; only with the lock, for no socket bears two threads."""
        failed = False
        while not self._events.closed and self._events.poll(0):
            message = recv_monitor_message(self._events)
            event, descriptor = message["event"], message["value"]
            if event == zmq.EVENT_ACCEPTED:
                self._serial += 1
                self._inside[descriptor] = self._serial
            elif event == zmq.EVENT_DISCONNECTED:
                self._inside.pop(descriptor, None)
            elif event == zmq.EVENT_ACCEPT_FAILED:
                # At once: ZeroMQ tries again without a pause, and each time is an event.
                failed = True
                self._shut_door(True)
                self._send_away()
        if self._spare is None:
            self._keep_spare()
        self._shut_door(failed or len(self._inside) >= MOST_INSIDE)

    def _shut_door(self, shut: bool) -> None:
        listener = self._listener
        if listener is None:
            return
        if shut and not self._shut:
            program = ctypes.create_string_buffer(_DROP, len(_DROP))
            attached = struct.pack("HP", 1, ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
        elif self._shut and not shut:
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._shut = shut

    def _send_away(self) -> None:
        """Take whoever waits at the door, and close: with the one descriptor that is kept for it.

        ZeroMQ's thread may be quicker to take it, and lets one in by it; when one leaves, one is kept again.
        """
        if self._listener is None:
            return
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        with suppress(OSError):
            while True:
                self._listener.accept()[0].close()
        self._keep_spare()

    def _keep_spare(self) -> None:
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Stop watching and listening. Closing twice is allowed."""
        self._closing = True
        if self._thread.is_alive():
            self._server.disable_monitor()  # of which the thread hears
            self._thread.join()
        self._events.close()
        if self._listener is not None:
            self._listener.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def listen_at(host: str, port: int) -> socket.socket:
    """Listen at a tcp address, ``*`` for all of this host's; port zero is any that is free.

    Raises:
        OSError, UnicodeError: if nobody can listen there.
    """
    ((family, *_, address), *_) = socket.getaddrinfo(
        None if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SILENT_S)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def inherited_listener(text: str) -> socket.socket:
    """Return what this process inherited as descriptor number ``text``.

    Raises:
        EndpointError: if that does not listen at a tcp address.
    """
    listener = inherited(text)
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
        listener.close()
        raise EndpointError(f"endpoint: fd://{text} does not listen at a tcp address")
    listener.setblocking(False)
    return listener
