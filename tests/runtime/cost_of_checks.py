"""What the checks of one call cost: ``python -m tests.runtime.cost_of_checks`` prints microseconds.

A call of a decoder layer's Q, K and V over shared memory. The smallest of many timings: others use the machine.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import msgspec
import torch

from runtime.caches import CacheBooks
from runtime.messages import Request, decode_reply, decode_request
from runtime.operations import check_granularity
from runtime.service import _check_apart
from tests.runtime.fuzz.targets import CORPUS
from tests.runtime.peers import tiny

_CALLS, _REPEATS = 1000, 100


def _us(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=_CALLS, repeat=_REPEATS)) / _CALLS * 1e6


def main() -> None:
    """Print what each check costs, and their sum."""
    sent = (CORPUS / "request" / "right-batch-linear-by-place").read_bytes()
    answered = (CORPUS / "reply" / "right-by-place").read_bytes()
    request = decode_request(sent)
    if not isinstance(request, Request):
        raise TypeError("the seed is no request")
    call, specs = request.call, tuple(tensor.spec for tensor in request.inputs)
    books = CacheBooks(tiny().config)
    places = list(torch.empty(4, 1024).unbind())
    untyped = msgspec.msgpack.Decoder().decode
    costs = {
        "request: types, ranges, counts": _us(lambda: decode_request(sent))
        - _us(lambda: untyped(sent)),
        "reply: types, ranges, counts": _us(lambda: decode_reply(answered))
        - _us(lambda: untyped(answered)),
        "operation": _us(lambda: check_granularity(call, "operation")),
        "cache": _us(lambda: books.check(call, (), specs)),
        "places apart": _us(lambda: _check_apart(places[:1], places[1:])),
    }
    for what, cost in costs.items():
        print(f"{what:32} {cost:6.2f} us")
    print(f"{'together':32} {sum(costs.values()):6.2f} us")


if __name__ == "__main__":
    main()
