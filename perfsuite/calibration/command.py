"""``perfsuite calibrate FOLDER [TESTS]``: how often the gate is wrong on this machine, for these tests."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from perfsuite.calibration.runs import Kind

SHARES = "0.03,0.05,0.1,0.2"


def add_parser(commands: Any) -> None:
    """Declare ``calibrate`` and its options."""
    parser = commands.add_parser(
        "calibrate",
        help="measure how often the gate is wrong",
        description="Run gated tests unchanged and made slower, again and again, and count the verdicts. "
        "Runs that FOLDER has already are kept, so that it can be interrupted. With --simulate no test is run: "
        "the gate's rules judge samples that are drawn.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="where runs are kept"
    )
    parser.add_argument(
        "tests", nargs="*", metavar="TESTS", help="arguments of pytest (default: its testpaths)"
    )
    for name, default, text in (
        ("equal", 30, "unchanged runs"),
        ("slowed", 10, "runs at each share"),
        ("phases", 0, "runs with each phase slowed by a tenth of a call"),
        ("extensions", 3, "extensions of the baselines after they are recorded"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )
    parser.add_argument(
        "--shares",
        default=SHARES,
        metavar="A,B",
        help="of a call's time that slowed runs add (default: %(default)s)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="against HEAD, as perfsuite compare does, not against baselines",
    )
    parser.add_argument(
        "--pytest-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="added to each run, as --pytest-option=-operf_processes=4",
    )
    parser.add_argument(
        "--write", type=Path, metavar="F", help="write the result there, as Markdown"
    )
    parser.add_argument(
        "--simulate", action="store_true", help="the decision rules alone, on drawn samples"
    )
    parser.add_argument(
        "--suites",
        type=int,
        default=2000,
        metavar="N",
        help="with --simulate: drawn suites a condition (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, or simulate; then count and write.

    Raises:
        UsageError: for a number that is negative, or a folder with a damaged report.
        MeasurementError: if a run gives no verdict.
    """
    for name in ("equal", "slowed", "phases", "extensions"):
        if getattr(arguments, name) < 0:
            raise UsageError(f"--{name} {getattr(arguments, name)}: must not be negative")
    if arguments.simulate:
        text = _simulated(arguments)
    elif arguments.folder is None:
        raise UsageError("FOLDER: is needed unless --simulate is given")
    else:
        text = _measured(arguments)
    print(text)
    if arguments.write is not None:
        from perfsuite.files import write_text

        write_text(arguments.write, text, option="--write ")
    return 0


def _simulated(arguments: argparse.Namespace) -> str:
    if arguments.suites < 1:
        raise UsageError(f"--suites {arguments.suites}: must be positive")
    from perfsuite.calibration import simulate

    return f"```\n{arguments.command}\n```\n\n" + simulate.table(
        simulate.simulate(simulate.conditions(), arguments.suites)
    )


def _measured(arguments: argparse.Namespace) -> str:
    from perfsuite.calibration import document, findings
    from perfsuite.calibration.runs import Folder
    from perfsuite.machine import fingerprint
    from perfsuite.progress import RunProgress
    from perfsuite.provenance import provenance

    folder = Folder(arguments.folder.resolve(), arguments.tests, arguments.pytest_option)
    wanted = _wanted(arguments)
    runs = {kind: folder.runs(kind) for kind in wanted}
    # In turn, so that an hour of the machine hits all kinds alike.
    missing: list[Kind] = []
    for number in range(max(wanted.values(), default=0)):
        missing += [kind for kind, most in wanted.items() if len(runs[kind]) <= number < most]
    with RunProgress(len(missing)) as progress:
        if not arguments.compare:
            folder.record_baselines(arguments.extensions)
        for kind in missing:
            progress.begin(kind.name)
            runs[kind].append(folder.run(kind))
    recordings = None if arguments.compare else folder.recordings()
    return document.document(
        findings.find(runs),
        fingerprint(1),
        arguments.command,
        provenance()["date"],
        recordings=recordings,
    )


def _wanted(arguments: argparse.Namespace) -> dict[Kind, int]:
    from perfsuite.calibration.runs import COMPARE, GATE, Kind

    mode = COMPARE if arguments.compare else GATE
    try:
        shares = [float(text) for text in arguments.shares.split(",") if text.strip()]
    except ValueError:
        shares = [math.nan]
    if not all(0 < share < 100 for share in shares):
        raise UsageError(f"--shares {arguments.shares}: must be positive numbers, as {SHARES}")
    wanted = {Kind(mode=mode): arguments.equal}
    if arguments.slowed:
        wanted |= {Kind(share, mode=mode): arguments.slowed for share in shares}
    if arguments.phases:
        phases = ("serialize", "transport", "device", "deserialize", "trusted")
        wanted |= {Kind(0.1, phase, mode): arguments.phases for phase in phases}
    return wanted
