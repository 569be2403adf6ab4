"""From samples to rows: medians, paired ratios, and traffic that must not differ."""

from __future__ import annotations

import pytest

from perfsuite.errors import MeasurementError
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import BUDGETS, Forward, stage_row, unsplit_name, unsplit_row
from runtime import STAGES
from runtime.trace import RpcRecord, Trace

INFO = {"device_name": "Abacus 9", "threads": 2, "kernels": "by hand"}


def record(unit_s: float, **fields: int) -> RpcRecord:
    """One to four units of seconds by phase."""
    counts = {name: fields.get(name, 0) for name in BUDGETS[1:]}
    seconds = dict(
        zip((f"{phase}_s" for phase in PHASES), (n * unit_s for n in range(1, 5)), strict=False)
    )
    return RpcRecord("ping", None, **counts, **seconds, total_s=10 * unit_s)  # type: ignore[arg-type]


def trace(unit_s: float, **budgets: int) -> Trace:
    """Seven calls, of which the first carries all; five units are the trusted side's."""
    wanted = {**dict.fromkeys(BUDGETS, 7), **budgets}
    rest = [record(0.0)] * (wanted["rpc_count"] - 1)
    return Trace((record(unit_s, **wanted), *rest), 15 * unit_s)


def forwards(*seconds: float, token: int = 1, **budgets: int) -> list[Forward]:
    return [Forward(one, token, trace(one, **budgets)) for one in seconds]


def samples(**stages: list[Forward]) -> dict[str, list[Forward]]:
    unsplit = {unsplit_name(dtype): forwards(1.0, 2.0, 4.0) for dtype in ("float32", "bfloat16")}
    return {**unsplit, **stages}


def decode(ids: list[int]) -> str:
    return f"<{ids[0]}>"


def test_ratios_are_of_rounds_in_pairs() -> None:
    """A machine that became four times slower meanwhile does not show in them."""
    measured = samples(baseline=forwards(10.0, 20.0, 40.0), fused=forwards(2.0, 4.0, 8.0))
    row = stage_row(STAGES["fused"], measured, INFO, decode, seed=0)
    assert row.vs_baseline == pytest.approx(5.0)
    assert row.vs_unsplit == pytest.approx(2.0)
    assert row.vs_baseline_interval is not None
    assert row.vs_baseline_interval.low == pytest.approx(row.vs_baseline_interval.high)
    assert row.latency_s.median == 4.0
    assert row.samples_s == [2.0, 4.0, 8.0]
    assert row.phases_s == {phase: 4.0 * (n + 1) for n, phase in enumerate(PHASES)}
    assert row.next_token.text == "<1>"
    assert (row.dtype, row.worker_sees) == ("float32", STAGES["fused"].worker_sees)
    assert row.forecast_speedup == 6.6


def test_without_a_baseline_there_is_no_speed_up() -> None:
    row = stage_row(STAGES["bf16"], samples(bf16=forwards(1.0, 2.0, 3.0)), INFO, decode, seed=0)
    assert (row.vs_baseline, row.vs_baseline_interval) == (None, None)
    assert row.dtype == "bfloat16"


@pytest.mark.parametrize("name", BUDGETS)
def test_traffic_that_changes_from_round_to_round_is_an_error(name: str) -> None:
    changing = [*forwards(1.0, 2.0), *forwards(3.0, **{name: 8})]
    with pytest.raises(MeasurementError, match=rf"fused: {name} differs .*\[7, 8\]"):
        stage_row(STAGES["fused"], samples(fused=changing), INFO, decode, seed=0)


def test_the_unsplit_model_has_a_median_and_a_token() -> None:
    row = unsplit_row([Forward(one, 5, None) for one in (3.0, 1.0, 2.0)], decode)
    assert row.latency_s.median == 2.0
    assert row.samples_s == [3.0, 1.0, 2.0]
    assert (row.next_token.id, row.next_token.text) == (5, "<5>")
