"""Headers that declare what they have not: refused by name, before anything is allocated for them."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.gguf_header import GgufHeader
from runtime.errors import CheckpointError

UINT8, UINT32, TEXT, LIST = 0, 4, 8, 9
F32, Q4_0 = 0, 2


def begin(tensors: int = 0, fields: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def items(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


BOMBS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it ends after 0 bytes"),
    "magic": (b"GGML" + bytes(40), "does not begin as a GGUF file"),
    "version": (begin(version=9), "version 9 is not supported"),
    "byte order": (begin(version=3 << 24), "of another byte order"),
    "cut": (begin(fields=1)[:-1], "it ends after 23 bytes"),
    "fields without end": (begin(fields=2**63), "declares 9,223,372,036,854,775,808 fields"),
    "tensors without end": (begin(tensors=2**40), "declares 1,099,511,627,776 tensors"),
    "more fields than bytes": (begin(fields=9_999) + bytes(8), "it ends after"),
    "a list without end": (
        begin(fields=1) + field(b"a", LIST, items(UINT8, 2**60)),
        "items of a list; 4,194,304 are the most",
    ),
    "a list longer than the file": (
        begin(fields=1) + field(b"a", LIST, items(UINT8, 4_000_000) + bytes(99)),
        "it ends after",
    ),
    "a list of unknown kind": (
        begin(fields=1) + field(b"a", LIST, items(77, 4_000_000)),
        "unknown kind 77",
    ),
    "a list of lists": (
        begin(fields=1) + field(b"a", LIST, items(LIST, 3) + bytes(99)),
        "a list of lists",
    ),
    "a text without end": (
        begin(fields=1) + field(b"a", TEXT, struct.pack("<Q", 2**62)),
        "characters; 16,777,216 are the most",
    ),
    "a text longer than the file": (
        begin(fields=1) + field(b"a", TEXT, struct.pack("<Q", 10_000_000)),
        "it ends after",
    ),
    "no UTF-8": (begin(fields=1) + field(b"\xff", UINT8, b"1"), "not UTF-8"),
    "a kind": (begin(fields=1) + field(b"a", 77, b"1"), "unknown kind 77"),
    "twice": (begin(fields=2) + 2 * field(b"a", UINT8, b"1"), "field 'a' is there twice"),
    "alignment": (
        begin(fields=1) + field(b"general.alignment", UINT32, bytes(4)),
        "general.alignment is no power of two",
    ),
    "terabytes": (
        begin(tensors=1) + tensor(b"t", (2**20, 2**20)),
        r"'t' would end 4,398,046,511,\d+ bytes from its beginning, and the file has",
    ),
    "more than can be counted": (
        begin(tensors=1) + tensor(b"t", (2**32, 2**32)),
        "'t' has the shape",
    ),
    "a shape of nothing": (begin(tensors=1) + tensor(b"t", (0, 4)), "'t' has the shape"),
    "half a block": (begin(tensors=1) + tensor(b"t", (33,), Q4_0), "'t' has the shape"),
    "dimensions": (begin(tensors=1) + tensor(b"t", (1,) * 5), "5 dimensions"),
    "quantization": (begin(tensors=1) + tensor(b"t", (1,), 199), "unknown kind 199"),
    "far away": (
        begin(tensors=1) + tensor(b"t", (1,), offset=2**63),
        r"would end 9,223,372,036,854,775,\d+ bytes",
    ),
    "tensor twice": (begin(tensors=2) + 2 * tensor(b"t", (1,)) + bytes(99), "'t' is there twice"),
    "escape": (
        begin(fields=2) + 2 * field(b"\x1b[2J", UINT8, b"1"),
        "field '\N{REPLACEMENT CHARACTER}\\[2J'",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_file_cannot_hold_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = BOMBS[name]
    (tmp_path / "bomb.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"bomb\.gguf is damaged.*{message}"):
        GgufHeader(SteadyFile(tmp_path / "bomb.gguf"))


def test_a_file_of_bytes_that_declares_terabytes_costs_no_memory(tmp_path: Path) -> None:
    """Also where nobody looks before the libraries do."""
    (tmp_path / "bomb.gguf").write_bytes(BOMBS["a list without end"][0])
    code = f"""
import resource, runtime
try:
    runtime.load_checkpoint({str(tmp_path / "bomb.gguf")!r}, cache_dir=__import__("pathlib").Path({str(tmp_path)!r}))
except runtime.SplitError as error:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, error)
"""
    limit = 8 << 30  # where it is believed, the machine itself is not to suffer
    shown = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    ).stdout
    kilobytes, message = shown.split(maxsplit=1)
    assert "items of a list" in message
    assert int(kilobytes) < 1 << 20


def test_what_is_there_is_read(tmp_path: Path) -> None:
    content = (
        begin(tensors=2, fields=3)
        + field(b"a", UINT8, b"\x07")
        + field(b"b", TEXT, text("ä".encode()))
        + field(b"c", LIST, items(TEXT, 2) + text(b"x") + text(b"\xe2\x82"))
        + tensor(b"t", (2, 3))
        + tensor(b"u", (64, 2), Q4_0, offset=32)
    )
    data = -(-len(content) // 32) * 32
    (tmp_path / "file.gguf").write_bytes(content.ljust(data + 32 + 72, b"\0"))
    header = GgufHeader(SteadyFile(tmp_path / "file.gguf"))
    assert header.fields == {"a": 7, "b": "ä", "c": ["x", "\N{REPLACEMENT CHARACTER}"]}
    assert header.tensors == {
        "t": (GGMLQuantizationType.F32, (3, 2), data, 24),
        "u": (GGMLQuantizationType.Q4_0, (2, 64), data + 32, 72),
    }
