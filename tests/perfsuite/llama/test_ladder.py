from __future__ import annotations

import json
import math
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import pytest
from rich.cells import cell_len

from perfsuite.__main__ import main
from perfsuite.errors import MeasurementError
from perfsuite.llama.results import PHASES
from perfsuite.llama.rows import Forward, stage_row, unsplit_name
from perfsuite.render.terminal import WIDTH
from runtime import STAGES, load_checkpoint
from runtime.stages import ladder as rungs
from runtime.trace import RpcRecord, Trace

ROUNDS = 2


class Run(NamedTuple):
    """What one run of all stages left behind."""

    result: dict[str, Any]
    output: str


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Run:
    file = tmp_path_factory.mktemp("ladder") / "ladder.json"
    arguments = f"ladder --model tiny --tokens 32 --rounds {ROUNDS} --prompt Hello --json {file}"
    output = StringIO()
    with redirect_stdout(output):
        assert main(arguments.split()) == 0
    return Run(json.loads(file.read_text()), output.getvalue())


def test_the_json_is_as_specified(ladder: Run) -> None:
    result = ladder.result
    assert result["model"] == "tiny"
    assert result["tokens"] == 32
    assert result["prompt"] == "--prompt, repeated from 5 tokens"
    assert result["command"].startswith("perfsuite ladder --model tiny --tokens 32")
    assert {"cpu", "gpu", "driver", "threads", "torch", "cuda"} <= set(result["machine"])
    assert list(result["unsplit"]) == ["float32", "bfloat16"]
    for row in result["unsplit"].values():
        assert len(row["samples_s"]) == ROUNDS
    assert [row["name"] for row in result["stages"]] == [stage.name for stage in rungs()]
    for row in result["stages"]:
        latency = row["latency_s"]
        assert 0 < latency["low"] <= latency["median"] <= latency["high"]
        assert len(row["samples_s"]) == ROUNDS
        assert list(row["phases_s"]) == list(PHASES)
        assert row["vs_unsplit"] > 0
        assert row["bytes_sent"] > 0
        assert row["bytes_received"] > 0


def test_the_table_names_every_benchmark_and_fits(ladder: Run) -> None:
    lines = ladder.output.splitlines()
    for name in (*(stage.name for stage in rungs()), "unsplit float32", "unsplit bfloat16"):
        assert any(line.startswith(name) for line in lines)
    assert max(map(cell_len, lines)) <= WIDTH


def test_ratios_point_the_way_they_say(ladder: Run) -> None:
    result = ladder.result
    baseline = result["stages"][0]
    assert baseline["name"] == "baseline"
    assert baseline["vs_baseline"] == 1.0
    for row in result["stages"]:
        pairs = zip(baseline["samples_s"], row["samples_s"], strict=True)
        speedups = sorted(math.log(above / below) for above, below in pairs)
        assert math.log(row["vs_baseline"]) == pytest.approx(sum(speedups) / 2, abs=1e-9)
        unsplit = result["unsplit"][row["dtype"]]["samples_s"]
        pairs = zip(row["samples_s"], unsplit, strict=True)
        ratios = sorted(math.log(above / below) for above, below in pairs)
        assert math.log(row["vs_unsplit"]) == pytest.approx(sum(ratios) / 2, abs=1e-9)


def test_calls_are_counted_and_phases_fill_the_total(ladder: Run) -> None:
    layers = load_checkpoint("tiny").config.num_layers
    calls = {"operation": 2 + 6 * layers, "layer": 2 + layers, "model": 3}
    for row in ladder.result["stages"]:
        stage = STAGES[row["name"]]
        assert row["rpc_count"] == calls[stage.granularity]
        assert sum(row["phases_s"].values()) <= 1.5 * row["latency_s"]["high"]


def test_float32_benchmarks_predict_the_same_token(ladder: Run) -> None:
    result = ladder.result
    tokens = [row["next_token"]["id"] for row in result["stages"] if row["dtype"] == "float32"]
    assert {*tokens} == {result["unsplit"]["float32"]["next_token"]["id"]}


def traced(bytes_sent: int = 1) -> Trace:
    call = RpcRecord(
        "ping", None, bytes_sent=bytes_sent, bytes_received=1, payload_copies=0, serialize_s=0.1,
        transport_s=0.1, device_s=0.1, deserialize_s=0.1, total_s=0.4,
    )  # fmt: skip
    return Trace((call,), 1.0)


def test_a_stage_without_the_baseline_has_no_speedup() -> None:
    stage = list(STAGES.values())[-1]
    samples = {
        stage.name: [Forward(3.0, trace=traced())],
        unsplit_name(stage.dtype): [Forward(2.0)],
    }
    info = {"device_name": "abacus", "threads": 1, "kernels": "beads"}
    row = stage_row(stage, samples, info, str, seed=0)
    assert row.vs_baseline is None
    assert row.vs_baseline_interval is None
    assert row.vs_unsplit == pytest.approx(1.5)
    assert row.phases_s["trusted"] == pytest.approx(0.6)


def test_traffic_that_changes_between_rounds_is_an_error() -> None:
    forwards = [Forward(1.0, trace=traced(count)) for count in (1, 2)]
    stage = next(iter(STAGES.values()))
    with pytest.raises(MeasurementError, match=r"bytes_sent differs.*\[1, 2\]"):
        stage_row(stage, {stage.name: forwards}, {}, str, seed=0)
