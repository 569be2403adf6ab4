"""What the gated stages run, as ini settings of pytest. Imports nothing that takes long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

_INI = {
    "perf_model": ("model that the stages run", "tiny"),
    "perf_tokens": ("length of the prompt", "64"),
    "perf_stages": ("names of the stages that are gated; without any, the ladder's", ""),
    "perf_device": ("device of the worker and of the unsplit model", "cpu"),
}


def declare(parser: pytest.Parser) -> None:
    """Declare the ini settings."""
    for name, (text, default) in _INI.items():
        parser.addini(name, f"{text} (default: {default})", default=default)


def gated_stages(config: pytest.Config) -> list[str]:
    """Return the names in the ini setting ``perf_stages``; none stand for the ladder's."""
    return str(config.getini("perf_stages")).replace(",", " ").split()


@dataclass(frozen=True)
class StageWorkload:
    """A model by what ``load_checkpoint`` knows it by, the prompt's length, and where they run."""

    model: str
    tokens: int
    device: str
    threads: int  # of each process; 0: as many as its libraries choose

    @classmethod
    def of(cls, config: pytest.Config) -> StageWorkload:
        """Return what the ini settings say.

        Raises:
            pytest.UsageError: for a length or a number of threads that is none.
        """
        texts = {name: str(config.getini(name)) for name in (*_INI, "perf_threads")}
        for name in ("perf_tokens", "perf_threads"):
            if not texts[name].isdecimal():
                raise pytest.UsageError(f"{name} = {texts[name]}: must be a number")
        return cls(
            texts["perf_model"],
            int(texts["perf_tokens"]),
            texts["perf_device"],
            int(texts["perf_threads"]),
        )

    def as_key(self) -> dict[str, str | int]:
        """Return what latencies hang on, beside the machine."""
        return {"model": self.model, "tokens": self.tokens, "device": self.device}
