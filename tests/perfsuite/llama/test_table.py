from __future__ import annotations

from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from perfsuite.llama.forecast import FORECAST
from perfsuite.llama.results import PHASES, Ladder, Latency
from perfsuite.llama.table import format_bytes, format_latency, format_ratio, ladder_blocks
from perfsuite.render.terminal import WIDTH, show
from perfsuite.schema import Interval, decode
from tests.perfsuite.conftest import plain_json, shown

Build = Callable[..., dict[str, Any]]
Golden = Callable[[str, str], None]


def ladder(content: dict[str, Any]) -> Ladder:
    return decode(content, Ladder, "ladder.json")


def drawn(content: dict[str, Any]) -> str:
    return shown(ladder_blocks(ladder(content)))


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 0.001, 0.37, 0.666, 1, 6.66, 66.6, 6666, 1e6, 1e9])
def test_no_line_is_wider_than_the_page(build_result: Build, scale: float) -> None:
    lines = drawn(build_result(scale)).splitlines()
    assert max(map(cell_len, lines)) <= WIDTH
    assert lines == [line.rstrip() for line in lines]


def test_long_words_are_folded_too(build_result: Build) -> None:
    result = build_result(model="/" + "m" * 250, prompt="p" * 250)
    result["stages"][0]["next_token"]["text"] = "\n" * 80
    result["stages"][1]["worker_sees"] = "w" * 250
    assert max(map(cell_len, drawn(result).splitlines())) <= WIDTH


def test_everything_is_shown(build_result: Build) -> None:
    text = drawn(build_result())
    for word in (*FORECAST, *PHASES, "unsplit float32", "unsplit bfloat16", "forecast", "33x"):
        assert word in text
    assert "all agree" in text
    assert "' the'" in text
    assert "machine:" in text


def test_ordinary_figures_stay_on_their_line(build_result: Build) -> None:
    """What a cell wraps to is read badly: no figure of an ordinary run does."""
    text = drawn(build_result())
    assert "1.50 [1.40, 1.70] s " in text
    assert "0.50 [0.40, 0.60]   182" in text


def test_disagreement_is_said(build_result: Build) -> None:
    assert "NOT" in drawn(build_result(next_token_agrees=False))


def test_a_stage_without_a_baseline_or_a_forecast_has_a_dash(build_result: Build) -> None:
    result = build_result()
    row = result["stages"][1]
    row["vs_baseline"] = row["vs_baseline_interval"] = row["forecast_speedup"] = None
    line = next(line for line in drawn(result).splitlines() if line.startswith("shared-memory"))
    assert " - " in line


def test_a_page_without_unicode_has_bars_too(build_result: Build) -> None:
    page = TextIOWrapper(BytesIO(), encoding="ascii")
    show(ladder_blocks(ladder(build_result())), Console(file=page))
    page.seek(0)
    assert "------======######++++++......" in page.read()


def test_of_one_round_no_interval_is_shown(build_result: Build) -> None:
    text = drawn(build_result(rounds=1))
    assert "1.50 s " in text
    assert "0.50   182" in text
    assert "[1.40" not in text
    assert "[0.40" not in text
    assert "one round, so no interval is known" in text


def test_a_busy_machine_is_said_with_the_benchmarks_that_it_hit(build_result: Build) -> None:
    assert "busy" not in drawn(build_result())
    text = drawn(build_result(disturbed_runs={"fused": 2, "unsplit float32": 1}))
    assert "busy: others used the machine during 3 of 30 runs (fused 2, unsplit float32 1)" in text


def test_markup_in_a_token_is_text(build_result: Build) -> None:
    result = build_result()
    result["stages"][0]["next_token"]["text"] = "[red]"
    assert "'[red]'" in drawn(result)


def test_a_terminal_narrower_than_the_page_is_respected(build_result: Build) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=60, color_system=None)
    show(ladder_blocks(ladder(build_result())), console)
    assert isinstance(console.file, StringIO)
    assert max(map(cell_len, console.file.getvalue().splitlines())) <= 60


def test_figures() -> None:
    assert format_latency(Latency(15.52, 15.1, 15.9)) == "15.5 [15.1, 15.9] s"
    assert format_latency(Latency(0.432, 0.4, 0.5)) == "432 [400, 500] ms"
    assert format_ratio(0.6, Interval(0.58, 0.62)) == "0.60 [0.58, 0.62]"
    assert format_ratio(33.44, Interval(32.0, 34.0), "x") == "33.4x [32.0, 34.0]"
    assert format_ratio(None, None) == "-"
    assert [format_bytes(n) for n in (0, 999, 1000, 7_516_192_768)] == [
        "0 B",
        "999 B",
        "1.00 KB",
        "7.52 GB",
    ]


def told(build_result: Build) -> dict[str, Any]:
    """A ladder in which rows differ, one has no baseline, and others used the machine."""
    result = build_result(
        prompt="--prompt, repeated 3 times",
        disturbed_runs={"fused": 2, "unsplit float32": 1},
        next_token_agrees=False,
    )
    for place, row in enumerate(result["stages"]):
        row["phases_s"] = {phase: 0.1 * (1 + (place + n) % 5) for n, phase in enumerate(PHASES)}
        row["next_token"] = {"id": place, "text": (" the", "\n", "[b]", " |`*")[place % 4]}
    row = result["stages"][1]
    row["vs_baseline"] = row["vs_baseline_interval"] = row["forecast_speedup"] = None
    result["stages"][2]["kernels"] = "prepacked, fused"
    return result


def test_the_ladder_is_the_stored_one(build_result: Build, golden: Golden) -> None:
    golden("ladder.txt", drawn(told(build_result)))
    golden("ladder-one-round.txt", drawn(build_result(0.01, rounds=1)))
    golden("ladder.json", plain_json(ladder(told(build_result)).as_json()))


def test_a_ladder_of_answers_is_the_stored_one(build_result: Build, golden: Golden) -> None:
    result = build_result()
    latency = {"median": 0.0213, "low": 0.0201, "high": 0.0222}
    made = {
        "new_tokens": 32, "ttft_s": {"median": 0.25, "low": 0.2, "high": 0.3}, "tpot_s": latency,
        "tpot_p95_s": 0.031, "tokens_per_s": 46.9, "tokens": [1, 2, 3],
    }  # fmt: skip
    for row in result["stages"]:
        row["generated"] = {
            **made, "vs_unsplit": 1.3, "vs_unsplit_interval": {"low": 1.2, "high": 1.4},
            "phases_s": row["phases_s"], "rpc_count_per_token": 32, "bytes_sent_per_token": 70_800,
            "bytes_received_per_token": 73_300,
        }  # fmt: skip
    for unsplit in result["unsplit"].values():
        unsplit["generated"] = {**made, "tokens": [1, 2, 4]}
    golden("ladder-answers.txt", drawn(result))


def test_the_ladder_of_an_ascii_page_is_the_stored_one(build_result: Build, golden: Golden) -> None:
    page = TextIOWrapper(BytesIO(), encoding="ascii")
    show(ladder_blocks(ladder(told(build_result))), Console(file=page, markup=False))
    page.seek(0)
    golden("ladder-ascii.txt", page.read())
