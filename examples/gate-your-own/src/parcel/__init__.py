"""Packs files into one compressed block, and unpacks it again."""

import json
import lzma
import zlib
from collections.abc import Mapping


def label(number: int, name: str) -> str:
    """Return a parcel's label: ``#00042 one-file.txt``."""
    return f"#{number:05d} {'-'.join(name.lower().split())}"


def arrange(parcels: list[bytes]) -> None:
    """Sort ``parcels`` in place: the longest first, equal ones by their content."""
    parcels.sort(key=lambda parcel: (-len(parcel), parcel))


def pack(files: Mapping[str, bytes], *, small: bool = False) -> bytes:
    """Return one compressed block that holds all ``files``, by name; a ``small`` one takes its time."""
    sizes = json.dumps({name: len(content) for name, content in files.items()}).encode()
    content = sizes + b"\n" + b"".join(files.values())
    return lzma.compress(content) if small else zlib.compress(content, level=6)


def unpack(block: bytes) -> dict[str, bytes]:
    """Return what ``pack`` was given."""
    decompress = lzma.decompress if block.startswith(b"\xfd7zXZ") else zlib.decompress
    sizes, _, rest = decompress(block).partition(b"\n")
    files, begin = {}, 0
    for name, size in json.loads(sizes).items():
        files[name] = rest[begin : begin + size]
        begin += size
    return files
