"""The trusted side: a LLaMA forward pass, written once for all stages.

Shapes in comments: B prompts, S tokens, H heads, KV key/value heads, G = H / KV, D head size.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Self

import torch

from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.delay_injection import DelayedRpcClient, Delays
from runtime.devices import DEVICES
from runtime.devices.weights import layer_norms
from runtime.errors import InputError, WorkerDied, WorkerError
from runtime.launch import WorkerProcess
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.nonlinear import apply_rope, causal_softmax, rms_norm, silu_mul
from runtime.openmp import IdleTeams
from runtime.operations import Call
from runtime.rope import RotaryEmbedding, max_length
from runtime.rpc import RpcClient
from runtime.stages import Stage, find_stage
from runtime.tensors import TensorSpec
from runtime.trace import Trace
from runtime.traffic import live_bytes
from runtime.transports.base import ClientChannel
from runtime.transports.registry import connect

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_MOST_THREADS = 2**15
_LONGEST_S = 1_000_000  # more does not fit into a wait of the kernel's, in milliseconds

TokenIds = torch.Tensor | Sequence[int] | Sequence[Sequence[int]]


class SplitLlama:
    """Drives an untrusted worker through a forward pass and keeps the non-linear operations to itself."""

    _worker: WorkerProcess | None = None

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
        self._channel = channel
        self._process = os.getpid()
        self._lock = threading.RLock()  # also closed from within a call, by a signal's handler
        conversation = (channel, self.config, stage.torch_dtype)
        self._rpc = (
            DelayedRpcClient(*conversation, delays=delays) if delays else RpcClient(*conversation)
        )
        self.worker_info: Mapping[str, Any] = self._rpc.handshake(
            Hello(
                protocol=PROTOCOL_VERSION,
                config=self.config.to_json_dict(),
                digest=checkpoint.digest,
                dtype=stage.dtype,
                device=device,
                granularity=stage.granularity,
            )
        )
        dtype = stage.torch_dtype
        self._rope = RotaryEmbedding(self.config)
        self._final_norm = checkpoint.tensor("model.norm.weight").to(dtype)
        self._norms = [
            layer_norms(checkpoint, layer, dtype) for layer in range(self.config.num_layers)
        ]
        # Without a reference to this object: it would never be let go of then.
        self._release = weakref.finalize(self, _release, self._process, cleanup)

    @classmethod
    def launch(
        cls,
        checkpoint: Checkpoint,
        stage: str = "baseline",
        device: str = "cpu",
        *,
        endpoint: str | None = None,
        threads: int | None = None,
        start_timeout_s: float = 300.0,
        timeout_s: float = 60.0,
        slowdown: Mapping[str, float] | None = None,
    ) -> Self:
        """Start a worker, or use the one that runs at ``endpoint``, and agree with it on the model.

        ``threads`` is the number of compute threads of a worker that is started here (default: as many as
        torch uses in this process). ``start_timeout_s`` bounds the worker's start, ``timeout_s`` each call.
        ``slowdown`` makes phases really slower, by factors, to see an alarm go off: see
        ``runtime.delay_injection``.

        Raises:
            InputError: for an unknown stage or device, or a number that is not positive.
            EndpointError: if nobody can be reached at ``endpoint``.
            HandshakeError: if the worker has another protocol, model, dtype or device.
            WorkerError: if it ends or does not answer.
        """
        given: object = checkpoint
        if not isinstance(given, Checkpoint):
            raise InputError(
                f"checkpoint: must be what load_checkpoint returns, got {type(given).__name__}"
            )
        row = find_stage(stage)
        if device not in DEVICES:
            raise InputError(f"device: {device!r} is unknown; choose one of {', '.join(DEVICES)}")
        _check_number("threads", threads, "a whole number", _MOST_THREADS, (int, type(None)))
        for name, value in (("start_timeout_s", start_timeout_s), ("timeout_s", timeout_s)):
            _check_number(name, value, "seconds", _LONGEST_S, (int, float))
        delays = Delays(slowdown) if slowdown else None
        with ExitStack() as cleanup:
            cleanup.enter_context(IdleTeams())
            process = None
            if endpoint is None:
                process = WorkerProcess(
                    checkpoint.source,
                    row,
                    device,
                    threads or torch.get_num_threads(),
                )
                cleanup.callback(process.close)
                channel = process.channel
            else:
                channel = connect(endpoint, row.transport)
                cleanup.callback(channel.close)
            channel.set_timeout(start_timeout_s)
            owned = ExitStack()
            try:
                llama = cls(checkpoint, row, channel, device, owned, delays)
            except WorkerDied as error:
                words = process.stderr_tail() if process else ""
                raise (
                    WorkerDied(f"worker: ended at its start: {words}") if words else error
                ) from error
            channel.set_timeout(timeout_s)
            if process:
                process.connected()
            owned.push(cleanup.pop_all())
            llama._worker = process
            return llama

    @torch.no_grad()
    def forward(self, input_ids: TokenIds) -> torch.Tensor:
        """Return the logits of each prompt's last position, (batch, vocabulary) float32.

        ``input_ids`` are the tokens of one prompt, or of several of equal length: (tokens,) or (batch, tokens).

        Raises:
            InputError: for an empty prompt, an id out of the vocabulary, or too many tokens.
            WorkerError, ProtocolError: if the worker fails or answers nonsense; launch a new one then.
            ArenaError: if there is not enough shared memory for a prompt of this length.
        """
        ids = self._checked(input_ids)
        with self._calling():
            batch, tokens = ids.shape
            self._rpc.prepare(live_bytes(self.config, self.stage, tokens, batch))
            started = time.perf_counter()
            crossing = self._empty(ids.shape, torch.int64).copy_(ids)
            (hidden,) = self._rpc.call(Call("embedding"), crossing)  # (B, S, hidden)
            run_layer = _LAYERS[self.stage.granularity]
            for layer in range(self.config.num_layers):
                hidden = run_layer(self, layer, hidden)
            last = self._normed(hidden[:, -1], self._final_norm)
            (logits,) = self._rpc.call(Call("lm_head"), last)
            # A copy of the caller's own: the worker can still write to where the logits lie.
            result = logits.to(torch.float32, copy=True)
            self.last_trace = Trace(tuple(self._rpc.records), time.perf_counter() - started)
        return result

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
    def _calling(self) -> Iterator[None]:
        """Let one thread at a time talk to the worker, in the process that launched it, until it is closed."""
        if os.getpid() != self._process:
            raise WorkerError(
                "worker: it answers the process that launched it, and this is a fork of that; "
                "launch another in each process"
            )
        with self._lock:
            if not self._release.alive:
                raise WorkerError("worker: this model is closed; launch another")
            self._rpc.records.clear()
            yield

    def _checked(self, input_ids: TokenIds) -> torch.Tensor:
        try:
            ids = torch.as_tensor(input_ids)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                "input_ids: must be token ids, of equal length for each prompt"
            ) from error
        if ids.dim() == 1:
            ids = ids.unsqueeze(0)
        if ids.numel() and (ids.dim() != 2 or ids.dtype not in _INTEGERS):
            raise InputError(
                f"input_ids: must be integers (tokens,) or (batch, tokens), got {ids.dtype} {tuple(ids.shape)}"
            )
        if ids.numel() == 0:
            raise InputError("input_ids: the prompt is empty; give at least one token")
        if ids.shape[1] > max_length(self.config):
            raise InputError(
                f"input_ids: {ids.shape[1]} tokens exceed the model's {max_length(self.config)} positions"
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise InputError(
                f"input_ids: token id {low if low < 0 else high} is not in 0..{self.config.vocab_size - 1}"
            )
        return ids

    def _layer_at_once(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        (hidden,) = self._rpc.call(Call("fused_layer", layer), hidden)
        return hidden

    def _layer_by_operations(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        attention_norm, mlp_norm = self._norms[layer]
        normed = self._normed(hidden, attention_norm)
        # Nobody here holds queries, keys and values longer than attention needs them: see ``live_bytes``.
        attended = self._attention(
            layer, *self._linear(layer, normed, "q_proj", "k_proj", "v_proj")
        )
        (projected,) = self._linear(layer, attended, "o_proj")
        del normed, attended
        hidden = torch.add(hidden, projected)
        gate, up = self._linear(layer, self._normed(hidden, mlp_norm), "gate_proj", "up_proj")
        inner = silu_mul(gate, up, self._empty(gate.shape))
        del gate, up
        (projected,) = self._linear(layer, inner, "down_proj")
        return hidden.add_(projected)

    def _attention(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """(B, S, H D), (B, S, KV D), (B, S, KV D) -> (B, S, H D)."""
        batch, tokens, _ = query.shape
        heads, kv_heads, size = (
            self.config.num_heads,
            self.config.num_kv_heads,
            self.config.head_dim,
        )
        matrices, group = batch * kv_heads, heads // kv_heads
        cos, sin = self._rope.tables(tokens)

        def by_head(x: torch.Tensor, count: int) -> torch.Tensor:
            return x.view(batch, tokens, count, size).transpose(1, 2)  # (B, H or KV, S, D)

        # Query heads that share a key head are further rows of one product: (B KV, G S, D).
        queries = self._empty((batch, heads, tokens, size))
        scale = size**-0.5  # of the scores, put where it costs least
        apply_rope(by_head(query, heads), cos * scale, sin * scale, queries)
        keys = apply_rope(
            by_head(key, kv_heads), cos, sin, self._empty((batch, kv_heads, tokens, size))
        )
        values = self._empty((batch, kv_heads, tokens, size)).copy_(by_head(value, kv_heads))
        (scores,) = self._rpc.call(
            Call("matmul", layer, transpose_b=True),
            queries.view(matrices, group * tokens, size),
            keys.view(matrices, tokens, size),
        )
        del queries, keys
        weights = self._empty(scores.shape)
        by_row = (batch * heads, tokens, tokens)
        causal_softmax(scores.view(by_row), weights.view(by_row))
        del scores
        (attended,) = self._rpc.call(
            Call("matmul", layer), weights, values.view(matrices, tokens, size)
        )
        del weights
        joined = self._empty((batch, tokens, heads * size))
        by_head(joined, heads).copy_(attended.view(batch, heads, tokens, size))
        return joined

    def _linear(self, layer: int, x: torch.Tensor, *modules: str) -> Sequence[torch.Tensor]:
        return self._rpc.call(Call("batch_linear", layer, modules), x)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, self.config.rms_norm_eps, self._empty(x.shape))

    def _empty(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return memory for a tensor that will cross."""
        return self._channel.empty(TensorSpec(dtype or self.stage.torch_dtype, tuple(shape)))

    def close(self) -> None:
        """End the worker that this object started, and release everything. Closing twice is allowed.

        A call that another thread is in the middle of fails with a WorkerError; of a worker that was not
        started here its answer is waited for, until its deadline.
        """
        if os.getpid() != self._process:
            return  # a fork's: everything is its parent's
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


_LAYERS: Mapping[str, Callable[[SplitLlama, int, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {"operation": SplitLlama._layer_by_operations, "layer": SplitLlama._layer_at_once}
)
"""How a decoder layer is run, by a stage's granularity."""


def _check_number(name: str, given: Any, wanted: str, most: int, kinds: tuple[type, ...]) -> None:
    if type(given) in kinds and (given is None or 0 < given <= most):
        return
    raise InputError(f"{name}: must be {wanted}, above 0 and at most {most:,}, got {given!r}")


def _release(process: int, cleanup: ExitStack) -> None:
    """Run ``cleanup``, unless this process is a fork of the one whose it is."""
    if os.getpid() == process:
        cleanup.close()
