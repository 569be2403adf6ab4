"""The reference: the unsplit model, ``transformers``' own, in a process of its own.

``Unsplit`` starts ``python -m perfsuite.llama.unsplit`` and asks it (see ``processes.program``). The process keeps
torch's default OpenMP settings, whatever the runtime has chosen for itself, and ends with its
parent, however that ends: the socket closes then.

    -> {"input_ids": [[1, 2, 3]], "logits": false}
    <- {"seconds": 0.01, "next_token": 42, "logits": null}    or {"error": "..."}
    -> {"input_ids": [[1, 2, 3]], "generate": 3}
    <- {"ttft_s": 0.01, "token_s": [0.01, 0.01], "tokens": [42, 43, 44]}
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from perfsuite.errors import UnsplitError
from perfsuite.llama.measuring import collector_paused
from perfsuite.llama.rows import Forward
from perfsuite.processes.program import Program
from perfsuite.processes.protocol import Ended, Lines
from runtime import SplitError, load_checkpoint

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from runtime.checkpoints import Checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

START_TIMEOUT_S = 300.0
FORWARD_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class UnsplitAnswer:
    """One greedy answer with the model's cache: seconds to its first token and to each further one."""

    ttft_s: float
    token_s: list[float]
    tokens: list[int]


class Unsplit:
    """The unsplit model of ``source`` in its own process; a context manager that ends it.

    It starts at once and in the background; ``wait_until_ready`` says when, or why not.
    ``threads`` is torch's default when it is None. Every method raises UnsplitError when the
    process refuses, dies, or misses its deadline in seconds.
    """

    def __init__(
        self,
        source: str,
        dtype: str = "float32",
        *,
        device: str = "cpu",
        threads: int | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        command = [sys.executable, "-m", "perfsuite.llama.unsplit"]
        command += ["--model", source, "--dtype", dtype, "--device", device]
        if threads is not None:
            command += ["--threads", str(threads)]
        self._start_deadline = time.monotonic() + start_timeout_s
        self._threads: int | None = None
        self._program = Program(command, f"the unsplit {dtype} model", UnsplitError)

    @property
    def pid(self) -> int:
        """The id of the model's process."""
        return self._program.pid

    @property
    def threads(self) -> int:
        """How many threads it computes with; waits until it is ready to say."""
        if self._threads is None:
            answer = self._program.receive(self._start_deadline - time.monotonic())
            self._threads = int(answer["threads"])
        return self._threads

    def wait_until_ready(self) -> None:
        """Return once the model is loaded."""
        _ = self.threads

    def forward(
        self,
        input_ids: torch.Tensor,
        *,
        logits: bool = False,
        timeout_s: float = FORWARD_TIMEOUT_S,
    ) -> Forward:
        """One forward pass over ``input_ids``, (batch, tokens) of whole numbers."""
        self.wait_until_ready()
        request = {"input_ids": input_ids.tolist(), "logits": logits}
        answer = self._program.ask(request, timeout_s)
        return Forward(
            seconds=answer["seconds"],
            next_token=answer["next_token"],
            logits=torch.tensor(answer["logits"]) if logits else None,
        )

    def generate(
        self,
        input_ids: torch.Tensor,
        new_tokens: int,
        *,
        timeout_s: float = FORWARD_TIMEOUT_S,
    ) -> UnsplitAnswer:
        """Continue ``input_ids`` (1, tokens) greedily by ``new_tokens``, whatever they are."""
        self.wait_until_ready()
        request = {"input_ids": input_ids.tolist(), "generate": new_tokens}
        return UnsplitAnswer(**self._program.ask(request, timeout_s))

    def close(self) -> None:
        """End the process and wait for it. May be called twice."""
        self._program.close()

    def __enter__(self) -> Unsplit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def load_unsplit(checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> LlamaForCausalLM:
    """``transformers``' model on the checkpoint's own memory: float32 weights are not copied."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(**checkpoint.config.to_hf())
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights: dict[str, torch.Tensor] = {}
    for name in model.state_dict():
        tied = config.tie_word_embeddings and name == "lm_head.weight"
        source = "model.embed_tokens.weight" if tied else name
        if source not in weights:
            weights[source] = checkpoint.tensor(source).to(device=device, dtype=dtype)
        weights[name] = weights[source]
    model.load_state_dict(weights, assign=True)
    # Its frequencies are in no checkpoint, so the meta device left them without values.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    return model.eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one unsplit model until the other end is closed."""
    parser = argparse.ArgumentParser(
        prog="python -m perfsuite.llama.unsplit", description=main.__doc__
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True, choices=list(DTYPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("channel", type=int, help="descriptor of the socket")
    options = parser.parse_args(argv)
    lines = Lines(socket.socket(fileno=options.channel))
    requests: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(lines, requests), daemon=True).start()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        checkpoint = load_checkpoint(options.model)
        model = load_unsplit(checkpoint, DTYPES[options.dtype], options.device)
    except (SplitError, OSError, ValueError, RuntimeError) as error:
        lines.send({"error": str(error)})
        return 1
    # What is loaded stays: a collection before each forward that walked it would empty the caches.
    gc.collect()
    gc.freeze()
    lines.send({"threads": torch.get_num_threads()})
    while True:
        request = requests.get()
        try:
            answer = _forward(model, request, options.device)
        except (ValueError, RuntimeError, IndexError) as error:
            answer = {"error": str(error)}
        lines.send(answer)


def _forward(model: Callable[..., Any], request: dict[str, Any], device: str) -> dict[str, Any]:
    input_ids = torch.tensor(request["input_ids"], device=device)
    if "generate" in request:
        return timed_answer(model, input_ids, request["generate"])
    seconds, logits = timed_forward(model, input_ids)
    return {
        "seconds": seconds,
        "next_token": int(logits[0].argmax()),
        "logits": logits.tolist() if request["logits"] else None,
    }


def timed_forward(model: Callable[..., Any], input_ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the seconds of a forward pass and the last position's logits, (batch, vocab) in float32."""
    with collector_paused(), torch.inference_mode():
        started = time.perf_counter()
        output = model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
        # To the caller's memory, as the split model hands them over: waits for any device.
        logits = output.logits[:, -1].float().cpu()
        seconds = time.perf_counter() - started
    return seconds, logits


def timed_answer(
    model: Callable[..., Any], input_ids: torch.Tensor, new_tokens: int
) -> dict[str, Any]:
    """Return what ``UnsplitAnswer`` holds, for ``input_ids`` (1, tokens)."""
    tokens: list[int] = []
    seconds: list[float] = []
    cache, fed = None, input_ids
    with collector_paused(), torch.inference_mode():
        for _ in range(new_tokens):
            started = time.perf_counter()
            output = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = int(output.logits[0, -1].argmax())  # waits for any device
            seconds.append(time.perf_counter() - started)
            cache, fed = output.past_key_values, input_ids.new_tensor([[token]])
            tokens.append(token)
    return {"ttft_s": seconds[0], "token_s": seconds[1:], "tokens": tokens}


def _read_requests(lines: Lines, requests: SimpleQueue[dict[str, Any]]) -> None:
    with suppress(Ended):
        while True:
            requests.put(lines.receive())
    # The parent closed its end or is gone. Nothing here needs a farewell, and a forward pass
    # that still runs would keep the process for as long as it takes.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
