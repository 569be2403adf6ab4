from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from perfsuite.compare.sides import Sides, Tree
from perfsuite.errors import RevisionError
from perfsuite.forked.servers import Workload

MakeTree = Callable[[str], Path]
WORKLOAD = Workload("tiny", 8, "cpu", 1)


def change(tree: Path, file: str, old: str, new: str) -> None:
    path = tree / "runtime" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_each_side_runs_its_own_tree_in_fresh_processes(stand_in: MakeTree, tmp_path: Path) -> None:
    head, base = stand_in("head"), stand_in("base")
    change(head, "__init__.py", '"fused": 0.001', '"fused": 0.02')
    with Sides(Tree("head", head), Tree("BASE", base), WORKLOAD, tmp_path) as sides:
        open_head, open_base = sides.openers("fused")
        pids: list[int] = []
        for _ in range(2):
            with open_head() as slow, open_base() as quick:
                slower, quicker = slow.run(), quick.run()
                assert slower.seconds > 0.02 > quicker.seconds
                assert slower.phases == {"device": 0.02, "transport": 1e-4}
                pids += [*slow.pids, *quick.pids]
        assert len(set(pids)) == 8  # a trusted process and a worker, of two sides, twice
        assert [len(runs) for runs in sides.timed()] == [2, 2]
        assert sides.timed() == ([], [])
        running = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        assert not psutil.wait_procs(running, timeout=2)[1]


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (
            "__init__.py",
            "import time",
            "import no_such_module",
            "cannot be imported.*no_such_module",
        ),
        ("__init__.py", "class SplitLlama", "class Other", "cannot be imported.*SplitLlama"),
        (
            "worker.py",
            "Path(address).touch()",
            "raise SystemExit('no luck')",
            "the worker ended at its start: .*no luck",
        ),
        (
            "__init__.py",
            "yield cls(stage)",
            "raise ValueError('no device')",
            "ValueError: no device",
        ),
        ("__init__.py", "time.sleep(DELAY[self.stage])", "1 / 0", "ZeroDivisionError"),
        (
            "__init__.py",
            "time.sleep(DELAY[self.stage])",
            "import os; os._exit(7)",
            "its process ended",
        ),
    ],
)
def test_a_side_that_fails_is_named_with_its_fault(
    stand_in: MakeTree, tmp_path: Path, file: str, old: str, new: str, problem: str
) -> None:
    head, base = stand_in("head"), stand_in("base")
    change(base, file, old, new)

    def run() -> None:
        with Sides(Tree("head", head), Tree("BASE", base), WORKLOAD, tmp_path) as sides:
            open_head, open_base = sides.openers("fused")
            with open_head() as running, open_base() as failing:
                running.run()
                failing.run()

    with pytest.raises(RevisionError, match=f"^BASE: .*{problem}"):
        run()
    assert not list(psutil.Process().children(recursive=True))


def test_a_tree_without_a_runtime_gets_no_installed_one(stand_in: MakeTree, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with (
        pytest.raises(RevisionError, match=r"BASE: it has no package runtime|No module named"),
        Sides(Tree("head", stand_in("head")), Tree("BASE", empty), WORKLOAD, tmp_path) as sides,
    ):
        sides.stages()
