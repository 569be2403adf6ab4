from __future__ import annotations

import pytest

from runtime.stages import STAGES
from runtime.summary import Run, speed, summary
from runtime.trace import Totals


def totals(**fields: float) -> Totals:
    known = dict.fromkeys(Totals.__annotations__, 0)
    return Totals(**{**known, **fields})  # type: ignore[typeddict-item]


ONE = Run(1, 0, 0.0123, (), totals(rpc_count=3, bytes_sent=8, device_s=1.0, total_s=1.0))
LONG = Run(
    1234,
    1000,
    1.5,
    (*[0.02] * 95, *[0.04] * 5),
    totals(
        rpc_count=303,
        bytes_sent=1_500_000,
        bytes_received=2_000,
        device_s=2.0,
        transport_s=0.5,
        trusted_s=1.0,
        serialize_s=0.25,
        deserialize_s=0.25,
        total_s=4.0,
    ),
)


def test_one_token_has_no_speed() -> None:
    assert speed(ONE) == "1 prompt token; the first of 1 new one after 12.3 ms"


def test_speed() -> None:
    assert speed(LONG) == (
        "1,234 prompt tokens, 1,000 of them kept; the first of 101 new ones after 1.50 s, "
        "then 47.6 tokens/s (95% within 20.0 ms each)"
    )


def test_few_tokens_have_no_share_that_was_slow() -> None:
    few = Run(5, 0, 0.1, (0.01, 0.03), totals())
    assert speed(few).endswith("the first of 3 new ones after 100 ms, then 50.0 tokens/s")


def test_summary_says_where_the_time_went_and_what_the_worker_sees() -> None:
    stage = STAGES["fused"]
    lines = summary([LONG], stage, "cpu (some CPU)").splitlines()
    told = {line[:15].strip(): line[17:] for line in lines}
    assert told == {
        "answer": speed(LONG),
        "time": "4.00 s: device 50%, trusted side 25%, transport 12%, serialize 6%, deserialize 6%",
        "calls": "303, 3.00 per new token; 1.50 MB sent, 2.00 kB received",
        "stage": "fused, float32, on cpu (some CPU)",
        "the worker sees": stage.worker_sees,
    }


def test_answers_of_a_conversation_are_added() -> None:
    lines = summary([ONE, LONG], STAGES["baseline"], "cpu").splitlines()
    assert lines[0].split(maxsplit=1) == [
        "answers",
        "2 of 102 tokens; the first one after 756 ms (median), then 47.6 tokens/s",
    ]
    (alone, *_) = summary([ONE, ONE], STAGES["baseline"], "cpu").splitlines()
    assert alone.endswith("2 of 2 tokens; the first one after 12.3 ms (median)")
    assert "5.00 s: device 60%" in lines[1]
    assert lines[2].split(maxsplit=1)[1].startswith("306, 3.00 per new token; 1.50 MB sent")


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_says_what_the_worker_sees(stage: str) -> None:
    assert STAGES[stage].worker_sees in summary([ONE], STAGES[stage], "cpu")
