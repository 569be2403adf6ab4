"""Options that several commands have, and their checks.

Their help names stages, presets and the like itself: importing the runtime's tables would make help wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from perfsuite.commands import option, whole
from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from runtime.checkpoints import ModelConfig

MODEL = "smollm2-135m"

Model = Annotated[
    str,
    option(
        "--model",
        "MODEL",
        "preset (tiny, llama-1b, llama-3.2-1b, smollm2-135m), Hugging Face directory or .gguf file",
    ),
]
Tokens = Annotated[
    int | None,
    option(
        "--tokens",
        "TOKENS",
        "cut or repeat the prompt to this length (default: its own, 1024 of the shipped passage)",
        whole,
    ),
]
Stages = Annotated[
    str | None,
    option(
        "--stages",
        "STAGE,STAGE",
        "of baseline, shared-memory, fused, bf16, resident, and fused-tcp (default: all but that)",
    ),
]
Threads = Annotated[
    int | None,
    option(
        "--threads", "THREADS", "of each process (default: the runtime's and torch's choice)", whole
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
