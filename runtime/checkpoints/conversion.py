"""GGUF files are converted in a process of their own, by the program ``runtime.checkpoints.gguf``.

What rebuilds a tokenizer takes seconds to import, writes to the standard output, maps the file, and may end its
process: none of that is the caller's affair.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import IO

import torch

from runtime.checkpoints.files import SteadyFile
from runtime.errors import CheckpointError
from runtime.text import printable
from runtime.watched_process import end, environment, start

CONVERTED, REFUSED = 0, 2
"""The program's exit statuses; in the second case its standard output holds the error's text."""

_SHOWN = 500  # characters of what went wrong


def convert_gguf(path: Path, directory: Path) -> None:
    """Writes the model of the file ``path`` into ``directory``.

    Raises CheckpointError if the file is damaged, not a plain LLaMA, or changes meanwhile.
    """
    file = SteadyFile(path)
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        try:
            process = start(
                "runtime.checkpoints.gguf",
                [str(path), str(directory)],
                {**environment(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"},
                stdout=answer,
                stderr=errors,
            )
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be converted: no process can be started ({error.strerror})"
            ) from error
        try:
            status = process.wait()
        finally:
            end(process)
        if status == CONVERTED:
            file.check()
            return
        if status == REFUSED:
            raise CheckpointError(_words(answer))
        file.check()
        raise CheckpointError(
            f"{path} cannot be converted: the process that did it ended with {_named(status)} ({_words(errors)})"
        )


def _words(file: IO[bytes]) -> str:
    """The end of what a process wrote."""
    file.seek(0)
    return printable(file.read().decode(errors="replace").strip()[-_SHOWN:], _SHOWN)


def _named(status: int) -> str:
    """What the exit status of a watched process means."""
    try:
        return signal.Signals(status - 128).name if status > 128 else f"status {status}"
    except ValueError:
        return f"status {status}"
