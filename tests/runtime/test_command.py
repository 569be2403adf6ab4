"""``python -m runtime``: what a terminal gets to see, what ends it, and what it refuses."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import STAGES, load_checkpoint
from runtime.checkpoints import Checkpoint
from runtime.command import FASTEST, MODEL, main
from tests.runtime.models import serve_in_thread, small_config, write_model

TEMPLATE = """
{%- for message in messages -%}
    {%- if message.content == 'refuse' %}{{ raise_exception('not that') }}{% endif -%}
    <{{ message.role }}>{{ message.content }}</>
{%- endfor -%}
<assistant>"""
POSITIONS = 6000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of bytes that talks at random, without an end."""
    folder = tmp_path_factory.mktemp("talking") / "model"
    made = write_model(folder, small_config(vocab_size=256, max_position_embeddings=POSITIONS))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return made


def command(model: Checkpoint, *arguments: str) -> list[str]:
    return ["--model", str(model.directory), "--stage", "fused", "--threads", "1", *arguments]


def shown(text: str) -> str:
    """How a terminal is shown a text that the model made."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)


def expected_answer(model: Checkpoint, prompt: str, new: int, **settings: object) -> str:
    ids = model.tokenizer().encode(prompt)
    with serve_in_thread(model, "fused") as llama:
        tokens = llama.generate(ids, new, **settings)[0, len(ids) :]  # type: ignore[call-overload]
    return shown(model.tokenizer().decode(tokens.tolist())) + "\n"


def test_an_answer_and_what_it_took(model: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(model, "Hello", "--max-new-tokens", "20")) == 0
    out, err = capsys.readouterr()
    assert out == expected_answer(model, "<user>Hello</><assistant>", 20)
    for words in (
        "25 prompt tokens; the first of 20 new ones after",
        "tokens/s",
        "device ",
        "kB sent",
        "fused, float32, on cpu (",
        STAGES["fused"].worker_sees,
    ):
        assert words in err


def test_a_raw_prompt_is_continued_with_the_options_given(
    model: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--raw --temperature 0.9 --top-k 40 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.2 --seed 7"
    assert main(command(model, "Hel\tlo", "--max-new-tokens", "20", *options.split())) == 0
    assert capsys.readouterr().out == expected_answer(
        model, "Hel\tlo", 20, temperature=0.9, top_k=40, top_p=0.9, min_p=0.01,
        repetition_penalty=1.2, seed=7,
    )  # fmt: skip


def test_the_prompt_may_come_from_standard_input_and_a_string_ends_the_answer(
    model: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = expected_answer(model, "<user>Hello</><assistant>", 20)
    stop = next(one for one in whole[3:] if one not in f"{whole[:3]}\ufffd")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))
    assert main(command(model, "--max-new-tokens", "20", "--stop", "nothing", "--stop", stop)) == 0
    assert capsys.readouterr().out == whole[: whole.index(stop)] + "\n"


def test_a_conversation(
    model: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "\n  \nAnd?\nrefuse\n/clear\nHello\n/quit\nnothing more\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert main(command(model, "Hello", "--chat", "--max-new-tokens", "5")) == 0
    out, err = capsys.readouterr()
    first = expected_answer(model, "<user>Hello</><assistant>", 5)
    assert out.startswith(first)
    assert out.endswith(first)  # after /clear
    assert err.count("new ones after") == 3
    assert err.count(" of them kept") == 1
    assert "the chat template refuses them: not that" in err
    assert "3 of 15 tokens" in err


def test_the_end_of_the_input_ends_a_conversation(
    model: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(command(model, "--chat")) == 0
    assert capsys.readouterr().out == ""


@contextmanager
def running(model: Checkpoint, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program, in a group of processes of its own, as a terminal starts one."""
    with subprocess.Popen(
        [sys.executable, "-m", "runtime", *command(model, *arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_some(process: subprocess.Popen[str]) -> str:
    """What has been shown since it was last read; waits for something."""
    assert process.stdout
    descriptor, shown = process.stdout.fileno(), b""
    while not shown or select.select([descriptor], [], [], 0)[0]:
        piece = os.read(descriptor, 1 << 16)
        if not piece:  # it ended
            break
        shown += piece
    return shown.decode(errors="replace")


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_but_not_the_conversation(model: Checkpoint) -> None:
    with running(model, "--chat", "--max-new-tokens", "5000", "--context", "5900") as process:
        assert process.stdin
        assert process.stderr
        told = []
        for question in ("Hello", "And?"):
            process.stdin.write(f"{question}\n")
            process.stdin.flush()
            assert read_some(process)
            press_ctrl_c(process)
            told.append(next(line for line in process.stderr if line.startswith("[")))
            assert read_some(process).endswith("\n")
        _, errors = process.communicate("/quit\n", timeout=100)
        assert process.returncode == 0, errors
        assert "5,000 new ones" not in "".join(told)
        assert " of them kept" in told[1]  # the worker was in the middle of no call
        assert "the worker sees" in errors


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_and_its_figures_are_shown(model: Checkpoint) -> None:
    with running(model, "Hello", "--max-new-tokens", "5000") as process:
        assert read_some(process)
        press_ctrl_c(process)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 130
        assert "the worker sees" in errors
        assert "Traceback" not in errors


@pytest.mark.slow
def test_whoever_reads_no_further_ends_it(model: Checkpoint) -> None:
    with running(model, "Hello", "--max-new-tokens", "5000") as process:
        assert process.stdout
        assert process.stderr
        assert read_some(process)
        process.stdout.close()
        assert process.wait(100) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x", "--temperature", "-1"], "temperature: must be"),
        (["x", "--top-k", "-1"], "top_k: must be"),
        (["x", "--max-new-tokens", "0"], "max-new-tokens: must be"),
        (["x", "--stage", "fastest"], "stage: 'fastest' is unknown"),
        (["x", "--model", "nothing"], "'nothing' is neither a preset"),
        (["--chat", "--raw"], "raw: "),
        (["--chat", "--model", "tiny"], "no chat template"),
        (["x", "--context", "0"], "context: must be from 1 to the model's 2048 positions"),
        (["", "--raw"], "prompt: is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And before a worker is started."""
    assert main(["--model", "tiny", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("runtime: ")
    assert problem in line


def test_a_number_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["x", "--top-p", "many"])
    assert caught.value.code == 2
    assert "--top-p" in capsys.readouterr().err


def test_the_defaults_are_the_fastest_stage_and_a_model_that_can_talk() -> None:
    assert FASTEST in STAGES
    assert load_checkpoint(MODEL).chat_template() is not None
