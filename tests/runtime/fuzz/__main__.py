"""Long runs: ``python -m tests.runtime.fuzz [TARGETS] --runs N``, guided by coverage, from the seed corpora.

Each target is attacked by a process of its own. An input that breaks one is kept, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.runtime.fuzz.targets import TARGETS

_COUNT = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


def main() -> int:
    """Attack one target after another; return 1 if one broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.runtime.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000, help="inputs a target (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3600, help="most time each (%(default)s)")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz"), help="folder of what breaks one (%(default)s)"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    arguments.keep.mkdir(parents=True, exist_ok=True)
    results = [_attacked(name, arguments) for name in arguments.targets or TARGETS]
    return 0 if all(results) else 1


def _attacked(name: str, arguments: argparse.Namespace) -> bool:
    """Attack a target, and say how that went."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "tests.runtime.fuzz.attack", name, folder]
        options = [
            f"-runs={arguments.runs}",
            f"-max_total_time={arguments.seconds}",
            f"-artifact_prefix={arguments.keep}/{name}-",
        ]
        process = subprocess.Popen(
            [*command, *options], stdout=said, stderr=said, start_new_session=True
        )
        try:
            status = process.wait()
        finally:
            # It leaves without any clean-up, and may have started a worker.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        text = said.read().decode(errors="replace")
    seconds = time.monotonic() - started
    count, covered = _COUNT.search(text), _COVERED.findall(text)
    print(
        f"{name:12} {count[1] if count else '?':>9} inputs {seconds:7.0f} s  "
        f"{covered[-1] if covered else '?':>5} places covered  {'BROKE' if status else 'held'}",
        flush=True,
    )
    if status:
        print(text[-4000:], flush=True)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
