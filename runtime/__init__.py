"""A LLaMA split between a trusted process and an untrusted worker that owns the accelerator."""

from runtime.checkpoints import load_checkpoint
from runtime.errors import SplitError
from runtime.split_llama import SplitLlama
from runtime.stages import STAGES

__all__ = ["STAGES", "SplitError", "SplitLlama", "load_checkpoint"]
