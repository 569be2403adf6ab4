"""After a change of the protocol: ``python -m tests.runtime.fuzz.renew [FIELD=JSON ...]``.

Gives the messages among the seeds the version of today, each request the new fields.
Seeds that are no messages, and what is wrong with the others, stay as they are.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgpack

from runtime.messages import PROTOCOL_VERSION
from tests.runtime.fuzz.targets import CORPUS
from tests.runtime.peers import packed


def renewed(fields: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The same message, of today's protocol."""
    hello = fields.get("hello")
    if isinstance(hello, dict) and hello.get("protocol") in range(PROTOCOL_VERSION):
        fields["hello"] = {**hello, "protocol": PROTOCOL_VERSION}
    return {**new, **fields} if "operation" in fields else fields


def main() -> None:
    """Rewrite the corpora of messages."""
    new = {
        name: json.loads(value) for name, _, value in (one.partition("=") for one in sys.argv[1:])
    }
    for corpus in ("request", "reply", "welcome"):
        for seed in (CORPUS / corpus).iterdir():
            raw = seed.read_bytes()
            try:
                fields = msgpack.unpackb(raw)
            except (ValueError, msgpack.UnpackException):
                continue
            if isinstance(fields, dict) and packed(fields) == raw:
                seed.write_bytes(packed(renewed(fields, new)))


if __name__ == "__main__":
    main()
