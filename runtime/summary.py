"""What answers took, in a few lines for a terminal: the trace's totals, as the caller felt them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.answer import Answer
from runtime.stages import Stage
from runtime.trace import Totals

_PHASES = (
    ("device_s", "device"),
    ("transport_s", "transport"),
    ("trusted_s", "trusted side"),
    ("serialize_s", "serialize"),
    ("deserialize_s", "deserialize"),
)
_SLOWEST = 0.95  # the share of tokens that came at least as fast
_FEW = 20  # tokens, of which no such share is told


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: ``kept_tokens`` of ``prompt_tokens`` were in the context already.

    ``ttft_s`` are the seconds to the first token, ``token_s`` those to each further one.
    """

    prompt_tokens: int
    kept_tokens: int
    ttft_s: float
    token_s: tuple[float, ...]
    totals: Totals

    @classmethod
    def of(cls, answer: Answer) -> Run | None:
        """Return what an answer took, None where it was cancelled before its first token."""
        made, totals = answer.generation, answer.generation.totals
        if totals is None:
            return None
        return cls(
            answer.prompt_tokens, answer.kept_tokens, made.ttft_s, tuple(made.token_s), totals
        )

    @property
    def new_tokens(self) -> int:
        """Tokens of the answer."""
        return 1 + len(self.token_s)


def speed(run: Run) -> str:
    """Return one answer's length and speed, in a line."""
    kept = f", {run.kept_tokens:,} of them kept" if run.kept_tokens else ""
    told = f"{_count(run.prompt_tokens, 'prompt token')}{kept}; the first of "
    told += f"{_count(run.new_tokens, 'new one')} after {_seconds(run.ttft_s)}"
    if not run.token_s:
        return told
    mean = sum(run.token_s) / len(run.token_s)
    told += f", then {_figure(1 / mean)} tokens/s"
    if len(run.token_s) < _FEW:
        return told
    ordered = sorted(run.token_s)
    slow = ordered[math.ceil(_SLOWEST * len(ordered)) - 1]
    return f"{told} ({_SLOWEST:.0%} within {_seconds(slow)} each)"


def _speeds(runs: Sequence[Run]) -> str:
    """Return how long and how fast several answers were."""
    first = statistics.median(run.ttft_s for run in runs)
    further = [seconds for run in runs for seconds in run.token_s]
    told = f"{len(runs):,} of {sum(run.new_tokens for run in runs):,} tokens"
    told += f"; the first one after {_seconds(first)} (median)"
    return f"{told}, then {_figure(len(further) / sum(further))} tokens/s" if further else told


def summary(runs: Sequence[Run], stage: Stage, device: str) -> str:
    """Return what ``runs`` took all together, where their time went, and what the worker saw."""
    totals = [run.totals for run in runs]
    whole = sum(total["total_s"] for total in totals)
    phases = {name: sum(total[key] for total in totals) for key, name in _PHASES}  # type: ignore[literal-required]
    shares = ", ".join(
        f"{name} {seconds / whole:.0%}"
        for name, seconds in sorted(phases.items(), key=lambda item: -item[1])
    )
    calls = sum(total["rpc_count"] for total in totals)
    sent, received = (
        sum(total[key] for total in totals) for key in ("bytes_sent", "bytes_received")
    )
    new = sum(run.new_tokens for run in runs)
    lines = (
        ("answer", speed(runs[0])) if len(runs) == 1 else ("answers", _speeds(runs)),
        ("time", f"{_seconds(whole)}: {shares}"),
        (
            "calls",
            f"{calls:,}, {_figure(calls / new)} per new token; {_bytes(sent)} sent, {_bytes(received)} received",
        ),
        ("stage", f"{stage.name}, {stage.dtype}, on {device}"),
        ("the worker sees", stage.worker_sees),
    )
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {told}" for name, told in lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _figure(value: float) -> str:
    """Return a number with three significant digits, whole ones kept."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{_figure(seconds)} s"
    return f"{_figure(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{_figure(seconds * 1e6)} us"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{_figure(count / size)} {unit}"
    return f"{count} B"
