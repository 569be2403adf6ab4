"""The ladder as blocks: the same for a terminal, for Markdown and for a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perfsuite.llama.neighbours import told
from perfsuite.llama.results import PHASES, Ladder, Latency, StageRow
from perfsuite.llama.rows import unsplit_name
from perfsuite.render.blocks import (
    MISSING,
    Block,
    Column,
    Heading,
    Note,
    Row,
    Shares,
    Table,
    columns,
)
from perfsuite.schema import Interval
from perfsuite.units import brief_seconds, counted


def ladder_blocks(ladder: Ladder) -> Iterator[Block]:
    """Yield the whole ladder."""
    yield Heading(heading(ladder))
    yield latencies(ladder)
    yield phases(ladder)
    if any(row.generated for row in ladder.stages):
        yield generation(ladder)
        yield token_traffic(ladder)
        yield token_phases(ladder)
    yield meaning(ladder)
    yield from _notes(ladder)


def heading(ladder: Ladder) -> str:
    """Say in a line what was run."""
    tokens = f"{ladder.tokens:,} tokens"
    words = [
        ladder.model,
        f"{tokens} ({ladder.prompt})" if ladder.prompt else tokens,
        ladder.device,
    ]
    if ladder.rounds:
        words.append("1 round" if ladder.rounds == 1 else f"{ladder.rounds} interleaved rounds")
    return ", ".join(word for word in words if word)


def format_latency(latency: Latency, *, interval: bool = True) -> str:
    """``1.89 [1.85, 1.90] s``: three significant digits of the median; below 1 s in ms."""
    unit, scale = ("s", 1.0) if latency.median >= 1.0 else ("ms", 1e3)
    digits = _decimals(latency.median * scale)
    median, low, high = (
        f"{value * scale:.{digits}f}" for value in (latency.median, latency.low, latency.high)
    )
    return f"{median} [{low}, {high}] {unit}" if interval else f"{median} {unit}"


def format_ratio(
    value: float | None, interval: Interval | None, unit: str = "", *, several: bool = True
) -> str:
    """``0.60 [0.58, 0.62]`` with ``unit`` behind the value; a dash for one that is not known.

    Of no more than one round (not ``several``) there is no interval.
    """
    if value is None:
        return MISSING
    digits = 2 if value < 10 else 1
    shown = f"{value:.{digits}f}{unit}"
    if interval is None or not several:
        return shown
    return f"{shown} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def format_bytes(count: int) -> str:
    """``7.52 GB``, in powers of ten: at least three significant digits."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "KB")):
        if count >= 10**power:
            value = count / 10**power
            return f"{value:.{_decimals(value)}f} {unit}"
    return f"{count} B"


def _decimals(value: float) -> int:
    """Decimals that show three significant digits of a positive ``value``."""
    return min(6, max(0, 2 - math.floor(math.log10(value)))) if value > 0 else 0


def latencies(ladder: Ladder) -> Table:
    """Return latency, ratios and traffic of each stage, and of the unsplit model."""
    several = ladder.rounds != 1
    heads = ("latency", "speed-up\nover baseline", "over unsplit,\nsame dtype", "RPCs", "sent",
             "received")  # fmt: skip
    rows = [
        Row(
            row.name,
            format_latency(row.latency_s, interval=several),
            MISSING if row.vs_baseline is None else f"{row.vs_baseline:.1f}x",
            format_ratio(row.vs_unsplit, row.vs_unsplit_interval, several=several),
            str(row.rpc_count),
            format_bytes(row.bytes_sent),
            format_bytes(row.bytes_received),
        )
        for row in ladder.stages
    ]
    for dtype, unsplit in ladder.unsplit.items():
        latency = format_latency(unsplit.latency_s, interval=several)
        rows.append(Row(unsplit_name(dtype), latency, *[""] * 5, tone="dim"))
    columns = [Column("stage"), *(Column(head, figures=True) for head in heads)]
    return Table(
        columns, rows, "Latency, traffic, and ratios to the baseline and the unsplit model."
    )


def phases(ladder: Ladder) -> Shares:
    """Return what part of its time each stage spends where."""
    return Shares("where the time goes", PHASES, {row.name: row.phases_s for row in ladder.stages})


def generation(ladder: Ladder) -> Table:
    """Return times to the first and to each further token of each stage, and of the unsplit model."""
    several = ladder.rounds != 1
    heads = ("to first\ntoken", "per further\ntoken", "95th\npercentile", "tokens/s",
             "over unsplit,\nsame dtype")  # fmt: skip
    named = [(row.name, row.generated) for row in ladder.stages]
    named += [(unsplit_name(dtype), row.generated) for dtype, row in ladder.unsplit.items()]
    rows = [
        Row(
            name,
            format_latency(made.ttft_s, interval=several),
            format_latency(made.tpot_s, interval=several),
            brief_seconds(made.tpot_p95_s),
            f"{made.tokens_per_s:.1f}",
            ""
            if made.vs_unsplit is None
            else format_ratio(made.vs_unsplit, made.vs_unsplit_interval, several=several),
            tone="dim" if made.vs_unsplit is None else "",
        )
        for name, made in named
        if made is not None
    ]
    return Table(
        columns("stage", *heads),
        rows,
        "Generation: greedy answers, with the cache where the stage puts it.",
    )


def token_traffic(ladder: Ladder) -> Table:
    """Return what crosses for each further token."""
    rows = [
        Row(
            row.name,
            f"{row.generated.rpc_count_per_token:g}",
            format_bytes(round(row.generated.bytes_sent_per_token)),
            format_bytes(round(row.generated.bytes_received_per_token)),
        )
        for row in ladder.stages
        if row.generated is not None
    ]
    heads = columns("stage", "RPCs a further token", "sent", "received")
    return Table(heads, rows, "Traffic of a further token.")


def token_phases(ladder: Ladder) -> Shares:
    """Return what part of a further token's time each stage spends where."""
    parts = {
        row.name: row.generated.phases_s
        for row in ladder.stages
        if row.generated and row.generated.phases_s
    }
    return Shares("where the time of a further token goes", PHASES, parts)


def meaning(ladder: Ladder) -> Table:
    """Return what each stage brought beside what it was to bring, and what it costs in trust."""
    several = ladder.rounds != 1
    heads = [
        Column("stage"),
        Column("speed-up,\nmeasured", figures=True),
        Column("speed-up,\nforecast", figures=True),
        Column("next\ntoken", room=14),
        Column("the worker sees, in clear"),
    ]
    rows = [
        Row(
            row.name,
            format_ratio(row.vs_baseline, row.vs_baseline_interval, "x", several=several),
            forecast(row),
            repr(row.next_token.text),  # quoted, so that a space or a line's end can be seen
            row.worker_sees,
        )
        for row in ladder.stages
    ]
    for dtype, unsplit in ladder.unsplit.items():
        token = repr(unsplit.next_token.text)
        rows.append(Row(unsplit_name(dtype), "", "", token, "not split", tone="dim"))
    return Table(heads, rows, "What each stage brought, and what the worker sees.")


def forecast(row: StageRow) -> str:
    """Return the speed-up that the analysis forecast; a dash where it said nothing."""
    return MISSING if row.forecast_speedup is None else f"{row.forecast_speedup:g}x"


def _notes(ladder: Ladder) -> Iterator[Note]:
    agreement = "all agree"
    if not ladder.next_token_agrees:
        agreement = "they do NOT all agree (bfloat16 may decide a close call otherwise)"
    yield Note(agreement, "next token")
    generated = [row.generated for row in ladder.stages]
    generated += [unsplit.generated for unsplit in ladder.unsplit.values()]
    made = [one for one in generated if one]
    if made:
        same = len({tuple(one.tokens) for one in made}) == 1
        words = (
            "all say the same" if same else "not all say the same (bfloat16 may decide otherwise)"
        )
        yield Note(f"{made[0].new_tokens} tokens each; {words}", "answers")
    if ladder.rounds == 1:
        yield Note("one round, so no interval is known", "latency")
    elif ladder.confidence:
        yield Note(f"median [{ladder.confidence:.1%} interval, order statistics]", "latency")
        ratios = "median of the rounds' ratios [95% interval, bootstrap over rounds]"
        yield Note(ratios, "ratios")
    words = "of the analysis, for a model of its own; never measured, kept to be judged"
    yield Note(words, "forecast")
    yield Note(_kernels(ladder.stages), "kernels")
    yield Note(format_machine(ladder.machine), "machine")
    if ladder.disturbed_runs:
        benchmarks = len(ladder.stages) + len(ladder.unsplit) + len(made)
        yield Note(told(ladder.disturbed_runs, benchmarks * (ladder.rounds or 1)), "busy")


def _kernels(rows: Sequence[StageRow]) -> str:
    """What computes on the worker, each kind once with the stages that it serves."""
    stages: dict[str, list[str]] = {}
    for row in rows:
        served = f"{row.kernels}, {counted(row.threads, 'thread')} on {row.device_name}"
        stages.setdefault(served, []).append(row.name)
    return "; ".join(f"{', '.join(names)}: {kernels}" for kernels, names in stages.items())


def format_machine(machine: Mapping[str, object]) -> str:
    """Describe a machine by what is known of it."""
    words: dict[str, Any] = {name: word for name, word in machine.items() if word}
    gpu = (
        f"{words['gpu']} (driver {words.get('driver', 'unknown')})" if "gpu" in words else "no GPU"
    )
    parts = [str(words.get("cpu", "unknown processor"))]
    parts += [counted(words[name], name[:-1]) for name in ("cores", "threads") if name in words]
    parts.append(gpu)
    titles = {"torch": "torch", "python": "Python", "kernel": "Linux"}
    parts += [f"{title} {words[name]}" for name, title in titles.items() if name in words]
    return ", ".join(parts)
