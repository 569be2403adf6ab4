"""Where models come from: presets, Hugging Face directories, GGUF files.

A checkpoint that is already on disk opens without importing ``transformers``, so that a worker
process starts in little more than the time of ``import torch``.
"""

from __future__ import annotations

from runtime.checkpoints.checkpoint import Checkpoint
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.load import load_checkpoint
from runtime.checkpoints.presets import PRESETS

__all__ = ["PRESETS", "Checkpoint", "ModelConfig", "load_checkpoint"]
