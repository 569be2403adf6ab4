"""Options that several commands have, and their checks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from runtime.checkpoints import ModelConfig


def add_prompted_model(parser: argparse.ArgumentParser, *, model: str = "smollm2-135m") -> None:
    """Declare ``--model`` and ``--tokens``; ``model`` is the default one."""
    parser.add_argument(
        "--model",
        default=model,
        metavar="M",
        help="preset, Hugging Face directory or .gguf file (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="cut or repeat the prompt to this length (default: its own, 1024 of the shipped passage)",
    )


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raise UsageError for an option that is given and below 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be at least 1")


def check_length(
    arguments: argparse.Namespace, config: ModelConfig, tokens: int | None = None
) -> None:
    """Raise UsageError for a prompt of more ``tokens`` (default: ``--tokens``) than the model has positions."""
    from runtime.rope import max_length

    positions, tokens = max_length(config), tokens or arguments.tokens
    if tokens is not None and tokens > positions:
        raise UsageError(f"--tokens {tokens}: {arguments.model} has {positions} positions")
