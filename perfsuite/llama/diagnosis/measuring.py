"""Microbenchmarks and forward passes in alternating rounds: a drift of the machine hits both alike.

The two never meet: constants come from ``Microbenchmarks`` alone, and what is predicted from them is compared
with the forward passes afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch

from perfsuite.llama.bursts import Between, Pattern, between_calls, patterns, trusted_patterns
from perfsuite.llama.diagnosis.microbenchmarks import Findings, Microbenchmarks
from perfsuite.llama.diagnosis.routes import ROUTES
from perfsuite.llama.diagnosis.sweep import ROWS
from perfsuite.llama.measuring import SETTLE_S, collector_paused
from perfsuite.llama.neighbours import Neighbours
from perfsuite.llama.rows import Forward
from perfsuite.progress import RunProgress
from runtime import STAGES, SplitLlama
from runtime.checkpoints import Checkpoint, ModelConfig
from runtime.rope import max_length
from runtime.stages import Stage
from runtime.traffic import forward_traffic
from runtime.transports.registry import TRANSPORTS

_MICRO = "microbenchmarks"
_LEAST_S = 1.0  # of forward passes per stage and round
_MOST_FORWARDS = 5
_TOKENS = 8  # single ones, in a round


@dataclass(frozen=True)
class Measured:
    """What a diagnosis measured: forward passes by stage, and the findings that know nothing of them."""

    forwards: Mapping[str, Sequence[Forward]]
    tokens: Mapping[str, Sequence[Forward]]  # single ones after the prompt, by stage
    kernels: Mapping[str, str]
    findings: Findings
    runs: int  # of all kinds, watched for others' use of the machine
    disturbed: Mapping[str, int]  # by stage, or "microbenchmarks"


def run_microbenchmarks(
    config: ModelConfig,
    stages: Sequence[Stage],
    tokens: int,
    *,
    threads: int,
    rounds: int,
    rows: Sequence[int] = ROWS,
) -> Findings:
    """Find out this machine's constants for such models and lengths; nothing is loaded, no forward pass run.

    ``rows`` are the payloads of the sweeps, in KB. Raises SplitError or MeasurementError if a process
    fails or there is not enough memory.
    """
    measured, between = patterns(config, stages, tokens), _between(config, tokens)
    with closing(Microbenchmarks(measured, between, tuple(ROUTES), threads, rows)) as benchmarks:
        for _ in range(rounds):
            benchmarks.run_round()
        return benchmarks.findings()


def measure(
    checkpoint: Checkpoint,
    input_ids: torch.Tensor,
    stages: Sequence[Stage],
    *,
    projected: Sequence[Pattern] = (),
    device: str = "cpu",
    threads: int,
    rounds: int,
    slowdown: Mapping[str, float] | None = None,
) -> Measured:
    """Run ``rounds`` of microbenchmarks and of forward passes over ``input_ids`` (1, tokens).

    ``projected`` are further operations to be measured; ``slowdown`` makes phases of the forward passes
    slower, to see it found. Raises SplitError or MeasurementError.
    """
    config, tokens = checkpoint.config, input_ids.shape[1]
    done: dict[str, list[Forward]] = {stage.name: [] for stage in stages}
    single: dict[str, list[Forward]] = {stage.name: [] for stage in stages}
    with ExitStack() as stack:
        progress = stack.enter_context(RunProgress(rounds * (1 + len(stages))))
        llamas: dict[str, SplitLlama] = {}
        for stage in stages:
            progress.say(f"starting {stage.name}")
            llama = SplitLlama.launch(
                checkpoint, stage.name, device, threads=threads, slowdown=slowdown
            )
            llamas[stage.name] = stack.enter_context(llama)
        progress.say("starting the microbenchmarks")
        wanted = tuple(
            dict.fromkeys(
                (
                    *patterns(config, stages, tokens),
                    *trusted_patterns(config, stages),
                    *projected,
                )
            )
        )
        benchmarks = Microbenchmarks(wanted, _between(config, tokens), tuple(ROUTES), threads)
        stack.callback(benchmarks.close)
        neighbours = Neighbours()
        for number in range(rounds):
            progress.begin_run(_MICRO, number)
            neighbours.begin()
            benchmarks.run_round()
            neighbours.end(_MICRO)
            for name, llama in llamas.items():
                progress.begin_run(name, number)
                time.sleep(SETTLE_S)
                neighbours.begin()
                done[name] += _forwards(llama, input_ids)
                single[name] += _tokens(llama, input_ids)
                neighbours.end(name)
        kernels = {name: str(llama.worker_info["kernels"]) for name, llama in llamas.items()}
        runs = rounds * (1 + len(llamas))
        return Measured(done, single, kernels, benchmarks.findings(), runs, neighbours.disturbed)


def _between(config: ModelConfig, tokens: int) -> Between:
    """Return what the sides do between calls where there are most of them."""

    def calls(stage: Stage) -> tuple[int, bool]:
        rpc_count = forward_traffic(config, stage, tokens).rpc_count
        return rpc_count, TRANSPORTS[stage.transport].shares_memory

    return between_calls(config, max(STAGES.values(), key=calls), tokens)


def _tokens(llama: SplitLlama, input_ids: torch.Tensor) -> list[Forward]:
    """Time single tokens after the prompt; one before them does not count."""
    found: list[Forward] = []
    room = max_length(llama.config) - input_ids.shape[1]
    with collector_paused(), llama.open_context() as context:
        context.append(input_ids)
        for token in input_ids[:, : min(1 + _TOKENS, room)].T.tolist():
            started = time.perf_counter()
            context.append(token)
            found.append(Forward(time.perf_counter() - started, trace=llama.last_trace))
    return found[1:]


def _forwards(llama: SplitLlama, input_ids: torch.Tensor) -> list[Forward]:
    """Time forward passes; one before them, which finds caches as another stage has left them, does not count."""
    found: list[Forward] = []
    with collector_paused():
        llama.forward(input_ids)
        while len(found) < _MOST_FORWARDS and sum(each.seconds for each in found) < _LEAST_S:
            started = time.perf_counter()
            llama.forward(input_ids)
            found.append(Forward(time.perf_counter() - started, trace=llama.last_trace))
    return found
