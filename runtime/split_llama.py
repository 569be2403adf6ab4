"""A split LLaMA as its user has it: launched, run by one thread at a time, closed."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import torch

from runtime.caches import Window
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.checkpoints.tokenizer import Tokenizer
from runtime.chunks import chunks, in_one_piece
from runtime.context import Context, new_number
from runtime.delay_injection import DelayedRpcClient, Delays
from runtime.descriptors import ZEROMQ, require_descriptors
from runtime.devices import DEVICES
from runtime.errors import InputError, WorkerBusy, WorkerDied, WorkerError
from runtime.forward import ForwardPass
from runtime.generation import Generation, GenerationOptions
from runtime.launch import WorkerProcess
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.openmp import IdleTeams
from runtime.operations import Call
from runtime.rope import max_length
from runtime.rpc import RpcClient
from runtime.sampling import Sampling
from runtime.stages import Stage, find_stage
from runtime.token_ids import TokenIds, checked_token_ids
from runtime.trace import Trace
from runtime.traffic import live_bytes
from runtime.transports.base import ClientChannel
from runtime.transports.registry import TRANSPORTS, connect

Llama = TypeVar("Llama", bound="SplitLlama")

_CLOSED = "worker: this model is closed; launch another"
_LOST = "context: its worker has ended; open another, and append everything again"
_MOST_THREADS = 2**15
_TURN_S = 0.1  # between two questions whether a worker is free
_LONGEST_S = 1_000_000  # more does not fit into a wait of the kernel's, in milliseconds


class SplitLlama:
    """Drives an untrusted worker through forward passes, and owns what they need until it is closed."""

    _worker: WorkerProcess | None = None
    _restart: _Restart | None = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        stage: Stage,
        channel: ClientChannel,
        device: str,
        cleanup: ExitStack,
        delays: Delays | None = None,
    ) -> None:
        """Shake hands over an open way to a worker. Most callers want ``launch``.

        ``cleanup`` is run by ``close``, or when nobody has a reference to this object any more.

        Raises:
            HandshakeError, WorkerError, ProtocolError: if this worker cannot serve this model.
        """
        self.config: ModelConfig = checkpoint.config
        self.stage = stage
        self.last_trace = Trace((), 0.0)
        self._checkpoint, self._device, self._delays = checkpoint, device, delays
        self._process = os.getpid()
        self._lock = threading.RLock()  # also closed from within a call, by a signal's handler
        self._shake_hands(channel)
        self._end_tokens = checkpoint.eos_token_ids
        # Numbers of caches that nobody has a context of any more: whoever calls next has them closed.
        self.abandoned: deque[int] = deque()
        # Without a reference to this object: it would never be let go of then.
        self._release = weakref.finalize(self, _release, self._process, cleanup)

    def _shake_hands(self, channel: ClientChannel) -> None:
        connection = (channel, self.config, self.stage.torch_dtype)
        rpc = (
            DelayedRpcClient(*connection, delays=self._delays)
            if self._delays
            else RpcClient(*connection)
        )
        self.worker_info: Mapping[str, Any] = rpc.handshake(
            Hello(
                protocol=PROTOCOL_VERSION,
                config=self.config.to_json_dict(),
                digest=self._checkpoint.digest,
                dtype=self.stage.dtype,
                device=self._device,
                granularity=self.stage.granularity,
            )
        )
        self._channel, self._rpc = channel, rpc
        self._pass = ForwardPass(self._checkpoint, self.stage, rpc)

    @classmethod
    def launch(
        cls,
        checkpoint: Checkpoint,
        stage: str = "baseline",
        device: str = "cpu",
        *,
        endpoint: str | None = None,
        keys: str | Path | None = None,
        threads: int | None = None,
        start_timeout_s: float = 300.0,
        timeout_s: float = 60.0,
        restart: bool = False,
        slowdown: Mapping[str, float] | None = None,
    ) -> Self:
        """Start a worker, or use the one that runs at ``endpoint``, and agree with it on the model.

        ``keys`` is the folder of a tcp endpoint's keys (``python -m runtime.worker --generate-keys``), which
        endpoints beyond this host need. ``threads`` is the number of compute threads of a worker that is started
        here (default: as many as torch uses in this process). ``start_timeout_s`` bounds the worker's start, and
        the wait for one that serves another client; ``timeout_s`` each call. With ``restart``, ``forward`` replaces
        a worker whose process has ended; see there. ``slowdown`` makes phases really slower, by factors, to see an
        alarm go off: see ``runtime.delay_injection``.

        Raises:
            InputError: for an unknown stage or device, or a number that is not positive.
            CheckpointError: if the model's files changed since it was opened.
            EndpointError: if nobody can be reached at ``endpoint``, or not with these keys.
            HandshakeError: if the worker has another protocol, model, dtype or device.
            WorkerBusy: if it serves another client all the time.
            WorkerError: if it ends or does not answer.
        """
        given: object = checkpoint
        if not isinstance(given, Checkpoint):
            raise InputError(
                f"checkpoint: must be what load_checkpoint returns, got {type(given).__name__}"
            )
        checkpoint.check_unchanged()
        row = find_stage(stage)
        if device not in DEVICES:
            raise InputError(f"device: {device!r} is unknown; choose one of {', '.join(DEVICES)}")
        _check_number("threads", threads, "a whole number", _MOST_THREADS, (int, type(None)))
        for name, value in (("start_timeout_s", start_timeout_s), ("timeout_s", timeout_s)):
            _check_number(name, value, "seconds", _LONGEST_S, (int, float))
        if keys is not None and endpoint is None:
            raise InputError("keys: only for the endpoint of a worker that runs already")
        if restart and endpoint is not None:
            raise InputError("restart: only for a worker that is started here, not for an endpoint")
        delays = Delays(slowdown) if slowdown else None
        if not TRANSPORTS[row.transport].shares_memory:
            require_descriptors(ZEROMQ)
        with _on_the_host(), ExitStack() as cleanup:
            cleanup.enter_context(IdleTeams())
            workers = cleanup.enter_context(ExitStack())
            process = None
            start = partial(
                WorkerProcess, checkpoint.source, row, device, threads or torch.get_num_threads()
            )
            if endpoint is None:
                process = start()
                workers.callback(process.close)
                channel = process.channel
            else:
                channel = connect(endpoint, row.transport, keys)
                workers.callback(channel.close)
            owned = ExitStack()
            shake_hands = partial(cls, checkpoint, row, channel, device, owned, delays)
            with _starting(process, channel, start_timeout_s, timeout_s):
                llama = _when_free(shake_hands, start_timeout_s)
            owned.push(cleanup.pop_all())
            if restart:
                llama._restart = _Restart(start, workers, start_timeout_s, timeout_s)
            llama._worker = process
            return llama

    @torch.no_grad()
    def forward(self, input_ids: TokenIds) -> torch.Tensor:
        """Return the logits of each prompt's last position, (batch, vocabulary) float32.

        ``input_ids`` are the tokens of one prompt, or of several of equal length: (tokens,) or (batch, tokens).

        If this object was launched with ``restart``, a worker that has ended is replaced, once in a forward, and
        what its end broke is computed again; ``last_trace.restarts`` says so. A worker that hangs, refuses or
        answers nonsense is not replaced. Contexts that the old worker held are lost.

        Raises:
            InputError: for an empty prompt, an id out of the vocabulary, or too many tokens.
            WorkerError, ProtocolError: if the worker fails or answers nonsense; launch a new one then.
            ArenaError: if there is not enough shared memory for a prompt of this length.
        """
        ids = checked_token_ids(input_ids, self.config)
        with self.turn():
            # Noticed here by an earlier call; or not yet, and also after a start that failed.
            has_ended = self._rpc.died or (self._worker is not None and self._worker.has_ended)
            if self._restart is None or not has_ended:
                try:
                    return self._forward(ids)
                except WorkerDied:
                    if self._restart is None:
                        raise
            # Not where the error is handled: what it holds, tensors among it, is let go of first.
            self._replace_worker(self._restart)
            logits = self._forward(ids)
            self.last_trace = replace(self.last_trace, restarts=1)
            return logits

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids.shape[1]
        with self._traced():
            if in_one_piece(tokens):
                return self._logits(ids, Window(0, tokens))
            number = new_number()
            try:
                return self._extend(Window(0, tokens, cache=number), ids, tokens)
            finally:
                self._give_back(number)

    def _replace_worker(self, restart: _Restart) -> None:
        restart.workers.close()
        with ExitStack() as resources:
            self._worker = process = restart.start()
            resources.callback(process.close)
            with _starting(process, process.channel, restart.start_timeout_s, restart.timeout_s):
                self._shake_hands(process.channel)
            restart.workers.push(resources.pop_all())
        self.abandoned.clear()  # they were the old one's
        if self._restart is None:
            raise WorkerError(_CLOSED)  # meanwhile, by another thread

    def open_context(self, batch: int = 1, capacity: int | None = None) -> Context:
        """Return an empty text, of ``batch`` conversations, that can grow to ``capacity`` tokens.

        Its keys and values stay with the worker: ``runtime.caches.cache_bytes`` of them. ``capacity`` is at most
        the model's positions, which is the default.

        Raises:
            InputError: for a batch or a capacity out of range.
        """
        return Context(self, batch, max_length(self.config) if capacity is None else capacity)

    @overload
    def generate(
        self,
        input_ids: TokenIds,
        max_new_tokens: int = 64,
        *,
        stream: Literal[True],
        **options: Unpack[GenerationOptions],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        input_ids: TokenIds,
        max_new_tokens: int = 64,
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerationOptions],
    ) -> torch.Tensor: ...

    def generate(
        self,
        input_ids: TokenIds,
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Iterable[int | str] = (),
        tokenizer: Tokenizer | None = None,
        context: Context | None = None,
        ignore_eos: bool = False,
        stream: bool = False,
    ) -> torch.Tensor | Generation:
        """Continue prompts of equal length, (tokens,) or (batch, tokens); the choice of tokens is made here.

        Returns (batch, tokens + new tokens), or with ``stream`` a ``Generation``, which yields each new token when
        it is there. It ends after ``max_new_tokens``, or where each prompt has come to one of the checkpoint's end
        tokens or of ``stop``: token ids, and strings, which need ``tokenizer``. See ``runtime.sampling.Sampling``
        for the other options; ``ignore_eos`` goes on after end tokens. With ``context``, ``input_ids`` continue
        what that holds, and it stays open; the repetition penalty knows ``input_ids`` and the answer, and the
        answer's last token is chosen, not appended.

        Raises:
            InputError: for an option out of range, or more tokens than the context or the model takes.
            WorkerError, ProtocolError, ArenaError: as ``forward``.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        ids = checked_token_ids(input_ids, self.config)
        end_tokens = () if ignore_eos else self._end_tokens
        generation = Generation(
            self, ids, max_new_tokens, sampling, end_tokens, stop, tokenizer, context
        )
        return generation if stream else generation.finish()

    @torch.no_grad()
    def extend(self, window: Window, ids: torch.Tensor, capacity: int) -> torch.Tensor:
        """Append checked ``ids`` (batch, tokens) to a context's cache, in pieces; return the last logits.

        ``capacity`` is what a cache that does not exist yet is opened with. If it fails, the cache is as before.
        """
        with self._traced():
            return self._extend(window, ids, capacity)

    def _extend(self, window: Window, ids: torch.Tensor, capacity: int) -> torch.Tensor:
        batch, tokens = ids.shape
        number, *_ = window.numbers
        if number not in self._rpc.caches:
            if window.start:
                raise WorkerError(_LOST)
            self._rpc.call(Call("open_cache"), cache=(number, batch, capacity))
        try:
            *pieces, last = (
                replace(window, start=start, rows=rows, text=window.end)
                for start, rows in chunks(self.stage.granularity, tokens, window.start)
            )
            for piece in pieces:
                part = ids[:, piece.start - window.start : piece.end - window.start]
                self._prepare(part, piece)
                self._pass.append(part, piece)
            return self._logits(ids[:, -last.rows :], last)
        except BaseException:
            # For want of memory, or on Ctrl-C: as if nothing had been asked.
            if not self._rpc.broken:
                self._rpc.call(Call("trim_cache"), cache=(number, window.start))
            raise

    def trim(self, number: int, length: int) -> None:
        """Cut a context's cache, which the worker has, to its first ``length`` tokens."""
        with self._traced():
            if number not in self._rpc.caches:
                raise WorkerError(_LOST)
            self._rpc.call(Call("trim_cache"), cache=(number, length))

    def close_abandoned(self) -> None:
        """Have the worker give back what nobody has a context of any more, unless all is over anyway."""
        if self._release.alive and not self._rpc.broken and os.getpid() == self._process:
            with self._calling():
                pass

    def _logits(self, ids: torch.Tensor, window: Window) -> torch.Tensor:
        self._prepare(ids, window)
        return self._pass.logits(ids, window)

    def _prepare(self, ids: torch.Tensor, window: Window) -> None:
        batch, tokens = ids.shape
        self._rpc.prepare(live_bytes(self.config, self.stage, tokens, batch, window.end))

    @contextmanager
    def _traced(self) -> Iterator[None]:
        """Call the worker, and remember where the time went."""
        with self._calling():
            started = time.perf_counter()
            yield
            self.last_trace = Trace(tuple(self._rpc.records), time.perf_counter() - started)

    def ping(self) -> float:
        """Make a call that carries no tensor and return its round trip in seconds.

        Raises:
            WorkerError, ProtocolError: as ``forward``.
        """
        with self._calling():
            self._rpc.call(Call("ping"))
            (record,) = self._rpc.records
            self.last_trace = Trace((record,), record.total_s)
            return record.total_s

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread at a time talk to the worker, in the process that launched it, until it is closed.

        A thread whose turn it is may take it again.

        Raises:
            WorkerError: in a fork of that process, and after it is closed.
        """
        if os.getpid() != self._process:
            raise WorkerError(
                "worker: it answers the process that launched it, and this is a fork of that; "
                "launch another in each process"
            )
        with self._lock:
            if not self._release.alive:
                raise WorkerError(_CLOSED)
            with _on_the_host():
                yield

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Take the turn for calls whose records begin anew."""
        with self.turn():
            while self.abandoned and not self._rpc.broken:
                self._give_back(self.abandoned.popleft())
            self._rpc.records.clear()
            yield

    def _give_back(self, number: int) -> None:
        if number in self._rpc.caches and not self._rpc.broken:
            self._rpc.call(Call("close_cache"), cache=(number,))

    def close(self) -> None:
        """End the worker that this object started, and release everything. Closing twice is allowed.

        A call that another thread is in the middle of fails with a WorkerError; of a worker that was not
        started here its answer is waited for, until its deadline.
        """
        if os.getpid() != self._process:
            return  # a fork's: everything is its parent's
        self._restart = None
        if self._worker is not None:
            self._worker.end()
        with self._lock:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _when_free(shake_hands: Callable[[], Llama], patience_s: float) -> Llama:
    """Shake hands, again and again as long as the worker serves another client."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return shake_hands()
        except WorkerBusy:
            if time.monotonic() > until:
                raise
        time.sleep(_TURN_S)


def _on_the_host() -> AbstractContextManager[object]:
    """Let tensors that are made meanwhile lie in host memory, whatever default device the caller has set."""
    device = torch.get_default_device()
    return nullcontext() if device.type == "cpu" else torch.device("cpu")


@dataclass(frozen=True)
class _Restart:
    """How to start a worker in the place of one that has ended. ``workers`` closes that one."""

    start: Callable[[], WorkerProcess]
    workers: ExitStack
    start_timeout_s: float
    timeout_s: float


@contextmanager
def _starting(
    process: WorkerProcess | None, channel: ClientChannel, start_timeout_s: float, timeout_s: float
) -> Iterator[None]:
    """Shake hands inside: a worker has its own deadline for its start, and says why it ends there."""
    channel.set_timeout(start_timeout_s)
    try:
        yield
    except WorkerDied as error:
        words = process.stderr_tail() if process else ""
        raise (WorkerDied(f"worker: ended at its start: {words}") if words else error) from error
    channel.set_timeout(timeout_s)
    if process:
        process.connected()


def _check_number(name: str, given: Any, wanted: str, most: int, kinds: tuple[type, ...]) -> None:
    if type(given) in kinds and (given is None or 0 < given <= most):
        return
    raise InputError(f"{name}: must be {wanted}, above 0 and at most {most:,}, got {given!r}")


def _release(process: int, cleanup: ExitStack) -> None:
    """Run ``cleanup``, unless this process is a fork of the one whose it is."""
    if os.getpid() == process:
        cleanup.close()
