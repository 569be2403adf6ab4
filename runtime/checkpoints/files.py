"""Files that are read for as long as they are what they were when they were first looked at.

Whoever copies another model over them, in place, changes them under the process that has them open: a mapping
would show the new bytes beside the old ones, and end the process where the file became shorter (SIGBUS). So
nothing is mapped, and each read looks whether the file is still the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from runtime.errors import CheckpointError

_CHUNK_BYTES = 1 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 1024


class _Identity(NamedTuple):
    """What tells a file from another at its path, and from itself before it was written to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class SteadyFile:
    """A regular file that must not change. No descriptor of it is kept between reads."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        """Look at ``path``, of ``most`` bytes at most.

        Raises:
            CheckpointError: if it is missing, no file (a FIFO, say), or too large.
        """
        self.path = path
        self._identity: _Identity | None = None
        with self._opened() as (_, identity):
            self._identity = identity
        self.size = identity.size
        if most is not None and self.size > most:
            raise CheckpointError(f"{path} has {self.size:,} bytes; {most:,} are the most")

    def read(self, offset: int, size: int) -> bytes:
        """Return the ``size`` bytes from ``offset`` on.

        Raises:
            CheckpointError: if they cannot be read, or the file is not what it was.
        """
        content = bytearray(size)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def read_into(self, offset: int, place: memoryview) -> None:
        """Fill ``place`` with the bytes from ``offset`` on.

        Raises:
            CheckpointError: as ``read``; ``place`` holds nothing of use then.
        """
        with self._opened() as (descriptor, _):
            while place:
                count = os.preadv(descriptor, [place[:_CHUNK_BYTES]], offset)
                if count == 0:
                    raise self._changed()
                place, offset = place[count:], offset + count
            if _Identity(*_told(descriptor)) != self._identity:
                raise self._changed()

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield the ``size`` bytes from ``offset`` on, a megabyte at a time.

        Raises:
            CheckpointError: as ``read``.
        """
        for begin in range(offset, offset + size, _CHUNK_BYTES):
            yield self.read(begin, min(_CHUNK_BYTES, offset + size - begin))

    def sha256(self) -> str:
        """Return the digest of all bytes, in hexadecimal.

        Raises:
            CheckpointError: as ``read``.
        """
        total = hashlib.sha256()
        for chunk in self.chunks(0, self.size):
            total.update(chunk)
        return total.hexdigest()

    def check(self) -> None:
        """Look whether the path still leads to this file, as it was.

        Raises:
            CheckpointError: if not.
        """
        with self._opened():
            pass

    def stamp(self) -> list[str | int]:
        """Return what tells this file from any other, ever, at its path: identity, and samples of its bytes.

        A copy that keeps the time, of image layers for instance, may have the size and the time of what it
        replaces; it is another file (inode, change), and where even that was kept, it has other bytes.

        Raises:
            CheckpointError: as ``read``.
        """
        samples = hashlib.sha256()
        for sample in range(_SAMPLES):
            begin = self.size * sample // _SAMPLES
            samples.update(self.read(begin, min(_SAMPLE_BYTES, self.size - begin)))
        return [str(self.path), *(self._identity or ())[1:], samples.hexdigest()]

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, _Identity]]:
        """Give a descriptor of the file, and its identity, which is that of the first time."""
        try:
            # Not waiting: a FIFO would be waited for.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if self._identity is not None:
                raise self._changed() from error
            raise missing(self.path) from error
        except OSError as error:
            # A socket cannot even be opened.
            raise CheckpointError(f"{self.path} is no file: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CheckpointError(f"{self.path} is no file")
            identity = _told(descriptor)
            if self._identity not in (None, identity):
                raise self._changed()
            yield descriptor, identity
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} was replaced or written to since it was opened; load the checkpoint again "
            "when nobody writes to it"
        )


def is_there(path: Path) -> bool:
    """Whether something has this path, be it a link to nothing.

    A cache of downloads is of links; what they lead to is cleaned away by others, or was never fetched.
    """
    return path.is_symlink() or path.exists()


def missing(path: Path) -> CheckpointError:
    """The error of a file that is not there, which says so of a link's end."""
    if path.is_symlink():
        return CheckpointError(
            f"{path} is a link to {path.readlink()}, which is missing; fetch the checkpoint again"
        )
    return CheckpointError(f"{path} is missing; fetch the checkpoint again")


def _told(descriptor: int) -> _Identity:
    status = os.fstat(descriptor)
    return _Identity(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
