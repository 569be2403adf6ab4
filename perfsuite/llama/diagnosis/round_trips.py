"""``python -m perfsuite.llama.diagnosis.round_trips``: one payload there and back over each route, interleaved.

A call's seconds without the device's: packing, crossing, checking and unpacking on both sides, back to back.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

import torch

from perfsuite.llama.bursts import Between
from perfsuite.llama.diagnosis.null_worker import CONFIG, MOST_ROWS, ROW_BYTES
from perfsuite.llama.diagnosis.routes import ROUTES, open_routes
from perfsuite.machine import fingerprint
from runtime.operations import Call
from runtime.tensors import TensorSpec

_WARM_UP = 3
_PLACES = 3  # of the payload's size: sent, received, and one that is being let go
_CALL = Call("batch_linear", 0, ("o_proj",))


@torch.no_grad()
def round_trips(rows: int, rounds: int) -> Mapping[str, Sequence[float]]:
    """Return the seconds of calls that carry ``rows`` of ``ROW_BYTES`` each way, sorted, by route."""
    seconds: dict[str, list[float]] = {route: [] for route in ROUTES}
    spec = TensorSpec(torch.float32, (1, rows, CONFIG.hidden_size))
    with open_routes(tuple(ROUTES), Between(0, 0, 0), threads=1) as clients:
        for number in range(_WARM_UP + rounds):
            for route, client in clients.items():
                client.prepare(_PLACES * spec.nbytes)
                x = client.channel.empty(spec).fill_(0)
                started = time.perf_counter()
                client.call(_CALL, x)
                took = time.perf_counter() - started
                if number >= _WARM_UP:
                    seconds[route].append(took - client.records[-1].device_s)
                client.records.clear()
    return {route: sorted(taken) for route, taken in seconds.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the quartiles of each route."""
    parser = argparse.ArgumentParser(prog="python -m perfsuite.llama.diagnosis.round_trips")
    parser.add_argument(
        "--rows", type=int, default=8192, help=f"payload in units of {ROW_BYTES} bytes"
    )
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args(argv)
    if not 0 < options.rows <= MOST_ROWS or options.rounds < 1:
        parser.error(f"--rows from 1 to {MOST_ROWS:,}, --rounds from 1")
    print(f"{options.rows * ROW_BYTES:,} bytes each way, {fingerprint(1)['cpu']}")
    for route, taken in round_trips(options.rows, options.rounds).items():
        low, middle, high = (taken[len(taken) * part // 4] * 1e3 for part in (1, 2, 3))
        print(f"{route:14s} {middle:8.2f} ms [{low:.2f}, {high:.2f}], least {taken[0] * 1e3:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
