from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from perfsuite.__main__ import main
from perfsuite.llama import ladder
from runtime import SplitError, load_checkpoint


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("", "Missing command (see perfsuite --help)"),
        ("climb", "climb"),
        ("ladder --no-such-option", "--no-such-option"),
        ("ladder --model no-such-model", "no-such-model"),
        ("ladder --model /no/such/folder", "/no/such/folder"),
        ("ladder --stages baseline,turbo", "turbo"),
        ("ladder --stages ,", "no stage ''"),
        ("ladder --tokens 0", "at least 1"),
        ("ladder --tokens -3", "at least 1"),
        (
            "ladder --tokens many",
            "'--tokens': 'many' is no whole number (see perfsuite ladder --help)",
        ),
        ("ladder --tokens 100000000", "positions"),
        ("ladder --rounds 0", "at least 1"),
        ("ladder --threads 0", "at least 1"),
        ("ladder --seed -1", "negative"),
        ("ladder --device abacus", "abacus"),
        ("ladder --prompt-file /no/such/file", "/no/such/file"),
        ("ladder --prompt-file /dev/null", "empty"),
        ("ladder --prompt= ", "empty"),
        ("ladder --prompt a --prompt-file b", "not allowed"),
        ("ladder --json /no/such/folder/f.json", "/no/such/folder"),
        ("ladder --json /proc/f.json", "/proc"),
        ("ladder --json /dev/null", "regular file"),
        ("compare HEAD --margin 5%", "'--margin': '5%' is no number"),
        ("compare HEAD --tests-from both", "'both' is not one of 'head', 'base'"),
        ("baselines prune --no-such-option", "(see perfsuite baselines prune --help)"),
        ("history stray.json", "stray.json: give files after --import"),
        ("history --storage /no/such", "--storage /no/such"),
        ("history --chart history.png", "must end in .svg"),
        ("history --chart /no/such/h.svg", "--chart /no/such/h.svg"),
        ("history --json /no/such/h.json", "--json /no/such/h.json"),
        ("history --accepted /no/such.toml", "--accepted /no/such.toml"),
        ("history --import /no/such.json", "/no/such.json"),
        ("report", "give at least one"),
        ("report --ladder /no/such.json", "/no/such.json: cannot be read"),
        ("report --gate /dev/null", "/dev/null: is damaged"),
        ("report --storage /no/such", "--storage /no/such"),
        ("report --storage . --markdown -", "--markdown: needs --ladder"),
        ("report --storage . --output /no/such/page.html", "--output /no/such/page.html"),
        ("report --storage . --accepted /no/such.toml", "--accepted /no/such.toml"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    options: str, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = options.split()
    if arguments and "--model" not in arguments:
        arguments += ["--model", "tiny"] * (arguments[0] == "ladder")
    assert main(arguments) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert problem in output.err
    assert output.err.startswith("perfsuite: ")
    assert output.err.count("\n") == 1


def test_an_error_of_many_lines_is_told_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(source: str) -> None:
        raise SplitError("first\n  second")

    monkeypatch.setattr(ladder, "load_checkpoint", fail)
    assert main(["ladder"]) == 2
    assert capsys.readouterr().err == "perfsuite: first second\n"


def test_an_unwritable_result_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ladder, "load_checkpoint", lambda source: pytest.fail("loaded"))
    assert main(["ladder", "--json", "/no/such/folder/f.json"]) == 2


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "ladder" in capsys.readouterr().out


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    load_checkpoint("tiny")  # made now, so that the run below is soon in its rounds
    command = [sys.executable, "-m", "perfsuite", "ladder", "--model", "tiny", "--rounds", "100000"]
    with subprocess.Popen(
        [*command, "--tokens", "8", "--stages", "baseline"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            children: list[psutil.Process] = []
            while len(children) < 3 and time.monotonic() < deadline:
                time.sleep(0.1)
                children = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert output == ""
    assert errors == "perfsuite: interrupted\n"
    assert len(children) >= 3
    assert not psutil.wait_procs(children, timeout=2)[1]
