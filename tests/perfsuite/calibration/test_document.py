from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from perfsuite.calibration.document import document
from perfsuite.calibration.findings import find
from perfsuite.calibration.runs import COMPARE, Kind, Run
from perfsuite.render.markdown import markdown
from tests.perfsuite.calibration.conftest import read

Golden = Callable[[str, str], None]

MACHINE = {
    "cpu": "a processor",
    "cpu_model": "6/85",
    "cores": 2,
    "python": "3.11.7",
    "kernel": "6.1",
}
COMMAND = "perfsuite calibrate runs tests"


def text(runs: Mapping[Kind, Sequence[Run]]) -> str:
    return markdown(document(find(runs), MACHINE, COMMAND, "2026-01-02", recordings=4))


def runs(kind: Kind, *verdicts: str, name: str = "mine", change: float = 1.0) -> list[Run]:
    return [Run(kind, {name: read(name, one, change=change)}) for one in verdicts]


def test_it_says_where_and_how_it_was_measured() -> None:
    found = text({Kind(): runs(Kind(), "pass")})
    assert "Measured on 2026-01-02: a processor (6/85), 2 cores, Python 3.11.7, Linux 6.1." in found
    assert f"```\n{COMMAND}\n```" in found
    assert "### Against recorded baselines" in found
    assert "perfsuite compare" not in found
    assert found.endswith("\n")


def test_it_has_a_row_for_each_kind_and_each_benchmark() -> None:
    slowed = Kind(0.1)
    found = text(
        {
            Kind(): runs(Kind(), "pass", "pass", "inconclusive"),
            slowed: runs(slowed, "regression", "regression", change=1.098),
        }
    )
    assert "| 3 unchanged | 0 of 3 [0%, 71%] | 0 of 3 [0%, 71%] | 1 of 3 [1%, 91%] |" in found
    assert "| 2 +10% | 2 of 2 [16%, 100%] | 2 of 2 [16%, 100%] | 0 of 2 [0%, 84%] |" in found
    assert "| benchmark | unchanged | +10% |" in found
    assert "| mine | 0 of 3 (1), +0.0% | 2 of 2, +9.8% |" in found


def test_comparisons_have_a_section_of_their_own() -> None:
    compared = Kind(mode=COMPARE)
    found = text({Kind(): runs(Kind(), "pass"), compared: runs(compared, "pass")})
    assert len(re.findall(r"^### ", found, re.MULTILINE)) == 2
    assert "### Against the same revision, perfsuite compare" in found
    assert found.count("Baselines of 4 recordings") == 1


def test_what_was_not_run_is_a_dash() -> None:
    slowed = Kind(0.1)
    found = text(
        {Kind(): runs(Kind(), "pass", name="a"), slowed: runs(slowed, "regression", name="b")}
    )
    assert "| a | 0 of 1, +0.0% | - |" in found
    assert "| b | - | 1 of 1, +0.0% |" in found


def test_names_stay_in_their_cells() -> None:
    found = text({Kind(): runs(Kind(), "pass", name="a|b\nc")})
    assert r"| a\|b c | 0 of 1, +0.0% |" in found


def test_the_phase_that_was_named_is_counted() -> None:
    kind = Kind(0.1, "device")
    found = text({kind: [Run(kind, {"mine": read("mine", "regression", grew_most="device")})]})
    assert "Phase named right, +10%, device: 1 of 1 [3%, 100%]." in found


def test_the_document_is_the_stored_one(golden: Golden) -> None:
    slowed, phase, compared = Kind(0.1), Kind(0.1, "device"), Kind(mode=COMPARE)
    named = read("mine", "regression", grew_most="device", change=1.1)
    found = {
        Kind(): runs(Kind(), "pass", "pass", "inconclusive"),
        slowed: runs(slowed, "regression", "regression", name="a|b", change=1.098),
        phase: [Run(phase, {"mine": named})],
        compared: runs(compared, "pass", "regression"),
    }
    golden("calibration.md", text(found))
