"""The gate's options and ini settings: declared for measuring and measured sessions alike, read into one object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perfsuite.errors import UsageError
from perfsuite.processes.benchmark import TOTAL

RECORD, EXTEND, IMPROVED = "record", "extend", "improved"

_UPDATE = "--update-baselines"

_INI = {
    "perf_baselines": ("file of the baselines, from the ini file's folder", "baselines.json"),
    "perf_processes": ("fresh processes per look", "6"),
    "perf_looks": ("how often at most more are measured", "6"),
    "perf_servers": ("processes that the measured ones are forked from, in turn", "12"),
    "perf_time_limit": ("seconds per benchmark, recording too", "60"),
    "perf_threads": (
        "compute threads of each process, which then share one processor; 0: any",
        "1",
    ),
    "perf_fork": ("fork measured processes from servers that have imported the test", "true"),
    "perf_in_turn": (
        "where the baseline cannot decide, measure the recorded commit in turn with this tree",
        "true",
    ),
    "perf_margin": ("percent by which a benchmark may be slower; auto: from the noise", "auto"),
    "perf_inconclusive": ("report, or fail", "report"),
    "perf_strict": ("whatever was not judged against a full baseline fails the run", "false"),
}


def declare(parser: pytest.Parser) -> None:
    """Declare the options and ini settings; a second time does no harm."""
    group = parser.getgroup("perf", "latency gate")
    if group.options:
        return
    group.addoption(
        _UPDATE,
        nargs="?",
        const=RECORD,
        metavar="improved",
        help="accept what is measured as the baselines; with =improved only what became faster",
    )
    group.addoption(
        "--extend-baselines",
        action="store_true",
        help="add what is measured to the baselines: another hour of the machine, the same code",
    )
    group.addoption(
        "--perf-baselines", metavar="FILE", type=Path, help="instead of the ini setting's file"
    )
    group.addoption(
        "--perf-report", metavar="FILE", type=Path, help="write the outcomes there, as JSON"
    )
    group.addoption(
        "--perf-slowdown",
        metavar="NAME[:PHASE]=FACTOR",
        action="append",
        default=[],
        help="make a benchmark really slower, to see the gate go red; NAME may be '*'",
    )
    group.addoption(
        "--perf-against",
        metavar="REV",
        help="compare with this git revision, in alternation on this machine, instead of with baselines",
    )
    group.addoption(
        "--perf-head",
        metavar="REV",
        help="with --perf-against: compare this revision, not the work tree",
    )
    group.addoption(
        "--perf-tests-from",
        choices=("head", "base"),
        default="head",
        help="with --perf-against: whose tests run on both sides (default: %(default)s)",
    )
    group.addoption(
        "--perf-margin", metavar="PERCENT", type=float, help="instead of the ini setting"
    )
    group.addoption(
        "--perf-strict",
        action="store_true",
        default=None,
        help="as the ini setting perf_strict = true",
    )
    for name, (text, default) in _INI.items():
        parser.addini(name, f"{text} (default: {default})", default=default)


def separate(arguments: list[str]) -> None:
    """Give an option whose value may be left out the one that it has then: it would take a test's name for it."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    arguments[:place] = [
        f"{_UPDATE}={RECORD}" if one == _UPDATE else one for one in arguments[:place]
    ]


@dataclass(frozen=True)
class Settings:
    """What was asked for, checked."""

    update: str | None  # RECORD, EXTEND, IMPROVED
    baselines: Path | None  # of the option; the ini setting hangs on the test
    report: Path | None
    delays: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by name, by phase
    against: str | None = None
    head: str | None = None
    tests_from: str = "head"
    processes: int = 6
    looks: int = 6
    servers: int = 12
    time_limit_s: float = 60.0
    threads: int = 1
    fork: bool = True
    in_turn: bool = True
    margin: float | None = None  # as a share
    inconclusive_fails: bool = False
    strict: bool = False


def read(config: pytest.Config) -> Settings:
    """Return the settings.

    Raises:
        UsageError: naming the option or ini setting that cannot be used.
    """
    option = config.option
    if option.update_baselines not in (None, RECORD, IMPROVED):
        raise UsageError(
            f"--update-baselines={option.update_baselines}: must be {IMPROVED}, or nothing"
        )
    delays = parse_delays(option.perf_slowdown)
    update = EXTEND if option.extend_baselines else option.update_baselines
    if option.extend_baselines and option.update_baselines:
        raise UsageError("--extend-baselines: not together with --update-baselines")
    for used, name in ((delays, "--perf-slowdown"), (option.perf_against, "--perf-against")):
        if update and used:
            raise UsageError(f"{name}: not together with --update-baselines or --extend-baselines")
    if option.perf_head and not option.perf_against:
        raise UsageError("--perf-head: only together with --perf-against")
    if option.perf_report is not None:
        from perfsuite.files import check_writable

        check_writable(option.perf_report, option="--perf-report")
    return Settings(
        update=update,
        baselines=option.perf_baselines,
        report=option.perf_report,
        delays=delays,
        against=option.perf_against,
        head=option.perf_head,
        tests_from=option.perf_tests_from,
        processes=_positive(config, "perf_processes"),
        looks=_positive(config, "perf_looks"),
        servers=_positive(config, "perf_servers"),
        time_limit_s=_positive(config, "perf_time_limit"),
        threads=_positive(config, "perf_threads", least=0),
        fork=_boolean(config, "perf_fork"),
        in_turn=_boolean(config, "perf_in_turn"),
        margin=_margin(config),
        inconclusive_fails=_choice(config, "perf_inconclusive", ("report", "fail")) == "fail",
        strict=_boolean(config, "perf_strict") or bool(option.perf_strict),
    )


def parse_delays(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return factors by phase, by benchmark, from texts ``NAME=FACTOR`` and ``NAME:PHASE=FACTOR``.

    A name may have colons: what follows the last one is a phase where it is one word of letters.

    Raises:
        UsageError: for another form, or a factor below 1.
    """
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        left, equals, number = text.rpartition("=")
        name, colon, phase = left.rpartition(":")
        # A test's node id has pairs of colons, and its last part may be one word.
        if not colon or not name or name.endswith(":") or not phase.replace("_", "").isalpha():
            name, phase = left, TOTAL
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not equals or not name or not math.isfinite(factor):
            raise UsageError(f"--perf-slowdown {text}: must be NAME=FACTOR or NAME:PHASE=FACTOR")
        if factor < 1:
            raise UsageError(f"--perf-slowdown {text}: a factor must be at least 1")
        found.setdefault(name, {})[phase] = factor
    return found


def _positive(config: pytest.Config, name: str, *, least: int = 1) -> int:
    text = str(config.getini(name)).strip()
    if not text.isdecimal() or int(text) < least:
        kind = "a positive number" if least else "a number, 0 or more"
        raise UsageError(f"{name} = {text}: must be {kind}")
    return int(text)


def _boolean(config: pytest.Config, name: str) -> bool:
    text = str(config.getini(name)).strip().lower()
    if text not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise UsageError(f"{name} = {text}: must be true or false")
    return text in ("true", "1", "yes", "on")


def _choice(config: pytest.Config, name: str, choices: Sequence[str]) -> str:
    text = str(config.getini(name)).strip()
    if text not in choices:
        raise UsageError(f"{name} = {text}: must be one of {', '.join(choices)}")
    return text


def _margin(config: pytest.Config) -> float | None:
    percent = config.option.perf_margin
    where = f"--perf-margin {percent}"
    if percent is None:
        text = str(config.getini("perf_margin")).strip()
        if text == "auto":
            return None
        where = f"perf_margin = {text}"
        try:
            percent = float(text.removesuffix("%"))
        except ValueError:
            percent = math.nan
    if not 0 < percent < math.inf:
        raise UsageError(f"{where}: must be a positive number of percent")
    return float(percent) / 100
