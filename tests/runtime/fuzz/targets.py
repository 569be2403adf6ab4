"""Fuzz targets: each takes any bytes, as one message or one file, and ends in a result or in a typed error.

An error must be typed, short, fit for a terminal, and come at once; the memory that a message costs is bounded by
its length. Everything else is raised as it comes, and is a defect.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from runtime import SplitError, load_checkpoint
from runtime.checkpoints.checkpoint import CONFIG_FILE
from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.gguf import convert
from runtime.checkpoints.tokenizer import TOKENIZER_FILE
from runtime.checkpoints.weights import INDEX_FILE, SINGLE_FILE, write_weights
from runtime.errors import CheckpointError, HandshakeError, ProtocolError, WorkerDied
from runtime.messages import decode_reply, decode_request, decode_welcome
from runtime.operations import Call
from runtime.rpc import RpcClient
from runtime.tensors import TensorSpec
from runtime.transports.arena import aligned
from runtime.transports.base import ClientChannel, Data
from tests.runtime.peers import (
    PATIENCE_S,
    FakeWorker,
    RawClient,
    RawSeqpacket,
    RealWorker,
    fake_worker,
    free_port,
    own_hello,
    small_checkpoint,
)

CORPUS = Path(__file__).parent / "corpus"
RIGHT = "right-"
"""Begins the name of a seed that is taken; every other is refused."""

BY_PLACE, BY_BYTES = "by-place", "by-bytes"
"""In the name of a message that carries its tensors so: right on one kind of transport, refused on the other."""

SESSION = 0x5E55105E55105E55
"""Stands in a request for the session that its conversation opened."""

DIGEST = b"0" * 64
"""Stands in a welcome for the digest of the trusted side's weights."""

FIELDS: Mapping[str, int] = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "max_position_embeddings": 32,
}
"""Of the model whose files are attacked: as small as one can be."""

TOKENS = 3

_SHARD_BYTES = 1024

_FIXED_BYTES = 64 << 10
_BYTES_PER_BYTE = 8  # of a message
_LONGEST_TEXT = 4000
_AT_ONCE_S = 10.0

Run = Callable[[bytes], SplitError | None]
"""Puts bytes in; returns the error in which that ended, None if they were taken."""


@dataclass(frozen=True)
class Target:
    """What is attacked. ``open`` prepares it, in a folder of its own, for as long as its context lasts.

    ``carries`` is how tensors cross, where they do; others are refused. ``decides`` says whether it refuses every
    seed that is not right: a decoder does not know the conversation.
    """

    corpus: str
    open: Callable[[Path], AbstractContextManager[Run]]
    carries: str | None = None
    decides: bool = True

    @property
    def seeds(self) -> list[Path]:
        """The files of the corpus."""
        return sorted((CORPUS / self.corpus).iterdir())

    def takes(self, seed: Path) -> bool:
        """Whether a seed is right here."""
        other = {BY_PLACE: BY_BYTES, BY_BYTES: BY_PLACE}.get(self.carries or "", " ")
        return seed.name.startswith(RIGHT) and other not in seed.name


def _ended(work: Callable[[], object], *typed: type[SplitError]) -> SplitError | None:
    started = (
        time.process_time()
    )  # others use the machine; who waits for ever is found out otherwise
    try:
        work()
    except typed as error:
        text = str(error)
        assert len(text) < _LONGEST_TEXT, f"an error of {len(text)} characters: {text[:200]}"
        assert text.isprintable(), f"an error that a terminal would obey: {text!r:.500}"
        found: SplitError | None = error
        # Nothing that the work made shall live on in it.
        error.__traceback__ = error.__cause__ = error.__context__ = None
    else:
        found = None
    assert time.process_time() - started < _AT_ONCE_S, "took too long"
    return found


# Decoders ---------------------------------------------------------------------------------------------


@contextmanager
def _decoder(decode: Callable[[Data], object], folder: Path) -> Iterator[Run]:
    def run(data: bytes) -> SplitError | None:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        found = _ended(lambda: decode(data), ProtocolError, HandshakeError)
        _, peak = tracemalloc.get_traced_memory()
        most = _FIXED_BYTES + _BYTES_PER_BYTE * len(data)
        assert peak - before <= most, f"{peak - before:,} bytes for a message of {len(data):,}"
        return found

    run(b"")  # what is made once is made now
    tracemalloc.start()
    try:
        yield run
    finally:
        tracemalloc.stop()


# Live conversations -------------------------------------------------------------------------------------


@contextmanager
def _worker(scheme: str, folder: Path) -> Iterator[Run]:
    """A real worker process; each message is the first of a session of its own."""
    address = f"127.0.0.1:{free_port()}" if scheme == "tcp" else f"{folder}/worker"
    stage = "shared-memory" if scheme == "unix" else "baseline"
    with (
        RealWorker(stage, f"{scheme}://{address}") as worker,
        worker.raw() as client,
    ):
        if isinstance(client, RawSeqpacket):
            client.bring_arena()
        yield partial(_attack_worker, client)


def _attack_worker(client: RawClient, data: bytes) -> SplitError | None:
    session = client.greet()["session"]
    message = data.replace(SESSION.to_bytes(8, "big"), session.to_bytes(8, "big"))

    def attack() -> None:
        answer = client.exchange(message)
        if "error" in answer:
            error = answer["error"]
            assert error["kind"] in ("protocol", "handshake"), error
            raise ProtocolError(error["field"], error["problem"])
        assert "session" in answer or answer["sequence"] == 1, answer

    return _ended(attack, ProtocolError)


@contextmanager
def _trusted(stage: str, asked: str, folder: Path) -> Iterator[Run]:
    """The trusted side; in each conversation the worker's answer to a hello, or to a call, is what is put in."""
    checkpoint = small_checkpoint(folder / "model", **FIELDS)
    with fake_worker(stage, checkpoint, folder) as fake, ExitStack() as connected:

        def connect() -> ClientChannel:
            connected.close()
            channel = fake.connect(connected)
            channel.set_timeout(PATIENCE_S)
            return channel

        channel = connect()

        digest = checkpoint.digest.encode()

        def run(data: bytes) -> SplitError | None:
            nonlocal channel
            data = data.replace(DIGEST, digest)
            if asked == "hello":
                fake.on_hello = lambda _: data
            else:
                fake.on_call = lambda _: data
            found = _ended(partial(_converse, fake, channel), SplitError)
            if isinstance(found, WorkerDied):
                channel = connect()  # the fake worker cannot send what is too long
            return found

        yield run


def _converse(fake: FakeWorker, channel: ClientChannel) -> None:
    """Shake hands and make a call, and no more of it: the next conversation has the same way."""
    config, stage = fake.checkpoint.config, fake.stage
    rpc = RpcClient(channel, config, stage.torch_dtype)
    rpc.handshake(own_hello(fake.checkpoint, stage.name))
    ids = TensorSpec(torch.int64, (1, TOKENS))
    result = TensorSpec(stage.torch_dtype, (1, TOKENS, config.hidden_size))
    rpc.prepare(aligned(ids.nbytes) + aligned(result.nbytes))
    (hidden,) = rpc.call(Call("embedding"), channel.empty(ids).zero_())
    assert TensorSpec.of(hidden) == result


# Files ------------------------------------------------------------------------------------------------


@contextmanager
def _file_of_a_model(name: str, folder: Path) -> Iterator[Run]:
    """A model's directory, whole and right but for the file ``name``."""
    model, file = folder / "model", folder / "model" / name
    right = small_checkpoint(model, **FIELDS)
    if name == INDEX_FILE:
        tensors = ((each, right.tensor(each).clone()) for each in right.expected_shapes())
        write_weights(model, tensors, shard_bytes=_SHARD_BYTES)
        (model / SINGLE_FILE).unlink()

    def load() -> None:
        checkpoint = load_checkpoint(model, cache_dir=folder / "cache", progress=False)
        for each, shape in checkpoint.expected_shapes().items():
            assert checkpoint.tensor(each).shape == shape
        tokenizer = checkpoint.tokenizer()
        for special_tokens in (False, True):
            ids = tokenizer.encode(
                "a text, 12 345 \N{GRINNING FACE}", special_tokens=special_tokens
            )
            tokenizer.decode(ids)

    def run(data: bytes) -> SplitError | None:
        file.unlink(missing_ok=True)  # what is mapped still is another
        file.write_bytes(data)
        return _ended(load, CheckpointError)

    yield run


@contextmanager
def _gguf(folder: Path) -> Iterator[Run]:
    file, cache, made = folder / "model.gguf", folder / "cache", folder / "made"

    def load() -> None:
        # In this process, where ``load_checkpoint`` starts one for each file.
        made.mkdir()
        convert(SteadyFile(file), made)
        checkpoint = load_checkpoint(made, cache_dir=cache, progress=False)
        for each, shape in checkpoint.expected_shapes().items():
            assert checkpoint.tensor(each).shape == shape
        with contextlib.suppress(CheckpointError):
            checkpoint.tokenizer()

    def run(data: bytes) -> SplitError | None:
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        try:
            return _ended(load, CheckpointError)
        finally:
            for made_now in (cache, made):
                shutil.rmtree(made_now, ignore_errors=True)

    yield run


TARGETS: Mapping[str, Target] = {
    "request": Target("request", partial(_decoder, decode_request), decides=False),
    "reply": Target("reply", partial(_decoder, decode_reply), decides=False),
    "welcome": Target("welcome", partial(_decoder, decode_welcome), decides=False),
    "worker-unix": Target("request", partial(_worker, "unix"), BY_PLACE),
    "worker-ipc": Target("request", partial(_worker, "ipc"), BY_BYTES),
    "worker-tcp": Target("request", partial(_worker, "tcp"), BY_BYTES),
    "trusted-unix": Target("reply", partial(_trusted, "shared-memory", "call"), BY_PLACE),
    "trusted-ipc": Target("reply", partial(_trusted, "baseline", "call"), BY_BYTES),
    "handshake": Target("welcome", partial(_trusted, "shared-memory", "hello")),
    "config": Target("config", partial(_file_of_a_model, CONFIG_FILE)),
    "index": Target("index", partial(_file_of_a_model, INDEX_FILE)),
    "safetensors": Target("safetensors", partial(_file_of_a_model, SINGLE_FILE)),
    "tokenizer": Target("tokenizer", partial(_file_of_a_model, TOKENIZER_FILE)),
    "gguf": Target("gguf", _gguf),
}
