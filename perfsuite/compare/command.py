"""``perfsuite compare BASE``: whether this work tree is slower than a revision of it."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfsuite.errors import RevisionError, UsageError
from perfsuite.files import check_writable, write_json, write_text
from perfsuite.options import add_prompted_model, check_positive

if TYPE_CHECKING:
    from types import FrameType

    from perfsuite.compare.comparing import Comparison

_ENDED_BY_SIGNAL = 128  # plus its number, as shells report it


def add_parser(commands: Any) -> None:
    """Declare ``compare`` and its options."""
    parser = commands.add_parser(
        "compare",
        help="measure this work tree against a git revision of it",
        description="Check BASE out beside this work tree, run both in alternation on this machine, and "
        "give a verdict per stage. Needs no stored baseline.",
        epilog="Exit status: 0 no stage became slower; 1 one did; 2 bad input, or a runtime that failed; "
        "3 undecided.",
    )
    parser.add_argument("base", metavar="BASE", help="git revision: a branch, a tag, a commit")
    add_prompted_model(parser, model="tiny", tokens=64)
    parser.add_argument("--stages", metavar="A,B", help="(default: all that either side has)")
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="the workers' (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="compute threads of each process: one is the quietest (default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.05,
        metavar="X",
        help="share by which a stage may be slower (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=8,
        metavar="N",
        help="fresh processes of each side per look (default: %(default)s)",
    )
    parser.add_argument(
        "--looks",
        type=int,
        default=3,
        metavar="N",
        help="how often at most more are measured (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write the result there")
    parser.add_argument("--markdown", type=Path, metavar="F", help="also write the table there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, write the files, print the table, and return the exit status.

    Raises:
        UsageError: for an option, a revision or a repository that cannot be used.
        RevisionError: for a side whose runtime cannot be run at all.
    """
    check_positive(arguments, "tokens", "threads", "processes", "looks")
    if not 0 < arguments.margin < math.inf:
        raise UsageError(f"--margin {arguments.margin}: must be positive")
    for option in ("json", "markdown"):
        if getattr(arguments, option) is not None:
            check_writable(getattr(arguments, option), option=f"--{option}")
    with ExitStack() as stack:
        stack.enter_context(_ended_by_exceptions())
        comparison = _prepare(arguments, stack)
        return _compare(comparison, arguments)


def _prepare(arguments: argparse.Namespace, stack: ExitStack) -> Comparison:
    """Check BASE out, with an environment of its own where it declares one."""
    from perfsuite.compare import environments, revisions
    from perfsuite.compare.comparing import Comparison
    from perfsuite.compare.deciding import Rules
    from perfsuite.compare.sides import Tree
    from perfsuite.forked.servers import Workload
    from runtime import load_checkpoint

    # Made now, where it must be made: two sides that make it at once would wait for each other.
    model = load_checkpoint(arguments.model).source
    root = revisions.find_root(Path.cwd())
    base = revisions.resolve(root, arguments.base)
    head, changed = revisions.head(root)
    folder = stack.enter_context(revisions.worktree(root, base))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfsuite-")))
    python = Path(sys.executable)
    wanted = environments.declared(folder)
    if not (wanted.same_as(environments.declared(root)) or wanted.satisfied()):
        print(f"BASE {base}: other dependencies; installing them", file=sys.stderr)
        python = environments.build(folder, scratch / "environment")
    return Comparison(
        head=Tree(f"head {head.short}{' with changes' if changed else ''}", root),
        base=Tree(f"BASE {base}", folder, python),
        workload=Workload(model, arguments.tokens, arguments.device, arguments.threads),
        rules=Rules(margin=arguments.margin, processes=arguments.processes, looks=arguments.looks),
        scratch=scratch,
    )


def _compare(comparison: Comparison, arguments: argparse.Namespace) -> int:
    from perfsuite.compare import comparing, telling
    from perfsuite.machine import fingerprint
    from perfsuite.progress import RunProgress

    wanted = None
    if arguments.stages is not None:
        wanted = [name.strip() for name in arguments.stages.split(",")]
    with comparison.sides() as sides:
        names, results = comparison.stages(sides, wanted)
        with RunProgress(len(names)) as progress:
            for name in names:
                progress.begin(name)
                results.append(comparison.stage(sides, name))
    if not any(result.decision for result in results):
        problems = "; ".join(f"{result.name}: {result.problem}" for result in results)
        raise RevisionError(f"no stage could be compared: {problems}")
    if arguments.json is not None:
        machine = fingerprint(comparison.workload.threads)
        write_json(arguments.json, telling.as_json(comparison, results, machine, arguments.command))
    if arguments.markdown is not None:
        write_text(arguments.markdown, telling.markdown(comparison, results), option="--markdown ")
    print(telling.text(comparison, results))
    return comparing.exit_status(results)


@contextmanager
def _ended_by_exceptions() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the run as Ctrl-C does: through every cleanup, once."""

    def leave(number: int, frame: FrameType | None) -> None:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # a second one must not interrupt the cleanup
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(_ENDED_BY_SIGNAL + number)

    before = {
        number: signal.signal(number, leave)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
