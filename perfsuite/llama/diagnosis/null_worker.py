"""A worker that computes nothing, behind the runtime's own service and transports: what is left is the call.

``python -m perfsuite.llama.diagnosis.null_worker --transport T --endpoint E``. It ends with its client, or
with its parent, whose end closes its stdin.

A request whose first value is above zero keeps it busy before it answers, as a worker is that multiplies
matrices: its client has fallen asleep by then, and the call's own code and data have left the caches.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence

import torch

from runtime.caches import Window
from runtime.checkpoints import ModelConfig
from runtime.devices.base import Device
from runtime.devices.kv_cache import KvCache
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.service import Service
from runtime.transports.registry import TRANSPORTS, serve

ROW_BYTES = 1024
MOST_ROWS = 1 << 17
MOST_SWEPT = 64 << 20  # twice what the caches usually hold

_MOST_FLOPS = 10**9  # some milliseconds: whoever waits longer sleeps no deeper
_SIDE = 256  # of the matrices that keep it busy: they stay in the nearest caches

# One token is one row of ROW_BYTES: "embedding" answers as many rows as it gets tokens, and "lm_head" takes
# rows and answers one number for each, so that payload goes one way at a time.
CONFIG = ModelConfig.from_hf(
    {
        "model_type": "llama",
        "vocab_size": 1,
        "hidden_size": ROW_BYTES // 4,
        "intermediate_size": ROW_BYTES // 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": MOST_ROWS,
    }
)
HELLO = Hello(
    protocol=PROTOCOL_VERSION,
    config=CONFIG.to_json_dict(),
    digest="",
    dtype="float32",
    device="cpu",
    granularity="operation",
)


class Sweep:
    """Memory to walk through, so that nothing else is left in the caches."""

    def __init__(self, size: int) -> None:
        """``size`` in bytes; it is cut to ``MOST_SWEPT``."""
        self._memory = torch.zeros(max(1, min(size, MOST_SWEPT) // 4))

    @property
    def nbytes(self) -> int:
        """Bytes that one walk reads and writes."""
        return self._memory.nbytes

    def __call__(self) -> None:
        """Read and write all of it, with all threads."""
        self._memory.add_(1.0)


class NullDevice(Device):
    """Fills its results, so that there is something to send, and does nothing else."""

    def __init__(self, swept: int, flops: int) -> None:
        """Walk through ``swept`` bytes and do ``flops`` operations in the caches where a request says so."""
        super().__init__()
        self.dtype = torch.float32
        self.name = self.kernels = "none"
        self._sweep = Sweep(swept)
        self._matrix = torch.zeros(_SIDE, _SIDE)
        self._products = round(min(flops, _MOST_FLOPS) / (2 * _SIDE**3))

    def _answer(self, x: torch.Tensor, *outputs: torch.Tensor) -> None:
        if float(x.flatten()[0]) > 0:
            self._sweep()
            for _ in range(self._products):
                self._matrix @ self._matrix
        for out in outputs:
            out.fill_(1.0)

    def embedding(self, token_ids: torch.Tensor, out: torch.Tensor) -> None:
        self._answer(token_ids, out)

    def batch_linear(
        self, layer: int, modules: Sequence[str], x: torch.Tensor, outputs: Sequence[torch.Tensor]
    ) -> None:
        self._answer(x, *outputs)

    def matmul(
        self, a: torch.Tensor, b: torch.Tensor, transpose_b: bool, out: torch.Tensor
    ) -> None:
        self._answer(a, out)

    def fused_layer(self, layer: int, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        self._answer(x, out)

    def all_layers(self, x: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        self._answer(x, out)

    def next_logits(self, token_ids: torch.Tensor, out: torch.Tensor, window: Window) -> None:
        self._answer(token_ids, out)

    def new_cache(self, batch: int, capacity: int) -> KvCache:
        return KvCache.of(CONFIG, self.dtype, batch, capacity)

    def lm_head(self, x: torch.Tensor, out: torch.Tensor) -> None:
        self._answer(x, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one client until it is gone."""
    parser = argparse.ArgumentParser(prog="python -m perfsuite.llama.diagnosis.null_worker")
    parser.add_argument("--transport", required=True, choices=TRANSPORTS)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--swept", type=int, default=0)
    parser.add_argument("--flops", type=int, default=0)
    arguments = parser.parse_args(argv)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_grad_enabled(False)
    channel = next(serve(arguments.endpoint, arguments.transport))
    about = {"device_name": "none", "kernels": "none", "threads": 1, "pid": os.getpid()}
    Service(NullDevice(arguments.swept, arguments.flops), CONFIG, HELLO, about).serve(channel)
    channel.close()
    return 0


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
