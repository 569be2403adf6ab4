"""``python -m runtime "prompt"``: an answer in the terminal, while it is made, and what it took.

The answer goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from types import FrameType
from typing import Any, Self

from runtime.answer import Answer, start_answer
from runtime.chat import Chat
from runtime.checkpoints import PRESETS, Checkpoint, load_checkpoint
from runtime.checkpoints.chat_template import ChatTemplate
from runtime.devices import DEVICES
from runtime.errors import CheckpointError, InputError, SplitError
from runtime.rope import max_length
from runtime.sampling import Sampling
from runtime.split_llama import SplitLlama
from runtime.stages import STAGES, find_stage
from runtime.summary import Run, speed, summary
from runtime.text import printable_lines

FASTEST = "resident"
MODEL = "smollm2-135m"
_CONTEXT = 4096  # tokens, unless a model takes fewer
_INTERRUPTED = 130  # as a shell says it

_CHAT_HELP = "/clear forgets what was said; /quit or Ctrl-D ends; Ctrl-C stops an answer"


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a prompt, or hold a conversation; return the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except SplitError as error:
        print(f"runtime: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read the answer has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Let a split LLaMA answer a prompt; standard input is read where there is none.",
    )
    add = parser.add_argument
    add("prompt", nargs="?", type=_as_text, help="what is asked")
    add("--chat", action="store_true", help=f"a conversation: {_CHAT_HELP}")
    add("--raw", action="store_true", help="continue the prompt itself, without a chat template")
    add(
        "--model",
        default=MODEL,
        help=f"{', '.join(PRESETS)}, a directory, or a .gguf file (default: %(default)s)",
    )
    add("--stage", default=FASTEST, help=f"one of {', '.join(STAGES)} (default: %(default)s)")
    add("--device", default="cpu", help=f"one of {', '.join(DEVICES)} (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="compute threads of the worker")
    add(
        "--context",
        type=int,
        metavar="N",
        help=f"tokens of a conversation (default: {_CONTEXT:,} at most)",
    )
    add("--max-new-tokens", type=int, default=256, metavar="N", help="(default: %(default)s)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    add("--top-k", type=int, metavar="K", help="choose among so many of the most likely tokens")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="choose among the fewest tokens that are so likely together",
    )
    add(
        "--min-p",
        type=float,
        metavar="P",
        help="at least that share as likely as the most likely token",
    )
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1: repeats become less likely",
    )
    add("--seed", type=int, metavar="N", help="equal seeds give equal answers")
    add(
        "--stop",
        action="append",
        default=[],
        type=_as_text,
        metavar="TEXT",
        help="ends an answer; may be given several times",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    settings: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    }
    Sampling(**settings)  # what is wrong is said before a worker is started
    if arguments.max_new_tokens < 1:
        raise InputError(f"max-new-tokens: must be positive, got {arguments.max_new_tokens}")
    if arguments.chat and arguments.raw:
        raise InputError("raw: a conversation needs the chat template; leave out --chat or --raw")
    find_stage(arguments.stage)
    prompt = arguments.prompt
    if prompt is None and not arguments.chat:
        if sys.stdin.isatty():
            raise InputError('prompt: is missing; python -m runtime "prompt", or --chat')
        prompt = sys.stdin.read()
    checkpoint = load_checkpoint(arguments.model)
    template = None if arguments.raw else checkpoint.chat_template()
    ids: list[int] = []
    if not arguments.chat:
        ids = _prompt_ids(checkpoint, template, prompt)
    elif template is None:
        raise CheckpointError(f"{arguments.model} has no chat template; leave out --chat")
    most = max_length(checkpoint.config)
    capacity = min(_CONTEXT, most) if arguments.context is None else arguments.context
    if not 1 <= capacity <= most:
        raise InputError(f"context: must be from 1 to the model's {most} positions, got {capacity}")
    _note(f"starting a worker: {arguments.model}, {arguments.stage}, {arguments.device}")
    settings |= {"max_new_tokens": arguments.max_new_tokens, "stop": tuple(arguments.stop)}
    with SplitLlama.launch(
        checkpoint, arguments.stage, arguments.device, threads=arguments.threads
    ) as llama:
        device = f"{arguments.device} ({llama.worker_info['device_name']})"
        if template is None or not arguments.chat:
            return _answer(llama, checkpoint, device, ids, settings)
        with Chat(llama, checkpoint, template, capacity=capacity, **settings) as chat:
            return _converse(llama, chat, device, prompt)


def _prompt_ids(checkpoint: Checkpoint, template: ChatTemplate | None, prompt: str) -> list[int]:
    """Return the tokens of one question, or without a template those of the prompt itself."""
    tokenizer = checkpoint.tokenizer()
    if template is not None:
        return tokenizer.encode(template.render([{"role": "user", "content": prompt}]))
    ids = tokenizer.encode(prompt, special_tokens=True)
    if not ids:
        raise InputError("prompt: is empty")
    return ids


def _answer(
    llama: SplitLlama,
    checkpoint: Checkpoint,
    device: str,
    ids: list[int],
    settings: dict[str, Any],
) -> int:
    answer = _show(
        lambda: start_answer(
            llama, checkpoint.tokenizer(), ids, checkpoint.eos_token_ids, **settings
        )
    )
    run = Run.of(answer)
    if run:
        _note(f"\n{summary([run], llama.stage, device)}")
    return _INTERRUPTED if answer.cancelled else 0


def _converse(llama: SplitLlama, chat: Chat, device: str, first: str | None) -> int:
    """Answer line by line, until the end of the input or ``/quit``."""
    _note(_CHAT_HELP)
    runs: list[Run] = []
    for line in _lines(first):
        if line == "/quit":
            break
        if line == "/clear":
            chat.clear()
            continue
        try:
            answer = _show(partial(chat.ask, line))
        except InputError as error:
            _note(f"runtime: {error}")
            continue
        run = Run.of(answer)
        if run:
            _note(f"[{speed(run)}]")
            runs.append(run)
    if runs:
        _note(f"\n{summary(runs, llama.stage, device)}")
    return 0


def _lines(first: str | None) -> Iterator[str]:
    """What is said, line by line, empty ones left out; Ctrl-C drops a line that is being written."""
    if first is not None:
        yield first
    while True:
        try:
            line = _read()
        except EOFError:
            return
        except KeyboardInterrupt:
            _note(f"\n{_CHAT_HELP}")
            continue
        if line.strip():
            yield line.strip()


def _read() -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - lines can be edited then
        return input("> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _show(ask: Callable[[], Answer]) -> Answer:
    """Write an answer while it is made; Ctrl-C ends it after the token that is being made."""
    with _CtrlC() as ctrl_c:
        answer = ask()
        ctrl_c.cancels(answer)
        try:
            for piece in answer:
                print(printable_lines(piece), end="", flush=True)
        finally:
            print(flush=True)
    return answer


class _CtrlC:
    """Cancels an answer where Ctrl-C would break a call off in the middle, after which no worker can be used."""

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._pressed = False

    def cancels(self, answer: Answer) -> None:
        """Let Ctrl-C, also one that came already, cancel ``answer``."""
        self._answer = answer
        answer.cancelled = self._pressed

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
        if self._answer:
            self._answer.cancelled = True

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _as_text(argument: str) -> str:
    """Return an argument of the command line with what is not text replaced."""
    return os.fsencode(argument).decode(errors="replace")
