"""The safetensors files of one directory: found, checked by their headers, read, written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import save_file

from runtime.checkpoints.files import SteadyFile, is_there
from runtime.errors import CheckpointError
from runtime.text import printable

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 1 << 30
LARGEST_JSON = 64 << 20
_LARGEST_HEADER = 16 << 20  # four times that of the most layers
_SHOWN = 200  # characters of what is wrong with a file
_LENGTH_BYTES = 8  # of the header's length, at the file's beginning

_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
)

_Size = Annotated[int, Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """What a header says of one tensor; the offsets count from the header's end."""

    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.data_offsets[1] - self.data_offsets[0]


class _Place(NamedTuple):
    file: SteadyFile
    entry: _Entry
    offset: int
    """From the file's beginning."""


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)
_METADATA = "__metadata__"
_NOTES = msgspec.json.Decoder(dict[str, str])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises CheckpointError naming the file."""
    return parse_json(SteadyFile(path, most=LARGEST_JSON))


def parse_json(file: SteadyFile) -> dict[str, Any]:
    """The JSON object in ``file``. Raises CheckpointError naming it."""
    try:
        value = json.loads(file.read(0, file.size))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file.path} must hold a JSON object")
    return value


class WeightFiles:
    """Read access to a directory's tensors, each read when it is asked for."""

    def __init__(self, directory: Path) -> None:
        """Reads every file's header. Raises CheckpointError naming the file that is at fault."""
        self.files = tuple(map(SteadyFile, _weight_files(directory)))
        self._places: dict[str, _Place] = {}
        for file in self.files:
            for name, place in _places(file).items():
                if name in self._places:
                    raise CheckpointError(
                        f"tensor {name!r} is in both {self._places[name].file.path} and {file.path}"
                    )
                self._places[name] = place

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises CheckpointError unless ``name`` has this shape and a supported dtype."""
        file, entry, _ = self._places[name]
        if entry.shape != shape:
            raise CheckpointError(
                f"tensor {name!r} in {file.path} has shape {entry.shape}; config.json implies {shape}"
            )
        if entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {file.path} has dtype {entry.dtype}; supported are {', '.join(_DTYPES)}"
            )
        if entry.nbytes != prod(shape) * _DTYPES[entry.dtype].itemsize:
            raise CheckpointError(
                f"{file.path} is damaged: {name!r} has {entry.nbytes:,} bytes; fetch the checkpoint again"
            )

    def dtype(self, name: str) -> torch.dtype:
        """The stored element type of a tensor that was checked."""
        return _DTYPES[self._places[name].entry.dtype]

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor that was checked, in memory of the caller's own. Raises CheckpointError."""
        file, entry, offset = self._places[name]
        content = torch.empty(entry.nbytes, dtype=torch.uint8, device="cpu")
        file.read_into(offset, content.numpy().data)
        return content.view(_DTYPES[entry.dtype]).view(entry.shape)

    def content(self, name: str) -> Iterator[bytes]:
        """The stored bytes of a tensor, a megabyte at a time. Raises CheckpointError."""
        file, entry, offset = self._places[name]
        return file.chunks(offset, entry.nbytes)

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors are stored as the same numbers. Raises CheckpointError."""
        first, second = (self._places[each].entry for each in (name, other))
        if (first.dtype, first.shape, first.nbytes) != (second.dtype, second.shape, second.nbytes):
            return False
        return all(map(bytes.__eq__, self.content(name), self.content(other)))


def _places(file: SteadyFile) -> dict[str, _Place]:
    """What ``file`` holds and where, by its header. Raises CheckpointError if that cannot be."""
    size = int.from_bytes(file.read(0, min(_LENGTH_BYTES, file.size)), "little")
    begin = _LENGTH_BYTES + size
    if file.size < _LENGTH_BYTES or begin > file.size or size > _LARGEST_HEADER:
        raise _damaged(file, f"a header of {size:,} bytes in a file of {file.size:,}")
    try:
        header = _HEADER.decode(file.read(_LENGTH_BYTES, size))
        _NOTES.decode(header.pop(_METADATA, msgspec.Raw(b"{}")))
        entries = {name: _ENTRY.decode(entry) for name, entry in header.items()}
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.data_offsets):
        if entry.data_offsets[0] != end or entry.nbytes < 0:
            raise _damaged(file, "its tensors overlap, or leave holes")
        end = entry.data_offsets[1]
    if begin + end != file.size:
        raise _damaged(file, f"{begin + end:,} bytes are declared, {file.size:,} are there")
    return {
        name: _Place(file, entry, begin + entry.data_offsets[0]) for name, entry in entries.items()
    }


def _damaged(file: SteadyFile, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file.path} is damaged or not a safetensors file ({printable(problem, _SHOWN)}); "
        "fetch the checkpoint again"
    )


def _weight_files(directory: Path) -> tuple[Path, ...]:
    """The files of the weights, sorted; one file wins over shards, as in ``transformers``."""
    if is_there(directory / SINGLE_FILE):
        return (directory / SINGLE_FILE,)
    index = directory / INDEX_FILE
    if not is_there(index):
        raise CheckpointError(
            f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}; other formats are not "
            "read: save the model with transformers' save_pretrained first"
        )
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index}: 'weight_map' must map tensor names to file names")
    for name, shard in shards.items():
        if not _is_bare_name(shard):
            raise CheckpointError(
                f"{index}: weight_map[{name!r}] is {shard!r}; it must name a .safetensors file "
                "of the same directory"
            )
    return tuple(directory / shard for shard in sorted(set(shards.values())))


def _is_bare_name(shard: object) -> bool:
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and shard.isprintable()
        and not any(character in shard for character in "/\\")
    )


def write_weights(
    directory: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes ``tensors`` into files of about ``shard_bytes``, holding one file's worth at a time.

    One file gets the name that needs no index. Raises CheckpointError if they cannot be written.
    """
    file_of: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    held = total = 0
    for name, tensor in tensors:
        if shard and held + tensor.nbytes > shard_bytes:
            _write_shard(directory, shard, file_of)
            shard, held = {}, 0
        shard[name] = tensor.contiguous()
        held += tensor.nbytes
        total += tensor.nbytes
    if not file_of:
        _save(shard, directory / SINGLE_FILE)
        return
    _write_shard(directory, shard, file_of)
    index: Mapping[str, Any] = {"metadata": {"total_size": total}, "weight_map": file_of}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=1))


def _write_shard(
    directory: Path, shard: Mapping[str, torch.Tensor], file_of: dict[str, str]
) -> None:
    file = f"model-{len(set(file_of.values())) + 1:05d}.safetensors"
    _save(shard, directory / file)
    file_of.update(dict.fromkeys(shard, file))


def _save(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot write {file}: {printable(str(error), _SHOWN)}") from error
