"""What one fresh process gave: the unit of replication, measured now or stored in a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Process:
    """One process that ran a benchmark, and beside it the reference, in alternating rounds."""

    log_ratio: float  # of the subject's seconds over the reference's, the median over its rounds
    subject_s: float  # median seconds of a call
    reference_s: float  # the same of the reference: how fast the machine was
    server: str = ""  # what it was forked from: processes of one server share its layout of memory
    phases: Mapping[str, float] = field(default_factory=dict)  # median seconds over reference_s
    peak_bytes: int | None = None  # most resident memory while it was measured, where asked for
    rounds: int = 0  # that counted
    disturbed: int = 0  # that were left out, because others used the machine
