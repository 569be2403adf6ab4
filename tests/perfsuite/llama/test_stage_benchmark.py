"""The stages as the gate measures them: in the same way as anybody's code, in processes of the real runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from perfsuite.llama.results import PHASES
from perfsuite.processes.forkserver import FailedTest, Target
from perfsuite.processes.pool import Pool
from perfsuite.processes.references import OWN

ROOT = Path(runtime.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    every = " ".join(runtime.STAGES)
    settings = [
        "-o",
        "perf_tokens=16",
        "-o",
        f"perf_stages={every}",
        "-p",
        "no:cacheprovider",
        "-n0",
    ]
    arguments = [f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), *settings]
    target = Target("stages", ROOT / "perfsuite" / "test_latency.py", arguments, folder=ROOT)
    with Pool(target, tmp_path_factory.mktemp("scratch"), servers=1) as pool:
        yield pool


def node(stage: str) -> str:
    return f"perfsuite/test_latency.py::test_latency[{stage}]"


@pytest.mark.parametrize("stage", runtime.STAGES)
def test_a_stage_and_the_unsplit_model_run_and_phases_sum_up(pool: Pool, stage: str) -> None:
    with pool.open(node(stage), stage, references=[OWN]) as sampled:
        timed = sampled.measure("subject", runs=3, loops=1, discarded=1)
        assert min(sampled.measure(OWN, runs=1, loops=1, discarded=0).seconds) > 0
    for seconds, phases in zip(timed.seconds, timed.phases, strict=True):
        assert set(phases) == set(PHASES)
        assert sum(phases.values()) == pytest.approx(seconds, rel=0.2)


@pytest.mark.parametrize("phase", PHASES)
def test_a_delay_reaches_its_phase_on_either_side(pool: Pool, phase: str) -> None:
    """Three hundred times longer, it is nearly all there is, whatever else the machine does."""
    with pool.open(node("shared-memory"), "shared-memory", delays={phase: 300.0}) as sampled:
        (found,) = sampled.measure("subject", runs=1, loops=1, discarded=0).phases
    assert found[phase] > 0.5 * sum(found.values())


def test_what_the_runtime_refuses_is_told(pool: Pool) -> None:
    with (
        pytest.raises(FailedTest, match="lunch"),
        pool.open(node("fused"), "fused", delays={"lunch": 2.0}),
    ):
        pass


@pytest.mark.parametrize("stage", ["shared-memory", "resident"])
def test_single_tokens_run_beside_the_unsplit_model_with_its_cache(pool: Pool, stage: str) -> None:
    test = f"perfsuite/test_latency.py::test_decode_latency[{stage}]"
    with pool.open(test, f"{stage}-decode", references=[OWN]) as sampled:
        timed = sampled.measure("subject", runs=3, loops=1, discarded=1)
        assert min(sampled.measure(OWN, runs=3, loops=1, discarded=0).seconds) > 0
    for seconds, phases in zip(timed.seconds, timed.phases, strict=True):
        assert set(phases) == set(PHASES)
        # Between its calls a token's own checks take time, which is none of a call's phases.
        assert 0.3 * seconds < sum(phases.values()) < 1.05 * seconds
