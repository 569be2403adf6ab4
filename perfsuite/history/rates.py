"""How often the history is wrong: ``python -m perfsuite.history.rates`` simulates and counts.

Noise is autoregressive and normal, in shares of the level, and every fiftieth run or so is an outlier
10 to 30 % too slow, as when somebody else used the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from perfsuite.history.change_points import detect

STEPS = (0.05, 0.08, 0.15)
SPREAD = 0.02  # of the gate's ratio from run to run, four processes each, in baselines.json
PHI = 0.3
RUNS = 200
NEAR = 5  # runs: a change that is found so close to the true one counts as found
_APART = 25  # runs between true changes, and to the ends
_OUTLIERS = 0.02
_SETTLE = 50  # runs until the noise has forgotten its start


@dataclass(frozen=True)
class Found:
    """Shares of the histories: each step found, all of at least 8 % found, more changes than true ones."""

    by_step: dict[float, float]
    all_large: float
    extra: float
    index_covered: float  # of the changes found: the true run lies within earliest to latest
    size_covered: float  # and the true size within low to high


def noise(
    rng: np.random.Generator, histories: int, runs: int, *, spread: float, phi: float
) -> NDArray[np.float64]:
    """Logarithms (histories, runs) of what an unchanged subject gives."""
    innovations = rng.normal(0, spread * np.sqrt(1 - phi**2), (histories, runs + _SETTLE))
    steady = signal.lfilter([1.0], [1.0, -phi], innovations, axis=1)[:, _SETTLE:]
    disturbed = rng.random(steady.shape) < _OUTLIERS
    return np.asarray(steady + disturbed * rng.uniform(0.1, 0.3, steady.shape), dtype=np.float64)


def false_changes(
    histories: int, *, runs: int = RUNS, spread: float = SPREAD, phi: float = PHI, seed: int = 0
) -> float:
    """The share of unchanged histories in which any change is seen."""
    drawn = noise(np.random.default_rng(seed), histories, runs, spread=spread, phi=phi)
    return float(np.mean([bool(detect(np.exp(row)).changes) for row in drawn]))


def true_changes(
    histories: int, *, spread: float = SPREAD, phi: float = PHI, seed: int = 0
) -> Found:
    """What is found of three changes per history, of STEPS in drawn order, place and direction."""
    rng = np.random.default_rng(seed)
    drawn = noise(rng, histories, RUNS, spread=spread, phi=phi)
    hits: dict[float, list[bool]] = {step: [] for step in STEPS}
    more, places, sizes = [], [], []
    for row in drawn:
        at = _places(rng)
        steps = rng.permutation(STEPS)
        signs = rng.choice([-1, 1], len(STEPS))
        for place, step, sign in zip(at, steps, signs, strict=True):
            row[place:] += sign * np.log1p(step)
        changes = detect(np.exp(row)).changes
        more.append(len(changes) > len(STEPS))
        for place, step, sign in zip(at, steps, signs, strict=True):
            near = [one for one in changes if abs(one.index - place) <= NEAR]
            hits[float(step)].append(bool(near))
            for one in near[:1]:
                places.append(one.earliest <= place <= one.latest)
                sizes.append(one.size.low <= (1 + step) ** sign <= one.size.high)
    large = np.array([hits[step] for step in STEPS if step >= 0.08])
    return Found(
        {step: float(np.mean(found)) for step, found in hits.items()},
        float(np.mean(large.all(axis=0))),
        float(np.mean(more)),
        float(np.mean(places)),
        float(np.mean(sizes)),
    )


def delay(
    step: float, histories: int, *, spread: float = SPREAD, phi: float = PHI, seed: int = 0
) -> list[int]:
    """Runs on the new level until a change of ``step`` after 100 runs is first seen, per history."""
    rng = np.random.default_rng(seed)
    drawn = noise(rng, histories, RUNS, spread=spread, phi=phi)
    half = RUNS // 2
    drawn[:, half:] += np.log1p(step)
    delays = []
    for row in drawn:
        seen = (
            after
            for after in range(1, half + 1)
            if any(
                abs(one.index - half) <= NEAR for one in detect(np.exp(row[: half + after])).changes
            )
        )
        delays.append(next(seen, half + 1))
    return delays


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rates as Markdown tables."""
    parser = argparse.ArgumentParser(prog="python -m perfsuite.history.rates", description=__doc__)
    parser.add_argument(
        "--histories", type=int, default=1000, help="per row (default: %(default)s)"
    )
    histories = parser.parse_args(argv).histories
    print("| runs | correlation 0 | 0.3 | 0.5 | 0.7 |\n|---:|---:|---:|---:|---:|")
    for runs in (20, 50, 200, 500):
        rates = [false_changes(histories, runs=runs, phi=phi) for phi in (0.0, 0.3, 0.5, 0.7)]
        print(f"| {runs} | {' | '.join(f'{rate:.1%}' for rate in rates)} |", flush=True)
    print(
        "\n| noise | 5 % found | 8 % | 15 % | all of at least 8 % | a fourth change | place | size |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for spread in (0.01, 0.02, 0.03, 0.04):
        found = true_changes(histories, spread=spread)
        shares = (
            *found.by_step.values(),
            found.all_large,
            found.extra,
            found.index_covered,
            found.size_covered,
        )
        print(f"| {spread:.0%} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)
    print("\n| step | seen after, median | 90 % |\n|---:|---:|---:|")
    for step in STEPS:
        middle, late = np.quantile(delay(step, max(1, histories // 10)), [0.5, 0.9])
        print(f"| {step:.0%} | {middle:.0f} runs | {late:.0f} runs |", flush=True)
    return 0


def _places(rng: np.random.Generator) -> NDArray[np.int64]:
    """Three runs, _APART from each other and from both ends, every such three alike likely."""
    room = RUNS - _APART * (len(STEPS) + 1)
    return np.sort(rng.integers(0, room + 1, len(STEPS))) + _APART * np.arange(1, len(STEPS) + 1)


if __name__ == "__main__":
    raise SystemExit(main())
