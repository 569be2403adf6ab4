"""A LLaMA split between a trusted process and an untrusted worker that owns the accelerator."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.checkpoints import load_checkpoint
    from runtime.errors import SplitError
    from runtime.split_llama import SplitLlama
    from runtime.stages import STAGES

__all__ = ["STAGES", "SplitError", "SplitLlama", "load_checkpoint"]


# Late: a worker's first act, before seconds of importing torch, is to watch its parent.
_HOMES = {
    "STAGES": "stages",
    "SplitError": "errors",
    "SplitLlama": "split_llama",
    "load_checkpoint": "checkpoints",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
