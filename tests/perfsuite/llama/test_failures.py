"""What the runtime raises is told as any other error of ours, in its own words."""

from __future__ import annotations

import pytest

from perfsuite.errors import PerfsuiteError
from perfsuite.llama.failures import runtime_failures
from runtime.errors import InputError


@runtime_failures()
def refused() -> None:
    raise InputError("stage: 'warp' is unknown")


def test_an_error_of_the_runtime_s_keeps_its_words_and_its_cause() -> None:
    for call in (refused, refused):  # as a decorator it serves again and again
        with pytest.raises(PerfsuiteError, match=r"^stage: 'warp' is unknown$") as caught:
            call()
        assert isinstance(caught.value.__cause__, InputError)


def test_anything_else_is_left_as_it_is() -> None:
    with pytest.raises(KeyError, match="no such key"), runtime_failures():
        raise KeyError("no such key")
