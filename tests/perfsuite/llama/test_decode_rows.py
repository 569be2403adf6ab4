"""Generation's rows: medians of answers, shares of each further token, ratios in pairs."""

from __future__ import annotations

from typing import Any

import pytest

from perfsuite.llama.decode_rows import Answer, answer_of, stage_generated, unsplit_generated
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import BUDGETS, unsplit_name
from runtime import STAGES
from tests.runtime.models import random_ids, serve_in_thread, small_config, temporary_model


def answer(*token_s: float, ttft_s: float = 1.0, unit: float = 1.0) -> Answer:
    totals: dict[str, Any] = dict.fromkeys(BUDGETS, 6)
    totals |= {f"{phase}_s": 3 * unit * (n + 1) for n, phase in enumerate(PHASES)}
    return Answer(ttft_s, token_s, list(range(len(token_s) + 1)), totals)


def test_an_answer_s_time_per_token_is_the_median_of_its_own() -> None:
    assert answer(1.0, 9.0, 2.0).tpot_s == 2.0


def test_rounds_are_answers_and_the_slow_end_is_of_all_tokens() -> None:
    found = unsplit_generated(
        [answer(1.0, 1.0, 7.0, ttft_s=5.0), answer(2.0, 2.0, 2.0, ttft_s=3.0)]
    )
    assert (found.new_tokens, found.tokens) == (4, [0, 1, 2, 3])
    assert found.samples_s == [1.0, 2.0]
    assert found.tpot_s.median == pytest.approx(1.5)
    assert found.tokens_per_s == pytest.approx(1 / 1.5)
    assert found.ttft_s.median == pytest.approx(4.0)
    assert found.tpot_p95_s == 7.0


def test_a_stage_is_held_against_the_unsplit_model_round_by_round() -> None:
    stage = STAGES["fused"]
    own = [answer(4.0, 4.0, 4.0), answer(8.0, 8.0, 8.0)]
    unsplit = [answer(2.0, 2.0, 2.0), answer(4.0, 4.0, 4.0)]
    found = stage_generated(stage, {"fused": own, unsplit_name(stage.dtype): unsplit}, seed=0)
    assert found.vs_unsplit == pytest.approx(2.0)
    assert found.phases_s == {phase: float(n + 1) for n, phase in enumerate(PHASES)}
    assert found.rpc_count_per_token == 2.0


def test_an_answer_is_measured_of_a_real_generation() -> None:
    with (
        temporary_model(small_config()) as checkpoint,
        serve_in_thread(checkpoint, "fused") as llama,
    ):
        found = answer_of(llama, random_ids(llama.config, 1, 5), 4)
    assert len(found.tokens) == 4
    assert len(found.token_s) == 3
    assert found.ttft_s > 0
    assert found.totals is not None
    assert found.totals["rpc_count"] % 3 == 0
