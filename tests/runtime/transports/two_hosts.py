"""A client and a worker in two network namespaces, and between them a link that delays, loses, and breaks.

Run as a program in a namespace of its own (``unshare -Urn``), which is the client's host; prints what happened as
JSON. The link is a pair of tun devices and a process that carries packets from one to the other: it needs no
module of the kernel's, unlike ``tc netem``.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE, THERE = "10.9.0.1", "10.9.0.2"
PORT = 5555
DELAY_S = 0.005  # each way
LOSS = 0.01
DEADLINE_S = 2.0

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET = 65536


def open_device(own: str, other: str) -> int:
    """Make this namespace's end of the link."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"t0", _IFF_TUN | _IFF_NO_PI))
    for command in (
        "ip link set lo up",
        f"ip addr add {own} peer {other} dev t0",
        "ip link set t0 up",
    ):
        subprocess.run(command.split(), check=True)
    return descriptor


def carry(ends: tuple[int, int], orders: int) -> None:
    """Carry packets until ``orders`` is closed; a byte from there is 1 for a link that works, 0 for a broken one."""
    chance = random.Random(1)
    waiting: list[tuple[float, int, int, bytes]] = []
    works, number = True, 0
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for ready in select.select([*ends, orders], [], [], patience)[0]:
            if ready == orders:
                order = os.read(orders, 1)
                if not order:
                    return
                works = order == b"\1"
                continue
            packet = os.read(ready, _PACKET)
            if works and chance.random() >= LOSS:
                number += 1
                target = ends[0] if ready == ends[1] else ends[1]
                heapq.heappush(waiting, (time.monotonic() + DELAY_S, number, target, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(waiting)
            os.write(target, packet)


class Link:
    """The link as the client's host sees it, and the worker at its other end."""

    def __init__(self, keys: str) -> None:
        ours, theirs = socket.socketpair()
        self._worker = os.fork()
        if self._worker == 0:
            _be_the_other_host(theirs, keys)
        near = open_device(HERE, THERE)
        _, (far,), _, _ = socket.recv_fds(ours, 1, 1)
        orders, self._orders = os.pipe()
        self._carrier = os.fork()
        if self._carrier == 0:
            os.close(self._orders)
            carry((near, far), orders)
            os._exit(0)

    def works(self, whether: bool) -> None:
        os.write(self._orders, bytes([whether]))
        time.sleep(4 * DELAY_S)

    def close(self) -> None:
        os.close(self._orders)
        os.kill(self._worker, 9)
        for process in (self._worker, self._carrier):
            os.waitpid(process, 0)


def _be_the_other_host(to_client: socket.socket, keys: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        os._exit(1)
    far = open_device(THERE, HERE)
    socket.send_fds(to_client, [b"x"], [far])
    os.close(far)
    command = [sys.executable, "-m", "runtime.worker", "--model", "tiny", "--stage", "fused-tcp"]
    command += ["--endpoint", f"tcp://{THERE}:{PORT}", "--keys", keys, "--threads", "1"]
    os.execv(sys.executable, command)  # noqa: S606 - in this namespace


def happens(link: Link, keys: str) -> dict[str, Any]:
    """Use the worker as a client does while the link does what links do."""
    from runtime import SplitError, SplitLlama, load_checkpoint

    checkpoint = load_checkpoint("tiny", progress=False)
    prompt = list(range(300))

    def launch(**settings: Any) -> SplitLlama:
        endpoint = f"tcp://{THERE}:{PORT}"
        return SplitLlama.launch(checkpoint, "fused-tcp", endpoint=endpoint, keys=keys, **settings)

    def error_of(call: Callable[[], object]) -> tuple[str, float]:
        started = time.monotonic()
        try:
            call()
        except SplitError as error:
            return type(error).__name__, time.monotonic() - started
        return "none", 0.0

    seen: dict[str, Any] = {}
    with SplitLlama.launch(checkpoint, "fused", threads=1) as local:
        right = local.forward(prompt)
    deadline = time.monotonic() + 60
    while error_of(lambda: launch().close())[0] == "EndpointError" and time.monotonic() < deadline:
        time.sleep(0.2)  # it loads

    with launch(timeout_s=30.0) as llama:
        seen["right over a link that delays and loses"] = all(
            llama.forward(prompt).equal(right) for _ in range(5)
        )
        link.works(False)
        threading.Timer(0.5, link.works, [True]).start()
        seen["right over a short break"] = llama.forward(prompt).equal(right)

    llama = launch(timeout_s=DEADLINE_S)
    session = llama._rpc._session
    llama.forward(prompt)
    link.works(False)
    seen["link lost"] = error_of(lambda: llama.forward(prompt))
    seen["the call after that"] = error_of(lambda: llama.forward(prompt))
    seen["nobody can be reached"] = error_of(launch)
    seen["closing took"] = error_of(llama.close)[1]
    link.works(True)
    with launch(timeout_s=30.0) as again:
        seen["right after the break"] = again.forward(prompt).equal(right)
        seen["a new handshake"] = again._rpc._session != session
    return seen


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        from runtime.transports.curve import generate

        keys = str(generate(Path(folder) / "keys"))
        link = Link(keys)
        try:
            print(json.dumps(happens(link, keys)))
        finally:
            link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
