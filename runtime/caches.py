"""Which keys and values a worker keeps for whom: the books of caches, kept by both sides of a session.

A cache belongs to one generation, and its number is chosen by the trusted side. It grows at its end only: a call
that appends says where, and neither side believes the other. Both derive from these books over how many
positions attention extends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from runtime.checkpoints import ModelConfig
from runtime.errors import ProtocolError
from runtime.operations import Call, matmul_rows
from runtime.rope import max_length
from runtime.tensors import TensorSpec

MOST_CACHES = 16
"""Of one session, at a time."""

MOST_PROMPTS = 256
"""Of one cache."""

_MOST_NUMBER = 2**63 - 1

Numbers = tuple[int, ...]
"""What a call says of a cache: its number, and what the operation needs to know beside that."""

Part = tuple[int | None, str]
"""What grows on its own: a layer's keys, its values, both, or those of all layers."""


@dataclass(slots=True)
class _Cache:
    batch: int
    capacity: int
    lengths: dict[Part, int] = field(default_factory=dict)


def cache_bytes(config: ModelConfig, item_size: int, batch: int, capacity: int) -> int:
    """Memory of a cache, in bytes: 2 tensors of (batch, KV heads, capacity, head size) per layer."""
    heads = 2 * config.num_layers * config.num_kv_heads
    return heads * batch * capacity * config.head_dim * item_size


@dataclass(frozen=True, slots=True)
class Window:
    """The positions that a call is about: those it appends to a cache, or all there are where it has none."""

    start: int
    rows: int
    text: int = 0
    """Where the text ends that is appended at once, in whatever pieces, in tokens; 0 for ``end``."""
    cache: int | None = None
    """Its number."""
    numbers: Numbers = field(init=False)
    """What a call says of it."""

    def __post_init__(self) -> None:
        numbers = () if self.cache is None else (self.cache, self.start, self.length)
        object.__setattr__(self, "numbers", numbers)

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + self.rows

    @property
    def length(self) -> int:
        """Of which text the positions have their frequencies, in tokens.

        Scalings that depend on the length (dynamic, longrope) take the whole text's, whatever pieces it comes in;
        keys that are cached stay as they are, as in ``transformers``.
        """
        return max(self.text, self.end)


class CacheBooks:
    """Checks what calls say of caches, and remembers what they did."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._caches: dict[int, _Cache] = {}

    def __len__(self) -> int:
        return len(self._caches)

    def __contains__(self, number: object) -> bool:
        return number in self._caches

    def clear(self) -> None:
        """Forget all caches: a session begins."""
        self._caches.clear()

    def check(self, call: Call, numbers: Numbers, inputs: Sequence[TensorSpec]) -> int | None:
        """Return over how many positions the cache extends once ``call`` has appended to it, None without a cache.

        Raises:
            ProtocolError: naming what does not fit.
        """
        about = _ABOUT.get(call.operation)
        if about is not None:
            if len(numbers) != about.count:
                raise ProtocolError(
                    "cache", f"{call.operation} takes {about.count} numbers, got {len(numbers)}"
                )
            about.check(self, *numbers)
            return None
        if not numbers:
            return None
        if len(numbers) != 3:
            raise ProtocolError(
                "cache", f"must be its number, a position and a length, got {len(numbers)} numbers"
            )
        cache, start, text = self._known(numbers[0]), numbers[1], numbers[2]
        prompts, rows = self._appended(call, inputs)
        if prompts != cache.batch:
            raise ProtocolError("cache", f"holds {cache.batch} prompts, got {prompts}")
        length = cache.lengths.get(_part(call), 0)
        if start != length:
            raise ProtocolError("cache", f"holds {length} positions here, got position {start}")
        if rows > cache.capacity - start:
            raise ProtocolError(
                "cache", f"has room for {cache.capacity} positions, got {start} and {rows} more"
            )
        if not start + rows <= text <= cache.capacity:
            raise ProtocolError(
                "cache",
                f"is given positions up to {start + rows} and has room for {cache.capacity}, "
                f"got a text of {text}",
            )
        return start + rows

    def note(self, call: Call, numbers: Numbers, keys: int | None) -> None:
        """Remember that ``call``, which was checked, was computed."""
        if keys is not None:
            self._caches[numbers[0]].lengths[_part(call)] = keys
        elif call.operation in _ABOUT:
            _ABOUT[call.operation].note(self, *numbers)

    def _known(self, number: int) -> _Cache:
        cache = self._caches.get(number)
        if cache is None:
            raise ProtocolError("cache", f"{number} is none of the {len(self)} that are open here")
        return cache

    def _appended(self, call: Call, inputs: Sequence[TensorSpec]) -> tuple[int, int]:
        """Return (prompts, positions) that a call appends."""
        if call.operation == "matmul":
            matrices, rows = matmul_rows(call, inputs)
            prompts, rest = divmod(matrices, self._config.num_kv_heads)
            return (prompts if not rest else 0), rows
        if not inputs or len(inputs[0].shape) < 2:
            raise ProtocolError("inputs[0].shape", "must be (batch, tokens, ...)")
        return inputs[0].shape[0], inputs[0].shape[1]

    def _check_open(self, number: int, batch: int, capacity: int) -> None:
        if not 0 <= number <= _MOST_NUMBER:
            raise ProtocolError("cache", f"its number must be 0 to {_MOST_NUMBER}, got {number}")
        if number in self._caches:
            raise ProtocolError("cache", f"{number} is open already")
        if len(self) >= MOST_CACHES:
            raise ProtocolError("cache", f"{MOST_CACHES} are open; close one first")
        if not 1 <= batch <= MOST_PROMPTS:
            raise ProtocolError("cache", f"must be of 1 to {MOST_PROMPTS} prompts, got {batch}")
        most = max_length(self._config)
        if not 1 <= capacity <= most:
            raise ProtocolError("cache", f"must have 1 to {most} positions, got {capacity}")

    def _open(self, number: int, batch: int, capacity: int) -> None:
        self._caches[number] = _Cache(batch, capacity)

    def _check_trim(self, number: int, length: int) -> None:
        lengths = self._known(number).lengths
        held = min(lengths.values(), default=0)
        if not 0 <= length <= held:
            raise ProtocolError("cache", f"holds {held} positions, cannot be cut to {length}")

    def _trim(self, number: int, length: int) -> None:
        lengths = self._caches[number].lengths
        lengths.update(dict.fromkeys(lengths, length))

    def _check_close(self, number: int) -> None:
        self._known(number)

    def _close(self, number: int) -> None:
        del self._caches[number]


def _part(call: Call) -> Part:
    if call.operation == "matmul":
        return call.layer, "keys" if call.transpose_b else "values"
    return call.layer, "both"


@dataclass(frozen=True, slots=True)
class _About:
    """An operation on a cache as a whole: how many numbers it takes, how they are checked and noted."""

    count: int
    check: Callable[..., None]
    note: Callable[..., None]


_ABOUT: Mapping[str, _About] = MappingProxyType(
    {
        "open_cache": _About(3, CacheBooks._check_open, CacheBooks._open),
        "trim_cache": _About(2, CacheBooks._check_trim, CacheBooks._trim),
        "close_cache": _About(1, CacheBooks._check_close, CacheBooks._close),
    }
)
