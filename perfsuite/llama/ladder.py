"""``perfsuite ladder``: climb the stages side by side, and say what each step brought."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from perfsuite import statistics
from perfsuite.errors import UsageError
from perfsuite.files import check_writable, write_json, write_text
from perfsuite.llama import prompts
from perfsuite.llama.against import print_against, read_earlier
from perfsuite.llama.csv_file import as_csv
from perfsuite.llama.failures import runtime_failures
from perfsuite.llama.measuring import WARMUP_ROUNDS, interleave
from perfsuite.llama.neighbours import Neighbours
from perfsuite.llama.options import add_prompted_model, check_length, check_positive
from perfsuite.llama.results import LadderResult
from perfsuite.llama.rows import Forward, stage_row, unsplit_name, unsplit_row
from perfsuite.llama.table import print_ladder
from perfsuite.llama.unsplit import DTYPES, Unsplit
from perfsuite.machine import fingerprint
from perfsuite.progress import RunProgress
from runtime import STAGES, SplitLlama, load_checkpoint

if TYPE_CHECKING:
    from runtime.checkpoints import Checkpoint
    from runtime.stages import Stage


def add_parser(commands: Any) -> None:
    """Declare ``ladder`` and its options."""
    parser = commands.add_parser(
        "ladder",
        description="Run the stages and the unsplit model in alternation on one text, and print "
        "latency, speed-up, traffic, phases and what the worker sees.",
    )
    add_prompted_model(parser)
    parser.add_argument("--stages", metavar="A,B", help=f"of {', '.join(STAGES)} (default: all)")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="D",
        help="the worker's and the unsplit model's (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="R",
        help=f"measured rounds, after {WARMUP_ROUNDS} for warm-up (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each process (default: the runtime's and torch's choice)",
    )
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "--prompt", metavar="TEXT", help="text to run on (default: a passage that is shipped)"
    )
    text.add_argument("--prompt-file", type=Path, metavar="F", help="the same, from a file")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="of the order in a round and of the bootstrap (default: %(default)s)",
    )
    parser.add_argument(
        "--against", type=Path, metavar="F", help="also show it beside a result that --json wrote"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the result there")
    parser.add_argument("--csv", type=Path, metavar="F", help="also write its table there")
    parser.set_defaults(run=run)


@runtime_failures()
def run(arguments: argparse.Namespace) -> int:
    """Measure, write the JSON, print the table. Raises PerfsuiteError."""
    stages = choose_stages(arguments.stages)
    check_positive(arguments, "tokens", "rounds", "threads")
    if arguments.seed < 0:
        raise UsageError(f"--seed {arguments.seed}: must not be negative")
    for option in ("json", "csv"):
        if (path := getattr(arguments, option)) is not None:
            check_writable(path, option=f"--{option}")
    earlier = None if arguments.against is None else read_earlier(arguments.against)
    prompt = _prompt(arguments)
    checkpoint = load_checkpoint(arguments.model)
    check_length(arguments, checkpoint.config)
    text = prompt.tokenized(checkpoint.tokenizer(), arguments.tokens)
    check_length(arguments, checkpoint.config, len(text.ids))
    if earlier is not None:
        earlier.check((arguments.model, len(text.ids), arguments.device))
    result = measure(
        checkpoint,
        torch.tensor([text.ids]),
        stages,
        device=arguments.device,
        threads=arguments.threads,
        rounds=arguments.rounds,
        seed=arguments.seed,
        model=arguments.model,
        prompt=text.source,
        command=arguments.command,
    )
    if arguments.json is not None:
        write_json(arguments.json, result)
    if arguments.csv is not None:
        write_text(arguments.csv, as_csv(result), option="--csv ")
    print_ladder(result)
    if earlier is not None:
        print_against(result, earlier)
    return 0


def choose_stages(names: str | None) -> list[Stage]:
    """The stages of a comma-separated list, in the ladder's order; all when it is None.

    Raises UsageError for a name that is no stage.
    """
    if names is None:
        return list(STAGES.values())
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in STAGES:
            raise UsageError(f"--stages: no stage {name!r}; there are {', '.join(STAGES)}")
    return [stage for name, stage in STAGES.items() if name in wanted]


def measure(
    checkpoint: Checkpoint,
    input_ids: torch.Tensor,
    stages: Sequence[Stage],
    *,
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 5,
    seed: int = 0,
    model: str | None = None,
    prompt: str = "",
    command: str = "",
) -> LadderResult:
    """Run ``stages`` and the unsplit model in interleaved rounds on ``input_ids`` (1, tokens).

    All processes live at once and end with the call. Raises SplitError, UnsplitError, or
    MeasurementError when a stage's traffic differs from round to round. ``model``, ``prompt`` and
    ``command`` are only noted in the result.
    """
    worker_info: dict[str, Mapping[str, Any]] = {}
    contenders: dict[str, Callable[[], Forward]] = {}
    with ExitStack() as stack:
        # These load in the background, while the stages' workers start one after the other.
        unsplit = {
            dtype: stack.enter_context(
                Unsplit(checkpoint.source, dtype, device=device, threads=threads)
            )
            for dtype in DTYPES
        }
        runs = (WARMUP_ROUNDS + rounds) * (len(stages) + len(DTYPES))
        progress = stack.enter_context(RunProgress(runs))
        for stage in stages:
            progress.say(f"starting {stage.name}")
            llama = stack.enter_context(
                SplitLlama.launch(checkpoint, stage=stage.name, device=device, threads=threads)
            )
            worker_info[stage.name] = llama.worker_info
            contenders[stage.name] = partial(_split_forward, llama, input_ids)
        for dtype, yardstick in unsplit.items():
            progress.say(f"starting {unsplit_name(dtype)}")
            yardstick.wait_until_ready()
            contenders[unsplit_name(dtype)] = partial(_unsplit_forward, yardstick, input_ids)
        neighbours = Neighbours()
        samples = interleave(
            contenders, rounds, seed=seed, on_run=progress.begin_run, neighbours=neighbours
        )
    decode = checkpoint.tokenizer().decode
    predicted = {forward.next_token for forwards in samples.values() for forward in forwards}
    return LadderResult(
        model=model or checkpoint.source,
        tokens=input_ids.shape[1],
        prompt=prompt,
        rounds=rounds,
        seed=seed,
        device=device,
        confidence=statistics.median_confidence(rounds),
        command=command,
        machine=fingerprint(unsplit["float32"].threads),
        disturbed_runs=neighbours.disturbed,
        next_token_agrees=len(predicted) == 1,
        unsplit={dtype: unsplit_row(samples[unsplit_name(dtype)], decode) for dtype in DTYPES},
        stages=[
            stage_row(stage, samples, worker_info[stage.name], decode, seed=seed)
            for stage in stages
        ],
    )


def _prompt(arguments: argparse.Namespace) -> prompts.Prompt:
    if arguments.prompt is not None:
        return prompts.Prompt("--prompt", arguments.prompt)
    if arguments.prompt_file is not None:
        text = prompts.read_prompt(arguments.prompt_file)
        return prompts.Prompt(str(arguments.prompt_file), text)
    return prompts.SHIPPED


def _split_forward(llama: SplitLlama, input_ids: torch.Tensor) -> Forward:
    started = time.perf_counter()
    logits = llama.forward(input_ids)
    seconds = time.perf_counter() - started
    return Forward(seconds, int(logits[0].argmax()), llama.last_trace.totals())


def _unsplit_forward(unsplit: Unsplit, input_ids: torch.Tensor) -> Forward:
    forward = unsplit.forward(input_ids)
    return Forward(forward.seconds, forward.next_token, None)
