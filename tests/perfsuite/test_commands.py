"""What the modules of commands share."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from perfsuite.commands import JsonFile, application, command_line, number, option, whole


@given(st.integers())
def test_a_whole_number_is_read(value: int) -> None:
    assert whole(str(value)) == value


@given(st.floats(allow_nan=False))
def test_a_number_is_read(value: float) -> None:
    assert number(repr(value)) == value


@pytest.mark.parametrize("text", ["", "1.5", "x", "1e3", "0x10", "--tokens"])
def test_what_is_no_whole_number_is_shown(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number") as caught:
        whole(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "x", "1,5", "1 2"])
def test_what_is_no_number_is_shown(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        number(text)


def test_a_command_s_options_are_its_parameters_and_its_result_the_status() -> None:
    app = application("About it.")

    @app.command("count", help="Count [b]things[/b].")
    def run(
        context: typer.Context,
        things: Annotated[int, option("--things", "THINGS", "how many", whole)] = 2,
        json_file: JsonFile = None,
    ) -> int:
        assert command_line(context) == "perfsuite count --things 3"
        assert json_file is None
        return things

    runner = CliRunner()
    done = runner.invoke(
        app, ["--things", "3"], obj="perfsuite count --things 3", standalone_mode=False
    )
    assert done.return_value == 3
    told = runner.invoke(app, ["--help"]).output
    for words in ("Count [b]things[/b].", "--things", "THINGS", "how many", "--json"):
        assert words in told
    assert "─" not in told  # plain text, as a log shows it
