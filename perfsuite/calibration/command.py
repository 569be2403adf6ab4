"""``perfsuite calibrate FOLDER [TESTS]``: how often the gate is wrong on this machine, for these tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perfsuite.commands import application, command_line, option, whole
from perfsuite.errors import UsageError
from perfsuite.files import write_text
from perfsuite.render import terminal
from perfsuite.render.blocks import Block, Listing
from perfsuite.render.markdown import markdown

if TYPE_CHECKING:
    from perfsuite.calibration.runs import Kind

SHARES = "0.03,0.05,0.1,0.2"

app = application()


@app.command(
    "calibrate",
    help="Run gated tests unchanged and made slower, again and again, and count the verdicts. Runs that FOLDER "
    "has already are kept, so that it can be interrupted. With --simulate no test is run: the gate's rules judge "
    "samples that are drawn.",
)
def run(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="where runs are kept")
    ] = None,
    tests: Annotated[
        list[str] | None,
        typer.Argument(metavar="TESTS", help="arguments of pytest (default: its testpaths)"),
    ] = None,
    equal: Annotated[int, option("--equal", "RUNS", "unchanged runs", whole)] = 30,
    slowed: Annotated[int, option("--slowed", "RUNS", "runs at each share", whole)] = 10,
    phases: Annotated[
        int,
        option("--phases", "RUNS", "runs with each phase slowed by a tenth of a call", whole),
    ] = 0,
    extensions: Annotated[
        int,
        option(
            "--extensions",
            "RECORDINGS",
            "extensions of the baselines after they are recorded",
            whole,
        ),
    ] = 3,
    shares: Annotated[
        str,
        option("--shares", "SHARE,SHARE", "of a call's time that slowed runs add"),
    ] = SHARES,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="against HEAD, as perfsuite compare does, not against baselines"
        ),
    ] = False,
    pytest_option: Annotated[
        list[str] | None,
        option(
            "--pytest-option",
            "OPTION",
            "added to each run, as --pytest-option=-operf_processes=4; may be repeated",
        ),
    ] = None,
    write: Annotated[
        Path | None,
        option("--write", "FILE", "write the result there, as Markdown"),
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulate", help="the decision rules alone, on drawn samples")
    ] = False,
    suites: Annotated[
        int,
        option("--suites", "SUITES", "with --simulate: drawn suites a condition", whole),
    ] = 2000,
) -> int:
    """Run what is missing, or simulate; then count and write.

    Raises:
        UsageError: for a number that is negative, or a folder with a damaged report.
        MeasurementError: if a run gives no verdict.
    """
    counts = {"equal": equal, "slowed": slowed, "phases": phases, "extensions": extensions}
    for name, count in counts.items():
        if count < 0:
            raise UsageError(f"--{name} {count}: must not be negative")
    if simulated:
        blocks = _simulated(suites, command_line(context))
    elif folder is None:
        raise UsageError("FOLDER: is needed unless --simulate is given")
    else:
        wanted = _wanted(shares, equal=equal, slowed=slowed, phases=phases, compare=compare)
        blocks = _measured(
            folder,
            tests or [],
            pytest_option or [],
            wanted,
            extensions=None if compare else extensions,
            command=command_line(context),
        )
    terminal.show(blocks, width=None)
    if write is not None:
        write_text(write, markdown(blocks), option="--write ")
    return 0


def _simulated(suites: int, command: str) -> list[Block]:
    if suites < 1:
        raise UsageError(f"--suites {suites}: must be positive")
    from perfsuite.calibration import simulate

    rows = simulate.simulate(simulate.conditions(), suites)
    return [Listing(command), simulate.table(rows)]


def _measured(
    path: Path,
    tests: Sequence[str],
    pytest_options: Sequence[str],
    wanted: Mapping[Kind, int],
    *,
    extensions: int | None,
    command: str,
) -> list[Block]:
    """Run what is missing of ``wanted``, and count; there are no baselines where ``extensions`` is None."""
    from perfsuite.calibration import document, findings
    from perfsuite.calibration.runs import Folder
    from perfsuite.machine import fingerprint
    from perfsuite.progress import RunProgress
    from perfsuite.provenance import provenance

    folder = Folder(path.resolve(), tests, pytest_options)
    runs = {kind: folder.runs(kind) for kind in wanted}
    # In turn, so that an hour of the machine hits all kinds alike.
    missing: list[Kind] = []
    for number in range(max(wanted.values(), default=0)):
        missing += [kind for kind, most in wanted.items() if len(runs[kind]) <= number < most]
    with RunProgress(len(missing)) as progress:
        if extensions is not None:
            folder.record_baselines(extensions)
        for kind in missing:
            progress.begin(kind.name)
            runs[kind].append(folder.run(kind))
    blocks = document.document(
        findings.find(runs),
        fingerprint(1),
        command,
        provenance()["date"],
        recordings=None if extensions is None else folder.recordings(),
    )
    return list(blocks)


def _wanted(shares: str, *, equal: int, slowed: int, phases: int, compare: bool) -> dict[Kind, int]:
    from perfsuite.calibration.runs import COMPARE, GATE, Kind

    mode = COMPARE if compare else GATE
    try:
        parts = [float(text) for text in shares.split(",") if text.strip()]
    except ValueError:
        parts = [math.nan]
    if not all(0 < share < 100 for share in parts):
        raise UsageError(f"--shares {shares}: must be positive numbers, as {SHARES}")
    wanted = {Kind(mode=mode): equal}
    if slowed:
        wanted |= {Kind(share, mode=mode): slowed for share in parts}
    if phases:
        names = ("serialize", "transport", "device", "deserialize", "trusted")
        wanted |= {Kind(0.1, name, mode): phases for name in names}
    return wanted
