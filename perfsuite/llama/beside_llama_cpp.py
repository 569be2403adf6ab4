"""A stage's answers beside llama.cpp's, on the same weights and threads, and beside what memory allows.

    python -m venv ENVIRONMENT
    CMAKE_ARGS=-DGGML_NATIVE=ON ENVIRONMENT/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    python -m perfsuite.llama.beside_llama_cpp --python ENVIRONMENT/bin/python

llama.cpp gets the checkpoint's weights as a bfloat16 GGUF file that is written here, and is no dependency of the
project. A third figure is the time in which the machine reads the stage's weights once: a sum over as many bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFWriter

from perfsuite import statistics
from perfsuite.errors import PerfsuiteError, UnsplitError
from perfsuite.llama.cost_model import token_bytes
from perfsuite.llama.decode_rows import Answer, answer_of
from perfsuite.llama.measuring import interleave
from perfsuite.llama.prompts import SHIPPED
from perfsuite.machine import fingerprint
from perfsuite.processes.program import Program
from runtime import STAGES, SplitError, SplitLlama, load_checkpoint
from runtime.checkpoints import Checkpoint
from runtime.checkpoints.layout import tensor_shapes
from runtime.devices.huge_pages import use_huge_pages

_START_S, _ANSWER_S = 120.0, 600.0

_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(checkpoint: Checkpoint, file: Path) -> None:
    """Write a model as a bfloat16 GGUF file: matrices rounded, norms float32 (the format's own convention).

    Raises UnsplitError for a model that needs more than a plain LLaMA's keys.
    """
    config = checkpoint.config
    if config.rope["rope_type"] != "default" or config.attention_bias or config.mlp_bias:
        raise UnsplitError(
            "llama.cpp: only models without scaled positions and biases are compared"
        )
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")  # it is given ids
    for name in tensor_shapes(config):
        tensor = checkpoint.tensor(name)
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
        if heads:
            # Pairs that turn together lie side by side there, half a head apart here.
            halves = tensor.view(heads, 2, config.head_dim // 2, -1)
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        if tensor.dim() == 1:
            writer.add_tensor(_gguf_name(name), tensor.float().numpy())
        else:
            words = tensor.bfloat16().contiguous().view(torch.uint8).numpy()
            writer.add_tensor(_gguf_name(name), words, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    stem, kind = name.removesuffix(".weight"), ".weight"
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{_NAMES[rest]}{kind}"
    return _NAMES[stem] + kind


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both in alternation, and print medians and ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m perfsuite.llama.beside_llama_cpp", description=__doc__
    )
    parser.add_argument(
        "--python", required=True, help="interpreter of an environment with llama_cpp"
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--stage", default="resident", choices=list(STAGES))
    parser.add_argument("--tokens", type=int, default=128, help="length of the prompt")
    parser.add_argument("--generate", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    try:
        return _compare(options)
    except (PerfsuiteError, SplitError) as error:
        print(error, file=sys.stderr)
        return 2


def _compare(options: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(options.model)
    dtype = STAGES[options.stage].torch_dtype
    ids = SHIPPED.tokenized(checkpoint.tokenizer(), options.tokens).ids
    room = options.tokens + options.generate
    read = torch.empty(
        token_bytes(checkpoint.config, dtype, 0) // 4
    )  # float32: a sum of those is memory's speed
    read.fill_(1.0)
    use_huge_pages(read.nbytes)  # as a worker does for its weights
    worker = Path(__file__).with_name("llama_cpp_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(checkpoint, file)
        command = [options.python, str(worker), str(file), str(options.threads), str(room)]
        with (
            Program(command, "llama.cpp", UnsplitError) as theirs,
            SplitLlama.launch(checkpoint, options.stage, threads=options.threads) as llama,
        ):
            theirs.receive(_START_S)
            benchmarks: Mapping[str, Callable[[], Any]] = {
                options.stage: partial(answer_of, llama, torch.tensor([ids]), options.generate),
                "llama.cpp": partial(_ask, theirs, ids, options.generate),
                "weights": partial(_read, read),
            }
            samples = interleave(benchmarks, options.rounds)
    _show(options, samples)
    return 0


def _ask(program: Program, ids: Sequence[int], new_tokens: int) -> Answer:
    answer = program.ask({"ids": list(ids), "new_tokens": new_tokens}, _ANSWER_S)
    return Answer(**answer, totals=None)


def _read(memory: torch.Tensor) -> float:
    """Return the seconds of reading ``memory`` once."""
    started = time.perf_counter()
    memory.sum()
    return time.perf_counter() - started


def _show(options: argparse.Namespace, samples: Mapping[str, Sequence[Any]]) -> None:
    machine = fingerprint(options.threads)
    print(f"{options.model}, {options.tokens} prompt tokens, {options.generate} new, on {machine.get('cpu')}, "
          f"{options.threads} threads, {options.rounds} interleaved rounds, medians")  # fmt: skip
    own, theirs = samples[options.stage], samples["llama.cpp"]
    for name, answers in ((options.stage, own), ("llama.cpp", theirs)):
        ttft = statistics.median([answer.ttft_s for answer in answers])
        tpot = statistics.median([answer.tpot_s for answer in answers])
        print(f"{name:12} first token {_ms(ttft)}, each further one {_ms(tpot)}")
    print(f"{'weights':12} read once {_ms(statistics.median(samples['weights']))}")
    tpot_s = [answer.tpot_s for answer in own]
    for name, other in (
        ("llama.cpp's", [a.tpot_s for a in theirs]),
        ("reading the weights", samples["weights"]),
    ):
        ratio = statistics.paired_ratio(tpot_s, list(other), seed=0)
        print(
            f"{options.stage} per token over {name}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        )
    first = statistics.paired_ratio([a.ttft_s for a in own], [a.ttft_s for a in theirs], seed=0)
    print(
        f"{options.stage} to the first token over llama.cpp's: {first.value:.2f} [{first.low:.2f}, {first.high:.2f}]"
    )
    same = sum(a == b for a, b in zip(own[-1].tokens, theirs[-1].tokens, strict=True))
    print(f"{same} of {options.generate} tokens are the same")


def _ms(estimate: statistics.Estimate) -> str:
    return f"{estimate.value * 1e3:.2f} [{estimate.low * 1e3:.2f}, {estimate.high * 1e3:.2f}] ms"


if __name__ == "__main__":
    sys.exit(main())
