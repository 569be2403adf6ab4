from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsuite.errors import UsageError
from perfsuite.processes.benchmark import TOTAL
from perfsuite.settings import EXTEND, IMPROVED, RECORD, Settings, declare, parse_delays, read


class Config:
    """What pytest makes of a command line and an ini file, as far as the settings ask for it."""

    def __init__(self, arguments: list[str], ini: Mapping[str, str]) -> None:
        parser = pytest.Parser(_ispytest=True)
        declare(parser)
        declare(parser)  # by whoever else hosts the gate
        self.option: Namespace = parser.parse(arguments)
        self._ini = {name: parser._inidict[name][2] for name in parser._inidict} | dict(ini)

    def getini(self, name: str) -> Any:
        return self._ini[name]


def settings(*arguments: str, **ini: str) -> Settings:
    return read(cast("pytest.Config", Config(list(arguments), ini)))


def test_the_defaults_are_what_the_help_says() -> None:
    assert settings() == Settings(update=None, baselines=None, report=None)


@pytest.mark.parametrize(
    ("arguments", "update"),
    [
        ([], None),
        (["--update-baselines"], RECORD),
        (["--update-baselines=improved"], IMPROVED),
        (["--extend-baselines"], EXTEND),
    ],
)
def test_modes(arguments: list[str], update: str | None) -> None:
    assert settings(*arguments).update == update


def test_options_and_ini_settings_are_read(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    found = settings(
        f"--perf-report={report}",
        "--perf-against=main",
        "--perf-head=topic",
        "--perf-tests-from=base",
        "--perf-margin=7.5",
        "--perf-strict",
        "--perf-baselines=other.json",
        perf_processes="4",
        perf_looks="2",
        perf_servers="3",
        perf_time_limit="90",
        perf_threads="0",
        perf_fork="no",
        perf_margin="3",
        perf_inconclusive="fail",
    )
    assert found == Settings(
        update=None,
        baselines=Path("other.json"),
        report=report,
        against="main",
        head="topic",
        tests_from="base",
        processes=4,
        looks=2,
        servers=3,
        time_limit_s=90,
        threads=0,
        fork=False,
        margin=0.075,
        inconclusive_fails=True,
        strict=True,
    )


@pytest.mark.parametrize(
    ("text", "margin"), [("auto", None), ("3", 0.03), ("2.5%", 0.025), (" 10 ", 0.1)]
)
def test_a_margin_is_a_percentage_or_measured(text: str, margin: float | None) -> None:
    assert settings(perf_margin=text).margin == margin


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "on"])
def test_words_for_true(text: str) -> None:
    assert settings(perf_strict=text).strict is True


@pytest.mark.parametrize(
    ("arguments", "ini", "words"),
    [
        ([], {"perf_processes": "0"}, "perf_processes = 0: must be a positive number"),
        ([], {"perf_looks": "-1"}, "perf_looks = -1"),
        ([], {"perf_servers": "1.5"}, "perf_servers = 1.5"),
        ([], {"perf_time_limit": "soon"}, "perf_time_limit = soon"),
        ([], {"perf_threads": "-1"}, "must be a number, 0 or more"),
        ([], {"perf_fork": "perhaps"}, "perf_fork = perhaps: must be true or false"),
        ([], {"perf_margin": "wide"}, "perf_margin = wide: must be a positive"),
        ([], {"perf_margin": "nan"}, "perf_margin = nan"),
        ([], {"perf_margin": "inf"}, "perf_margin = inf"),
        ([], {"perf_inconclusive": "pass"}, "must be one of report, fail"),
        (["--perf-margin=0"], {}, "--perf-margin 0.0: must be a positive"),
        (["--extend-baselines", "--update-baselines"], {}, "not together"),
        (["--extend-baselines", "--perf-slowdown=a=2"], {}, "--perf-slowdown: not together"),
        (["--update-baselines", "--perf-against=x"], {}, "--perf-against: not together"),
        (["--perf-head=x"], {}, "--perf-head: only together with --perf-against"),
        (["--perf-report=/no/such/folder/x.json"], {}, "--perf-report /no/such/folder/x.json"),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: list[str], ini: Mapping[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        settings(*arguments, **ini)


@pytest.mark.parametrize(
    ("texts", "delays"),
    [
        (["mine=2"], {"mine": {TOTAL: 2.0}}),
        (["*=1.1"], {"*": {TOTAL: 1.1}}),
        (["mine:parse=2"], {"mine": {"parse": 2.0}}),
        (["mine:a_b=2", "mine=3"], {"mine": {"a_b": 2.0, TOTAL: 3.0}}),
        (["a=b=3"], {"a=b": {TOTAL: 3.0}}),
        (["t/test_a.py::test_it=2"], {"t/test_a.py::test_it": {TOTAL: 2.0}}),
        (["test_a.py::TestA::it=2"], {"test_a.py::TestA::it": {TOTAL: 2.0}}),
        (["test_a.py::test_it[1:2]=2"], {"test_a.py::test_it[1:2]": {TOTAL: 2.0}}),
        (["test_a.py::test_it:parse=2"], {"test_a.py::test_it": {"parse": 2.0}}),
        (["a:1=2"], {"a:1": {TOTAL: 2.0}}),
        (["a|b c=2"], {"a|b c": {TOTAL: 2.0}}),
    ],
)
def test_slow_downs(texts: list[str], delays: Mapping[str, Mapping[str, float]]) -> None:
    assert parse_delays(texts) == delays


@pytest.mark.parametrize(
    "text", ["mine", "=2", "mine=", "mine=x", "mine=nan", "mine=inf", "mine=0.5"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--perf-slowdown {text}: "):
        parse_delays([text])


@given(name=st.text(min_size=1).filter(lambda text: ":" not in text), factor=st.floats(1, 1e6))
def test_any_name_without_a_colon_can_be_slowed(name: str, factor: float) -> None:
    assert parse_delays([f"{name}={factor}"]) == {name: {TOTAL: factor}}
