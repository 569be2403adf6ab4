"""What a verdict sees: arrays of processes, and robust values of them.

Trimming is done within a recording: a process may be far off, an hour counts as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsuite.gate import conditioning
from perfsuite.gate.process import Process

FEWEST = 3  # processes: fewer say nothing of the spread between them
TRIM = 0.15  # share of a recording's processes that may be far off at either end

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Processes of one benchmark, all arrays (processes,)."""

    log_ratios: Array
    reference_s: Array
    servers: Integers  # equal numbers within a recording: forked from one server
    recordings: Integers  # in order of time
    quiet: NDArray[np.bool_] | None = None  # with rounds that count; None: all

    @classmethod
    def of(cls, recordings: Sequence[Sequence[Process]]) -> Sample:
        """Return what the verdict sees of these recordings, oldest first.

        A process that does not say its server counts as one of a server of its own.
        """
        every = [(number, one) for number, part in enumerate(recordings) for one in part]
        known: dict[tuple[int, str], int] = {}
        servers = [
            known.setdefault((number, one.server or f"#{place}"), len(known))
            for place, (number, one) in enumerate(every)
        ]
        return cls(
            np.array([one.log_ratio for _, one in every], dtype=np.float64),
            np.array([one.reference_s for _, one in every], dtype=np.float64),
            np.array(servers, dtype=np.int64),
            np.array([number for number, _ in every], dtype=np.int64),
            np.array([one.rounds > 0 for _, one in every], dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.log_ratios)

    def where(self, chosen: NDArray[np.bool_]) -> Sample:
        """Return the chosen processes."""
        return Sample(
            self.log_ratios[chosen],
            self.reference_s[chosen],
            self.servers[chosen],
            self.recordings[chosen],
            None if self.quiet is None else self.quiet[chosen],
        )

    @cached_property
    def counted(self) -> Sample:
        """The processes with rounds that count."""
        return self if self.quiet is None or self.quiet.all() else self.where(self.quiet)

    @cached_property
    def slope(self) -> conditioning.Slope:
        """Of the log-ratio over the log of the reference's seconds."""
        return conditioning.slope(self.log_ratios, np.log(self.reference_s), self.recordings)

    @cached_property
    def levelled(self) -> Group:
        """Its values without the slope, and their spread."""
        return Group.of(self, self.slope.value)

    @cached_property
    def raw(self) -> Group:
        """The same with the slope."""
        return Group.of(self, 0.0)


@dataclass(frozen=True)
class Group:
    """Robust values of processes: their mean in each recording is the trimmed mean, and so is their variance.

    A trimmed mean varies as the mean of winsorized values does, held apart by 1 / (share that is kept) (Tukey
    and McLaughlin, Sankhya A 25, 1963; Yuen, Biometrika 61, 1974): these are the values here, so that
    what is known of means holds for them.
    """

    values: Array  # (processes,)
    log_s: Array  # of the reference
    server: Integers  # of each process, from 0
    recording: Integers  # of each process, from 0
    means: Array  # (recordings,)
    counts: Array  # processes, (recordings,)
    server_squares: (
        Array  # sums over servers of the square of their share of a recording, (recordings,)
    )
    squares: tuple[float, float]  # sums of squares within servers, and of servers within recordings
    freedom: tuple[float, float]
    per_server: (
        float  # processes, as the analysis of variance weighs them, times the freedom of servers
    )

    @classmethod
    def of(cls, sample: Sample, slope: float) -> Group:
        """Return ``sample`` without ``slope`` times the log of the reference's seconds."""
        log_s = np.log(sample.reference_s)
        values = sample.log_ratios - slope * log_s
        bounds = np.flatnonzero(sample.recordings[1:] != sample.recordings[:-1]) + 1
        ends = [0, *bounds.tolist(), len(values)]
        robust, kept = np.empty_like(values), np.empty(len(ends) - 1)
        recording = np.zeros(len(values), dtype=np.int64)
        for number, (first, end) in enumerate(itertools.pairwise(ends)):
            robust[first:end], kept[number] = _robust(values[first:end])
            recording[first:end] = number
        counts = np.diff(np.array(ends)).astype(np.float64)
        means = np.bincount(recording, robust) / counts
        server = np.unique(sample.servers, return_inverse=True)[1]
        per_server = np.bincount(server)
        where = np.empty(len(per_server), dtype=np.int64)
        where[server] = recording
        server_means = np.bincount(server, robust) / per_server
        away, apart = robust - server_means[server], server_means - means[where]
        servers = np.bincount(where)
        squared = np.bincount(where, per_server * per_server) / counts
        return cls(
            robust,
            log_s,
            server,
            recording,
            means,
            counts,
            squared / counts,
            (float(away @ away), float(per_server @ (apart * apart))),
            (float(kept @ (counts - servers)), float(kept @ (servers - 1))),
            float(kept @ (counts - squared)),
        )


def _robust(values: Array) -> tuple[Array, float]:
    """Return values with the mean and variance of the trimmed mean, and the share that is kept."""
    count = len(values)
    trimmed = int(TRIM * count)
    if not trimmed:
        return values, 1.0
    ordered = np.sort(values)
    kept = count - 2 * trimmed
    winsorized = values.clip(ordered[trimmed], ordered[count - trimmed - 1])
    scale = math.sqrt(count * (count - 1) / (kept * (kept - 1)))
    mean = float(ordered[trimmed : count - trimmed].sum()) / kept
    return mean + scale * (winsorized - winsorized.sum() / count), kept / count
