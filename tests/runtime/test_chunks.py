"""How a long prompt is cut: whole, in order, and with no more scores in a piece than a short prompt has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chunks import CHUNK_TOKENS, chunks, in_one_piece
from runtime.stages import Granularity

lengths = st.integers(1, 40 * CHUNK_TOKENS)


@pytest.mark.parametrize("granularity", ["operation", "layer"])
@given(tokens=lengths, start=st.integers(0, 40 * CHUNK_TOKENS))
def test_pieces_follow_each_other_and_cover_all(
    granularity: Granularity, tokens: int, start: int
) -> None:
    position = start
    for begin, rows in chunks(granularity, tokens, start):
        assert begin == position
        assert 1 <= rows <= CHUNK_TOKENS
        position += rows
    assert position == start + tokens


@given(tokens=lengths, start=st.integers(0, 40 * CHUNK_TOKENS))
def test_where_scores_cross_they_are_no_more_than_those_of_a_prompt_in_one_piece(
    tokens: int, start: int
) -> None:
    pieces = list(chunks("operation", tokens, start))
    most = CHUNK_TOKENS**2
    assert all(rows * (begin + rows) <= most or rows == 1 for begin, rows in pieces)
    # And no piece but the last is shorter than it must be.
    for begin, rows in pieces[:-1]:
        assert rows == CHUNK_TOKENS or (rows + 1) * (begin + rows + 1) > most


@given(tokens=lengths)
def test_a_prompt_in_one_piece_is_one_piece(tokens: int) -> None:
    for granularity in ("operation", "layer"):
        whole = list(chunks(granularity, tokens)) == [(0, tokens)]
        assert whole == in_one_piece(tokens) == (tokens <= CHUNK_TOKENS)
