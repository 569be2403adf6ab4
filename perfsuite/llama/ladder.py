"""``perfsuite ladder``: climb the stages side by side, and say what each step brought."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from msgspec.structs import replace

from perfsuite import statistics
from perfsuite.commands import JsonFile, application, command_line, option, whole
from perfsuite.errors import UsageError
from perfsuite.files import check_outputs, write_json, write_text
from perfsuite.llama import prompts
from perfsuite.llama.against import against_blocks, check_alike, read_earlier
from perfsuite.llama.csv_file import as_csv
from perfsuite.llama.decode_rows import Answer, answer_of, stage_generated, unsplit_generated
from perfsuite.llama.failures import runtime_failures
from perfsuite.llama.measuring import WARMUP_ROUNDS, interleave
from perfsuite.llama.neighbours import Neighbours
from perfsuite.llama.options import (
    MODEL,
    Model,
    Stages,
    Threads,
    Tokens,
    check_length,
    check_positive,
)
from perfsuite.llama.results import Ladder
from perfsuite.llama.rows import Forward, stage_row, unsplit_name, unsplit_row
from perfsuite.llama.table import ladder_blocks
from perfsuite.llama.unsplit import DTYPES, Unsplit
from perfsuite.machine import fingerprint
from perfsuite.progress import RunProgress
from perfsuite.render import terminal
from perfsuite.render.blocks import Block
from runtime import STAGES, SplitLlama, load_checkpoint
from runtime.stages import ladder

if TYPE_CHECKING:
    from runtime.checkpoints import Checkpoint
    from runtime.stages import Stage

LEAST_GENERATED = 3  # tokens: two after the first, of which there is a median

app = application()


@app.command(
    "ladder",
    help="Run the stages and the unsplit model in alternation on one text, and print latency, speed-up, "
    "traffic, phases and what the worker sees.",
)
@runtime_failures()
def run(
    context: typer.Context,
    model: Model = MODEL,
    tokens: Tokens = None,
    stages: Stages = None,
    device: Annotated[
        str,
        option("--device", "DEVICE", "the worker's and the unsplit model's: cpu or cuda"),
    ] = "cpu",
    rounds: Annotated[
        int,
        option("--rounds", "ROUNDS", f"measured rounds, after {WARMUP_ROUNDS} for warm-up", whole),
    ] = 5,
    threads: Threads = None,
    prompt: Annotated[
        str | None,
        option("--prompt", "TEXT", "text to run on (default: a passage that is shipped)"),
    ] = None,
    prompt_file: Annotated[
        Path | None, option("--prompt-file", "FILE", "the same, from a file")
    ] = None,
    seed: Annotated[
        int,
        option("--seed", "NUMBER", "of the order in a round and of the bootstrap", whole),
    ] = 0,
    against: Annotated[
        Path | None,
        option("--against", "FILE", "also show it beside a result that --json wrote"),
    ] = None,
    generate: Annotated[
        int | None,
        option(
            "--generate",
            "TOKENS",
            "also answer the text by so many tokens: time to first token, time per output token",
            whole,
        ),
    ] = None,
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, option("--csv", "FILE", "also write its table there")] = None,
) -> int:
    """Measure, write the JSON, print the table. Raises PerfsuiteError."""
    chosen = choose_stages(stages)
    check_positive(tokens=tokens, rounds=rounds, threads=threads)
    if generate is not None and generate < LEAST_GENERATED:
        raise UsageError(f"--generate {generate}: must be at least {LEAST_GENERATED}")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must not be negative")
    check_outputs({"--json": json_file, "--csv": csv_file})
    earlier = None if against is None else read_earlier(against)
    given = _prompt(prompt, prompt_file)
    checkpoint = load_checkpoint(model)
    check_length(model, checkpoint.config, tokens)
    text = given.tokenized(checkpoint.tokenizer(), tokens)
    check_length(model, checkpoint.config, len(text.ids) + (generate or 0))
    if against is not None and earlier is not None:
        check_alike(against, earlier, model, len(text.ids), device)
    result = measure(
        checkpoint,
        torch.tensor([text.ids]),
        chosen,
        device=device,
        threads=threads,
        rounds=rounds,
        seed=seed,
        model=model,
        prompt=text.source,
        command=command_line(context),
        generate=generate,
    )
    if json_file is not None:
        write_json(json_file, result.as_json())
    if csv_file is not None:
        write_text(csv_file, as_csv(result), option="--csv ")
    shown: list[Block] = list(ladder_blocks(result))
    if against is not None and earlier is not None:
        shown += against_blocks(result, against, earlier)
    terminal.show(shown)
    return 0


def choose_stages(names: str | None) -> list[Stage]:
    """The stages of a comma-separated list, in the order of ``STAGES``; the ladder's rungs when it is None.

    Raises UsageError for a name that is no stage.
    """
    if names is None:
        return ladder()
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
    generate: int | None = None,
) -> Ladder:
    """Run ``stages`` and the unsplit model in interleaved rounds on ``input_ids`` (1, tokens).

    With ``generate``, each also continues them by so many tokens, in further rounds of their own.

    All processes live at once and end with the call. Raises SplitError, UnsplitError, or
    MeasurementError when a stage's traffic differs from round to round. ``model``, ``prompt`` and
    ``command`` are only noted in the result.
    """
    worker_info: dict[str, Mapping[str, Any]] = {}
    benchmarks: dict[str, Callable[[], Forward]] = {}
    answering: dict[str, Callable[[], Answer]] = {}
    with ExitStack() as stack:
        # These load in the background, while the stages' workers start one after the other.
        unsplit = {
            dtype: stack.enter_context(
                Unsplit(checkpoint.source, dtype, device=device, threads=threads)
            )
            for dtype in DTYPES
        }
        runs = (WARMUP_ROUNDS + rounds) * (len(stages) + len(DTYPES)) * (2 if generate else 1)
        progress = stack.enter_context(RunProgress(runs))
        for stage in stages:
            progress.say(f"starting {stage.name}")
            llama = stack.enter_context(
                SplitLlama.launch(checkpoint, stage=stage.name, device=device, threads=threads)
            )
            worker_info[stage.name] = llama.worker_info
            benchmarks[stage.name] = partial(_split_forward, llama, input_ids)
            answering[stage.name] = partial(answer_of, llama, input_ids, generate or 0)
        for dtype, reference in unsplit.items():
            progress.say(f"starting {unsplit_name(dtype)}")
            reference.wait_until_ready()
            benchmarks[unsplit_name(dtype)] = partial(reference.forward, input_ids)
            answering[unsplit_name(dtype)] = partial(
                _unsplit_answer, reference, input_ids, generate or 0
            )
        neighbours = Neighbours()
        samples = interleave(
            benchmarks, rounds, seed=seed, on_run=progress.begin_run, neighbours=neighbours
        )
        answers: dict[str, list[Answer]] = {}
        if generate:
            answers = interleave(
                answering, rounds, seed=seed, on_run=progress.begin_run, neighbours=neighbours
            )
    decode = checkpoint.tokenizer().decode
    predicted = {forward.next_token for forwards in samples.values() for forward in forwards}
    return Ladder(
        model=model or checkpoint.source,
        tokens=input_ids.shape[1],
        prompt=prompt,
        rounds=rounds,
        seed=seed,
        device=device,
        confidence=statistics.median_confidence(rounds),
        command=command,
        machine=dict(fingerprint(unsplit["float32"].threads)),
        disturbed_runs=neighbours.disturbed,
        next_token_agrees=len(predicted) == 1,
        unsplit={
            dtype: replace(
                unsplit_row(samples[unsplit_name(dtype)], decode),
                generated=unsplit_generated(answers[unsplit_name(dtype)]) if generate else None,
            )
            for dtype in DTYPES
        },
        stages=tuple(
            replace(
                stage_row(stage, samples, worker_info[stage.name], decode, seed=seed),
                generated=stage_generated(stage, answers, seed=seed) if generate else None,
            )
            for stage in stages
        ),
    )


def _prompt(text: str | None, file: Path | None) -> prompts.Prompt:
    if text is not None and file is not None:
        raise UsageError("--prompt-file: not allowed with --prompt")
    if text is not None:
        return prompts.Prompt("--prompt", text)
    if file is not None:
        return prompts.Prompt(str(file), prompts.read_prompt(file))
    return prompts.SHIPPED


def _split_forward(llama: SplitLlama, input_ids: torch.Tensor) -> Forward:
    started = time.perf_counter()
    logits = llama.forward(input_ids)
    seconds = time.perf_counter() - started
    return Forward(seconds, int(logits[0].argmax()), llama.last_trace)


def _unsplit_answer(unsplit: Unsplit, input_ids: torch.Tensor, new_tokens: int) -> Answer:
    generated = unsplit.generate(input_ids, new_tokens)
    return Answer(generated.ttft_s, generated.token_s, generated.tokens, None)
