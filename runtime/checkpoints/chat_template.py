"""From a conversation to the text of a prompt, as the checkpoint's chat template writes it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.weights import read_json
from runtime.errors import CheckpointError, InputError
from runtime.text import printable

TEMPLATE_FILE = "chat_template.jinja"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENS_FILE = "special_tokens_map.json"
_PROGRAM = Path(__file__).with_name("template_process.py")
_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_LARGEST = 4 << 20  # bytes of a template
_LONGEST_S = 60.0  # it computes for 5 s at most; others may use the machine
_SHOWN = 300  # characters of what a template says

Message = Mapping[str, Any]


class ChatTemplate:
    """A Jinja2 program of the checkpoint's, which is not trusted: each rendering is a process of its own."""

    def __init__(self, source: str, tokens: Mapping[str, str], origin: Path) -> None:
        """``tokens`` are the special tokens by name, such as ``bos_token``; ``origin`` is named in errors."""
        self.source = source
        self.tokens = dict(tokens)
        self._origin = origin

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the conversation as one text; it holds the special tokens, so that none are to be added.

        ``messages`` are objects with a ``role`` and ``content``. ``add_generation_prompt`` ends the text where an
        answer begins. ``variables`` are what else a template may know, such as ``tools``.

        Raises:
            InputError: for messages that are none, or that the template refuses.
            CheckpointError: for a template that is broken, takes too long or too much memory.
        """
        given: object = messages
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
            raise InputError("messages: must be one or more objects with a role and content")
        for index, message in enumerate(given):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InputError(f"messages[{index}]: must be an object with a role and content")
        known = {
            **self.tokens,
            "tools": None,
            "documents": None,
            **variables,
            # Many templates take a key that is there for one that has a value.
            "messages": [_without_nulls(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            request = json.dumps({"template": self.source, "variables": known})
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"messages: must be plain JSON values ({error})") from error
        answer = self._answer(request)
        if "refused" in answer:
            said = printable(answer["refused"], _SHOWN)
            raise InputError(f"messages: the chat template refuses them: {said}")
        if "broken" in answer:
            raise self._broken(answer["broken"])
        return answer["text"]

    def _answer(self, request: str) -> dict[str, str]:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(_PROGRAM), *_import_paths()],
                input=request.encode(),
                capture_output=True,
                timeout=_LONGEST_S,
                env={"TZ": os.environ["TZ"]} if "TZ" in os.environ else {},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._broken("it takes too long") from error
        if done.returncode < 0:  # by the signal of a limit
            raise self._broken("it takes too long, or too much memory")
        try:
            answer: dict[str, str] = json.loads(done.stdout)
        except ValueError as error:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise self._broken(lines[-1] if lines else "it says nothing") from error
        return answer

    def _broken(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self._origin}: the chat template cannot be used: {printable(problem, _SHOWN)}"
        )


def open_chat_template(directory: Path) -> ChatTemplate | None:
    """Return the chat template of a checkpoint's directory, or None where it has none.

    A file of its own comes before what ``tokenizer_config.json`` holds; of several there, the default is taken.

    Raises:
        CheckpointError: for a file that is damaged.
    """
    config_file, tokens_file = directory / _TOKENIZER_CONFIG, directory / _TOKENS_FILE
    config = read_json(config_file) if config_file.exists() else {}
    origin = directory / TEMPLATE_FILE
    if origin.exists():
        source = _read(origin)
    else:
        origin = config_file
        given = _default(config.get("chat_template"))
        if given is None:
            return None
        if not isinstance(given, str) or len(given) > _LARGEST:
            raise CheckpointError(
                f"{origin}: 'chat_template' must be a text, or a list of named ones"
            )
        source = given
    named = read_json(tokens_file) if tokens_file.exists() else {}
    tokens = {name: _token({**named, **config}.get(name)) for name in _TOKENS}
    return ChatTemplate(source, {name: token for name, token in tokens.items() if token}, origin)


def _default(given: Any) -> Any:
    """Return the template itself; of a list of ``{"name", "template"}``, that of the name ``default``."""
    if not isinstance(given, list):
        return given
    named = [one for one in given if isinstance(one, dict) and one.get("name") == "default"]
    return named[0].get("template") if named else None


def _read(file: Path) -> str:
    opened = SteadyFile(file, most=_LARGEST)
    try:
        return opened.read(0, opened.size).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _token(given: Any) -> str | None:
    """Return a special token's text, which may be written as an object."""
    text = given.get("content") if isinstance(given, dict) else given
    return text if isinstance(text, str) else None


def _without_nulls(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value is not None}


def _import_paths() -> list[str]:
    """Return the folders that Jinja2 and what it needs lie in; the interpreter looks nowhere else."""
    specs = map(importlib.util.find_spec, ("jinja2", "markupsafe"))
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin})
