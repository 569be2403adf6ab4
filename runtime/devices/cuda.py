"""An NVIDIA GPU as the untrusted device: the only file that says "cuda".

Weights lie on the GPU. The shared memory is registered with the driver once, so that copies go directly
and asynchronously between it and the GPU. A whole layer is replayed as a CUDA graph. The host waits in one
place only: before it says that a result can be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from runtime.caches import Window, cache_bytes
from runtime.checkpoints import Checkpoint
from runtime.devices.base import Device, checked_ids
from runtime.devices.kv_cache import KvCache
from runtime.devices.weights import layer_norms, linear_groups, stacked_linear
from runtime.errors import InputError, ProtocolError
from runtime.nonlinear import apply_rope
from runtime.operations import Call
from runtime.rope import RotaryEmbedding
from runtime.stages import Granularity

Linear = tuple[torch.Tensor, torch.Tensor | None]

_MOST_GRAPH_SHAPES = 4  # graphs of so many prompt shapes are kept; each holds its own work memory


@dataclass(frozen=True, slots=True)
class _Graph:
    """One layer or all of them, captured for one shape: copy into ``x``, replay, read ``out``."""

    graph: torch.cuda.CUDAGraph
    x: torch.Tensor
    out: torch.Tensor
    read: tuple[torch.Tensor, ...]
    """What else it reads and writes: a graph knows addresses only, and does not keep what lies there."""


class CudaDevice(Device):
    """Runs every operation on the first visible GPU."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, granularity: Granularity
    ) -> None:
        """Load the weights.

        Raises:
            InputError: if there is no usable GPU.
        """
        if not torch.cuda.is_available():
            raise InputError(
                "device: 'cuda' needs an NVIDIA GPU and a CUDA build of torch; use 'cpu' here"
            )
        super().__init__()
        self.dtype = dtype
        self.name = torch.cuda.get_device_name()
        self.kernels = (
            f"cuBLAS {str(dtype).removeprefix('torch.')}, scaled_dot_product_attention, CUDA graphs"
        )
        self._config = checkpoint.config
        self._gpu = torch.device("cuda")
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._registered: torch.Tensor | None = None

        self._embeddings = checkpoint.tensor("model.embed_tokens.weight").to(self._gpu, dtype)
        if self._config.tie_word_embeddings:
            self._head = self._embeddings
        else:
            self._head = checkpoint.tensor("lm_head.weight").to(self._gpu, dtype)
        groups = linear_groups(checkpoint, granularity)
        layers = range(self._config.num_layers)
        self._layers: list[dict[str, Linear]] = [
            {
                name: self._move(*stacked_linear(checkpoint, layer, modules, dtype))
                for name, modules in groups.items()
            }
            for layer in layers
        ]
        self._norms = [
            tuple(norm.to(self._gpu) for norm in layer_norms(checkpoint, layer, dtype))
            for layer in layers
        ]
        self._final_norm = checkpoint.tensor("model.norm.weight").to(self._gpu, dtype)
        self._rope = RotaryEmbedding(self._config)
        self._granularity = granularity
        self._recalled: torch.Tensor | None = None
        self._graphs: OrderedDict[torch.Size, list[_Graph]] = OrderedDict()

    def _move(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return weight.to(self._gpu), None if bias is None else bias.to(self._gpu)

    def register(self, memory: torch.Tensor) -> None:
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if self._registered is not None:
            torch.cuda.check_error(int(runtime.cudaHostUnregister(self._registered.data_ptr())))
        # Held until it is unregistered: the driver must never know of memory that is gone.
        self._registered = None
        torch.cuda.check_error(int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)))
        self._registered = memory

    def run(
        self,
        call: Call,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        cache: tuple[int, ...] = (),
    ) -> None:
        super().run(call, inputs, outputs, cache)
        self._done.record()
        self._done.synchronize()

    def new_cache(self, batch: int, capacity: int) -> KvCache:
        config = self._config
        shape = (config.num_layers, 2, batch, config.num_kv_heads, capacity, config.head_dim)
        try:
            return KvCache(torch.empty(shape, dtype=self.dtype, device=self._gpu))
        except torch.OutOfMemoryError as error:
            size = cache_bytes(config, self.dtype.itemsize, batch, capacity)
            raise ProtocolError("cache", f"needs {size:,} bytes of the GPU's memory") from error

    def _load(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._gpu, non_blocking=True)

    def embedding(self, token_ids: torch.Tensor, out: torch.Tensor) -> None:
        # On the host: a bad index on the GPU would poison its whole context.
        token_ids = checked_ids(token_ids, self._config.vocab_size)
        out.copy_(functional.embedding(self._load(token_ids), self._embeddings), non_blocking=True)

    def batch_linear(
        self, layer: int, modules: Sequence[str], x: torch.Tensor, outputs: Sequence[torch.Tensor]
    ) -> None:
        loaded = self._load(x)
        for module, out in zip(modules, outputs, strict=True):
            out.copy_(functional.linear(loaded, *self._layers[layer][module]), non_blocking=True)

    def matmul(
        self, a: torch.Tensor, b: torch.Tensor, transpose_b: bool, out: torch.Tensor
    ) -> None:
        right = self._load(b)
        out.copy_(
            torch.bmm(self._load(a), right.transpose(1, 2) if transpose_b else right),
            non_blocking=True,
        )

    def lm_head(self, x: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(functional.linear(self._load(x), self._head), non_blocking=True)

    def fused_layer(self, layer: int, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        if window.cache is None:
            self._replay(self._graphs_for(x.shape)[layer], x, out)
            return
        loaded = self._load(x)
        residual = loaded.float()
        if self._recalled is not None and self._recalled.shape == x.shape:
            # As in the graphs: go on from the sum that was rounded for the wire, if that comes back.
            same = (self._recalled.to(self.dtype) == loaded).all()
            residual = torch.where(same, self._recalled, residual)
        self._recalled = self._layer(layer, residual, *self._tables(window), window)
        out.copy_(self._recalled, non_blocking=True)

    def all_layers(self, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        if window.cache is None:
            self._replay(self._graphs_for(x.shape)[0], x, out)
        else:
            out.copy_(self._last_position(self._load(x), window), non_blocking=True)

    def next_logits(self, token_ids: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        token_ids = checked_ids(token_ids, self._config.vocab_size)
        hidden = functional.embedding(self._load(token_ids), self._embeddings)
        # Rounded as it would cross to the trusted side, whose norm is of the rounded sum.
        last = self._last_position(hidden, window).to(self.dtype)
        normed = self._normed(last, self._final_norm)
        out.copy_(functional.linear(normed, self._head), non_blocking=True)

    def _last_position(self, x: torch.Tensor, window: Window) -> torch.Tensor:
        """Run all layers over (batch, tokens, hidden); return the last position's sum, (batch, hidden) float32."""
        residual, tables = x.float(), self._tables(window)
        for layer in range(self._config.num_layers):
            residual = self._layer(layer, residual, *tables, window)
        return residual[:, -1]

    def _tables(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = self._rope.tables(window.end, window.start, window.length)
        return cos.to(self._gpu, self.dtype), sin.to(self._gpu, self.dtype)

    def _replay(self, captured: _Graph, x: torch.Tensor, out: torch.Tensor) -> None:
        captured.x.copy_(x, non_blocking=True)
        captured.graph.replay()
        out.copy_(captured.out, non_blocking=True)

    def _graphs_for(self, shape: torch.Size) -> list[_Graph]:
        """Return the graphs for (batch, tokens, hidden), captured on first use: one a layer, or one of all."""
        found = self._graphs.get(shape)
        if found is None:
            while len(self._graphs) >= _MOST_GRAPH_SHAPES:
                self._graphs.popitem(last=False)
            found = self._graphs[shape] = self._capture(shape)
        self._graphs.move_to_end(shape)
        return found

    def _capture(self, shape: torch.Size) -> list[_Graph]:
        window = Window(0, shape[1])
        cos, sin = self._tables(window)
        x = torch.zeros(shape, dtype=self.dtype, device=self._gpu)
        residual = torch.zeros(shape, dtype=torch.float32, device=self._gpu)
        # Libraries choose kernels and take work memory on first use; neither may happen within a capture.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._layer(0, residual, cos, sin, window)
        torch.cuda.current_stream().wait_stream(side)

        layers = range(self._config.num_layers)
        if self._granularity == "model":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                last = x.float()
                for layer in layers:
                    last = self._layer(layer, last, cos, sin, window)
                last = last[:, -1].to(self.dtype)
            return [_Graph(graph, x, last, (cos, sin))]
        graphs: list[_Graph] = []
        # Layers run one after another: they share work memory.
        pool = torch.cuda.graph_pool_handle()
        out = torch.empty_like(x)
        for layer in layers:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                # As on the CPU: go on from the sum that was rounded for the wire, if that comes back.
                same = (residual.to(self.dtype) == x).all()
                start = torch.where(same, residual, x)
                residual.copy_(self._layer(layer, start, cos, sin, window))
                out.copy_(residual)
            graphs.append(_Graph(graph, x, out, (residual, cos, sin)))
        return graphs

    def _layer(
        self, layer: int, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, window: Window
    ) -> torch.Tensor:
        """Apply one layer to the float32 residual sum (batch, tokens, hidden), and append to the window's cache."""
        config, linears = self._config, self._layers[layer]
        attention_norm, mlp_norm = self._norms[layer]
        batch, tokens, _ = x.shape
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim

        projected = functional.linear(self._normed(x, attention_norm), *linears["qkv"])
        by_head = projected.view(batch, tokens, heads + 2 * kv_heads, size).transpose(1, 2)
        turning = by_head[:, : heads + kv_heads]
        rotated = apply_rope(turning, cos, sin, torch.empty_like(turning))
        keys, values = rotated[:, heads:], by_head[:, heads + kv_heads :]
        mask, cache = None, self._kept(window)
        if cache:
            keys, values = cache.append(layer, window, keys, values)
            if window.start and tokens > 1:
                mask = torch.ones(tokens, window.end, dtype=torch.bool, device=self._gpu).tril(
                    window.start
                )
        attended = functional.scaled_dot_product_attention(
            rotated[:, :heads],
            keys,
            values,
            attn_mask=mask,
            is_causal=tokens == window.end,
            enable_gqa=heads != kv_heads,
        )
        joined = attended.transpose(1, 2).reshape(batch, tokens, heads * size)
        x = x + functional.linear(joined, *linears["o"])

        gate, up = functional.linear(self._normed(x, mlp_norm), *linears["gate_up"]).chunk(
            2, dim=-1
        )
        return x + functional.linear(functional.silu(gate) * up, *linears["down"])

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        eps = self._config.rms_norm_eps
        return functional.rms_norm(x, weight.shape, weight, eps).to(self.dtype)
