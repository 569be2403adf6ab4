"""The safetensors files of one directory: found, checked by their headers, mapped, written."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from runtime.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
STORED_DTYPES = ("F32", "BF16", "F16")
SHARD_BYTES = 1 << 30
_LARGEST_JSON = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises CheckpointError naming the file."""
    require_file(path, most=_LARGEST_JSON)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return value


def require_file(path: Path, most: int | None = None) -> None:
    """Raises CheckpointError for what is there and no file, such as a FIFO, or has more than ``most`` bytes."""
    try:
        status = path.stat()
    except OSError:
        return  # whoever opens it says so
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is no file")
    if most is not None and status.st_size > most:
        raise CheckpointError(f"{path} has {status.st_size:,} bytes; {most:,} are the most")


class WeightFiles:
    """Read access to a directory's tensors, which stay in the page cache until they are touched."""

    def __init__(self, directory: Path) -> None:
        """Opens every file's header. Raises CheckpointError naming the file that is at fault."""
        self.files = _weight_files(directory)
        self._reader_of: dict[str, Any] = {}
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            reader = _open(file)
            for name in reader.keys():  # noqa: SIM118 - not a mapping, it only has keys()
                if name in self._file_of:
                    raise CheckpointError(
                        f"tensor {name!r} is in both {self._file_of[name]} and {file}"
                    )
                self._reader_of[name] = reader
                self._file_of[name] = file

    def __contains__(self, name: str) -> bool:
        return name in self._reader_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader_of)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises CheckpointError unless ``name`` has this shape and a supported dtype."""
        header = self._reader_of[name].get_slice(name)
        stored = tuple(header.get_shape())
        if stored != shape:
            raise CheckpointError(
                f"tensor {name!r} in {self._file_of[name]} has shape {stored}; "
                f"config.json implies {shape}"
            )
        if header.get_dtype() not in STORED_DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {self._file_of[name]} has dtype {header.get_dtype()}; "
                f"supported are {', '.join(STORED_DTYPES)}"
            )

    def tensor(self, name: str) -> torch.Tensor:
        """The stored tensor, mapped and not copied. Raises CheckpointError."""
        try:
            tensor: torch.Tensor = self._reader_of[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"cannot read {name!r} in {self._file_of[name]}: {error}"
            ) from error
        return tensor


def _open(file: Path) -> Any:
    require_file(file)
    try:
        return safe_open(file, framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing; fetch the checkpoint again") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or not a safetensors file ({error}); fetch the checkpoint again"
        ) from error


def _weight_files(directory: Path) -> tuple[Path, ...]:
    """The files of the weights, sorted; one file wins over shards, as in ``transformers``."""
    if (directory / SINGLE_FILE).exists():
        return (directory / SINGLE_FILE,)
    index = directory / INDEX_FILE
    if not index.exists():
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

    One file gets the name that needs no index.
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
        save_file(shard, directory / SINGLE_FILE, metadata={"format": "pt"})
        return
    _write_shard(directory, shard, file_of)
    index: Mapping[str, Any] = {"metadata": {"total_size": total}, "weight_map": file_of}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=1))


def _write_shard(
    directory: Path, shard: Mapping[str, torch.Tensor], file_of: dict[str, str]
) -> None:
    file = f"model-{len(set(file_of.values())) + 1:05d}.safetensors"
    save_file(dict(shard), directory / file, metadata={"format": "pt"})
    file_of.update(dict.fromkeys(shard, file))
