from __future__ import annotations

import json
from pathlib import Path

import pytest

GATE = """
import pytest

@pytest.fixture
def latency_gate():
    return print
"""


def run(pytester: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, dict[str, object]]:
    path = Path(pytester.path, "failures.json")
    result = pytester.runpytest_subprocess(
        "-p",
        "perfsuite.compare.only_gated",
        f"--perf-failures={path}",
        "-p",
        "no:perfsuite",
        *arguments,
    )
    return result, json.loads(path.read_text())


def test_only_tests_with_a_gate_run_and_what_fails_is_told(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(GATE)
    pytester.makepyfile(
        test_one="""
            def test_other():
                raise SystemExit("never run")

            def test_passes(latency_gate): ...

            def test_raises(latency_gate):
                {}["key"]
        """,
        test_two="import no_such_module",
    )
    result, told = run(pytester, "--continue-on-collection-errors")
    result.assert_outcomes(passed=1, failed=1, errors=1, deselected=1)
    assert told == {
        "collected": 2,
        "failures": {
            "test_one.py::test_raises": "KeyError: 'key'",
            "test_two.py": "ModuleNotFoundError: No module named 'no_such_module'",
        },
    }


def test_a_failure_without_a_traceback_is_told_whole(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(GATE)
    pytester.makepyfile(
        """
        import pytest

        def test_it(latency_gate):
            try:
                {}["key"]
            except KeyError as error:
                pytest.fail("one\\ntwo", pytrace=False)
        """
    )
    _, told = run(pytester)
    (words,) = dict(told["failures"]).values()  # type: ignore[call-overload]
    assert words == "one two"


def test_without_the_option_it_changes_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): ...")
    result = pytester.runpytest_subprocess("-p", "perfsuite.compare.only_gated")
    result.assert_outcomes(passed=1)
