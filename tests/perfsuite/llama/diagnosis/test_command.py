"""``perfsuite diagnose`` as its user runs it."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from perfsuite.__main__ import main
from perfsuite.llama.diagnosis import command
from perfsuite.llama.diagnosis.routes import ROUTES
from perfsuite.llama.results import PHASES
from perfsuite.render.terminal import WIDTH
from runtime import STAGES, load_checkpoint
from runtime.traffic import forward_traffic

TOKENS = 16
CHOSEN = ("baseline", "fused")


class Run(NamedTuple):
    """What one run left behind."""

    result: dict[str, Any]
    output: str
    folder: Path


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("diagnosis")
    arguments = (
        f"diagnose --model tiny --tokens {TOKENS} --rounds 1 --threads 1 --stages {','.join(CHOSEN)} "
        f"--what-if device=h100 --what-if rpc=3 --slowdown serialize=100 --json {folder / 'd.json'} "
        f"--timeline {folder / 't.json'} --chart {folder / 'charts'}"
    )
    output = StringIO()
    with redirect_stdout(output):
        assert main(arguments.split()) == 0
    return Run(json.loads((folder / "d.json").read_text()), output.getvalue(), folder)


@pytest.mark.slow
def test_the_json_is_as_specified(diagnosis: Run) -> None:
    result = diagnosis.result
    assert (result["model"], result["tokens"], result["threads"]) == ("tiny", TOKENS, 1)
    assert [row["stage"] for row in result["prediction"]] == list(CHOSEN)
    for row, stage in zip(result["prediction"], result["stages"], strict=True):
        assert row["error"] == pytest.approx(row["predicted_s"] / row["measured_s"] - 1)
        assert row["predicted_s"] == pytest.approx(sum(row["predicted_phases_s"].values()))
        assert list(row["measured_phases_s"]) == list(PHASES)
        assert stage["measured_s"] == row["measured_s"]


@pytest.mark.slow
def test_every_route_was_swept_from_kilobytes_to_the_largest(diagnosis: Run) -> None:
    transport = diagnosis.result["transport"]
    assert list(transport) == list(ROUTES)
    for found in transport.values():
        for how in ("back_to_back", "between_sweeps"):
            sizes = found[how]["sent"]["bytes"]
            assert (sizes[0], sizes[-1]) == (1024, 128 * 2**20)
            assert len(found[how]["received"]["serialize_s"]) == len(sizes)
        for name in ("alpha_s", "beta_s_per_byte"):
            estimate = found["fit"][name]
            assert estimate["low"] <= estimate["value"] <= estimate["high"]


@pytest.mark.slow
def test_the_naive_conclusion_is_bytes_over_throughput(diagnosis: Run) -> None:
    config = load_checkpoint("tiny").config
    for row in diagnosis.result["naive"]:
        for stage, seconds in row["concluded_s"].items():
            carried = forward_traffic(config, STAGES[stage], TOKENS).total_bytes
            assert seconds == pytest.approx(carried * row["transfer_s"] / (10 * 2**20))


@pytest.mark.slow
def test_a_slower_phase_is_named(diagnosis: Run) -> None:
    assert "what moved is serialize: " in " ".join(diagnosis.output.split())  # lines wrap
    assert diagnosis.result["prediction"][0]["moved"]["phase"] == "serialize"


@pytest.mark.slow
def test_a_projection_says_that_it_is_one(diagnosis: Run) -> None:
    assert "Projection, not a measurement: device=h100, rpc=3" in diagnosis.output
    assert "Datasheet" in diagnosis.output
    projected = diagnosis.result["projection"]["stages"]
    assert [row["rpc_count"] for row in projected] == [3, 3]
    assert all(row["bound"] in row["bounds_s"] for row in projected)


@pytest.mark.slow
def test_the_text_fits_and_names_every_section(diagnosis: Run) -> None:
    lines = diagnosis.output.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for number in range(1, 7):
        assert any(line.startswith(f"{number}. ") for line in lines)


@pytest.mark.slow
def test_the_timeline_holds_both_processes_and_the_profilers_operators(diagnosis: Run) -> None:
    events = json.loads((diagnosis.folder / "t.json").read_text())["traceEvents"]
    named = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert named == {f"{stage}: {side}" for stage in CHOSEN for side in ("trusted side", "worker")}
    for number in range(len(CHOSEN)):
        worker = [event for event in events if event["pid"] == 10 * number + 2]
        assert any(event["name"] == "device" for event in worker)
        operators = [event for event in worker if event["name"].startswith("aten::")]
        # Within the worker's own spans, give or take what the two clocks differ by.
        spans = [event for event in worker if event["name"] == "device"]
        ends = spans[-1]["ts"] + spans[-1]["dur"]
        assert operators
        assert all(-5_000 < event["ts"] < ends + 5_000 for event in operators)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "unit"),
    [("transport", "round trip"), ("breakdown", "(%)"), ("prediction", "one forward pass")],
)
def test_charts_are_drawn_with_units(diagnosis: Run, name: str, unit: str) -> None:
    picture = (diagnosis.folder / "charts" / f"{name}.svg").read_text()
    ElementTree.fromstring(picture)  # noqa: S314 - our own file
    assert unit in picture


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--tokens 0", "--tokens 0: must be at least 1"),
        ("--tokens 100000000", "positions"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--threads -1", "--threads -1: must be at least 1"),
        ("--model no-such-model", "no-such-model"),
        ("--device abacus", "--device abacus"),
        ("--stages turbo", "turbo"),
        ("--what-if device=abacus", "h100"),
        ("--what-if rpc=-18", "whole number"),
        ("--what-if rpc", "KEY=VALUE"),
        ("--slowdown lunch=2", "lunch"),
        ("--slowdown device=0.5", "at least 1"),
        ("--json /no/such/folder/f.json", "--json /no/such/folder/f.json"),
        ("--timeline /no/such/folder/f.json", "--timeline /no/such/folder/f.json"),
        ("--chart /proc/charts", "--chart /proc/charts"),
    ],
)
def test_nonsense_gets_one_line_and_exit_code_2(
    options: str,
    problem: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ["diagnose", *options.split()]
    if "--model" not in options:
        arguments += ["--model", "tiny"]
    assert main(arguments) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert problem in output.err
    assert output.err.count("\n") == 1


def test_help_is_quick_and_names_what_can_be_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["diagnose", "--help"])
    assert "transport=, device=, dtype=" in " ".join(capsys.readouterr().out.split())
    assert command.__doc__
