from __future__ import annotations

import csv
from collections.abc import Callable
from io import StringIO
from typing import Any

from perfsuite.llama.csv_file import as_csv
from perfsuite.llama.results import Ladder
from perfsuite.schema import decode

Build = Callable[..., dict[str, Any]]
Golden = Callable[[str, str], None]


def test_every_benchmark_is_a_line_of_plain_figures(build_result: Build) -> None:
    result = build_result()
    rows = {
        row["name"]: row
        for row in csv.DictReader(StringIO(as_csv(decode(result, Ladder, "ladder.json"))))
    }
    assert list(rows) == [
        *(stage["name"] for stage in result["stages"]),
        "unsplit float32",
        "unsplit bfloat16",
    ]
    fused = rows["fused"]
    assert float(fused["latency_median_s"]) == 1.5
    assert float(fused["vs_unsplit_high"]) == 0.6
    assert int(fused["rpc_count"]) == 182
    assert float(fused["device_s"]) == 0.3
    assert (fused["model"], fused["tokens"]) == ("tiny", "1024")
    assert rows["unsplit float32"]["rpc_count"] == ""


def test_a_stage_without_a_baseline_has_no_ratio_to_it(build_result: Build) -> None:
    result = build_result()
    result["stages"][1]["vs_baseline"] = result["stages"][1]["vs_baseline_interval"] = None
    rows = list(csv.DictReader(StringIO(as_csv(decode(result, Ladder, "ladder.json")))))
    assert rows[1]["vs_baseline"] == rows[1]["vs_baseline_low"] == ""


def test_of_one_round_no_interval_is_written(build_result: Build) -> None:
    result = build_result(rounds=1)
    (row, *_) = csv.DictReader(StringIO(as_csv(decode(result, Ladder, "ladder.json"))))
    assert float(row["latency_median_s"]) == 1.5
    assert row["latency_low_s"] == row["vs_unsplit_high"] == row["vs_baseline_low"] == ""


def test_the_file_is_the_stored_one(build_result: Build, golden: Golden) -> None:
    result = build_result()
    result["stages"][1]["vs_baseline"] = result["stages"][1]["vs_baseline_interval"] = None
    golden("ladder.csv", as_csv(decode(result, Ladder, "ladder.json")))
