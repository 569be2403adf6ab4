"""A comparison as people and other programs read it: text, markdown, JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from perfsuite.compare.comparing import Comparison, StageResult
from perfsuite.compare.deciding import median_phases
from perfsuite.gate.deciding import Verdict
from perfsuite.machine import Machine

_SIGNS = {
    Verdict.REGRESSION: "🔴",
    Verdict.PASS: "🟢",
    Verdict.INCONCLUSIVE: "🟡",
    Verdict.IMPROVED: "🔵",
}
_COLUMNS = ("stage", "verdict", "BASE", "head", "change", "moved most")


def text(comparison: Comparison, results: Sequence[StageResult]) -> str:
    """Return an aligned table below a line that says what was compared, and notes of what was not."""
    table = [_COLUMNS, *(_cells(result) for result in results if result.decision)]
    widths = [max(len(row[place]) for row in table) for place in range(len(_COLUMNS))]
    lines = [_title(comparison), ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines += ["", *_notes(comparison, results)]
    return "\n".join(lines)


def markdown(comparison: Comparison, results: Sequence[StageResult]) -> str:
    """Return the same for a step summary or a pull request's comment."""
    lines = [
        f"### {_title(comparison)}",
        "",
        "| | " + " | ".join(_COLUMNS) + " |",
        "|---|---|---|---:|---:|---|---|",
    ]
    lines += [
        f"| {_SIGNS[result.decision.judgement.verdict]} | " + " | ".join(_cells(result)) + " |"
        for result in results
        if result.decision
    ]
    lines += ["", *(f"- {note}" for note in _notes(comparison, results))]
    return "\n".join(lines) + "\n"


def as_json(
    comparison: Comparison, results: Sequence[StageResult], machine: Machine, command: str
) -> dict[str, Any]:
    """Return what was measured, samples included."""
    return {
        "base": comparison.base.title,
        "head": comparison.head.title,
        "workload": asdict(comparison.workload),
        "rules": asdict(comparison.rules),
        "machine": machine,
        "command": command,
        "stages": [_stage(result) for result in results],
    }


def _title(comparison: Comparison) -> str:
    workload = comparison.workload
    return (
        f"{comparison.head.title} against {comparison.base.title}: {workload.model}, "
        f"{workload.tokens:,} tokens, {workload.device}, threads: {workload.threads}"
    )


def _cells(result: StageResult) -> tuple[str, ...]:
    head_s, base_s = result.latency_s
    return (
        result.name,
        result.verdict,
        f"{base_s * 1e3:.2f} ms",
        f"{head_s * 1e3:.2f} ms",
        _change(result),
        _moved(result),
    )


def _change(result: StageResult) -> str:
    if result.decision is None:
        return "-"
    judgement = result.decision.judgement
    if not math.isfinite(judgement.change.value):
        return judgement.reason
    change = judgement.change
    return f"{change.value - 1:+.1%} [{change.low - 1:+.1%}, {change.high - 1:+.1%}]"


def _moved(result: StageResult) -> str:
    unmoved = result.decision is None or result.decision.judgement.verdict is Verdict.PASS
    if unmoved or result.moved is None:
        return "-"
    phase, seconds = result.moved
    return f"{phase} {seconds * 1e3:+.2f} ms"


def _notes(comparison: Comparison, results: Sequence[StageResult]) -> list[str]:
    notes = [
        f"{result.name}: not compared: {result.problem}" for result in results if result.problem
    ]
    decided = [(result.name, result.decision) for result in results if result.decision]
    notes += [
        f"{name}: {decision.judgement.reason}"
        for name, decision in decided
        if decision.judgement.verdict is Verdict.INCONCLUSIVE
    ]
    for name, decision in decided:
        disturbed = sum(replicate.disturbed for replicate in decision.processes)
        if disturbed:
            notes.append(f"{name}: {disturbed} rounds left out: others used the machine")
    samples = ", ".join(
        f"{name} {len(decision.processes)} in {decision.looks}" for name, decision in decided
    )
    if samples:
        notes.append(f"pairs of fresh processes, and looks: {samples}")
    notes.append(
        f"margin {comparison.rules.margin:.1%}; interval: 95 %, bootstrap over processes and rounds, "
        f"corrected for {comparison.rules.looks} looks"
    )
    return notes


def _stage(result: StageResult) -> dict[str, Any]:
    told: dict[str, Any] = {"name": result.name, "verdict": result.verdict}
    if result.decision is None:
        return {**told, "problem": result.problem}
    decision, (head_s, base_s) = result.decision, result.latency_s
    change = decision.judgement.change
    known = math.isfinite(change.value)
    return {
        **told,
        "reason": decision.judgement.reason,
        "change": change.value if known else None,
        "change_interval": [change.low, change.high] if known else None,
        "head_s": head_s,
        "base_s": base_s,
        "head_phases_s": median_phases(result.head),
        "base_phases_s": median_phases(result.base),
        "moved_most": result.moved[0] if result.moved else None,
        "looks": decision.looks,
        "disturbed_rounds": sum(replicate.disturbed for replicate in decision.processes),
        "samples": [replicate.rounds for replicate in decision.processes],
    }
