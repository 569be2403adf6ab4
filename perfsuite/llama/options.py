"""Options that several commands have, and their checks.

Their help names stages, presets and the like itself: importing the runtime's tables would make help wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perfsuite.commands import whole
from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from runtime.checkpoints import ModelConfig

MODEL = "smollm2-135m"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="preset (tiny, llama-1b, llama-3.2-1b, smollm2-135m), Hugging Face directory or .gguf file",
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        metavar="TOKENS",
        parser=whole,
        help="cut or repeat the prompt to this length (default: its own, 1024 of the shipped passage)",
    ),
]
Stages = Annotated[
    str | None,
    typer.Option(
        "--stages",
        metavar="STAGE,STAGE",
        help="of baseline, shared-memory, fused, bf16, and fused-tcp (default: all but that)",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="THREADS",
        parser=whole,
        help="of each process (default: the runtime's and torch's choice)",
    ),
]


def check_positive(**numbers: int | None) -> None:
    """Raise UsageError for an option, called by its name, that is given and below 1."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be at least 1")


def check_length(model: str, config: ModelConfig, tokens: int | None) -> None:
    """Raise UsageError for a prompt of more ``tokens`` than the ``model`` has positions."""
    from runtime.rope import max_length

    positions = max_length(config)
    if tokens is not None and tokens > positions:
        raise UsageError(f"--tokens {tokens}: {model} has {positions} positions")
