"""``perfsuite diagnose`` says why a real forward pass is slower than a single transfer suggests."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perfsuite.errors import UsageError
from perfsuite.llama.failures import runtime_failures
from perfsuite.llama.options import add_prompted_model, check_length, check_positive

if TYPE_CHECKING:
    import torch

    from perfsuite.llama.diagnosis.measuring import Measured
    from perfsuite.llama.diagnosis.result import Diagnosis
    from perfsuite.llama.diagnosis.what_if import WhatIf
    from runtime.checkpoints import Checkpoint, ModelConfig
    from runtime.stages import Stage


def add_parser(commands: Any) -> None:
    """Declare ``diagnose`` and its options."""
    parser = commands.add_parser(
        "diagnose",
        description="Measure single transfers, single operations and whole forward passes; predict the "
        "latter from the former alone, and project what a change would bring.",
    )
    add_prompted_model(parser)
    parser.add_argument("--stages", metavar="A,B", help="stages to explain (default: all)")
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="the worker's (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="R",
        help="of micro-measurements and forward passes in alternation (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="T", help="of each worker (default: torch's choice)"
    )
    parser.add_argument(
        "--what-if",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="project another transport=, device=, dtype= or number of calls rpc=; may be repeated",
    )
    parser.add_argument(
        "--slowdown",
        action="append",
        default=[],
        metavar="PHASE=FACTOR",
        help="make a phase of the forward passes slower, to see it found",
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="F",
        help="also write a Chrome trace of one forward per stage",
    )
    parser.add_argument("--chart", type=Path, metavar="DIR", help="also draw charts there")
    parser.add_argument("--json", type=Path, metavar="F", help="also write the result there")
    parser.set_defaults(run=run)


@runtime_failures()
def run(arguments: argparse.Namespace) -> int:
    """Measure, predict, write the files, print. Raises PerfsuiteError."""
    check_positive(arguments, "tokens", "rounds", "threads")
    import torch

    from perfsuite.files import check_writable, write_json
    from perfsuite.llama import prompts
    from perfsuite.llama.diagnosis.footprint import known_config
    from perfsuite.llama.diagnosis.measuring import measure
    from perfsuite.llama.diagnosis.report import print_diagnosis
    from perfsuite.llama.diagnosis.what_if import parse_what_if
    from perfsuite.llama.ladder import choose_stages
    from runtime import load_checkpoint
    from runtime.delay_injection import Delays, parse_factor

    stages = choose_stages(arguments.stages)
    arguments.tokens = arguments.tokens or prompts.SHIPPED_TOKENS
    if arguments.device != "cpu":
        raise UsageError(
            f"--device {arguments.device}: only the operations of cpu are measured one by one so far; "
            "project another with --what-if device="
        )
    what_if = parse_what_if(arguments.what_if)
    slowdown = Delays(dict(map(parse_factor, arguments.slowdown))).factors
    for option in ("json", "timeline"):
        file = getattr(arguments, option)
        if file is not None:
            check_writable(file, option=f"--{option}")
    if arguments.chart is not None:
        from perfsuite.llama.diagnosis.charts import check_drawable  # needs the extra report

        check_drawable(arguments.chart)
    config = known_config(arguments.model)
    if config is not None:
        _check_fits(arguments, what_if, config, stages)
    checkpoint = load_checkpoint(arguments.model)
    if config is None:
        _check_fits(arguments, what_if, checkpoint.config, stages)
    prompt = prompts.SHIPPED.tokenized(checkpoint.tokenizer(), arguments.tokens)
    input_ids = torch.tensor([prompt.ids])
    threads = arguments.threads or torch.get_num_threads()
    measured = measure(
        checkpoint,
        input_ids,
        stages,
        projected=what_if.patterns(checkpoint.config, stages, arguments.tokens),
        device=arguments.device,
        threads=threads,
        rounds=arguments.rounds,
        slowdown=slowdown,
    )
    result = _assemble(
        arguments, checkpoint.config, stages, what_if, threads, measured, prompt.source
    )
    if arguments.timeline is not None:
        timeline = _timeline(checkpoint, stages, input_ids, arguments.device, threads)
        write_json(arguments.timeline, timeline, "--timeline")
    if arguments.json is not None:
        write_json(arguments.json, result)
    if arguments.chart is not None:
        from perfsuite.llama.diagnosis.charts import draw_charts

        draw_charts(result, arguments.chart)
    print_diagnosis(result)
    return 0


def _check_fits(
    arguments: argparse.Namespace, what_if: WhatIf, config: ModelConfig, stages: Sequence[Stage]
) -> None:
    """Refuse what the model's configuration alone shows to be impossible, before anything is loaded."""
    import psutil

    from perfsuite.llama.diagnosis.footprint import check_accelerator, check_memory, memory_needed
    from perfsuite.llama.diagnosis.roads import ROADS

    check_length(arguments, config)
    needed = memory_needed(config, stages, arguments.tokens, len(ROADS))
    check_memory(arguments.model, needed, psutil.virtual_memory().available)
    if what_if.accelerator is not None:
        check_accelerator(what_if.accelerator, config, what_if.stages(stages))


def _assemble(
    arguments: argparse.Namespace,
    config: ModelConfig,
    stages: Sequence[Stage],
    what_if: WhatIf,
    threads: int,
    measured: Measured,
    prompt: str,
) -> Diagnosis:
    from perfsuite.llama.cost_model import predict
    from perfsuite.llama.diagnosis import sections
    from perfsuite.llama.diagnosis.result import Diagnosis
    from perfsuite.machine import fingerprint

    findings, tokens = measured.findings, arguments.tokens
    transport = sections.transport_section(findings.samples)
    rows = [sections.stage_section(stage, measured.forwards[stage.name]) for stage in stages]
    predictions = [
        sections.prediction_row(row, predict(config, stage, tokens, findings.constants))
        for stage, row in zip(stages, rows, strict=True)
    ]
    return Diagnosis(
        model=arguments.model,
        tokens=tokens,
        prompt=prompt,
        device=arguments.device,
        threads=threads,
        rounds=arguments.rounds,
        command=arguments.command,
        machine=fingerprint(threads),
        transport=transport,
        memory=sections.memory_section(findings),
        rates=sections.rates_section(findings),
        naive=sections.naive_section(transport, config, stages, tokens),
        kernels=measured.kernels,
        stages=rows,
        prediction=predictions,
        median_error=median(abs(row["error"]) for row in predictions),
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
