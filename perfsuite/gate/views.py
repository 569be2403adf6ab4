"""Outcomes as people and other programs read them: failure messages, the summary, Markdown, annotations."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence

from perfsuite.gate.outcome import Outcome, Status
from perfsuite.units import percent, seconds

_SIGNS = {
    Status.PASS: "🟢",
    Status.IMPROVED: "🔵",
    Status.REGRESSION: "🔴",
    Status.RECORDED: "⚪",
    Status.CHANGED: "🔴",
    Status.NO_BASELINE: "🔴",
}
_UNSURE = "🟡"
_COLUMNS = ("benchmark", "verdict", "latency", "ratio", "change")
_SAID_BY_CHANGE = frozenset({Status.PASS, Status.IMPROVED, Status.REGRESSION})
_MARKUP = re.compile(
    r"[\\|`*<]|(?<![^\W_])_|_(?![^\W_])"
)  # an underscore inside a word is plain text
_LONGEST_REASON = 300  # characters: what a failed process printed may be long


def failure(outcome: Outcome, against: str | None = None) -> str:
    """Return at most ten lines: what was measured, against what, where it grew, and what can be done."""
    lines = [f"{outcome.name}: {outcome.status}: {_in_a_line(outcome.reason)}"]
    node = shlex.quote(outcome.node)
    if outcome.judgement is not None:
        lines.append(f"change: {_change(outcome)}")
    if outcome.processes:
        lines.append(f"measured: {_measured(outcome)}")
        lines.append(
            f"samples: {len(outcome.processes)} fresh processes in {outcome.looks} looks, "
            f"{outcome.disturbed} rounds left out as disturbed"
        )
    if outcome.grown:
        phase, growth = outcome.grown
        unit = "of the reference's time"
        lines.append(
            f"grew most: {phase}, from {outcome.stored_phases[phase]:.3f} to "
            f"{outcome.phases[phase]:.3f} {unit} (+{growth:.3f})"
        )
    if against is not None:
        lines.append(f"reproduce: pytest {node} --perf-against {shlex.quote(against)}")
        return "\n".join(lines)
    if outcome.status is Status.NO_BASELINE:
        lines.append(f"record: pytest {node} --update-baselines")
        return "\n".join(lines)
    lines.append(f"reproduce: pytest {node}")
    lines.append(f"accept: pytest {node} --update-baselines")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line per outcome, below one with the columns' names."""
    table = [_COLUMNS, *(_cells(outcome) for outcome in outcomes)]
    widths = [max(len(row[place]) for row in table) for place in range(len(_COLUMNS))]
    return [
        "  ".join(
            cell.rjust(width) if 2 <= place <= 3 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what is to be said beside the table, each once."""
    found = {
        f"{note} in the measured processes": None for outcome in outcomes for note in outcome.notes
    }
    return list(found)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a table for a step summary."""
    lines = [
        "### Latency gate",
        "",
        "| | benchmark | verdict | latency | over its reference | change |",
        "|---|---|---|---:|---:|---|",
    ]
    lines += [
        f"| {_SIGNS.get(outcome.status, _UNSURE)} | "
        + " | ".join(escaped(cell) for cell in _cells(outcome))
        + " |"
        for outcome in outcomes
    ]
    return "\n".join(lines) + "\n"


def annotation(outcome: Outcome) -> str:
    """Return the workflow command that shows an outcome at a pull request."""
    level = "error" if outcome.failed else "warning"
    text = f"{outcome.name}: {outcome.status}: {outcome.reason}"
    if outcome.judgement is not None:
        text += f"; {_change(outcome)}"
    place = outcome.node.partition("::")[0]
    return f"::{level} file={_property(place)},title=latency {_property(outcome.status)}::{_data(text)}"


def escaped(text: str) -> str:
    """Return the text as a cell of a Markdown table, in which it shows as it is."""
    return " ".join(_MARKUP.sub(r"\\\g<0>", text).split())


def _data(text: str) -> str:
    # Workflow commands end at a line's end, and take % for an escape.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(",", "%2C").replace(":", "%3A")


def _cells(outcome: Outcome) -> tuple[str, ...]:
    latency, ratio = outcome.latency_s, outcome.ratio
    return (
        outcome.name,
        outcome.status.value,
        "-" if latency is None else _latency(outcome, latency),
        "-" if ratio is None else f"{ratio:.4g}",
        _change_or_why(outcome),
    )


def _latency(outcome: Outcome, latency_s: float) -> str:
    if outcome.throughput is None:
        return seconds(latency_s)
    return f"{seconds(latency_s)} ({outcome.throughput / latency_s:.4g}/s)"


def _measured(outcome: Outcome) -> str:
    ratio, latency = outcome.ratio, outcome.latency_s
    if ratio is None or latency is None:
        return "nothing"
    if outcome.base_s is not None:
        return f"{seconds(latency)}, base {seconds(outcome.base_s)}"
    stored = "nothing" if outcome.stored_ratio is None else f"{outcome.stored_ratio:.4g}"
    return f"{ratio:.4g} x its reference ({outcome.reference}), stored {stored}; {seconds(latency)}"


def _change(outcome: Outcome) -> str:
    judgement = outcome.judgement
    if judgement is None or not math.isfinite(judgement.change.value):
        return "-"
    change = judgement.change
    return (
        f"{percent(change.value - 1)} [{percent(change.low - 1)}, {percent(change.high - 1)}], "
        f"margin {judgement.margin:.1%}{', in turn' if outcome.in_turn else ''}"
    )


def _change_or_why(outcome: Outcome) -> str:
    change = _change(outcome)
    if outcome.status in _SAID_BY_CHANGE and outcome.judgement is not None:
        return change
    reason = _in_a_line(outcome.reason)
    return reason if change == "-" else f"{change}; {reason}"


def _in_a_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."
