"""Whether others used the machine while something was measured, by the gate's own rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from perfsuite.gate.interference import DISTURBED_SHARE, Watch


class Neighbours:
    """Counts the runs beside which others used more than a quarter of a processor. None is left out for it."""

    def __init__(
        self, watch: Watch | None = None, children_s: Callable[[], float] | None = None
    ) -> None:
        """``children_s`` replaces the kernel's word on the processor seconds of this process's children."""
        self._watch = watch or Watch()
        self._children_s = children_s or _children_s
        self._runs: Counter[str] = Counter()
        self._disturbed: Counter[str] = Counter()

    def begin(self) -> None:
        """Begin a run."""
        self._watch.foreign_share(self._children_s())

    def end(self, name: str) -> None:
        """End a run of ``name``."""
        self._runs[name] += 1
        self._disturbed[name] += self._watch.foreign_share(self._children_s()) > DISTURBED_SHARE

    @property
    def disturbed(self) -> Mapping[str, int]:
        """The number of disturbed runs, by name, where there were any."""
        return {name: count for name, count in self._disturbed.items() if count}


def told(disturbed: Mapping[str, int], runs: int) -> str:
    """Say in which of ``runs`` others used the machine."""
    names = ", ".join(f"{name} {count}" for name, count in disturbed.items())
    return f"others used the machine during {sum(disturbed.values())} of {runs} runs ({names}): repeat on a quiet one"


def _children_s() -> float:
    import psutil  # of the extra llama, which whoever only reads a result goes without

    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system
    return total
