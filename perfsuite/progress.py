"""A progress bar on stderr that draws between the runs, never during one."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class RunProgress:
    """A context manager that shows how many of ``runs`` are done; silent without a terminal."""

    def __init__(self, runs: int) -> None:
        console = Console(stderr=True, markup=False)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            auto_refresh=False,  # its thread would take the interpreter from a timed forward
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=runs)
        self._begun = 0

    def say(self, text: str) -> None:
        """Show ``text`` beside the bar."""
        done = max(0, self._begun - 1)  # the run that was announced last is still to end
        self._progress.update(self._task, description=text, completed=done)
        self._progress.refresh()

    def begin_run(self, name: str, number: int) -> None:
        """Announce a run of ``name`` in round ``number``; below 0 it is a warm-up."""
        self.begin(f"{'warm-up' if number < 0 else f'round {number + 1}'}: {name}")

    def begin(self, text: str) -> None:
        """Announce the next run by ``text``."""
        self._begun += 1
        self.say(text)

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
