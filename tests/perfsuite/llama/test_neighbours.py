from __future__ import annotations

import subprocess
import sys
from itertools import count

from perfsuite.gate.interference import Usage, Watch
from perfsuite.llama import neighbours
from perfsuite.llama.neighbours import Neighbours, told


def counting(*busy_s: float) -> Neighbours:
    """A machine read once a second, on which others have used so many seconds of a processor by then."""
    seconds, others = count(), iter(busy_s)
    return Neighbours(
        Watch(lambda own_s: Usage(float(next(seconds)), own_s + next(others), 0.0, own_s)),
        lambda: 0.0,
    )


def run(counted: Neighbours, *names: str) -> None:
    for name in names:
        counted.begin()
        counted.end(name)


def test_runs_beside_others_are_counted_by_name() -> None:
    counted = counting(0, 0.0, 0.0, 0.9, 0.9, 1.0, 1.0, 1.5)
    run(counted, "a", "b", "a", "b")
    assert counted.disturbed == {"b": 2}
    assert told(counted.disturbed, 4).startswith("others used the machine during 2 of 4 runs (b 2)")


def test_a_quiet_machine_has_nothing_to_tell() -> None:
    counted = counting(0, 0.1, 0.1, 0.2)
    run(counted, "a", "b")
    assert counted.disturbed == {}


def test_the_work_of_children_is_ones_own() -> None:
    before = neighbours._children_s()
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert neighbours._children_s() - before > 0.25
        child.communicate(b"\n")
