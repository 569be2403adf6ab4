"""The digest by which two processes know that they run the same weights, and where it is kept.

Hashing gigabytes takes seconds, so the cache folder keeps each digest under the stamps of the files that it
was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from runtime.checkpoints.cache import Cache
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.weights import WeightFiles


def content_digest(
    config: ModelConfig, weights: WeightFiles, shapes: Mapping[str, Sequence[int]]
) -> str:
    """sha256 in hexadecimal over the configuration and each tensor's name, dtype, shape and bytes.

    It does not depend on how the tensors are spread over files.
    """
    total = hashlib.sha256(canonical_json(config.to_json_dict()))
    for name in sorted(shapes):
        total.update(canonical_json([name, str(weights.dtype(name)), list(shapes[name])]))
        for chunk in weights.content(name):
            total.update(chunk)
    return total.hexdigest()


def canonical_json(value: object) -> bytes:
    """The one spelling of ``value`` that digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def remembered(
    cache: Cache, what: str, files: Sequence[SteadyFile], compute: Callable[[], str]
) -> str:
    """``compute()``, or what it gave when these very files were last asked for.

    Raises CheckpointError if they change meanwhile.
    """
    stamps = [file.stamp() for file in files]
    key = hashlib.sha256(canonical_json([what, stamps])).hexdigest()
    known = cache.recall(key)
    if known is None:
        known = compute()
        for file in files:
            file.check()
        cache.remember(key, known)
    return known
