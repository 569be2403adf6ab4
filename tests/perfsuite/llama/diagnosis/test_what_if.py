from __future__ import annotations

import pytest

from perfsuite.errors import UsageError
from perfsuite.llama.accelerators import load_accelerators
from perfsuite.llama.bursts import patterns
from perfsuite.llama.diagnosis.what_if import parse_what_if
from perfsuite.llama.machine_constants import rate_key
from perfsuite.llama.recording import operations
from perfsuite.llama.workload import memory_of
from runtime import STAGES
from tests.runtime.models import small_config


def test_every_assumption_is_read() -> None:
    texts = ["transport=zmq-tcp", "device=h200", "rpc=18", "dtype=bf16"]
    found = parse_what_if(texts)
    assert found.texts == tuple(texts)
    assert (found.route, found.rpc_count, found.dtype) == ("zmq-tcp", 18, "bfloat16")
    assert found.accelerator == load_accelerators()["h200"]
    assert {stage.dtype for stage in found.stages(list(STAGES.values()))} == {"bfloat16"}


def test_nothing_assumed_changes_nothing() -> None:
    found = parse_what_if([])
    stages = list(STAGES.values())
    assert found.stages(stages) == stages
    assumed = found.assumptions
    assert (assumed.route, assumed.accelerator, assumed.rpc_count) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("device=abacus", "h100"),
        ("device=", "h100"),
        ("transport=pigeon", "shared-memory"),
        ("dtype=int4", "bfloat16"),
        ("rpc=-18", "whole number"),
        ("rpc=0", "whole number"),
        ("rpc=1.5", "whole number"),
        ("rpc=nan", "whole number"),
        ("rpc=99999999999", "whole number"),
        ("colour=red", "transport, device, rpc, dtype"),
        ("rpc", "KEY=VALUE"),
    ],
)
def test_nonsense_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        parse_what_if([text])
    assert str(error.value).startswith(f"--what-if {text}: ")


@pytest.mark.parametrize("device", [[], ["device=h100"]])
@pytest.mark.parametrize("dtype", [[], ["dtype=bf16"], ["dtype=float32"]])
@pytest.mark.parametrize("route", [[], ["transport=zmq-tcp"], ["transport=shared-memory"]])
def test_what_a_projection_needs_is_measured(
    device: list[str], dtype: list[str], route: list[str]
) -> None:
    config, stages = small_config(), list(STAGES.values())
    what_if = parse_what_if([*device, *dtype, *route])
    measured = (*patterns(config, stages, 8), *what_if.patterns(config, stages, 8))
    known = {
        (rate_key(row), row.shape)
        for pattern in measured
        for burst in pattern
        for row in burst.operations
    }
    for stage in what_if.stages(stages):
        memory = memory_of(what_if.route or stage.transport)
        for row in operations(config, stage, 8, memory):
            if row.side == "trusted" or not device:
                assert (rate_key(row), row.shape) in known
            else:
                assert what_if.accelerator is not None
                assert what_if.accelerator.seconds(row)[0] > 0


def test_one_assumption_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_what_if(["rpc=18", "rpc=32"])


def test_peaks_are_plausible_and_have_a_source() -> None:
    known = load_accelerators()
    assert {"a100", "h100", "h200"} <= set(known)
    for name, device in known.items():
        assert device.name == name
        # Matrix units are faster than the rest, memory faster than the link, all in SI units.
        assert 1e13 < device.flops["float32"] < device.flops["bfloat16"] < 1e16
        assert 1e10 < device.host_bandwidth < device.memory_bandwidth < 1e13
        assert 1e10 < device.memory_bytes < 1e12
        assert "Datasheet" in device.source
