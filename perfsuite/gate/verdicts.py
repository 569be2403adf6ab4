"""Outcomes as people and other programs read them: failure messages, the summary, markdown, annotations."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from perfsuite.gate.deciding import Verdict
from perfsuite.gate.judging import Outcome

_SIGNS = {
    "regression": "🔴",
    "pass": "🟢",
    "inconclusive": "🟡",
    "improved": "🔵",
    "recorded": "⚪",
}


def failure(outcome: Outcome, node: str) -> str:
    """Return at most ten lines: what was measured, against what, where it grew, and what can be done."""
    lines = [
        f"{outcome.name}: {word(outcome)}: {outcome.reason}",
        f"change: {_change(outcome)}",
        (
            f"measured: {outcome.ratio:.3f} x its yardstick, stored {_number(outcome.stored_ratio)}; "
            f"{outcome.latency_ms:.2f} ms"
        ),
        (
            f"samples: {len(outcome.replicates)} fresh processes in {outcome.looks} looks, "
            f"{outcome.disturbed} rounds left out as disturbed, {outcome.off_speed} as of an unknown speed"
        ),
    ]
    if outcome.grown:
        phase = outcome.grown.phase
        now, before = outcome.phases[phase], outcome.stored_phases[phase]
        lines.append(
            f"grew most: {phase}, from {before:.3f} to {now:.3f} of the yardstick's time "
            f"(+{outcome.grown.excess_s:.3f})"
        )
        lines.append(f"constant that moved: {outcome.grown.constant}, {outcome.grown.factor:.2f} x")
    lines.append(f"reproduce: pytest {shlex.quote(node)}")
    lines.append(f"accept: pytest {shlex.quote(node)} --update-baselines")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line per outcome, below one with the columns' names."""
    width = max(len("subject"), *(len(outcome.name) for outcome in outcomes))
    lines = [f"{'subject':{width}}  {'verdict':12}  {'latency':>10}  {'ratio':>7}  change"]
    lines += [
        f"{outcome.name:{width}}  {word(outcome):12}  {outcome.latency_ms:7.2f} ms  "
        f"{outcome.ratio:7.3f}  {_change_or_why(outcome)}"
        for outcome in outcomes
    ]
    return lines


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a table for a step summary."""
    lines = [
        "### Latency gate",
        "",
        "| | subject | verdict | latency | over its yardstick | change |",
        "|---|---|---|---:|---:|---|",
    ]
    lines += [
        f"| {_SIGNS[word(outcome)]} | {outcome.name} | {word(outcome)} | {outcome.latency_ms:.2f} ms "
        f"| {outcome.ratio:.3f} | {_change_or_why(outcome)} |"
        for outcome in outcomes
    ]
    return "\n".join(lines) + "\n"


def annotation(outcome: Outcome, file: str) -> str:
    """Return the workflow command that shows an outcome at a pull request."""
    level = "error" if outcome.failed else "warning"
    text = f"{outcome.name}: {word(outcome)}: {outcome.reason}; {_change(outcome)}"
    # Workflow commands end at a line's end, and take % for an escape.
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    place = file.replace("%", "%25").replace(",", "%2C").replace(":", "%3A")
    return f"::{level} file={place},title=latency {word(outcome)}::{escaped}"


def word(outcome: Outcome) -> str:
    """Return the verdict in one word."""
    return outcome.verdict.value if outcome.verdict else "recorded"


def _change(outcome: Outcome) -> str:
    if outcome.judgement is None:
        return "-"
    change = outcome.judgement.change
    if not math.isfinite(change.value):
        return outcome.reason
    where = ", another machine's ratio" if outcome.portable else ""
    return (
        f"{change.value - 1:+.1%} [{change.low - 1:+.1%}, {change.high - 1:+.1%}], "
        f"margin {outcome.judgement.margin:.1%}{where}"
    )


def _change_or_why(outcome: Outcome) -> str:
    change = _change(outcome)
    if outcome.verdict is not Verdict.INCONCLUSIVE or change == outcome.reason:
        return change
    return f"{change}; {outcome.reason}"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"
