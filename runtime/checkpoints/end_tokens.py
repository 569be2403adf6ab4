"""The tokens with which a model ends its answer."""

from __future__ import annotations

from pathlib import Path

from runtime.checkpoints.fields import present, refuse, whole
from runtime.checkpoints.weights import read_json

GENERATION_FILE = "generation_config.json"
_FIELD = "eos_token_id"
_MOST = 1000


def read_end_tokens(config_file: Path) -> tuple[int, ...]:
    """Return ``eos_token_id`` of the ``generation_config.json`` beside ``config_file``, or else of that itself.

    Either may hold one token, several, or none.

    Raises:
        CheckpointError: for anything else.
    """
    file = config_file.with_name(GENERATION_FILE)
    given = present(read_json(file), _FIELD) if file.exists() else None
    if given is None:
        given = present(read_json(config_file), _FIELD, [])
    tokens = given if isinstance(given, list) else [given]
    if len(tokens) > _MOST:
        raise refuse(_FIELD, given, f"at most {_MOST} token ids")
    return tuple(dict.fromkeys(whole(_FIELD, token, least=0) for token in tokens))
