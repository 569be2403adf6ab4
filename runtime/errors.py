"""Every error that the runtime raises on purpose: one small tree, so that a caller can catch it by its root."""

from __future__ import annotations

from runtime.text import printable

_BEGINNING, _END = 1500, 500  # characters that are kept of a longer message


class SplitError(Exception):
    """Root of the runtime's errors. The message says what was wrong and what to do about it.

    A part of it may be the words of a peer or of a file: it is one line, short, and fit for a terminal.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(map(str.strip, message.splitlines()))
        if len(line) > _BEGINNING + _END:
            line = f"{line[:_BEGINNING]} ... {line[-_END:]}"
        super().__init__(printable(line, len(line)))


class CheckpointError(SplitError):
    """A model that cannot be loaded: unknown preset, missing or damaged file, unsupported field."""


class InputError(SplitError, ValueError):
    """An argument of the caller's that cannot be computed: stage, device, prompt, token id."""


class EndpointError(SplitError):
    """An endpoint that cannot be used: malformed, in use, or nobody answers there."""


class ArenaError(SplitError):
    """Shared memory that the machine cannot give: names the size wanted and the size available."""


class ProtocolError(SplitError):
    """A message of the other side's that does not hold what it must.

    ``field`` is the path of the offending field, such as ``tensors[0].shape``.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class HandshakeError(SplitError):
    """A worker that cannot be used: another protocol version, model, weights, dtype, or device."""


class WorkerError(SplitError):
    """A worker that failed while it was needed."""


class WorkerDied(WorkerError):
    """The worker's process or its connection ended in the middle of the session."""


class WorkerTimeout(WorkerError):
    """The worker did not answer within the deadline."""


class WorkerRefused(WorkerError):
    """The worker refused the request as malformed and said why; it lives on."""


class WorkerBusy(WorkerError):
    """The worker serves another client, and does one at a time."""
