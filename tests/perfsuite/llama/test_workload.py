from __future__ import annotations

import pytest

from perfsuite.llama.workload import Operation, memory_of
from runtime import STAGES


def operation(kind: str, *shape: int, dtype: str = "float32") -> Operation:
    return Operation("device", "", kind, shape, dtype, "arena")


@pytest.mark.parametrize(
    ("kind", "shape", "flops", "elements"),
    [
        ("linear", (3, 5, 7), 2 * 3 * 5 * 7, 15 + 35 + 21),
        ("linear_residual", (3, 5, 7), 2 * 3 * 5 * 7, 15 + 35 + 2 * 21),
        ("scores", (2, 3, 5, 7), 2 * 2 * 3 * 5 * 7, 2 * (15 + 35 + 21)),
        ("softmax", (2, 3, 7), 0, 2 * 2 * 3 * 7),
        ("rms_norm", (3, 5), 0, 2 * 15),
        ("silu_mul", (3, 5), 0, 3 * 15),
        ("rotate", (2, 3, 5), 0, 2 * 30),
        # 4 heads of 5, 2 of them with keys of their own
        ("attention", (4, 2, 3, 3, 5), 2 * 2 * 4 * 5 * (1 + 2 + 3), 2 * 5 * (4 * 3 + 2 * 3)),
        ("attention", (4, 2, 1, 9, 5), 2 * 2 * 4 * 5 * 9, 2 * 5 * (4 * 1 + 2 * 9)),
        ("attention", (4, 2, 2, 9, 5), 2 * 2 * 4 * 5 * (8 + 9), 2 * 5 * (4 * 2 + 2 * 9)),
    ],
)
def test_flops_and_bytes_follow_from_the_shape(
    kind: str, shape: tuple[int, ...], flops: int, elements: int
) -> None:
    row = operation(kind, *shape)
    assert (row.flops, row.bytes) == (flops, 4 * elements)
    assert row.work == (flops or 4 * elements)


def test_a_narrower_type_halves_the_bytes() -> None:
    rows = [operation("linear", 3, 5, 7, dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert [row.bytes for row in rows] == [4 * (15 + 35 + 21), 2 * (15 + 35 + 21)]
    assert [row.weight_bytes for row in rows] == [4 * 35, 2 * 35]
    assert operation("softmax", 1, 3, 5).weight_bytes == 0


def test_results_lie_where_the_transport_puts_them() -> None:
    memory = {name: memory_of(stage.transport) for name, stage in STAGES.items()}
    assert memory == dict.fromkeys(STAGES, "arena") | dict.fromkeys(
        ("baseline", "fused-tcp"), "private"
    )
    assert [memory_of(route) for route in ("zmq-tcp", "shared-memory")] == ["private", "arena"]
