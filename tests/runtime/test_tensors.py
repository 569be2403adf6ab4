"""What a tensor that crosses the boundary is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.tensors import DTYPE_NAMES, DTYPES, TensorSpec

dtypes = st.sampled_from(list(DTYPES.values()))
shapes = st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple)


def test_the_element_types_that_may_cross_have_one_name_each() -> None:
    assert dict(DTYPES) == {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "int64": torch.int64,
    }
    assert {DTYPE_NAMES[dtype]: dtype for dtype in DTYPE_NAMES} == dict(DTYPES)
    for table in (DTYPES, DTYPE_NAMES):
        with pytest.raises(TypeError):
            table["float64"] = torch.float64  # type: ignore[index]


@given(dtypes, shapes)
def test_a_description_is_that_of_the_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape, dtype=dtype)
    spec = TensorSpec.of(tensor)
    assert spec == TensorSpec(dtype, shape)
    assert spec.nbytes == tensor.nbytes
    assert hash(spec) == hash(TensorSpec(dtype, shape))  # specs are remembered by it


def test_a_size_beyond_64_bits_does_not_overflow() -> None:
    assert TensorSpec(torch.float32, (2**62, 2**62)).nbytes == 4 * 2**124


def test_it_reads_as_people_write_it() -> None:
    assert str(TensorSpec(torch.bfloat16, (1, 9, 64))) == "bfloat16[1, 9, 64]"
    assert str(TensorSpec(torch.float64, (3,))) == "torch.float64[3]"  # which cannot cross


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        TensorSpec(torch.int64, (1,)).shape = (2,)  # type: ignore[misc]
