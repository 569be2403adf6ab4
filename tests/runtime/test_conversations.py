"""Whole conversations in any order: replayed, skipped, of another session, cut, late, abandoned."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime.checkpoints import Checkpoint
from runtime.errors import ProtocolError, SplitError, WorkerError, WorkerTimeout
from runtime.operations import Call
from runtime.rpc import RpcClient
from tests.runtime.peers import (
    PATIENCE_S,
    FakeWorker,
    Fields,
    RawClient,
    RealWorker,
    Reply,
    fake_worker,
    own_hello,
    packed,
    small_checkpoint,
)

SETTINGS = settings(
    max_examples=30,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
SHORT_S = 0.05


class HostileClient(RuleBasedStateMachine):
    """Talks to a real worker in any order, and knows for each message whether it is due."""

    worker: ClassVar[RealWorker]

    def __init__(self) -> None:
        super().__init__()
        self.client: RawClient = self.worker.raw()
        self.session: int | None = None
        self.earlier: list[Fields] = []

    @initialize()
    def begin(self) -> None:
        """An earlier test's session is none of this one's."""
        self.greet()

    @rule()
    def greet(self) -> None:
        self.session = self.client.greet()["session"]

    @rule()
    def greet_for_another_model(self) -> None:
        hello = {**self.client._hello, "digest": "0" * 64}
        self._refused(self.client.exchange({"hello": hello}), "hello")
        self.session = None

    @rule()
    def call(self) -> None:
        request = self.client.request("ping")
        answer = self.client.exchange(request)
        if self.session is None:
            self._refused(answer, "session")
        else:
            assert answer["sequence"] == request["sequence"], answer
            self.earlier.append(request)

    @precondition(lambda self: self.earlier)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.earlier))
        ours = request["session"] == self.session
        self._refused(self.client.exchange(request), "sequence" if ours else "session")

    @precondition(lambda self: self.session is not None)
    @rule(step=st.sampled_from((-1, 1, 2, 2**40)))
    def call_out_of_turn(self, step: int) -> None:
        request = self.client.request("ping")
        self.client.sequence -= 1  # it does not count
        request["sequence"] = max(0, request["sequence"] + step)
        self._refused(self.client.exchange(request), "sequence")

    @rule(step=st.sampled_from((-1, 1, 2**61)))
    def call_in_a_session_that_nobody_opened(self, step: int) -> None:
        request = self.client.request("ping", session=abs(self.client.session + step))
        self.client.sequence -= 1
        self._refused(self.client.exchange(request), "session")

    @rule(part=st.floats(0.05, 0.95), what=st.sampled_from(("hello", "call")))
    def cut(self, part: float, what: str) -> None:
        fields: Any = {"hello": self.client._hello}
        if what == "call":
            fields = self.client.request("ping")
            self.client.sequence -= 1
        raw = packed(fields)
        self._refused(self.client.exchange(raw[: int(len(raw) * part)]), "message")

    @rule(what=st.sampled_from(("hello", "call", "nonsense", "nothing")))
    def leave_without_the_answer(self, what: str) -> None:
        messages: dict[str, Any] = {
            "hello": packed({"hello": self.client._hello}),
            "call": packed(self.client.request("ping")),
            "nonsense": b"\xc1",
        }
        if what in messages:
            self.client.send(messages[what])
        self.client.close()
        self.client = self.worker.raw()
        self.greet()

    @invariant()
    def the_worker_lives(self) -> None:
        assert self.worker.process.poll() is None

    def teardown(self) -> None:
        try:
            self.greet()
            self.call()
        finally:
            self.client.close()

    def _refused(self, answer: Fields, field: str) -> None:
        assert set(answer) == {"error"}, answer
        assert answer["error"]["kind"] in ("protocol", "handshake")
        assert answer["error"]["field"] == field, answer


@pytest.mark.parametrize("transport", ["unix", "ipc", "tcp"])
def test_a_worker_answers_only_what_is_due_and_lives_on(
    workers: Callable[[str], RealWorker], transport: str
) -> None:
    class Machine(HostileClient):
        worker = workers(transport)

    run_state_machine_as_test(Machine, settings=SETTINGS)


class HostileWorker(RuleBasedStateMachine):
    """Answers an honest client in any order; after anything but the due answer no call is made any more."""

    fake: ClassVar[FakeWorker]

    def __init__(self) -> None:
        super().__init__()
        self.connected = ExitStack()
        self.sent: list[bytes] = []
        self.converse()

    @rule()
    def converse(self) -> None:
        """Begin anew, over a way of its own."""
        self.connected.close()
        self.fake.on_call = self._right
        self.channel = self.fake.connect(self.connected)
        self.channel.set_timeout(PATIENCE_S)
        checkpoint, stage = self.fake.checkpoint, self.fake.stage
        self.rpc = RpcClient(self.channel, checkpoint.config, stage.torch_dtype)
        self.rpc.handshake(own_hello(checkpoint, stage.name))
        self.broken, self.calls = False, 0

    @rule()
    def call(self) -> None:
        self.fake.on_call = self._right
        if self.broken:
            with pytest.raises(WorkerError, match="earlier call failed"):
                self.rpc.call(Call("ping"))
        else:
            assert self.rpc.call(Call("ping")) == []
            self.calls += 1

    @rule(step=st.sampled_from((-1, 1, 2**40)))
    def answer_another_call(self, step: int) -> None:
        def wrong(request: Fields) -> Reply:
            answer = self.fake.reply(request)
            return {**answer, "sequence": max(0, answer["sequence"] + step)}

        self._fails(wrong, ProtocolError)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        earlier = data.draw(st.sampled_from(self.sent))
        # Another conversation's answer to a call of the same number is as right as any.
        assume(msgpack.unpackb(earlier)["sequence"] != self.calls + 1)
        self._fails(lambda _: earlier, ProtocolError)

    @rule(part=st.floats(0.05, 0.95))
    def cut(self, part: float) -> None:
        def cut(request: Fields) -> Reply:
            raw = packed(self.fake.reply(request))
            return raw[: int(len(raw) * part)]

        self._fails(cut, ProtocolError)

    @rule()
    def answer_with_a_welcome(self) -> None:
        self._fails(lambda _: {"hello": {}, "session": 1, "worker": {}}, ProtocolError)

    @rule()
    def refuse(self) -> None:
        error = {"kind": "protocol", "field": "sequence", "problem": "no"}
        self._fails(lambda _: {"error": error}, SplitError)

    @rule(late=st.booleans())
    def be_late(self, late: bool) -> None:
        """The answer comes after the deadline, or never; the next call does not take it for its own."""

        def slow(request: Fields) -> Reply:
            if not late:
                return None
            time.sleep(3 * SHORT_S)
            return self.fake.reply(request)

        self.channel.set_timeout(SHORT_S)
        self._fails(slow, WorkerTimeout)
        self.channel.set_timeout(PATIENCE_S)
        time.sleep(4 * SHORT_S if late else 0)

    def _fails(self, answer: Callable[[Fields], Reply], error: type[SplitError]) -> None:
        self.fake.on_call = answer
        started = time.monotonic()
        with pytest.raises(WorkerError if self.broken else error):
            self.rpc.call(Call("ping"))
        assert time.monotonic() - started < PATIENCE_S
        self.broken = True

    def _right(self, request: Fields) -> Reply:
        raw = packed(self.fake.reply(request))
        self.sent.append(raw)
        return raw

    def teardown(self) -> None:
        try:
            self.converse()
            self.call()
        finally:
            self.connected.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return small_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("stage", ["baseline", "shared-memory"])
def test_a_client_takes_only_the_answer_that_is_due(
    stage: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with fake_worker(stage, checkpoint, tmp_path) as attacking:

        class Machine(HostileWorker):
            fake = attacking

        run_state_machine_as_test(Machine, settings=SETTINGS)
