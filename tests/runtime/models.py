"""What the tests of the runtime share: small models, ``transformers``' answers, served stages."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from perfsuite.llama.prompts import SHIPPED
from runtime import SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.checkpoints.random_weights import write_random_checkpoint
from runtime.delay_injection import Delays
from runtime.devices import open_device
from runtime.devices.base import Device
from runtime.messages import PROTOCOL_VERSION, Hello
from runtime.service import Service
from runtime.stages import Stage, find_stage
from runtime.transports import zmq_frames, zmq_msgpack
from runtime.transports.base import ClientChannel, PeerGone, ServerChannel
from runtime.transports.endpoints import Endpoint
from runtime.transports.shared_memory import SharedMemoryClient, SharedMemoryServer
from runtime.transports.zmq_sockets import ZmqServer

disable_progress_bar()

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
)
"""The devices to parametrize over."""

FLOAT32_BOUND = 1e-4
"""Largest difference that float32 logits may have, as a share of the largest logit."""
BFLOAT16_BOUND = 0.03
"""The same for bfloat16 logits, on real weights."""

# As small as a model can be that still has two layers, grouped heads and a head size of its own.
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}

_SERVER_END_S = 30.0
_GOODBYE = b"goodbye"


def small_config(**fields: Any) -> ModelConfig:
    """A small model's configuration; ``fields``, named as in ``config.json``, replace its own."""
    return ModelConfig.from_hf({"model_type": "llama", **SMALL, **fields})


def write_model(directory: Path, config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Random weights of ``config`` in the new folder ``directory``."""
    directory.mkdir(parents=True)
    write_random_checkpoint(directory, config, seed)
    # Its digest is remembered beside it, not in the user's cache.
    return load_checkpoint(directory, cache_dir=directory.with_name(directory.name + "-cache"))


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    """Any kind of LLaMA: heads, biases, tied or not, every RoPE scaling with a short original."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from((4, 6, 8, 16, 32)))
    kind, rope = draw(st.sampled_from(tuple(rope_kinds(head_dim).items())))
    theta = draw(st.sampled_from((100.0, 10_000.0, 500_000.0)))
    return small_config(
        vocab_size=draw(st.integers(64, 200)),
        hidden_size=heads * (-(-32 // heads) + draw(st.integers(0, 8))),  # at least 32
        intermediate_size=draw(st.integers(8, 96)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=positions_for(kind),
        rms_norm_eps=draw(st.sampled_from((1e-6, 1e-5, 1e-3))),
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        rope_parameters={**rope, "rope_theta": theta},
    )


def rope_kinds(head_dim: int) -> dict[str, dict[str, Any]]:
    """RoPE of every kind, for models whose original length, where there is one, is 16 tokens."""
    original = {"original_max_position_embeddings": 16}
    short, long = ([1.0 + step * i for i in range(head_dim // 2)] for step in (0.05, 0.5))
    kinds: dict[str, dict[str, Any]] = {
        "default": {},
        "linear": {"factor": 3.0},
        "dynamic": {"factor": 3.0},
        "yarn": {"factor": 4.5, **original},
        "longrope": {**original, "short_factor": short, "long_factor": long},
        "llama3": {"factor": 8.0, **original, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "proportional": {"factor": 2.0, "partial_rotary_factor": 0.5},
    }
    return {kind: {"rope_type": kind, **fields} for kind, fields in kinds.items()}


def positions_for(kind: str) -> int:
    """Positions that let a prompt of 72 tokens go beyond what its kind of RoPE was made for."""
    # Dynamic scaling goes beyond the positions by its factor, the others beyond the original 16.
    return 24 if kind == "dynamic" else 72


@contextmanager
def temporary_model(config: ModelConfig, seed: int = 0) -> Iterator[Checkpoint]:
    """Random weights of ``config`` for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_model(Path(folder) / "model", config, seed)


def text_ids(checkpoint: Checkpoint, tokens: int) -> list[int]:
    """The first ``tokens`` tokens of a novel, as the checkpoint's tokenizer reads it."""
    return list(islice(cycle(checkpoint.tokenizer().encode(SHIPPED.text)), tokens))


def random_ids(config: ModelConfig, batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """(batch, tokens) token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, tokens), generator=generator)


def reference_model(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> LlamaForCausalLM:
    """``transformers``' model, as it reads the checkpoint's folder by itself."""
    config = LlamaConfig.from_pretrained(checkpoint.directory)
    return LlamaForCausalLM.from_pretrained(
        checkpoint.directory, config=config, dtype=dtype, attn_implementation=attention
    ).eval()


def reference_answer(
    model: LlamaForCausalLM, input_ids: torch.Tensor, max_new_tokens: int
) -> torch.Tensor:
    """(batch, tokens) prompts and what ``transformers`` continues them with: greedily, and to no end token."""
    model.generation_config.eos_token_id = None
    answer: torch.Tensor = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return answer


@torch.inference_mode()
def reference_logits(
    model: LlamaForCausalLM, input_ids: torch.Tensor | Sequence[Sequence[int]]
) -> torch.Tensor:
    """(batch, vocabulary) float32: the last position's logits."""
    output = model(input_ids=torch.as_tensor(input_ids), use_cache=False, logits_to_keep=1)
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference, as a share of the largest expected logit."""
    return float((logits - expected).abs().max() / expected.abs().max())


def make_service(checkpoint: Checkpoint, stage: Stage, device: str = "cpu") -> Service:
    """What a worker process serves, on a device that is opened here."""
    opened = open_device(device, checkpoint, stage.torch_dtype, stage.granularity)
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        config=checkpoint.config.to_json_dict(),
        digest=checkpoint.digest,
        dtype=stage.dtype,
        device=device,
        granularity=stage.granularity,
    )
    about = {
        "device_name": opened.name,
        "kernels": opened.kernels,
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }
    return Service(opened, checkpoint.config, hello, about)


@contextmanager
def serve_in_thread(
    checkpoint: Checkpoint,
    stage: str,
    device: str = "cpu",
    *,
    timeout_s: float = 60.0,
    delays: Delays | None = None,
) -> Iterator[SplitLlama]:
    """A whole stage without a process: its service runs in a thread, behind the stage's real transport."""
    with serve_with_device(checkpoint, stage, device, timeout_s=timeout_s, delays=delays) as (
        llama,
        _,
    ):
        yield llama


@contextmanager
def serve_with_device(
    checkpoint: Checkpoint,
    stage: str,
    device: str = "cpu",
    *,
    timeout_s: float = 60.0,
    delays: Delays | None = None,
) -> Iterator[tuple[SplitLlama, Device]]:
    """As ``serve_in_thread``, and the device that computes."""
    row = find_stage(stage)
    service = make_service(checkpoint, row, device)
    with (
        channel_to(service, row, timeout_s=timeout_s) as channel,
        SplitLlama(checkpoint, row, channel, device, ExitStack(), delays) as llama,
    ):
        yield llama, service._device


@contextmanager
def channel_to(
    service: Service, stage: Stage, *, timeout_s: float = 60.0
) -> Iterator[ClientChannel]:
    """The trusted side's end of the stage's route to ``service``, which runs in a thread."""
    ends = _ZMQ_ENDS.get(stage.transport)
    with _zmq_route(service, *ends) if ends else _shared_memory_route(service) as channel:
        channel.set_timeout(timeout_s)
        yield channel


@contextmanager
def _shared_memory_route(service: Service) -> Iterator[ClientChannel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = SharedMemoryClient(ours)
    thread = _start(service, SharedMemoryServer(theirs))
    try:
        yield client
    finally:
        client.close()  # which the server notices
        _join(thread)


@contextmanager
def _zmq_route(
    service: Service,
    client_end: Callable[[Endpoint], ClientChannel],
    server_end: Callable[[Endpoint], ServerChannel],
) -> Iterator[ClientChannel]:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Endpoint("ipc", f"{folder}/worker")
        thread = _start(service, server_end(endpoint))
        client = client_end(endpoint)
        try:
            yield client
        finally:
            client.close()
            if thread.is_alive():
                _say_goodbye(str(endpoint))
            _join(thread)


class _Ending(ZmqServer):
    """A worker ends with its process, a thread when it is told to."""

    def receive(self) -> bytes | memoryview:
        message = super().receive()
        if message == _GOODBYE:
            raise PeerGone
        return message


class _EndingMsgpack(_Ending, zmq_msgpack.MsgpackServer):
    pass


class _EndingFrames(_Ending, zmq_frames.FramesServer):
    pass


_ZMQ_ENDS = {
    "zmq-msgpack": (zmq_msgpack.MsgpackClient, _EndingMsgpack),
    "zmq-frames": (zmq_frames.FramesClient, _EndingFrames),
}


def _say_goodbye(endpoint: str) -> None:
    # On a socket of its own: the client's may be waiting for a reply.
    with zmq.Context() as context, context.socket(zmq.REQ) as parting:
        parting.setsockopt(zmq.LINGER, 2000)  # closing waits for it to be sent, this long at most
        parting.connect(endpoint)
        parting.send(_GOODBYE)


def _start(service: Service, channel: ServerChannel) -> threading.Thread:
    def serve() -> None:
        torch.set_grad_enabled(False)  # as the worker does; it is a setting of each thread
        try:
            service.serve(channel)
        finally:
            channel.close()

    thread = threading.Thread(target=serve, name="service", daemon=True)
    thread.start()
    return thread


def _join(thread: threading.Thread) -> None:
    thread.join(_SERVER_END_S)
    if thread.is_alive():
        raise RuntimeError("the service did not end")
