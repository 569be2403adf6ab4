"""Options that several commands have, and their checks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from runtime.checkpoints import ModelConfig


def add_prompted_model(
    parser: argparse.ArgumentParser, *, model: str = "smollm2-135m", tokens: int = 1024
) -> None:
    """Declare ``--model`` and ``--tokens`` with these defaults."""
    parser.add_argument(
        "--model",
        default=model,
        metavar="M",
        help="preset, Hugging Face directory or .gguf file (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=tokens,
        metavar="N",
        help="length of the prompt (default: %(default)s)",
    )


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raise UsageError for an option that is given and below 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be at least 1")


def check_length(arguments: argparse.Namespace, config: ModelConfig) -> None:
    """Raise UsageError for more ``--tokens`` than the model has positions."""
    from runtime.rope import max_length

    positions = max_length(config)
    if arguments.tokens > positions:
        raise UsageError(
            f"--tokens {arguments.tokens}: {arguments.model} has {positions} positions"
        )
