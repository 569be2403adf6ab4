"""What the command line says of itself: help with units and choices, version, completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module, metadata
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest
from typer.models import ParameterInfo

from perfsuite.__main__ import COMMANDS, main
from perfsuite.llama.accelerators import load_accelerators
from perfsuite.llama.diagnosis.routes import ROUTES
from runtime import STAGES
from runtime.checkpoints import PRESETS
from runtime.delay_injection import PHASES, TOTAL
from runtime.devices import DEVICES

# What a number counts, as help shows it behind the option. Only a seed counts nothing.
UNITS = {"PERCENT", "RECORDINGS", "ROUNDS", "RUNS", "SUITES", "THREADS", "TOKENS", "NUMBER"}
BASELINES = ("list", "diff", "prune", "rename", "adopt")
CALLS = [[name] for name in COMMANDS] + [["baselines", name] for name in BASELINES]


class Parameter(NamedTuple):
    """One of a command's, with its type and what is declared of it."""

    name: str
    type: Any
    info: ParameterInfo

    @property
    def is_number(self) -> bool:
        return not {int, float}.isdisjoint({self.type, *get_args(self.type)})


def parameters(command: str) -> Iterator[Parameter]:
    for registered in import_module(COMMANDS[command].module).app.registered_commands:
        for name, hint in get_type_hints(registered.callback, include_extras=True).items():
            if name not in ("context", "return"):
                declared, info = get_args(hint)
                yield Parameter(name, declared, info)


def shown(arguments: Iterable[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a call prints that ends well and is no command."""
    with pytest.raises(SystemExit, match="0"):
        main([*arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_all_that_can_be_given_is_explained(command: str) -> None:
    found = list(parameters(command))
    assert found
    assert [one.name for one in found if not one.info.help] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_a_unit(command: str) -> None:
    numbers = {one.name: one.info.metavar for one in parameters(command) if one.is_number}
    assert set(numbers.values()) <= UNITS
    assert (command in ("baselines", "history", "report")) is (not numbers)


@pytest.mark.parametrize(
    ("command", "name", "choices"),
    [
        ("ladder", "stages", STAGES),
        ("ladder", "model", PRESETS),
        ("ladder", "device", DEVICES),
        ("diagnose", "what_if", [*ROUTES, *load_accelerators(), "float32", "bfloat16"]),
        ("diagnose", "slowdown", [*PHASES, TOTAL]),
    ],
)
def test_help_names_the_choices(command: str, name: str, choices: Iterable[str]) -> None:
    (text,) = [one.info.help for one in parameters(command) if one.name == name]
    assert text is not None
    assert set(choices) <= set(re.findall(r"[\w-]+(?:\.\d[\w-]*)?", text))


@pytest.mark.parametrize("arguments", CALLS, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_plain_text(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown([*arguments, option], capsys)
    assert text.isascii()
    assert text.startswith(f"Usage: perfsuite {' '.join(arguments)} [OPTIONS]")
    assert max(map(len, text.splitlines())) <= 80


def test_help_shows_unit_choices_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--rounds ROUNDS" in (text := shown(["ladder", "--help"], capsys))
    assert "[default: 5]" in text
    assert "--tests-from <head|base>" in shown(["compare", "--help"], capsys)


def test_the_list_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(["--help"], capsys).split())
    for name, command in COMMANDS.items():
        assert f"{name} {command.help}" in text


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(["--version"], capsys) == f"perfsuite {metadata.version('perfsuite')}\n"


# Completion, asked for as a shell does


def asked(**environment: str) -> str:
    """Return what the command answers a shell that asks by these variables."""
    done = subprocess.run(
        [sys.executable, "-m", "perfsuite"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("perfsuite ba", ["baselines"]),
        ("perfsuite baselines ad", ["adopt"]),
        ("perfsuite calibrate --s", ["--slowed", "--shares", "--simulate", "--suites"]),
        ("perfsuite compare --tests-from ", ["head", "base"]),
        ("perfsuite compare main --tests-from h", ["head"]),
        ("perfsuite --ver", ["--version"]),
    ],
)
def test_commands_options_and_choices_are_completed(words: str, answer: list[str]) -> None:
    place = str(len(words.split(" ")) - 1)
    found = asked(_PERFSUITE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
    assert found.split() == answer


def test_the_script_for_completion_is_printed() -> None:
    script = asked(_PERFSUITE_COMPLETE="source_bash")
    assert "complete -o default -F _perfsuite_completion perfsuite" in script
    # Which shell it is for is seen from the process that calls.
    call = f"{shlex.quote(sys.executable)} -m perfsuite --show-completion; exit $?"
    done = subprocess.run(
        ["bash", "-c", call], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == script.strip()
