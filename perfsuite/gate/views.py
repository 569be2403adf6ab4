"""Outcomes as people and other programs read them: failure messages, the summary's table, annotations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from perfsuite.gate.outcome import Outcome, Status
from perfsuite.gate.reported import Subject, reported
from perfsuite.render.blocks import MISSING, Block, Note, Row, Table, Tone, columns
from perfsuite.units import change, seconds

TONES: Mapping[str, Tone] = {
    Status.PASS: "good",
    Status.IMPROVED: "better",
    Status.REGRESSION: "bad",
    Status.RECORDED: "noted",
    Status.CHANGED: "bad",
    Status.NO_BASELINE: "bad",
}
"""What a verdict means; whatever else there is leaves the question open."""

_COLUMNS = columns("benchmark", "verdict", "latency", "ratio", "change", left=("verdict", "change"))
_CAPTION = "ratio: the benchmark's time over its reference's"
_SAID_BY_CHANGE = frozenset({Status.PASS, Status.IMPROVED, Status.REGRESSION})
_LONGEST_REASON = 300  # characters: what a failed process printed may be long


def failure(outcome: Outcome, against: str | None = None) -> str:
    """Return at most ten lines: what was measured, against what, where it grew, and what can be done."""
    lines = [f"{outcome.name}: {outcome.status}: {_in_a_line(outcome.reason)}"]
    node = shlex.quote(outcome.node)
    if outcome.judgement is not None:
        lines.append(f"change: {_change(reported(outcome))}")
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


def blocks(subjects: Sequence[Subject]) -> list[Block]:
    """Return all that is said of a run: a table, and each note once."""
    found = dict.fromkeys(note for one in subjects for note in one.notes)
    notes = [Note(f"{note} in the measured processes") for note in found]
    return [table(subjects), *notes]


def table(subjects: Sequence[Subject]) -> Table:
    """Return a row for each benchmark."""
    return Table(_COLUMNS, [Row(*_cells(one), tone=tone(one)) for one in subjects], _CAPTION)


def annotation(outcome: Outcome) -> str:
    """Return the workflow command that shows an outcome at a pull request."""
    level = "error" if outcome.failed else "warning"
    text = f"{outcome.name}: {outcome.status}: {outcome.reason}"
    if outcome.judgement is not None:
        text += f"; {_change(reported(outcome))}"
    place = outcome.node.partition("::")[0]
    return f"::{level} file={_property(place)},title=latency {_property(outcome.status)}::{_data(text)}"


def _data(text: str) -> str:
    # Workflow commands end at a line's end, and take % for an escape.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(",", "%2C").replace(":", "%3A")


def tone(subject: Subject) -> Tone:
    """Return what an outcome means."""
    return "bad" if subject.failed else TONES.get(subject.verdict, "unsure")


def _cells(subject: Subject) -> tuple[str, ...]:
    return (
        subject.name,
        subject.verdict,
        _latency(subject),
        MISSING if subject.ratio is None else f"{subject.ratio:.4g}",
        _change_or_why(subject),
    )


def _latency(subject: Subject) -> str:
    if subject.seconds is None:
        return MISSING
    rate = subject.throughput_per_s
    return seconds(subject.seconds) + ("" if rate is None else f" ({rate:.4g}/s)")


def _measured(outcome: Outcome) -> str:
    ratio, latency = outcome.ratio, outcome.latency_s
    if ratio is None or latency is None:
        return "nothing"
    if outcome.base_s is not None:
        return f"{seconds(latency)}, base {seconds(outcome.base_s)}"
    stored = "nothing" if outcome.stored_ratio is None else f"{outcome.stored_ratio:.4g}"
    return f"{ratio:.4g} x its reference ({outcome.reference}), stored {stored}; {seconds(latency)}"


def _change(subject: Subject) -> str:
    if subject.change is None:
        return MISSING
    in_turn = ", in turn" if subject.in_turn_with else ""
    return f"{change(subject.change)}, margin {subject.margin or 0.0:.1%}{in_turn}"


def _change_or_why(subject: Subject) -> str:
    told = _change(subject)
    if subject.verdict in _SAID_BY_CHANGE and told != MISSING:
        return told
    reason = _in_a_line(subject.reason)
    return reason if told == MISSING else f"{told}; {reason}"


def _in_a_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."
