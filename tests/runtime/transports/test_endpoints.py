"""Addresses, and workers started by hand: what is wrong is said at once and in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import (
    EndpointError,
)
from runtime.transports.endpoints import Endpoint, listen
from runtime.transports.registry import connect
from runtime.transports.zmq_msgpack import MsgpackServer

AT_ONCE_S = 2.0
PROMPT = [3, 1, 4, 1, 5]


# Addresses --------------------------------------------------------------------------------------------


def test_only_this_user_can_reach_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with listen(str(path)):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_path_in_use_is_refused_and_its_owner_undisturbed(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with listen(str(path)) as listener:
        with pytest.raises(EndpointError, match="in use"):
            listen(str(path))
        channel = connect(f"unix://{path}", "shared-memory")
        listener.accept()[0].close()
        channel.close()


KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("precious"),
    "link": lambda path: path.symlink_to(path.with_name("target")),
    "fifo": os.mkfifo,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("scheme", ["ipc", "unix"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_never_taken_for_a_socket_that_was_left_behind(
    kind: str, scheme: str, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    KINDS[kind](path)
    before = path.lstat()
    with pytest.raises(EndpointError, match=r"notes.*no socket"):
        LISTEN[scheme](path)
    assert path.lstat().st_ino == before.st_ino


LISTEN: dict[str, Callable[[Path], object]] = {
    "unix": lambda path: listen(str(path)),
    "ipc": lambda path: MsgpackServer(Endpoint("ipc", str(path))),
}


@pytest.mark.parametrize("scheme", ["ipc", "unix"])
@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
def test_of_several_that_listen_at_once_one_does_and_it_is_this_users_alone(
    scheme: str, stale: bool, tmp_path: Path
) -> None:
    path = tmp_path / "worker"
    kind = socket.SOCK_SEQPACKET if scheme == "unix" else socket.SOCK_STREAM
    mask = os.umask(0)
    try:
        if stale:
            with socket.socket(socket.AF_UNIX, kind) as left:
                left.bind(str(path))
        listening = [LISTEN[scheme](path)]
        for _ in range(3):
            with pytest.raises(EndpointError, match="in use"):
                LISTEN[scheme](path)
        assert path.stat().st_mode & 0o777 == 0o600
        listening[0].close()  # type: ignore[attr-defined]
    finally:
        assert os.umask(mask) == 0


def test_workers_that_race_for_a_path_with_a_stale_socket_have_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    code = (
        "import sys\nfrom runtime.transports.endpoints import listen\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "listener = listen(sys.argv[1])\nprint('listens', flush=True)\nsys.stdin.read()"
    )
    for _ in range(3):
        racing = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
            for _ in range(4)
        ]  # fmt: skip
        try:
            assert all(one.stdout.readline() == b"ready\n" for one in racing if one.stdout)
            for one in racing:
                os.write(one.stdin.fileno(), b"\n")  # type: ignore[union-attr]
            assert sum(one.stdout.readline() == b"listens\n" for one in racing if one.stdout) == 1
        finally:
            for one in racing:
                one.kill()  # and leave the socket behind
                one.communicate()


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="No such file"):
        listen(str(tmp_path / "nowhere" / "worker"))


# Workers started by hand --------------------------------------------------------------------------------
