"""What a GGUF file says of itself and of its tensors, read with bounds: by its own lengths, and by the file's size.

A file of some hundred bytes may declare terabytes; whoever believes it allocates them, or never ends.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from runtime.checkpoints.files import SteadyFile
from runtime.errors import CheckpointError
from runtime.text import printable

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # where the file says nothing

# Far above any real model.
_MOST_FIELDS = 10_000
_MOST_TENSORS = 100_000
_MOST_ITEMS = 1 << 22  # of one list, such as a vocabulary
_MOST_DIMENSIONS = 4
_LONGEST_NAME = 1 << 16
_LONGEST_TEXT = 1 << 24
_LARGEST_SIZE = 1 << 40
_READ_BYTES = 1 << 20
_SHOWN = 80  # characters of the file's own words in an error

_SCALARS: Mapping[int, struct.Struct] = MappingProxyType(
    {
        number: struct.Struct(f"<{code}")
        for number, code in {
            0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
        }.items()
    }
)  # fmt: skip
_TEXT, _LIST = 8, 9


class GgufTensor(NamedTuple):
    """Where a tensor lies in its file; ``shape`` as torch has it, the last dimension next in memory."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GgufHeader:
    """The fields and tensors of a file. Numbers, texts, lists of them; nothing is believed beyond its form."""

    def __init__(self, file: SteadyFile) -> None:
        """Raises CheckpointError if the file is damaged, or declares what it cannot hold."""
        self.file = file
        cursor = _Cursor(file)
        if cursor.take(4) != _MAGIC:
            raise cursor.damaged("it does not begin as a GGUF file does")
        version = cursor.whole("I")
        if version not in _VERSIONS:
            swapped = ", of another byte order" if version & 0xFFFF == 0 else ""
            raise cursor.damaged(f"version {version} is not supported{swapped}")
        tensors = cursor.count("tensors", _MOST_TENSORS)
        fields = cursor.count("fields", _MOST_FIELDS)
        self.fields: dict[str, Any] = {}
        for _ in range(fields):
            name = cursor.name()
            if name in self.fields:
                raise cursor.damaged(f"field {_shown(name)} is there twice")
            self.fields[name] = cursor.value(cursor.whole("I"))
        declared = [cursor.tensor() for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise cursor.damaged("general.alignment is no power of two")
        begin = -(-cursor.offset // alignment) * alignment
        self.tensors: dict[str, GgufTensor] = {}
        for name, tensor in declared:
            if name in self.tensors:
                raise cursor.damaged(f"tensor {_shown(name)} is there twice")
            if begin + tensor.offset + tensor.nbytes > file.size:
                raise cursor.damaged(
                    f"tensor {_shown(name)} would end {begin + tensor.offset + tensor.nbytes:,} bytes from its "
                    f"beginning, and the file has {file.size:,}"
                )
            self.tensors[name] = tensor._replace(offset=begin + tensor.offset)


class _Cursor:
    """Reads a file from its beginning on, never beyond its end."""

    def __init__(self, file: SteadyFile) -> None:
        self.offset = 0
        self._file = file
        self._window = b""
        self._begin = 0

    def damaged(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path} is damaged or cannot be converted: {problem}")

    def take(self, size: int) -> bytes:
        if size > self._file.size - self.offset:
            raise self.damaged(f"it ends after {self._file.size:,} bytes, in its header")
        start = self.offset - self._begin
        if start + size > len(self._window):
            wanted = min(max(size, _READ_BYTES), self._file.size - self.offset)
            self._window, self._begin, start = self._file.read(self.offset, wanted), self.offset, 0
        self.offset += size
        return self._window[start : start + size]

    def whole(self, code: str) -> int:
        number: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return number

    def count(self, what: str, most: int) -> int:
        count = self.whole("Q")
        if count > most:
            raise self.damaged(f"it declares {count:,} {what}; {most:,} are the most")
        return count

    def name(self) -> str:
        try:
            return self.take(self.count("characters", _LONGEST_NAME)).decode()
        except UnicodeDecodeError as error:
            raise self.damaged("a name is not UTF-8") from error

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            # Vocabularies of pieces of characters exist, and the weights beside them are fine.
            return self.take(self.count("characters", _LONGEST_TEXT)).decode(errors="replace")
        if kind == _LIST:
            kind, count = self.whole("I"), self.count("items of a list", _MOST_ITEMS)
            if kind == _LIST:
                raise self.damaged("a list of lists is not supported")
            return [self.value(kind) for _ in range(count)]
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self.damaged(f"a value is of the unknown kind {kind}")
        return scalar.unpack(self.take(scalar.size))[0]

    def tensor(self) -> tuple[str, GgufTensor]:
        """Read what is said of one tensor; its offset counts from the end of the header."""
        name = self.name()
        dimensions = self.whole("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise self.damaged(f"tensor {_shown(name)} has {dimensions} dimensions")
        shape = tuple(self.whole("Q") for _ in range(dimensions))[::-1]
        number, offset = self.whole("I"), self.whole("Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError as error:
            raise self.damaged(f"tensor {_shown(name)} is of the unknown kind {number}") from error
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if 0 in shape or prod(shape) > _LARGEST_SIZE or shape[-1] % block:
            raise self.damaged(f"tensor {_shown(name)} has the shape {shape}")
        return name, GgufTensor(kind, shape, offset, prod(shape) // block * block_bytes)


def _shown(name: str) -> str:
    return repr(printable(name, _SHOWN))
