"""A run's report and the outcomes in it (``Outcome.as_json``), for whoever reads them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from perfsuite.gate.outcome import Outcome
from perfsuite.schema import Count, Ends, Finite, NotNegative, Positive, read
from perfsuite.statistics import Estimate


class Figures(Struct, frozen=True, kw_only=True):
    """What was measured, and what that means. ``change`` is current over stored, None where nothing was stored."""

    verdict: str | None = None
    reason: str = ""
    reference: str = ""
    ratio: Positive | None = None  # the benchmark's time over its reference's
    stored_ratio: Positive | None = None
    latency_s: Positive | None = None
    older_latency_ms: Positive | None = field(default=None, name="latency_ms")
    change_value: Positive | None = field(default=None, name="change")
    change_interval: Ends | None = None
    margin: NotNegative | None = None
    in_turn_with: str | None = None
    phases: dict[str, Finite | None] | None = None  # over the reference's time
    grew_most: str | None = None
    processes: Count = 0
    looks: Count = 0
    disturbed_rounds: Count = 0
    throughput_per_s: Positive | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds of a call; None where it was not measured."""
        if self.latency_s is not None or self.older_latency_ms is None:
            return self.latency_s
        return self.older_latency_ms / 1e3

    @property
    def change(self) -> Estimate | None:
        """The change with its interval; None where it is not known."""
        if self.change_value is None or self.change_interval is None:
            return None
        return Estimate(self.change_value, self.change_interval.low, self.change_interval.high)

    @property
    def known_phases(self) -> dict[str, float]:
        """The phases that were measured."""
        return {name: one for name, one in (self.phases or {}).items() if one is not None}


class Subject(Figures, frozen=True, kw_only=True):
    """One benchmark of a run of pytest."""

    name: str
    verdict: str
    test: str = ""
    failed: bool = False
    notes: Sequence[str] = ()
    base_s: Positive | None = None  # a comparison: the seconds of the base
    base_phases_s: Mapping[str, Finite] = {}
    samples: Sequence[dict[str, Any]] = ()


class Report(Struct, frozen=True, kw_only=True):
    """What ``pytest --perf-report`` wrote."""

    subjects: tuple[Subject, ...]
    command: str = ""
    whole: bool | None = None  # whether every test that has a gate was run
    titles: tuple[str, str] | None = None  # of head and base, which were compared
    machine: dict[str, Any] | None = None


def read_report(path: Path) -> Report:
    """Read a run's report. Raises UsageError naming the file and the field that cannot be used."""
    return read(path, Report)


def reported(outcome: Outcome) -> Subject:
    """Return what a report holds of an outcome, but for its samples; unchecked, so that any can be shown."""
    told = outcome.as_json(samples=False)
    ends = told.pop("change_interval")
    return Subject(
        change_value=told["change"],
        change_interval=Ends(*ends) if ends else None,
        **{name: told[name] for name in Subject.__struct_fields__ if name in told},
    )
