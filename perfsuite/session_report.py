"""What is reported of a measuring session: the file, the step summary, the terminal's lines, the exit status."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perfsuite.gate.outcome import Outcome
    from perfsuite.session import MeasuringSession

EXIT_UNJUDGED = 10
"""Exit status of a strict run in which all tests pass, but a gate was not judged against a full baseline."""


class SessionReport:
    """Reports of one session, after its last test."""

    def __init__(self, session: MeasuringSession) -> None:
        self._session = session
        self._settings = session.settings
        self._is_worker = hasattr(session.config, "workerinput")  # pytest-xdist's

    def finish(self, exit_status: int) -> int | None:
        """Write the report and the step summary; return the exit status that the outcomes ask for."""
        session, settings = self._session, self._settings
        session.close()
        if self._is_worker:
            return None
        if not (session.outcomes or session.not_reached or settings.delays or settings.report):
            return None
        self._add_not_measured()
        if settings.report is not None:
            from perfsuite.files import write_json

            write_json(settings.report, self.as_json(), option="--perf-report")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary and session.outcomes:
            from perfsuite.gate import views
            from perfsuite.gate.reported import reported
            from perfsuite.render.blocks import Heading
            from perfsuite.render.markdown import markdown

            shown = views.blocks(list(map(reported, session.outcomes)))
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown([Heading("Latency gate"), *shown]))
        if exit_status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return None
        if session.unknown_delays:
            return pytest.ExitCode.USAGE_ERROR
        return EXIT_UNJUDGED if settings.strict and self.unjudged else None

    def _add_not_measured(self) -> None:
        from perfsuite.gate.outcome import Outcome, Status

        session = self._session
        reached = {outcome.node for outcome in session.outcomes}
        session.outcomes += [
            Outcome(node, node, Status.NOT_MEASURED, reason)
            for node, reason in session.not_reached.items()
            if node not in reached
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what ``--perf-report`` holds."""
        session = self._session
        return {
            "command": shlex.join(["pytest", *session.config.invocation_params.args]),
            "whole": session.is_whole,
            "against": self._settings.against,
            "titles": session.bench.titles if session.bench else None,
            "machine": session.bench.machine if session.bench else None,
            "subjects": [outcome.as_json() for outcome in session.outcomes],
        }

    @property
    def unjudged(self) -> list[Outcome]:
        """What a strict run does not accept, baselines that no test asked for included."""
        from perfsuite.gate.outcome import JUDGED, Outcome, Status

        unused = [
            Outcome(name, "", Status.NOT_MEASURED, "a stored baseline that no test asked for")
            for name in self.unused
        ]
        return [one for one in self._session.outcomes if one.status not in JUDGED] + unused

    @property
    def unused(self) -> list[str]:
        """The baselines of this machine that a whole run did not ask for."""
        session = self._session
        if not session.is_whole or session.bench is None or session.not_reached:
            return []
        return session.bench.unused({outcome.name for outcome in session.outcomes})

    def summarize(self, reporter: Any) -> None:
        """Print the outcomes."""
        session, settings = self._session, self._settings
        if self._is_worker or not (session.outcomes or settings.delays):
            return
        reporter.section("latency gate")
        for name, factors in settings.delays.items():
            reporter.line(f"slowed on purpose: {name}: {dict(factors)}")
        for name in session.unknown_delays:
            reporter.line(f"--perf-slowdown: no gate is called {name!r}", red=True)
        if session.outcomes:
            self._print_outcomes(reporter)
        for name in self.unused if settings.strict else ():
            reporter.line(
                f"{name}: a stored baseline that no test asked for: perfsuite baselines prune",
                red=True,
            )
        if settings.strict and self.unjudged:
            reporter.line(
                f"strict: {len(self.unjudged)} not judged against a full baseline", red=True
            )
        if os.environ.get("GITHUB_ACTIONS") == "true":
            self._print_annotations(reporter)

    def _print_outcomes(self, reporter: Any) -> None:
        from perfsuite.gate import views
        from perfsuite.gate.reported import reported
        from perfsuite.render import terminal

        table, *notes = views.blocks(list(map(reported, self._session.outcomes)))
        head, *lines = terminal.lines([table])
        reporter.line(head, bold=True)
        for line, outcome in zip(lines, self._session.outcomes, strict=True):
            tone = views.tone(reported(outcome))
            reporter.line(line, red=tone == "bad", green=tone in ("good", "better"))
        for line in terminal.lines(notes):
            reporter.line(line)

    def _print_annotations(self, reporter: Any) -> None:
        from perfsuite.gate import views
        from perfsuite.gate.outcome import JUDGED

        for outcome in self._session.outcomes:
            if outcome.failed or outcome.status not in JUDGED:
                reporter.line(views.annotation(outcome))
