"""Both ends of the boundary played by hand, so that either side can be attacked by the other."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import mmap
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgpack
import msgspec
import psutil
import torch
import zmq

from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.checkpoints.random_weights import write_random_checkpoint
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.operations import Call, output_specs
from runtime.tensors import DTYPE_NAMES, DTYPES, TensorSpec
from runtime.transports.base import ClientChannel
from runtime.transports.registry import TRANSPORTS, connect
from runtime.transports.shared_memory import SharedMemoryClient

MODEL = "tiny"
PATIENCE_S = 20.0  # for what must happen at once: a hang shows, a busy machine does not
ARENA_BYTES = 1 << 20

Fields = dict[str, Any]


@functools.cache
def tiny() -> Checkpoint:
    return load_checkpoint(MODEL, progress=False)


def small_checkpoint(directory: Path, **fields: Any) -> Checkpoint:
    """A model of one narrow layer, unless ``fields`` of its config.json say otherwise."""
    config = ModelConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            **fields,
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_random_checkpoint(directory, config, seed=1)
    return load_checkpoint(directory, progress=False)


def own_hello(checkpoint: Checkpoint, stage: str) -> Hello:
    """What an honest trusted side says first."""
    row = STAGES[stage]
    return Hello(
        protocol=PROTOCOL_VERSION,
        config=checkpoint.config.to_json_dict(),
        digest=checkpoint.digest,
        dtype=row.dtype,
        device="cpu",
        granularity=row.granularity,
    )


def hello(checkpoint: Checkpoint, stage: str) -> Fields:
    """The same as it crosses."""
    return dict(msgspec.to_builtins(own_hello(checkpoint, stage)))


def nested(depth: int) -> Any:
    """A list in a list in a list; not for printing."""
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


def packed(fields: object) -> bytes:
    return bytes(msgpack.packb(fields))


# What a process holds ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """What could be left behind."""

    descriptors: int
    arenas: int
    children: int

    @classmethod
    def of(cls, pid: int | None = None) -> Self:
        if pid is None:
            _send_without_copying()
        gc.collect()
        process = psutil.Process(pid)
        return cls(process.num_fds(), arena_mappings(process.pid), len(process.children()))


@functools.cache
def _send_without_copying() -> None:
    """Let pyzmq start its collector, whose thread and sockets a process keeps from the first such message on."""
    with (
        zmq.Context() as context,
        context.socket(zmq.PAIR) as sender,
        context.socket(zmq.PAIR) as receiver,
    ):
        receiver.bind("inproc://once")
        sender.connect("inproc://once")
        sender.send(bytes(1 << 20), copy=False)
        receiver.recv()


def arena_mappings(pid: int | None = None) -> int:
    """How many shared arenas a process has mapped."""
    return Path(f"/proc/{pid or os.getpid()}/maps").read_text().count("memfd:split-arena")


def mappings(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("\n")


class Ending:
    """Watches a process that is no child of ours, from before its end on."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def comes_within(self, seconds: float) -> bool:
        """Whether the process ends; a zombie that nobody has reaped yet counts as ended."""
        ended = bool(select.select([self._descriptor], [], [], seconds)[0])
        os.close(self._descriptor)
        return ended


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """For what sends no message: whether ``condition`` comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def leftovers(folder: Path) -> list[str]:
    """What the runtime keeps in a temporary folder."""
    return [str(path) for path in folder.rglob("*")]


# A real worker, and an attacker in the trusted side's place ------------------------------------------


class RawClient(ABC):
    """Speaks a transport without any of the runtime's own checks."""

    def __init__(self, checkpoint: Checkpoint, stage: str) -> None:
        self._hello = hello(checkpoint, stage)
        self.session = 0
        self.sequence = 0

    @abstractmethod
    def send(self, raw: bytes) -> None: ...

    @abstractmethod
    def receive(self) -> bytes: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def exchange(self, message: bytes | Mapping[str, Any]) -> Fields:
        self.send(message if isinstance(message, bytes) else packed(message))
        answer = msgpack.unpackb(self.receive())
        assert isinstance(answer, dict)
        return answer

    def greet(self) -> Fields:
        """Open a new session."""
        answer = self.exchange({"hello": self._hello})
        # The worker may not yet have noticed that its last client has gone.
        deadline = time.monotonic() + PATIENCE_S
        while answer.get("error", {}).get("kind") == "busy" and time.monotonic() < deadline:
            time.sleep(0.01)
            answer = self.exchange({"hello": self._hello})
        self.session, self.sequence = answer["session"], 0
        return answer

    def request(self, operation: str, inputs: Sequence[Fields] = (), **fields: Any) -> Fields:
        """A well-formed request, the next of its session, with ``fields`` changed."""
        self.sequence += 1
        return {
            "session": self.session,
            "sequence": self.sequence,
            "operation": operation,
            "layer": None,
            "modules": [],
            "transpose_b": False,
            "cache": [],
            "inputs": list(inputs),
            "outputs": [],
            **fields,
        }


class RawZmq(RawClient):
    def __init__(self, endpoint: str, checkpoint: Checkpoint, stage: str) -> None:
        super().__init__(checkpoint, stage)
        self.context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self.context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def send(self, raw: bytes) -> None:
        self.socket.send(raw)

    def receive(self) -> bytes:
        return self.socket.recv()

    def close(self) -> None:
        self.context.destroy(linger=0)


class RawSeqpacket(RawClient):
    def __init__(self, endpoint: str, checkpoint: Checkpoint, stage: str) -> None:
        super().__init__(checkpoint, stage)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE_S)
        self.memory: mmap.mmap | None = None
        try:
            self.socket.connect(endpoint.removeprefix("unix://"))
        except OSError:
            self.socket.close()
            raise

    def send(self, raw: bytes) -> None:
        self.socket.send(raw)

    def receive(self) -> bytes:
        raw = self.socket.recv(1 << 20)
        if not raw:
            raise ConnectionError("the worker ended the session")
        return raw

    def bring(self, descriptors: Sequence[int], raw: bytes = b"arena") -> bytes:
        """Send descriptors; return the raw answer."""
        socket.send_fds(self.socket, [raw], list(descriptors))
        return self.receive()

    def bring_arena(self, size: int = ARENA_BYTES) -> None:
        """Give the worker good memory, full of zeros."""
        descriptor = sealed_memory(size)
        try:
            assert self.bring([descriptor]) == b"mapped"
            self.memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self.socket.close()
        if self.memory is not None:
            self.memory.close()


def sealed_memory(size: int, *, sparse: bool = False) -> int:
    """A memfd as the runtime makes them, or one whose pages do not exist yet."""
    descriptor = os.memfd_create("test-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if sparse or not size:
        os.ftruncate(descriptor, size)
    else:
        os.posix_fallocate(descriptor, 0, size)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def start_worker(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """A worker as a user starts it by hand."""
    command = [sys.executable, "-m", "runtime.worker", "--threads", "1", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **settings)


def run_worker(*arguments: str, **settings: Any) -> tuple[int, list[str]]:
    """Start a worker that is expected to end by itself; return its status and what it said."""
    process = start_worker(*arguments, **settings)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        end(process)
    return process.returncode, errors.splitlines()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


class RealWorker:
    """A worker process at an address, for one attacker after another."""

    def __init__(self, stage: str, endpoint: str, model: str = MODEL) -> None:
        self.stage, self.endpoint = stage, endpoint
        self.checkpoint = tiny() if model == MODEL else load_checkpoint(model, progress=False)
        self.process = start_worker("--model", model, "--stage", stage, "--endpoint", endpoint)
        if endpoint.startswith("unix://"):
            path = Path(endpoint.removeprefix("unix://"))
            # The socket exists from bind on; connections are taken a moment later, from listen on.
            assert wait_until(lambda: path.exists() or self.process.poll() is not None)
            assert wait_until(lambda: self._listens() or self.process.poll() is not None)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), self.raw():
            return True
        return False

    def raw(self) -> RawClient:
        kind = RawSeqpacket if self.endpoint.startswith("unix://") else RawZmq
        return kind(self.endpoint, self.checkpoint, self.stage)

    def launch(self, **settings: Any) -> SplitLlama:
        """An honest client; ``SplitLlama.launch`` itself once the worker listens."""
        with self.raw() as client:
            client.greet()
        return SplitLlama.launch(
            self.checkpoint, self.stage, endpoint=self.endpoint, timeout_s=PATIENCE_S, **settings
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs and answers; one that is about to end does not."""
        try:
            with self.raw() as client:
                client.greet()
        except (OSError, zmq.ZMQError):
            return False
        return self.process.poll() is None

    def close(self) -> None:
        end(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# An honest trusted side, and a hostile worker --------------------------------------------------------

Reply = Fields | bytes | list[bytes] | None
Answer = Callable[[Fields], Reply]
"""From a decoded request to a reply: fields or raw bytes; a list has several parts, None is silence."""


class FakeWorker(ABC):
    """A worker in a thread: right about everything that ``on_hello`` and ``on_call`` leave to it."""

    def __init__(self, checkpoint: Checkpoint, stage: str) -> None:
        self.checkpoint, self.stage = checkpoint, STAGES[stage]
        self.calls = 0
        self.on_hello: Answer = self.greet
        self.on_call: Answer = self.reply

    def greet(self, request: Fields) -> Fields:
        """The right answer to a hello."""
        return {"hello": request["hello"], "session": 1, "worker": {"pid": os.getpid()}}

    def reply(self, request: Fields) -> Fields:
        """A reply of the right form: zeros, computed in no time."""
        call = Call(
            request["operation"],
            request["layer"],
            tuple(request["modules"]),
            request["transpose_b"],
        )
        inputs = [TensorSpec(DTYPES[x["dtype"]], tuple(x["shape"])) for x in request["inputs"]]
        specs = output_specs(self.checkpoint.config, self.stage.torch_dtype, call, inputs)
        return {
            "sequence": request["sequence"],
            "outputs": []
            if request["outputs"]
            else [
                {
                    "dtype": DTYPE_NAMES[spec.dtype],
                    "shape": spec.shape,
                    "payload": self.payload(spec),
                }
                for spec in specs
            ],
            "deserialize_s": 0.0,
            "device_s": 0.0,
            "serialize_s": 0.0,
            "payload_copies": 0,
        }

    @abstractmethod
    def payload(self, spec: TensorSpec) -> bytes | int: ...

    @abstractmethod
    def connect(self, cleanup: ExitStack) -> ClientChannel:
        """The trusted side's end of a way to this worker, for as long as ``cleanup`` is not closed."""

    def open(self, timeout_s: float = PATIENCE_S) -> SplitLlama:
        """Shake hands with this worker."""
        with ExitStack() as cleanup:
            channel = self.connect(cleanup)
            channel.set_timeout(timeout_s)
            owned = ExitStack()
            llama = SplitLlama(self.checkpoint, self.stage, channel, "cpu", owned)
            owned.push(cleanup.pop_all())
        return llama

    def _answer(self, raw: bytes) -> bytes | list[bytes] | None:
        request = msgpack.unpackb(raw)
        if "hello" in request:
            answer = self.on_hello(request)
            self.calls = 0
        else:
            answer = self.on_call(request)
            self.calls += 1
        return packed(answer) if isinstance(answer, dict) else answer


class FakeSeqpacketWorker(FakeWorker):
    """One session after another, each over a pair of sockets."""

    def __init__(self, checkpoint: Checkpoint, stage: str) -> None:
        super().__init__(checkpoint, stage)
        self.on_arena: Callable[[], bytes | None] = lambda: b"mapped"
        self.connection: socket.socket | None = None

    def payload(self, spec: TensorSpec) -> int:
        return 0

    def connect(self, cleanup: ExitStack) -> ClientChannel:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = theirs
        thread = threading.Thread(target=self._serve, args=[theirs], daemon=True)
        thread.start()
        cleanup.callback(thread.join, PATIENCE_S)
        channel = SharedMemoryClient(ours)
        cleanup.callback(channel.close)
        return channel

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while raw := connection.recv(1 << 20):
                answer = self.on_arena() if raw == b"arena" else self._answer(raw)
                if answer is None:
                    continue
                for message in answer if isinstance(answer, list) else [answer]:
                    connection.send(message)


class FakeZmqWorker(FakeWorker):
    """One REP socket for every session of a test."""

    def __init__(self, checkpoint: Checkpoint, stage: str, folder: Path) -> None:
        super().__init__(checkpoint, stage)
        by_path = "ipc" in TRANSPORTS[self.stage.transport].routes
        self.endpoint = f"ipc://{folder}/fake" if by_path else f"tcp://127.0.0.1:{free_port()}"
        self._context = zmq.Context()
        # A ROUTER can leave a request unanswered; REP could not go on after that.
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.endpoint)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def payload(self, spec: TensorSpec) -> bytes:
        return bytes(spec.nbytes)

    def connect(self, cleanup: ExitStack) -> ClientChannel:
        channel = connect(self.endpoint, self.stage.transport)
        cleanup.callback(channel.close)
        return channel

    def _serve(self) -> None:
        with contextlib.suppress(zmq.ContextTerminated), self.socket:
            while True:
                peer, empty, raw, *_ = self.socket.recv_multipart()
                answer = self._answer(raw)
                if answer is not None:
                    parts = answer if isinstance(answer, list) else [answer]
                    self.socket.send_multipart([peer, empty, *parts])

    def close(self) -> None:
        self._context.term()
        self._thread.join(PATIENCE_S)


@contextlib.contextmanager
def fake_worker(stage: str, checkpoint: Checkpoint, folder: Path) -> Iterator[FakeWorker]:
    if STAGES[stage].transport == "shared-memory":
        yield FakeSeqpacketWorker(checkpoint, stage)
        return
    fake = FakeZmqWorker(checkpoint, stage, folder)
    try:
        yield fake
    finally:
        fake.close()


def worker_pid(llama: SplitLlama) -> int:
    pid = llama.worker_info["pid"]
    assert isinstance(pid, int)
    return pid


def watching(llama: SplitLlama) -> psutil.Process:
    """The process that watches the worker."""
    parent = psutil.Process(worker_pid(llama)).parent()
    assert parent is not None
    return parent


def busy_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def kill_when_computing(pid: int) -> threading.Thread:
    """Kill a worker as soon as it has computed for some hundredths of a second."""
    before = busy_s(pid)

    def kill() -> None:
        wait_until(lambda: busy_s(pid) > before + 0.02)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def forward_until_it_fails(llama: SplitLlama, prompts: list[list[int]]) -> None:
    for _ in range(1000):
        llama.forward(prompts)


def run_script(code: str, *before: str, arguments: Sequence[str] = ()) -> None:
    finished = subprocess.run(
        [*before, sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr


_PROMPT = list(range(40))


def logits_of(worker: RealWorker) -> torch.Tensor:
    with worker.launch() as llama:
        assert llama.worker_info["pid"] == worker.process.pid
        return llama.forward(_PROMPT)


@contextlib.contextmanager
def still_serving(worker: RealWorker) -> Iterator[None]:
    """The same process computes the same thing after whatever happens inside."""
    before = logits_of(worker)
    held = Footprint.of(worker.process.pid)
    yield
    assert worker.alive, "the worker's process ended"
    assert torch.equal(logits_of(worker), before)
    assert wait_until(lambda: Footprint.of(worker.process.pid) == held), (
        f"{held} became {Footprint.of(worker.process.pid)}"
    )


def assert_refused(answer: Fields, field: str, kinds: tuple[str, ...] = ("protocol",)) -> None:
    """The answer is a typed refusal that names ``field``, a regular expression."""
    assert set(answer) == {"error"}, f"was answered with results: {answer!r:.200}"
    error = answer["error"]
    assert set(error) == {"kind", "field", "problem"}
    assert error["kind"] in kinds, error
    assert re.fullmatch(field, error["field"]), error
    assert error["problem"]
