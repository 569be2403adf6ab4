"""``perfsuite calibrate FOLDER``: how often the gate is wrong on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsuite.errors import UsageError

if TYPE_CHECKING:
    from perfsuite.calibration.suites import Kind

SHARES = (0.03, 0.05, 0.10, 0.20)
PHASE_SHARE = 0.10


def add_parser(commands: Any) -> None:
    """Declare ``calibrate`` and its options."""
    parser = commands.add_parser(
        "calibrate",
        help="measure how often the gate is wrong",
        description="Run the suite unchanged and made slower, again and again, and count the verdicts; then "
        "simulate many more runs from the recorded ones, and hold other rules against the same samples. "
        "Takes minutes per run; runs that FOLDER has already are kept.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where runs are kept")
    for name, default, text in (
        ("equal", 30, "unchanged runs"),
        (
            "slowed",
            20,
            f"runs at each of {', '.join(f'+{share:.0%}' for share in SHARES)}".replace("%", "%%"),
        ),
        ("phases", 5, f"runs with each phase slowed by +{PHASE_SHARE:.0%}".replace("%", "%%")),
        ("simulations", 400, "simulated runs of each kind, 0 for none"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )
    parser.add_argument(
        "--write", type=Path, metavar="F", help="write the document there, and a chart beside it"
    )
    parser.add_argument(
        "--pytest-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="added to each run, as --pytest-option=-operf_processes=4",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, then count, simulate and write.

    Raises:
        UsageError: for a number that is negative, or a folder with a damaged report.
        MeasurementError: if a run gives no verdict.
    """
    for name in ("equal", "slowed", "phases", "simulations"):
        if getattr(arguments, name) < 0:
            raise UsageError(f"--{name} {getattr(arguments, name)}: must not be negative")
    if not arguments.equal:
        raise UsageError("--equal 0: there is nothing to compare with")
    from perfsuite.calibration import findings, suites, writing
    from perfsuite.calibration.suites import Folder
    from perfsuite.gate.judging import provenance
    from perfsuite.machine import fingerprint
    from perfsuite.progress import RunProgress

    folder = Folder(arguments.folder.resolve(), arguments.pytest_option)
    wanted = _wanted(arguments)
    runs = {kind: folder.runs(kind) for kind in wanted}
    missing = [kind for kind, number in wanted.items() for _ in range(number - len(runs[kind]))]
    with RunProgress(len(missing)) as progress:
        folder.record_baselines()
        for kind in missing:
            progress.begin(kind.name)
            runs[kind].append(folder.run(kind))
    unchanged = runs.pop(suites.equal())
    found = findings.find(
        unchanged, runs, processes=folder.processes, simulations=arguments.simulations
    )
    machine, date = fingerprint(1), provenance()["date"]
    print(writing.document(found, machine, arguments.command, date, ""))
    if arguments.write is not None:
        writing.write(
            arguments.write,
            found,
            machine=machine,
            command=arguments.command,
            date=date,
        )
    return 0


def _wanted(arguments: argparse.Namespace) -> dict[Kind, int]:
    from perfsuite.calibration.suites import equal, slower
    from perfsuite.results import PHASES

    return {
        equal(): arguments.equal,
        **{slower(share): arguments.slowed for share in SHARES},
        **{slower(PHASE_SHARE, phase): arguments.phases for phase in PHASES},
    }
