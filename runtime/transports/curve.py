"""Keys of the two ends of a tcp connection: each talks to nobody but the owner of the key that it knows.

CurveZMQ (https://rfc.zeromq.org/spec/26/): the ends prove that they own their secret keys, and everything after
that is encrypted and authenticated with keys that live as long as the connection.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from runtime.errors import EndpointError

CLIENT, WORKER = "client", "worker"
_CHARACTERS = 40  # of a key of 32 bytes in Z85


@dataclass(frozen=True, slots=True)
class Keys:
    """What one end needs, each in Z85."""

    secret: bytes = field(repr=False)
    public: bytes
    peer: bytes
    """The public key of the other end."""


def generate(folder: str | Path) -> Path:
    """Make a pair of keys for each end in a new folder of this user's alone, and return it.

    The worker's host needs ``worker.secret`` and ``client.public``, the client's the other two.

    Raises:
        EndpointError: if the folder exists, or cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(mode=0o700)
        for side in (CLIENT, WORKER):
            public, secret = zmq.curve_keypair()
            for name, content in ((f"{side}.secret", secret), (f"{side}.public", public)):
                _write(folder / name, content)
    except (OSError, ValueError) as error:
        raise EndpointError(f"keys: cannot be made in {folder} ({_words(error)})") from error
    return folder


def read_keys(folder: str | Path, side: str) -> Keys:
    """Return the keys that ``side`` finds in ``folder``.

    Raises:
        EndpointError: if one is missing or malformed, or somebody else could have read the secret or written any.
    """
    folder = Path(folder)
    _check_folder(folder)
    other = WORKER if side == CLIENT else CLIENT
    secret = _read(folder / f"{side}.secret", forbidden=0o077)
    peer = _read(folder / f"{other}.public", forbidden=0o022)
    return Keys(secret, zmq.curve_public(secret), peer)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which others could exchange a file."""
    try:
        status = folder.stat()
    except (OSError, ValueError) as error:
        raise EndpointError(f"keys: cannot read {folder} ({_words(error)})") from error
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & 0o022:
        raise EndpointError(f"keys: others can write to {folder}; chmod 700 it")


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content + b"\n")


def _read(path: Path, forbidden: int) -> bytes:
    """Return a key; ``forbidden`` are the bits of the file's mode that it must not have."""
    try:
        # Not waiting: a FIFO would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise EndpointError(f"keys: {path} is no file")
            if status.st_uid not in (os.getuid(), 0):
                raise EndpointError(f"keys: {path} is another user's")
            if status.st_mode & forbidden:
                raise EndpointError(
                    f"keys: others have access to {path} (mode {stat.S_IMODE(status.st_mode):03o}); "
                    "make new ones, and chmod 600"
                )
            content = file.read(_CHARACTERS + 2).strip()
    except OSError as error:
        raise EndpointError(f"keys: cannot read {path} ({error.strerror})") from error
    try:
        if len(content) != _CHARACTERS:
            raise ValueError
        zmq.curve_public(content)  # refuses what is not Z85
    except (ValueError, KeyError, zmq.ZMQError) as error:
        raise EndpointError(f"keys: {path} holds no key of {_CHARACTERS} characters") from error
    return content
