from __future__ import annotations

import pytest
from msgspec.structs import replace

from perfsuite.llama import cost_model
from perfsuite.llama.diagnosis.result import Prediction, Stage
from perfsuite.llama.diagnosis.sections import prediction_row, ranking_right, stage_section, ties
from perfsuite.llama.residuals import CONSTANT_OF
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import Forward
from perfsuite.schema import Interval
from runtime import STAGES
from runtime.trace import RpcRecord, Trace


def rpc(operation: str, layer: int | None, unit_s: float) -> RpcRecord:
    return RpcRecord(
        operation, layer, bytes_sent=3, bytes_received=4, payload_copies=0,
        serialize_s=unit_s, transport_s=2 * unit_s, device_s=4 * unit_s, deserialize_s=unit_s,
        total_s=8 * unit_s,
    )  # fmt: skip


def forward(unit_s: float) -> Forward:
    """Three calls of 8 units each, 6 units of trusted work, and one unit that no phase has."""
    calls = [
        rpc("embedding", None, unit_s),
        rpc("fused_layer", 0, unit_s),
        rpc("fused_layer", 1, unit_s),
    ]
    return Forward(31 * unit_s, trace=Trace(tuple(calls), 30 * unit_s))


def test_a_stage_is_broken_down_by_phase_operation_and_layer() -> None:
    section = stage_section(STAGES["fused"], [forward(1.0), forward(9.0), forward(2.0)])
    assert section.measured_s == 62.0
    assert section.phases_s == {
        "serialize": 6.0, "transport": 12.0, "device": 24.0, "deserialize": 6.0, "trusted": 12.0,
    }  # fmt: skip
    assert [(row.of, row.calls, row.total_s) for row in section.operations] == [
        ("embedding", 1, 16.0),
        ("fused_layer", 2, 32.0),
    ]
    assert [(row.of, row.device_s) for row in section.layers] == [
        (None, 8.0),
        (0, 8.0),
        (1, 8.0),
    ]
    assert section.bytes == 3 * 7
    assert section.unexplained_s == 2.0
    assert section.unexplained_share == pytest.approx(2 / 62)


def skewed(seconds: float, device_s: float) -> Forward:
    """A forward of one call; what the device does not take is the trusted side's."""
    call = RpcRecord(
        "ping", None, bytes_sent=0, bytes_received=0, payload_copies=0, serialize_s=0.0,
        transport_s=0.0, device_s=device_s, deserialize_s=0.0, total_s=device_s,
    )  # fmt: skip
    return Forward(seconds, trace=Trace((call,), seconds))


@pytest.mark.parametrize("count", [3, 4])
def test_the_phases_sum_to_the_time_beside_which_they_stand(count: int) -> None:
    """The median of each phase alone would not: here 5 + 5 of a median of 9 or 8.5."""
    forwards = [skewed(9.0, 1.0), skewed(10.0, 5.0), skewed(8.0, 7.0), skewed(8.0, 6.0)][:count]
    section = stage_section(STAGES["fused"], forwards)
    told = sum(section.phases_s.values()) + section.unexplained_s
    assert told == pytest.approx(section.measured_s)
    assert section.unexplained_s == pytest.approx(0.0)


def predicted(**phases: float) -> cost_model.Prediction:
    return cost_model.Prediction(
        "fused", {**dict.fromkeys(PHASES, 1.0), **phases}, {"compute": 1.0}, {}, {}, 3
    )


def row(**phases: float) -> Prediction:
    section = Stage(
        "fused", 5.0, Interval(4.0, 6.0), [5.0], dict.fromkeys(PHASES, 1.0), [], [], 0.0, 0.0, 1, 1
    )
    return prediction_row(section, predicted(**phases))


def test_an_error_is_signed_and_hangs_on_the_phase_that_is_most_wrong() -> None:
    found = row(device=1.5, trusted=0.9)
    assert found.error == pytest.approx(0.08)
    assert found.hangs_on == CONSTANT_OF["device"]
    assert found.moved is None


def test_a_phase_that_takes_longer_than_predicted_moved() -> None:
    found = row(transport=0.4)
    assert found.moved is not None
    assert found.moved["phase"] == "transport"
    assert found.moved["factor"] == pytest.approx(2.5)


def measured(*pairs: tuple[float, float]) -> list[Prediction]:
    """Stages a, b, ... by (predicted, measured); each was measured to half a second."""
    return [
        replace(
            row(),
            stage=name,
            predicted_s=predicted_s,
            measured_s=measured_s,
            measured_interval_s=Interval(measured_s - 0.5, measured_s + 0.5),
        )
        for name, (predicted_s, measured_s) in zip("abc", pairs, strict=False)
    ]


def ranked(*pairs: tuple[float, float]) -> bool:
    return ranking_right(measured(*pairs))


def test_a_ranking_is_of_all_stages() -> None:
    assert ranked((9.0, 8.0), (3.0, 4.0), (1.0, 2.0))
    assert not ranked((9.0, 8.0), (3.0, 4.0), (4.0, 2.0))
    assert not ranked((7.0, 8.0), (7.0, 4.0))


def test_stages_that_were_not_told_apart_have_no_order() -> None:
    assert ranked((3.0, 4.2), (4.0, 4.0))
    assert not ranked((3.0, 5.2), (4.0, 4.0))
    assert ties(measured((3.0, 4.2), (4.0, 4.0), (9.0, 9.0))) == [("a", "b")]
    assert ties(measured((3.0, 5.2), (4.0, 4.0))) == []
