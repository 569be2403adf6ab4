"""Packs files into one compressed block, and unpacks it again."""

import json
import zlib
from collections.abc import Mapping


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return one compressed block that holds all ``files``, by name."""
    sizes = json.dumps({name: len(content) for name, content in files.items()}).encode()
    return zlib.compress(sizes + b"\n" + b"".join(files.values()), level=6)


def unpack(block: bytes) -> dict[str, bytes]:
    """Return what ``pack`` was given."""
    sizes, _, rest = zlib.decompress(block).partition(b"\n")
    files, begin = {}, 0
    for name, size in json.loads(sizes).items():
        files[name] = rest[begin : begin + size]
        begin += size
    return files
