"""What a call costs beside what it computes: ``pytest perfsuite/test_call.py``."""

from __future__ import annotations

import socket
import time
import timeit
from contextlib import suppress
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from perfsuite.llama.diagnosis.null_worker import CONFIG, HELLO, NullDevice
from runtime import SplitLlama, load_checkpoint
from runtime.operations import Call
from runtime.rpc import RpcClient
from runtime.service import Service
from runtime.tensors import TensorSpec
from runtime.trace import RpcRecord, WorkerDurations
from runtime.transports.base import Data, ReceiveTimeout
from runtime.transports.shared_memory import SharedMemoryClient, SharedMemoryServer

_ROUNDS = 2000
_WARM_UP = 200
_TIMEOUT_S = 10.0


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_metadata_only_call(stage: str, benchmark: BenchmarkFixture) -> None:
    """Time whole calls; the table also shows how much of one is the transport itself, in microseconds."""
    with SplitLlama.launch(load_checkpoint("tiny"), stage=stage) as llama:
        transport_s: list[float] = []

        def call() -> None:
            llama.ping()
            transport_s.append(llama.last_trace.rpcs[0].transport_s)

        benchmark.pedantic(  # type: ignore[no-untyped-call]
            call, rounds=_ROUNDS, warmup_rounds=_WARM_UP
        )
    # A disabled pytest-benchmark calls once, and does not warm up.
    benchmark.extra_info["transport_us_p50"] = round(median(transport_s[-_ROUNDS:]) * 1e6, 1)
    # The worker's durations are checked against the round trip; a fault there would show here.
    assert min(transport_s) > 0


class OneThread(SharedMemoryClient):
    """The trusted side's end; the worker's runs in the same thread, so that nobody waits."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        self.set_timeout(_TIMEOUT_S)
        self._server = SharedMemoryServer(theirs)
        self._service = Service(NullDevice(swept=0, flops=0), CONFIG, HELLO, {})
        self.socket_s = 0.0

    def send(self, message: Data) -> None:
        started = time.perf_counter()
        super().send(message)
        self.socket_s += time.perf_counter() - started

    def receive(self) -> bytes:
        started = time.perf_counter()
        with suppress(ReceiveTimeout):  # an arena is answered by the channel itself
            request = self._server.receive()
            received = time.perf_counter()
            answer = self._service._answer(self._server, request)
            started += time.perf_counter() - received
            self._server.send(answer)
        reply = super().receive()
        self.socket_s += time.perf_counter() - started
        return reply

    def close(self) -> None:
        super().close()
        self._server.close()


@pytest.mark.parametrize("results", [1, 3])
def test_python_of_a_call(results: int, benchmark: BenchmarkFixture) -> None:
    """Encoding, decoding, checks, memory and the record, both sides together, with one tensor as input.

    ``python_us`` is the least time of a call without its sockets and without the device.
    """
    channel = OneThread()
    rpc = RpcClient(channel, CONFIG, torch.float32)
    rpc.handshake(HELLO)
    rpc.prepare(1 << 20)
    x = channel.empty(TensorSpec(torch.float32, (1, 4, CONFIG.hidden_size))).zero_()
    asked = Call("batch_linear", 0, ("q_proj", "k_proj", "v_proj")[:results])
    seconds: list[float] = []

    def call() -> None:
        channel.socket_s = 0.0
        started = time.perf_counter()
        rpc.call(asked, x)
        taken = time.perf_counter() - started
        seconds.append(taken - channel.socket_s - rpc.records.pop().device_s)

    with torch.no_grad():
        benchmark.pedantic(  # type: ignore[no-untyped-call]
            call, rounds=_ROUNDS, warmup_rounds=_WARM_UP
        )
    channel.close()
    benchmark.extra_info["python_us"] = round(min(seconds) * 1e6, 1)
    assert min(seconds) > 0


def test_the_trace_costs_less_than_a_hundredth_of_a_forward(benchmark: BenchmarkFixture) -> None:
    """Everything that a call does only to be recorded, against a forward of real weights, 256 tokens."""

    def record() -> RpcRecord:
        at = [time.perf_counter() for _ in range(5)]
        durations = WorkerDurations(at[1] - at[0], at[2] - at[1], at[3] - at[2])
        return RpcRecord(
            "matmul",
            0,
            1,
            1,
            0,
            at[1] - at[0] + durations.serialize_s,
            durations.total_s,
            0.0,
            0.0,
            at[4] - at[0],
        )

    checkpoint = load_checkpoint("smollm2-135m")
    with SplitLlama.launch(checkpoint, stage="shared-memory") as llama:
        totals = []
        for _ in range(3):
            llama.forward(range(256))
            totals.append(llama.last_trace.totals())
    benchmark(record)
    per_call_s = timeit.timeit(record, number=10_000) / 10_000
    assert per_call_s * totals[0]["rpc_count"] < 0.01 * median(total["total_s"] for total in totals)


def test_metadata_only_call_is_cheaper_than_a_messaging_library() -> None:
    """Interleaved on this machine: the socket alone against ZeroMQ."""
    checkpoint = load_checkpoint("tiny")
    transport_s: dict[str, list[float]] = {"baseline": [], "shared-memory": []}
    with (
        SplitLlama.launch(checkpoint, stage="baseline") as baseline,
        SplitLlama.launch(checkpoint, stage="shared-memory") as shared_memory,
    ):
        for _ in range(_ROUNDS):
            for llama in (baseline, shared_memory):
                llama.ping()
                transport_s[llama.stage.name].append(llama.last_trace.rpcs[0].transport_s)
    assert median(transport_s["shared-memory"]) < median(transport_s["baseline"])
