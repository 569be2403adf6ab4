"""The books of caches on both sides of a conversation: what does not fit is refused by name and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from runtime import STAGES
from runtime.caches import MOST_CACHES, MOST_PROMPTS, CacheBooks, Window, cache_bytes
from runtime.checkpoints import Checkpoint
from runtime.errors import ProtocolError
from runtime.messages import ErrorReply, decode_reply, encode_request
from runtime.operations import Call
from runtime.rpc import RpcClient
from runtime.service import Service
from runtime.stages import Stage
from runtime.tensors import TensorSpec
from tests.runtime.models import channel_to, make_service, small_config
from tests.runtime.peers import (
    RawSeqpacket,
    RealWorker,
    assert_refused,
    still_serving,
    tiny,
)

CONFIG = small_config()  # 2 layers, 4 heads of 16 that share 2 key heads, 64 positions
NUMBERS = (1, 2, 2**62 - 1)
OTHER = 7  # never opened
POSITIONS = 64


@dataclass
class Expected:
    """What a cache must be: the simplest thing that could be right."""

    batch: int
    capacity: int
    lengths: dict[object, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return min(self.lengths.values(), default=0)


PARTS: Mapping[str, Sequence[Call]] = {
    "operation": [
        Call("matmul", layer, transpose_b=transposed)
        for layer in range(2)
        for transposed in (True, False)
    ],
    "layer": [Call("fused_layer", layer) for layer in range(2)],
    "model": [Call("all_layers"), Call("next_logits")],
}
"""Calls that append, by granularity."""


def part_of(call: Call) -> object:
    return (call.layer, call.transpose_b) if call.operation == "matmul" else call.layer


def inputs_of(call: Call, stage: Stage, batch: int, rows: int, keys: int) -> list[TensorSpec]:
    """What ``call`` must be given to append ``rows`` positions, so that there are ``keys``."""
    dtype, size = stage.torch_dtype, CONFIG.head_dim
    if call.operation == "next_logits":
        return [TensorSpec(torch.int64, (batch, rows))]
    if call.operation != "matmul":
        return [TensorSpec(dtype, (batch, rows, CONFIG.hidden_size))]
    matrices, group = batch * CONFIG.num_kv_heads, CONFIG.num_heads // CONFIG.num_kv_heads
    inner = size if call.transpose_b else max(1, keys)
    return [
        TensorSpec(dtype, (matrices, group * rows, inner)),
        TensorSpec(dtype, (matrices, rows, size)),
    ]


class Caches(RuleBasedStateMachine):
    """Operations on caches in any order, right and wrong, through a client and its service."""

    def __init__(self, service: Service, stage: Stage) -> None:
        super().__init__()
        self.service, self.stage = service, stage
        self.way = ExitStack()
        self.channel = self.way.enter_context(channel_to(service, stage))
        self.expected: dict[int, Expected] = {}
        self.greet()
        self.client.prepare(1 << 20)

    def teardown(self) -> None:
        self.way.close()  # and the service has noticed
        assert self.service._device._caches == {}
        assert len(self.service._caches) == 0

    @rule()
    def greet(self) -> None:
        """A new session knows no caches."""
        self.client = RpcClient(self.channel, CONFIG, self.stage.torch_dtype)
        self.client.handshake(self.service._hello)
        self.expected.clear()

    @rule(
        number=st.sampled_from((*NUMBERS, -1, 2**63)),
        batch=st.sampled_from((1, 2, 3, 0, -1, MOST_PROMPTS + 1)),
        capacity=st.sampled_from((1, 5, POSITIONS, 0, -1, POSITIONS + 1, 2**63)),
    )
    def open(self, number: int, batch: int, capacity: int) -> None:
        fits = (
            number in NUMBERS
            and number not in self.expected
            and 1 <= batch <= MOST_PROMPTS
            and 1 <= capacity <= POSITIONS
        )
        if self.attempt(Call("open_cache"), (number, batch, capacity), [], fits):
            self.expected[number] = Expected(batch, capacity)

    @rule(
        call=st.integers(0, 3),
        number=st.sampled_from(NUMBERS),
        rows=st.integers(1, 6),
        off=st.sampled_from((0, 0, 0, 0, -1, 1, 2**62)),
        more=st.sampled_from((0, 0, 1, -1, POSITIONS)),
        batch=st.sampled_from((0, 0, 0, 1)),
    )
    def append(self, call: int, number: int, rows: int, off: int, more: int, batch: int) -> None:
        calls = PARTS[self.stage.granularity]
        called = calls[call % len(calls)]
        cache = self.expected.get(number, Expected(1, 1))
        length = cache.lengths.get(part_of(called), 0)
        start, batch = length + off, cache.batch + batch
        end = start + rows
        fits = (
            number in self.expected
            and batch == cache.batch
            and start == length
            and end <= cache.capacity
            and end <= end + more <= cache.capacity
        )
        specs = inputs_of(called, self.stage, batch, rows, min(end, POSITIONS))
        if self.attempt(called, (number, start, end + more), specs, fits):
            cache.lengths[part_of(called)] = end

    @rule(number=st.sampled_from((*NUMBERS, OTHER)), share=st.sampled_from((0, 0.5, 1, 1.1, -1)))
    def trim(self, number: int, share: float) -> None:
        cache = self.expected.get(number, Expected(1, 1))
        length = int(cache.held * share) + (share > 1) - (share < 0)
        fits = number in self.expected and 0 <= length <= cache.held
        if self.attempt(Call("trim_cache"), (number, length), [], fits):
            cache.lengths = dict.fromkeys(cache.lengths, length)

    @rule(number=st.sampled_from((*NUMBERS, OTHER)))
    def close(self, number: int) -> None:
        if self.attempt(Call("close_cache"), (number,), [], number in self.expected):
            del self.expected[number]

    @rule(
        operation=st.sampled_from(("open_cache", "trim_cache", "close_cache", "append")),
        numbers=st.lists(st.sampled_from((0, 1, 2)), max_size=5),
    )
    def say_too_much_or_too_little(self, operation: str, numbers: list[int]) -> None:
        takes = {"open_cache": (3,), "trim_cache": (2,), "close_cache": (1,), "append": (0, 3)}
        if len(numbers) in takes[operation]:
            return
        call, specs = Call(operation), list[TensorSpec]()
        if operation == "append":
            call = PARTS[self.stage.granularity][0]
            specs = inputs_of(call, self.stage, 1, 1, 1)
        assert not self.attempt(call, tuple(numbers), specs, fits=False)

    @rule(number=st.sampled_from(NUMBERS))
    def append_by_what_appends_nothing(self, number: int) -> None:
        ids = [TensorSpec(torch.int64, (1, 2))]
        assert not self.attempt(Call("embedding"), (number, 0, 2), ids, fits=False)

    @invariant()
    def both_sides_know_the_same(self) -> None:
        wanted = {number: cache.lengths for number, cache in self.expected.items()}
        for books in (self.client.caches, self.service._caches):
            lengths = {number: books._caches[number].lengths for number in books._caches}
            assert {
                number: {
                    (part[0], part[1] == "keys") if self.by_operation else part[0]: length
                    for part, length in parts.items()
                }
                for number, parts in lengths.items()
            } == wanted
        kept = self.service._device._caches
        assert kept.keys() == wanted.keys()
        for number, cache in self.expected.items():
            dtype = self.service._device.new_cache(1, 1).memory.dtype
            assert kept[number].memory.nbytes == cache_bytes(
                CONFIG, dtype.itemsize, cache.batch, cache.capacity
            )

    @property
    def by_operation(self) -> bool:
        return self.stage.granularity == "operation"

    def attempt(
        self, call: Call, numbers: tuple[int, ...], specs: Sequence[TensorSpec], fits: bool
    ) -> bool:
        """Make a call that fits; have both sides refuse one that does not. Returns ``fits``."""
        inputs = [self.channel.empty(spec).zero_() for spec in specs]
        if fits:
            self.client.call(call, *inputs, cache=numbers)
            return True
        sequence = self.client._sequence
        with pytest.raises(ProtocolError) as caught:
            self.client.call(call, *inputs, cache=numbers)
        assert caught.value.field == "cache"
        assert not self.client.broken
        assert self.client._sequence == sequence, "something was sent"
        self.client.call(Call("ping"))
        if all(0 <= number < 2**64 for number in numbers):
            refused = self.raw(call, numbers, inputs)
            assert refused.kind == "protocol"
            assert refused.field.split("[")[0] == "cache"
            self.client.call(Call("ping"))
        return False

    def raw(
        self, call: Call, numbers: tuple[int, ...], inputs: Sequence[torch.Tensor]
    ) -> ErrorReply:
        """Ask the service without this side's own check."""
        specs = list(map(TensorSpec.of, inputs))
        payloads = [self.channel.pack(tensor) for tensor in inputs]
        client = self.client
        request = encode_request(
            client._session, client._sequence + 1, call, specs, payloads, (), numbers
        )
        self.channel.send(request)
        answer = decode_reply(self.channel.receive())
        assert isinstance(answer, ErrorReply), f"{call} {numbers} was answered with results"
        if len(numbers) <= 4 and max(numbers, default=0) < 2**63:
            client._sequence += 1  # it was a request, and its turn
        return answer


@pytest.mark.parametrize("stage", STAGES)
def test_books_of_caches_are_kept_alike_on_both_sides(small: Checkpoint, stage: str) -> None:
    row = STAGES[stage]
    service = make_service(small, row)
    with torch.no_grad():
        run_state_machine_as_test(
            lambda: Caches(service, row),  # type: ignore[arg-type]  # what makes one will do
            settings=settings(
                max_examples=12,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_only_so_many_caches_are_open_at_a_time() -> None:
    books = CacheBooks(CONFIG)
    opened = Call("open_cache")
    for number in range(MOST_CACHES):
        books.note(opened, (number, 1, 1), books.check(opened, (number, 1, 1), ()))
    with pytest.raises(ProtocolError, match=f"{MOST_CACHES} are open; close one first"):
        books.check(opened, (99, 1, 1), ())
    closed = Call("close_cache")
    books.note(closed, (3,), books.check(closed, (3,), ()))
    assert books.check(opened, (99, 1, 1), ()) is None


def test_a_window_says_of_which_text_its_positions_are() -> None:
    assert Window(5, 3).length == 8
    assert Window(5, 3, text=20).length == 20
    assert Window(5, 3, text=20).numbers == ()
    assert Window(5, 3, text=20, cache=9).numbers == (9, 5, 20)


# A real worker under attack

HIDDEN = tiny().config.hidden_size
SIZE = 4 * HIDDEN  # bytes of a position's hidden state
FIRST = 11

# Against a cache of 1 prompt and 8 positions, of which layer 0 has 2: operation, layer, shape, numbers.
BAD: Mapping[str, tuple[str, int | None, tuple[int, ...] | None, tuple[int, ...]]] = {
    "nobody's number": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST + 1, 2, 3)),
    "a huge number": ("fused_layer", 0, (1, 1, HIDDEN), (2**63 - 1, 2, 3)),
    "a position before the end": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST, 1, 2)),
    "a position after the end": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST, 3, 4)),
    "another layer's position": ("fused_layer", 1, (1, 1, HIDDEN), (FIRST, 2, 3)),
    "a huge position": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST, 2**63 - 1, 3)),
    "more than there is room for": ("fused_layer", 0, (1, 7, HIDDEN), (FIRST, 2, 9)),
    "another batch": ("fused_layer", 0, (2, 1, HIDDEN), (FIRST, 2, 3)),
    "a text that ends before": ("fused_layer", 0, (1, 2, HIDDEN), (FIRST, 2, 3)),
    "a text beyond the room": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST, 2, 9)),
    "a huge text": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST, 2, 2**63 - 1)),
    "no position": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST,)),
    "four numbers": ("fused_layer", 0, (1, 1, HIDDEN), (FIRST, 2, 3, 4)),
    "a layer that does not exist": ("fused_layer", 9, (1, 1, HIDDEN), (FIRST, 0, 1)),
    "an operation that keeps nothing": ("embedding", None, None, (FIRST, 0, 1)),
    "a ping": ("ping", None, None, (FIRST, 0, 1)),
    "a number that is open": ("open_cache", None, None, (FIRST, 1, 8)),
    "a cache of nothing": ("open_cache", None, None, (12, 0, 8)),
    "a cache of no positions": ("open_cache", None, None, (12, 1, 0)),
    "a cache beyond the model": ("open_cache", None, None, (12, 1, 2**40)),
    "a cache of too many prompts": ("open_cache", None, None, (12, 257, 8)),
    "a cache of a layer": ("open_cache", 0, None, (12, 1, 8)),
    "a cache without numbers": ("open_cache", None, None, ()),
    "a cut to more than there is": ("trim_cache", None, None, (FIRST, 3)),
    "a cut of nobody's": ("trim_cache", None, None, (12, 0)),
    "an end of nobody's": ("close_cache", None, None, (12,)),
    "an end of two": ("close_cache", None, None, (FIRST, FIRST)),
}


@pytest.mark.parametrize("what", BAD)
def test_a_malformed_cache_operation_is_refused_by_name_and_the_worker_serves_on(
    workers: Callable[[str, str], RealWorker], what: str
) -> None:
    operation, layer, shape, numbers = BAD[what]
    worker = workers("unix", "fused")
    with still_serving(worker), worker.raw() as client:
        assert isinstance(client, RawSeqpacket)
        client.greet()
        client.bring_arena()

        def append(shape: tuple[int, ...], layer: int | None, numbers: tuple[int, ...]) -> object:
            tensor = {"dtype": "float32", "shape": shape, "payload": 0}
            return client.exchange(
                client.request(
                    "fused_layer", [tensor], layer=layer, cache=numbers, outputs=[SIZE * 16]
                )
            )

        opened = client.request("open_cache", cache=(FIRST, 1, 8))
        assert client.exchange(opened)["outputs"] == []
        assert "sequence" in append((1, 2, HIDDEN), 0, (FIRST, 0, 2))  # type: ignore[operator]

        inputs = []
        if shape is not None:
            inputs = [{"dtype": "float32", "shape": shape, "payload": 0}]
        elif operation == "embedding":
            inputs = [{"dtype": "int64", "shape": (1, 1), "payload": 0}]
        places = [SIZE * 16] if inputs else []
        request = client.request(operation, inputs, layer=layer, cache=numbers, outputs=places)
        assert_refused(client.exchange(request), r"cache|layer|inputs.*")
        # It was as if nothing had been asked.
        assert "sequence" in append((1, 1, HIDDEN), 0, (FIRST, 2, 3))  # type: ignore[operator]


@pytest.mark.parametrize("transport", ["unix", "ipc"])
def test_a_cache_is_known_to_the_session_that_opened_it_alone(
    workers: Callable[[str], RealWorker], transport: str
) -> None:
    with workers(transport).raw() as client:
        client.greet()
        assert "sequence" in client.exchange(client.request("open_cache", cache=(FIRST, 1, 8)))
        client.greet()
        assert_refused(client.exchange(client.request("close_cache", cache=(FIRST,))), "cache")
        assert "sequence" in client.exchange(client.request("open_cache", cache=(FIRST, 2, 9)))
    with workers(transport).raw() as another:
        another.greet()
        assert_refused(another.exchange(another.request("trim_cache", cache=(FIRST, 0))), "cache")
