"""Takes what another machine recorded into the baselines: ``python -m perfsuite.adopting RECORDED KEPT``.

RECORDED is data that nobody vouches for: the artifact of a job that ran code on a machine of its own. It
is read by the gate's own reader, may speak only of what is known, and is written anew: no byte of it is
copied.
"""

from __future__ import annotations

import argparse
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfsuite.errors import UsageError
from perfsuite.gate import baselines
from perfsuite.gate.baselines import Profile
from perfsuite.results import PHASES
from runtime import STAGES

MAX_BYTES = 1 << 20
_MAX_TEXT = 200
_MAX_MARGIN = 0.5
_MACHINE = {"cpu", "cpu_model", "threads", "gpu", "driver", "torch", "cuda"}
_WORKLOAD = {"model", "tokens", "device"}
_RECORDED = {"commit", "date"}


def adopt(recorded: Path, kept: Path) -> str:
    """Put the one profile of ``recorded`` into ``kept``, and return in words what was done.

    Raises:
        UsageError: naming what in ``recorded`` is not as it must be; ``kept`` is then as it was.
    """
    status = recorded.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise UsageError(f"{recorded.name}: must be a file of at most {MAX_BYTES} bytes")
    offered, ours = baselines.read(recorded).profiles, baselines.read(kept)
    if len(offered) != 1:
        raise UsageError(f"profiles: must be one, got {len(offered)}")
    (profile,) = offered
    _check(profile)
    mine = ours.find(profile.machine, profile.workload)
    if mine == profile:
        return "nothing new"
    if mine is not None:
        ours.profiles.remove(mine)
    ours.profiles.append(profile)
    baselines.write(kept, ours)
    where = profile.machine["gpu"] or profile.machine["cpu"]
    return f"{where}: {'added' if mine is None else 'replaced'}: {', '.join(profile.entries)}"


def _check(profile: Profile) -> None:
    for title, found, known in (
        ("machine", profile.machine, _MACHINE),
        ("workload", profile.workload, _WORKLOAD),
        ("recorded", profile.recorded, _RECORDED),
    ):
        if found.keys() != known:
            raise UsageError(f"{title}: must hold {', '.join(sorted(known))}")
        for name, value in found.items():
            _check_plain(f"{title}.{name}", value)
    strangers = profile.entries.keys() - STAGES.keys()
    if strangers or not profile.entries:
        raise UsageError(f"entries: must be of {', '.join(STAGES)}")
    for name, entry in profile.entries.items():
        # A margin that forgives everything would switch the gate off.
        if entry.margin > _MAX_MARGIN:
            raise UsageError(f"entries.{name}.margin: {entry.margin} is above {_MAX_MARGIN}")
        if len(entry.processes) > baselines.MOST_PROCESSES:
            raise UsageError(f"entries.{name}.processes: more than {baselines.MOST_PROCESSES}")
        if not entry.phases.keys() <= set(PHASES):
            raise UsageError(f"entries.{name}.phases: must be of {', '.join(PHASES)}")


def _check_plain(place: str, value: Any) -> None:
    if value is None or type(value) is int:
        return
    if type(value) is not str or len(value) > _MAX_TEXT or not value.isprintable():
        raise UsageError(f"{place}: must be a number or a short printable text")


def main(argv: Sequence[str] | None = None) -> int:
    """Adopt one file, and say what changed."""
    parser = argparse.ArgumentParser(prog="python -m perfsuite.adopting", description=main.__doc__)
    parser.add_argument("recorded", type=Path)
    parser.add_argument("kept", type=Path)
    options = parser.parse_args(argv)
    try:
        done = adopt(options.recorded, options.kept)
    except (UsageError, OSError) as error:
        print(f"adopting: {error}", file=sys.stderr)
        return 2
    print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
