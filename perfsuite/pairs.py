"""Pools of processes as what the gate samples: a subject and its reference in one process, or head and base in two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from perfsuite.gate.gate import BASE, Open
from perfsuite.gate.sampling import Pair, Runner, Runs
from perfsuite.processes.child import SUBJECT
from perfsuite.processes.forkserver import Sampled
from perfsuite.processes.pool import Pool


def within(
    pool: Pool, node: str, benchmark: str, *, cpu: int | None, delays: Mapping[str, float]
) -> Open:
    """Return what opens ``benchmark`` and references of it, in one fresh process."""

    @contextmanager
    def opened(references: Sequence[str]) -> Iterator[Pair]:
        with pool.open(node, benchmark, references=references, cpu=cpu, delays=delays) as sampled:
            yield Pair(
                _runner(sampled, SUBJECT, 0),
                {name: _runner(sampled, name, 0) for name in references},
                sampled.server,
                sampled.notes,
            )

    return opened


def between(
    head: Pool,
    base: Pool,
    nodes: tuple[str, str],
    benchmark: str,
    *,
    cpu: int | None,
    delays: Mapping[str, float],
) -> Open:
    """Return what opens ``benchmark`` of head and of base, each in a fresh process of its own."""

    @contextmanager
    def opened(references: Sequence[str]) -> Iterator[Pair]:
        with ExitStack() as stack:
            # The side that fails is told by its title.
            one = stack.enter_context(head.open(nodes[0], benchmark, cpu=cpu, delays=delays))
            other = stack.enter_context(base.open(nodes[1], benchmark, cpu=cpu))
            yield Pair(
                _runner(one, SUBJECT, 0),
                {BASE: _runner(other, SUBJECT, 1)},
                f"{one.server}/{other.server}",
                [*one.notes, *other.notes],
            )

    return opened


def _runner(sampled: Sampled, role: str, process: int) -> Runner:
    def measure(runs: int, loops: int, discarded: int) -> Runs:
        return sampled.measure(role, runs=runs, loops=loops, discarded=discarded)

    return Runner(process, partial(sampled.calibrate, role), measure)
