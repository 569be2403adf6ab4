"""A payload there and back over every route."""

from __future__ import annotations

import pytest

from perfsuite.llama.diagnosis.null_worker import MOST_ROWS
from perfsuite.llama.diagnosis.round_trips import main
from perfsuite.llama.diagnosis.routes import ROUTES


def test_every_route_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "32", "--rounds", "2"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("32,768 bytes each way")
    assert [line.split()[0] for line in lines] == list(ROUTES)
    for line in lines:
        assert 0 < float(line.split("least ")[1]) <= float(line.split()[1])


@pytest.mark.parametrize(
    "wrong", [["--rows", "0"], ["--rows", str(MOST_ROWS + 1)], ["--rounds", "0"]]
)
def test_a_number_out_of_range_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
