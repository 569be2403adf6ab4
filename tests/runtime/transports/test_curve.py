"""Keys: files that others cannot have touched, and connections that nobody else can open, read or repeat."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq

from runtime import SplitLlama
from runtime.errors import EndpointError, InputError, SplitError
from runtime.transports.curve import CLIENT, WORKER, Keys, generate, read_keys
from runtime.transports.registry import parse_endpoint
from tests.runtime.peers import (
    PATIENCE_S,
    end,
    free_port,
    run_worker,
    start_worker,
    tiny,
    wait_until,
)

PROMPT = [1, 2, 3]
NAMES = {f"{side}.{kind}" for side in (CLIENT, WORKER) for kind in ("secret", "public")}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return generate(tmp_path / "keys")


# Files -------------------------------------------------------------------------------------------------


def test_each_end_knows_the_others_public_key(keys: Path) -> None:
    client, worker = read_keys(keys, CLIENT), read_keys(keys, WORKER)
    assert (client.peer, worker.peer) == (worker.public, client.public)
    assert client.secret != worker.secret
    assert client.secret.decode() not in repr(client)


def test_what_is_made_is_this_users_alone_and_replaces_nothing(keys: Path) -> None:
    assert {path.name for path in keys.iterdir()} == NAMES
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    with pytest.raises(EndpointError, match="cannot be made"):
        generate(keys)


def test_an_end_needs_only_its_own_two_files(keys: Path) -> None:
    (keys / "worker.secret").unlink()
    (keys / "client.public").unlink()
    assert read_keys(keys, CLIENT).secret


def replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


SPOILED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("client.secret", Path.unlink, "cannot read"),
    "read by others": ("client.secret", lambda path: path.chmod(0o640), "mode 640"),
    "written by others": ("worker.public", lambda path: path.chmod(0o620), "mode 620"),
    "a folder": (
        "worker.public",
        lambda path: instead(path, Path.mkdir),
        "no file|cannot read",
    ),
    "a fifo": ("client.secret", lambda path: instead(path, os.mkfifo), "no file"),
    "empty": ("client.secret", lambda path: replaced(path, b""), "no key"),
    "short": ("client.secret", lambda path: replaced(path, b"x" * 39), "no key"),
    "long": ("client.secret", lambda path: replaced(path, b"x" * 400), "no key"),
    "no Z85": ("worker.public", lambda path: replaced(path, b"~" * 40), "no key"),
    "no ASCII": ("worker.public", lambda path: replaced(path, b"\xff" * 40), "no key"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_key_that_cannot_be_trusted_is_refused_by_name(keys: Path, spoiled: str) -> None:
    name, spoil, told = SPOILED[spoiled]
    spoil(keys / name)
    with pytest.raises(EndpointError, match=f"keys: .*({told})") as caught:
        read_keys(keys, CLIENT)
    assert name in str(caught.value)


def test_a_folder_that_others_can_write_to_is_refused(keys: Path) -> None:
    keys.chmod(0o777)
    with pytest.raises(EndpointError, match="others can write"):
        read_keys(keys, CLIENT)


def test_a_path_that_there_cannot_be_is_refused(tmp_path: Path) -> None:
    for use in (lambda path: read_keys(path, CLIENT), generate):
        with pytest.raises(EndpointError, match="keys: "):
            use(f"{tmp_path}/\0")


# Addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",  # noqa: S104 - refused
        "*",
        "10.0.0.1",
        "[::]",
        "[2001:db8::1]",
        "example.org",
        "127.example.org",
    ],
)
def test_an_address_beyond_this_host_needs_keys(host: str, keys: Path) -> None:
    text = f"tcp://{host}:5555"
    with pytest.raises(EndpointError, match=r"needs keys.*--generate-keys"):
        parse_endpoint(text, "zmq-msgpack")
    own = read_keys(keys, WORKER)
    assert parse_endpoint(text, "zmq-msgpack", own).keys == own


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_an_address_of_this_host_needs_none(host: str) -> None:
    assert parse_endpoint(f"tcp://{host}:5555", "zmq-msgpack").keys is None


def test_keys_that_nobody_would_use_are_refused(keys: Path) -> None:
    with pytest.raises(EndpointError, match="for tcp"):
        SplitLlama.launch(tiny(), "fused", endpoint="unix:///tmp/nobody", keys=keys)
    with pytest.raises(InputError, match="keys"):
        SplitLlama.launch(tiny(), "baseline", keys=keys)


def test_the_worker_makes_keys_and_refuses_to_listen_without(tmp_path: Path) -> None:
    status, lines = run_worker("--generate-keys", str(tmp_path / "made"))
    assert (status, lines) == (0, [])
    assert {path.name for path in (tmp_path / "made").iterdir()} == NAMES
    status, lines = run_worker("--model", "tiny", "--endpoint", "tcp://0.0.0.0:5555")
    assert status == 2
    assert "needs keys" in lines[-1]
    status, lines = run_worker("--generate-keys", str(tmp_path / "made"))
    assert status == 2
    assert "cannot be made" in lines[-1]


# Connections -------------------------------------------------------------------------------------------


class Guarded:
    """A worker with keys, and an honest client's folder."""

    def __init__(self, keys: Path, *options: str) -> None:
        self.keys, self.port = keys, free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.process = start_worker("--model", "tiny", "--endpoint", self.endpoint, *options)
        assert wait_until(self._listens)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def launch(self, keys: Path | None, port: int | None = None) -> SplitLlama:
        endpoint = f"tcp://127.0.0.1:{port or self.port}"
        return SplitLlama.launch(
            tiny(), "baseline", endpoint=endpoint, keys=keys, timeout_s=PATIENCE_S
        )

    def serves(self) -> bool:
        with self.launch(self.keys) as llama:
            return bool(llama.forward(PROMPT).isfinite().all())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    keys = generate(tmp_path_factory.mktemp("guarded") / "keys")
    worker = Guarded(keys, "--keys", str(keys))
    yield worker
    end(worker.process)


def test_the_owners_of_the_keys_compute_together(guarded: Guarded) -> None:
    with guarded.launch(guarded.keys) as llama, SplitLlama.launch(tiny(), "baseline") as other:
        assert llama.forward(PROMPT).equal(other.forward(PROMPT))


@pytest.mark.parametrize("unknown", ["client.secret", "worker.public"])
def test_a_client_that_is_unknown_or_knows_another_worker_is_refused(
    guarded: Guarded, keys: Path, unknown: str
) -> None:
    for name in NAMES - {unknown}:
        (keys / name).write_bytes((guarded.keys / name).read_bytes())
    with pytest.raises(EndpointError, match="the keys of the worker"):
        guarded.launch(keys)
    assert guarded.serves()


def test_a_client_without_keys_gets_no_answer(guarded: Guarded) -> None:
    with pytest.raises(SplitError):
        guarded.launch(None)
    with zmq.Context() as context, context.socket(zmq.REQ) as plain:
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(guarded.endpoint)
        plain.send(b"\x81\xa5hello\x80")
        assert not plain.poll(500)
    assert guarded.serves()


def test_a_worker_without_keys_is_not_taken_for_one_with(keys: Path) -> None:
    worker = Guarded(keys)
    try:
        with pytest.raises(EndpointError, match="or it has none"):
            worker.launch(keys)
    finally:
        end(worker.process)


@pytest.mark.parametrize("garbage", [b"", b"\0" * 64, b"GET / HTTP/1.1\r\n\r\n", os.urandom(200)])
def test_garbage_ends_nothing(guarded: Guarded, garbage: bytes) -> None:
    with guarded.launch(guarded.keys) as llama:
        before = llama.forward(PROMPT)
        with socket.create_connection(("127.0.0.1", guarded.port), 1) as raw:
            raw.sendall(garbage)
            assert llama.forward(PROMPT).equal(before)


class Tap:
    """Passes one connection on to a port, and keeps what either side said."""

    def __init__(self, port: int) -> None:
        self.said, self.answered = bytearray(), bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._target = port
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        # The first is the client's look at whether anybody listens.
        self._listener.accept()[0].close()
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        back = threading.Thread(target=self._pass, args=(far, near, self.answered), daemon=True)
        back.start()
        self._pass(near, far, self.said)
        back.join(PATIENCE_S)
        near.close()
        far.close()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._threads[0].join(PATIENCE_S)
        self._listener.close()


def tapped(worker: Guarded, keys: Path | None) -> Tap:
    tap = Tap(worker.port)
    with closing(tap), worker.launch(keys, tap.port) as llama:
        llama.forward(PROMPT)
    return tap


def test_nothing_crosses_in_clear(guarded: Guarded, keys: Path) -> None:
    open_worker = Guarded(keys)
    try:
        plain = tapped(open_worker, None)
    finally:
        end(open_worker.process)
    hidden = tapped(guarded, guarded.keys)
    for word in (b"embedding", b"batch_linear"):
        assert word in plain.said
        assert word not in hidden.said


def test_what_was_said_once_cannot_be_said_again(guarded: Guarded) -> None:
    tap = tapped(guarded, guarded.keys)
    with socket.create_connection(("127.0.0.1", guarded.port), 1) as again:
        again.settimeout(0.5)
        with suppress(OSError):
            again.sendall(tap.said)
        heard = bytearray()
        with suppress(OSError):
            while data := again.recv(65536):
                heard += data
    # A greeting and a welcome at most; the first answer alone is longer than what an end says before it.
    assert len(heard) < 400 < len(tap.answered)
    assert guarded.serves()


def test_keys_are_not_shown() -> None:
    shown = repr(Keys(b"s" * 40, b"p" * 40, b"q" * 40))
    assert "sss" not in shown
