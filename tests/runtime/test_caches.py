"""The books of caches: what a call may say of one, and what is remembered of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.caches import MOST_CACHES, MOST_PROMPTS, CacheBooks, Numbers, Window, cache_bytes
from runtime.errors import ProtocolError
from runtime.operations import Call
from runtime.tensors import TensorSpec
from tests.runtime.models import small_config

CONFIG = small_config(max_position_embeddings=64)
LAYER = Call("fused_layer", 0)


def hidden(batch: int, rows: int) -> list[TensorSpec]:
    return [TensorSpec(torch.float32, (batch, rows, CONFIG.hidden_size))]


def opened(number: int = 7, batch: int = 2, capacity: int = 10) -> CacheBooks:
    books = CacheBooks(CONFIG)
    numbers = (number, batch, capacity)
    assert books.check(Call("open_cache"), numbers, []) is None
    books.note(Call("open_cache"), numbers, None)
    return books


def test_a_cache_s_memory_is_that_of_its_keys_and_values() -> None:
    per_position = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim
    assert cache_bytes(CONFIG, 2, batch=3, capacity=5) == 2 * 3 * 5 * per_position


def test_a_window_is_of_the_text_that_it_is_a_piece_of() -> None:
    assert Window(3, 4).end == Window(3, 4).length == 7
    assert Window(3, 4, text=20).length == 20
    assert Window(3, 4).numbers == ()
    assert Window(3, 4, text=20, cache=9).numbers == (9, 3, 20)


@pytest.mark.parametrize(
    ("numbers", "batch", "rows", "problem"),
    [
        ((8, 0, 3), 2, 3, "8 is none of the 1"),
        ((7, 1, 4), 2, 3, "holds 0 positions here, got position 1"),
        ((7, 0, 3), 1, 3, "holds 2 prompts, got 1"),
        ((7, 0, 11), 2, 11, "has room for 10 positions"),
        ((7, 0, 2), 2, 3, "got a text of 2"),
        ((7, 0, 11), 2, 3, "got a text of 11"),
        ((7, 0), 2, 3, "got 2 numbers"),
        ((7, 0, 3, 3), 2, 3, "got 4 numbers"),
    ],
)
def test_what_a_call_says_of_its_cache_is_not_believed(
    numbers: Numbers, batch: int, rows: int, problem: str
) -> None:
    books = opened()
    with pytest.raises(ProtocolError, match=problem) as caught:
        books.check(LAYER, numbers, hidden(batch, rows))
    assert caught.value.field == "cache"
    assert books.check(LAYER, (7, 0, 3), hidden(2, 3)) == 3


@pytest.mark.parametrize(
    ("operation", "numbers", "problem"),
    [
        ("open_cache", (7, 2, 10), "7 is open already"),
        ("open_cache", (8, 0, 10), f"must be of 1 to {MOST_PROMPTS} prompts"),
        ("open_cache", (8, MOST_PROMPTS + 1, 10), f"must be of 1 to {MOST_PROMPTS} prompts"),
        ("open_cache", (8, 1, 0), "must have 1 to 64 positions"),
        ("open_cache", (8, 1, 65), "must have 1 to 64 positions"),
        ("open_cache", (8, 1), "takes 3 numbers, got 2"),
        ("trim_cache", (7, 1), "holds 0 positions, cannot be cut to 1"),
        ("trim_cache", (8, 0), "8 is none"),
        ("close_cache", (8,), "8 is none"),
        ("close_cache", (), "takes 1 numbers, got 0"),
    ],
)
def test_what_is_asked_of_a_cache_as_a_whole_is_checked(
    operation: str, numbers: Numbers, problem: str
) -> None:
    with pytest.raises(ProtocolError, match=problem):
        opened().check(Call(operation), numbers, [])


def test_a_conversation_has_so_many_caches_and_no_more() -> None:
    books = CacheBooks(CONFIG)
    for number in range(MOST_CACHES):
        books.note(
            Call("open_cache"),
            (number, 1, 10),
            books.check(Call("open_cache"), (number, 1, 10), []),
        )
    with pytest.raises(ProtocolError, match="close one first"):
        books.check(Call("open_cache"), (99, 1, 10), [])
    books.note(Call("close_cache"), (3,), None)
    books.check(Call("open_cache"), (99, 1, 10), [])
    books.clear()
    assert len(books) == 0


class Books(RuleBasedStateMachine):
    """A cache of one layer, and the length that it must have."""

    def __init__(self) -> None:
        super().__init__()
        self.books, self.length = opened(), 0

    @rule(rows=st.integers(1, 12), off=st.integers(-2, 2))
    def append(self, rows: int, off: int) -> None:
        start = self.length + off
        numbers = (7, start, start + rows)
        if off or self.length + rows > 10:
            with pytest.raises(ProtocolError):
                self.books.check(LAYER, numbers, hidden(2, rows))
            return
        keys = self.books.check(LAYER, numbers, hidden(2, rows))
        assert keys == start + rows
        self.books.note(LAYER, numbers, keys)
        self.length += rows

    @precondition(lambda self: self.length)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        length = data.draw(st.integers(0, self.length))
        self.books.check(Call("trim_cache"), (7, length), [])
        self.books.note(Call("trim_cache"), (7, length), None)
        self.length = length

    @invariant()
    def it_is_there(self) -> None:
        assert 7 in self.books
        assert len(self.books) == 1


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=30, deadline=None)
