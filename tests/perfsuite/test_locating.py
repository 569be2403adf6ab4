from __future__ import annotations

from pathlib import Path

import pytest

from perfsuite.errors import UsageError
from perfsuite.locating import baselines_file, default_file, nearest_ini

SETTING = 'perf_baselines = "kept/perf.json"\n'
INI = SETTING.replace('"', "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", f"[tool.pytest.ini_options]\n{SETTING}"),
        ("pyproject.toml", f"[tool.pytest]\n{SETTING}"),
        ("pytest.toml", f"[pytest]\n{SETTING}"),
        (".pytest.toml", f"[pytest]\n{SETTING}"),
        ("pytest.ini", f"[pytest]\n{INI}"),
        (".pytest.ini", f"[pytest]\n{INI}"),
        ("tox.ini", f"[pytest]\n{INI}"),
        ("setup.cfg", f"[tool:pytest]\n{INI}"),
    ],
)
def test_the_setting_is_read_wherever_pytest_reads_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    folder = tmp_path / "tests" / "deep"
    folder.mkdir(parents=True)
    assert default_file(folder) == tmp_path / "kept" / "perf.json"
    (tmp_path / name).write_text(text.replace("perf_baselines", "minversion"))
    assert default_file(folder) == tmp_path / "baselines.json"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[project]\nname = 'part'\n"),
        ("tox.ini", "[tox]\n"),
        ("setup.cfg", "[metadata]\n"),
    ],
)
def test_files_about_something_else_are_passed_by(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "pytest.ini").write_text("")
    part = tmp_path / "part"
    part.mkdir()
    (part / name).write_text(text)
    assert default_file(part) == tmp_path / "baselines.json"


def test_a_project_without_settings_has_its_baselines_beside_its_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'one'\n")
    (tmp_path / "tests").mkdir()
    assert default_file(tmp_path / "tests") == tmp_path / "baselines.json"


def test_without_any_file_they_lie_in_the_folder_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perfsuite.locating.nearest_ini", lambda start: None)
    assert default_file(tmp_path) == tmp_path / "baselines.json"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pyproject.toml", b"[tool"),
        ("tox.ini", b"no section\n"),
        ("pytest.ini", b"\xff\xfe"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        nearest_ini(tmp_path)


@pytest.fixture
def monorepo(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{SETTING}")
    for part in ("one", "two"):
        (tmp_path / part / "tests").mkdir(parents=True)
        (tmp_path / part / "tests" / "test_it.py").write_text("")
    (tmp_path / "one" / "tox.ini").write_text("[pytest]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "one", "two"),
    [
        ([], "one/baselines.json", "kept/perf.json"),
        (["-o", "perf_baselines=mine.json"], "mine.json", "mine.json"),
        (["-c", "pyproject.toml"], "kept/perf.json", "kept/perf.json"),
    ],
)
def test_each_part_of_a_repository_has_its_own(
    monorepo: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    one: str,
    two: str,
) -> None:
    monkeypatch.chdir(monorepo)

    class Options:
        override_ini = arguments[1:] if arguments[:1] == ["-o"] else None
        inifilename = arguments[1] if arguments[:1] == ["-c"] else None

    class Session:
        option = Options
        rootpath = monorepo
        inipath = monorepo / "pyproject.toml"

        @staticmethod
        def getini(name: str) -> str:
            return (Options.override_ini or ["=kept/perf.json"])[0].partition("=")[2]

    for part, expected in (("one", one), ("two", two)):
        test = monorepo / part / "tests" / "test_it.py"
        assert baselines_file(test, Session) == monorepo / expected  # type: ignore[arg-type]
