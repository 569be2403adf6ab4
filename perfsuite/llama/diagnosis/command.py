"""``perfsuite diagnose`` says why a real forward pass is slower than a single transfer suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from perfsuite.commands import JsonFile, application, command_line, option, whole
from perfsuite.errors import UsageError
from perfsuite.llama.failures import runtime_failures
from perfsuite.llama.options import (
    MODEL,
    Model,
    Stages,
    Threads,
    Tokens,
    check_length,
    check_positive,
)

if TYPE_CHECKING:
    import torch

    from perfsuite.llama.diagnosis.measuring import Measured
    from perfsuite.llama.diagnosis.result import Diagnosis
    from perfsuite.llama.diagnosis.what_if import WhatIf
    from runtime.checkpoints import Checkpoint, ModelConfig
    from runtime.stages import Stage

app = application()


class _Asked(NamedTuple):
    """What is only noted in the result."""

    model: str
    tokens: int
    prompt: str
    device: str
    threads: int
    rounds: int
    command: str


@app.command(
    "diagnose",
    help="Measure single transfers, single operations and whole forward passes; predict the latter from the "
    "former alone, and project what a change would bring.",
)
@runtime_failures()
def run(
    context: typer.Context,
    model: Model = MODEL,
    tokens: Tokens = None,
    stages: Stages = None,
    device: Annotated[str, option("--device", "DEVICE", "the worker's: cpu so far")] = "cpu",
    rounds: Annotated[
        int,
        option("--rounds", "ROUNDS", "of microbenchmarks and forward passes in alternation", whole),
    ] = 3,
    threads: Threads = None,
    what_if: Annotated[
        list[str] | None,
        option(
            "--what-if",
            "KEY=VALUE",
            "project another transport=, device=, dtype= or number of calls rpc=; may be repeated. "
            "Transports: zmq-ipc, zmq-tcp, shared-memory, frames-tcp. Devices: a100, h100, h100-pcie, h200, l4, l40s. "
            "Types: float32, bfloat16. Calls: from 1 to 1,000,000",
        ),
    ] = None,
    slowdown: Annotated[
        list[str] | None,
        option(
            "--slowdown",
            "PHASE=FACTOR",
            "make a phase of the forward passes slower, to see it found; may be repeated. Phases: "
            "serialize, transport, device, deserialize, trusted, total. Factors: of the phase's time, from 1",
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        option("--timeline", "FILE", "also write a Chrome trace of one forward per stage"),
    ] = None,
    chart: Annotated[Path | None, option("--chart", "FOLDER", "also draw charts there")] = None,
    json_file: JsonFile = None,
) -> int:
    """Measure, predict, write the files, print. Raises PerfsuiteError."""
    check_positive(tokens=tokens, rounds=rounds, threads=threads)
    import torch

    from perfsuite.files import check_outputs, write_json
    from perfsuite.llama import prompts
    from perfsuite.llama.diagnosis.footprint import known_config
    from perfsuite.llama.diagnosis.measuring import measure
    from perfsuite.llama.diagnosis.report import diagnosis_blocks
    from perfsuite.llama.diagnosis.what_if import parse_what_if
    from perfsuite.llama.ladder import choose_stages
    from perfsuite.render import terminal
    from runtime import load_checkpoint
    from runtime.delay_injection import Delays, parse_factor

    chosen = choose_stages(stages)
    tokens = tokens or prompts.SHIPPED_TOKENS
    if device != "cpu":
        raise UsageError(
            f"--device {device}: only the operations of cpu are measured one by one so far; "
            "project another with --what-if device="
        )
    assumed = parse_what_if(what_if or [])
    factors = Delays(dict(map(parse_factor, slowdown or []))).factors
    check_outputs({"--json": json_file, "--timeline": timeline})
    if chart is not None:
        from perfsuite.llama.diagnosis.charts import check_drawable  # needs the extra report

        check_drawable(chart)
    config = known_config(model)
    if config is not None:
        _check_fits(model, config, chosen, tokens, assumed)
    checkpoint = load_checkpoint(model)
    if config is None:
        _check_fits(model, checkpoint.config, chosen, tokens, assumed)
    prompt = prompts.SHIPPED.tokenized(checkpoint.tokenizer(), tokens)
    input_ids = torch.tensor([prompt.ids])
    threads = threads or torch.get_num_threads()
    measured = measure(
        checkpoint,
        input_ids,
        chosen,
        projected=assumed.patterns(checkpoint.config, chosen, tokens),
        device=device,
        threads=threads,
        rounds=rounds,
        slowdown=factors,
    )
    asked = _Asked(model, tokens, prompt.source, device, threads, rounds, command_line(context))
    result = _assemble(asked, checkpoint.config, chosen, assumed, measured)
    if timeline is not None:
        trace = _timeline(checkpoint, chosen, input_ids, device, threads)
        write_json(timeline, trace, "--timeline")
    if json_file is not None:
        write_json(json_file, result.as_json())
    if chart is not None:
        from perfsuite.llama.diagnosis.charts import draw_charts

        draw_charts(result, chart)
    terminal.show(diagnosis_blocks(result))
    return 0


def _check_fits(
    model: str, config: ModelConfig, stages: Sequence[Stage], tokens: int, what_if: WhatIf
) -> None:
    """Refuse what the model's configuration alone shows to be impossible, before anything is loaded."""
    import psutil

    from perfsuite.llama.diagnosis.footprint import check_accelerator, check_memory, memory_needed
    from perfsuite.llama.diagnosis.routes import ROUTES

    check_length(model, config, tokens)
    needed = memory_needed(config, stages, tokens, len(ROUTES))
    check_memory(model, needed, psutil.virtual_memory().available)
    if what_if.accelerator is not None:
        check_accelerator(what_if.accelerator, config, what_if.stages(stages))


def _assemble(
    asked: _Asked,
    config: ModelConfig,
    stages: Sequence[Stage],
    what_if: WhatIf,
    measured: Measured,
) -> Diagnosis:
    from perfsuite.llama.cost_model import predict, predict_token
    from perfsuite.llama.diagnosis import sections
    from perfsuite.llama.diagnosis.result import Diagnosis
    from perfsuite.machine import fingerprint

    findings, tokens = measured.findings, asked.tokens
    transport = sections.transport_section(findings.samples)
    rows = [sections.stage_section(stage, measured.forwards[stage.name]) for stage in stages]
    predictions = [
        sections.prediction_row(row, predict(config, stage, tokens, findings.constants))
        for stage, row in zip(stages, rows, strict=True)
    ]
    return Diagnosis(
        model=asked.model,
        tokens=tokens,
        prompt=asked.prompt,
        device=asked.device,
        threads=asked.threads,
        rounds=asked.rounds,
        command=asked.command,
        machine=dict(fingerprint(asked.threads)),
        transport=dict(transport),
        memory=sections.memory_section(findings),
        rates=sections.rates_section(findings),
        naive=sections.naive_section(transport, config, stages, tokens),
        kernels=dict(measured.kernels),
        stages=rows,
        prediction=predictions,
        token_prediction=[
            sections.prediction_row(
                sections.stage_section(stage, measured.tokens[stage.name]),
                predict_token(config, stage, tokens, findings.constants),
            )
            for stage in stages
            if measured.tokens[stage.name]
        ],
        median_error=median(abs(row.error) for row in predictions),
        ranking_right=sections.ranking_right(predictions),
        ties=sections.ties(predictions),
        disturbed_runs=measured.disturbed,
        runs=measured.runs,
        projection=sections.projection_section(what_if, config, stages, tokens, findings),
    )


def _timeline(
    checkpoint: Checkpoint,
    stages: Sequence[Stage],
    input_ids: torch.Tensor,
    device: str,
    threads: int,
) -> Mapping[str, Any]:
    from perfsuite.llama.diagnosis.profiled_worker import profiled_forward
    from perfsuite.llama.diagnosis.timeline import chrome_trace

    return chrome_trace(
        event
        for number, stage in enumerate(stages)
        for event in profiled_forward(
            checkpoint, stage, input_ids, device=device, threads=threads, number=number
        )
    )
