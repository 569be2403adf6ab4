"""A device that computes nothing, or as much as it is told to, and a walk through memory."""

from __future__ import annotations

import pytest
import torch

from perfsuite.llama.diagnosis import null_worker
from perfsuite.llama.diagnosis.null_worker import CONFIG, MOST_SWEPT, ROW_BYTES, NullDevice, Sweep
from runtime.operations import Call, output_specs
from runtime.tensors import TensorSpec

CALLS = {
    "embedding": (Call("embedding"), TensorSpec(torch.int64, (1, 9))),
    "lm_head": (Call("lm_head"), TensorSpec(torch.float32, (9, CONFIG.hidden_size))),
    "one tensor": (
        Call("batch_linear", 0, ("o_proj",)), TensorSpec(torch.float32, (1, 9, CONFIG.hidden_size)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_every_result_is_filled_so_that_there_is_something_to_send(name: str) -> None:
    call, spec = CALLS[name]
    outputs = [
        torch.full(one.shape, torch.nan, dtype=one.dtype)
        for one in output_specs(CONFIG, torch.float32, call, [spec])
    ]
    NullDevice(0, 0).run(call, [torch.zeros(spec.shape, dtype=spec.dtype)], outputs)
    assert all(bool((output == 1).all()) for output in outputs)


def test_payload_goes_one_way_at_a_time_a_row_for_each_token() -> None:
    (hidden,) = output_specs(CONFIG, torch.float32, CALLS["embedding"][0], [CALLS["embedding"][1]])
    assert hidden.nbytes == 9 * ROW_BYTES
    (logits,) = output_specs(CONFIG, torch.float32, CALLS["lm_head"][0], [CALLS["lm_head"][1]])
    assert logits.nbytes == 9 * 4
    assert CALLS["lm_head"][1].nbytes == 9 * ROW_BYTES


def test_it_is_busy_only_where_a_request_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    monkeypatch.setattr(Sweep, "__call__", lambda self: walked.append(self.nbytes))
    device = NullDevice(4096, 10**9)
    call, spec = CALLS["lm_head"]
    for first, expected in ((0.0, []), (1.0, [4096])):
        x = torch.zeros(spec.shape)
        x.view(-1)[0] = first
        device.run(call, [x], [torch.empty(9, 1)])
        assert walked == expected


@pytest.mark.parametrize(
    ("size", "walked"), [(0, 4), (4096, 4096), (MOST_SWEPT, MOST_SWEPT), (1 << 40, MOST_SWEPT)]
)
def test_a_walk_has_its_size_and_a_bound(size: int, walked: int) -> None:
    sweep = Sweep(size)
    sweep()
    assert sweep.nbytes == walked
    assert bool((sweep._memory == 1).all())


def test_a_transport_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        null_worker.main(["--transport", "pigeon", "--endpoint", "tcp://127.0.0.1:1"])
    assert "pigeon" in capsys.readouterr().err
