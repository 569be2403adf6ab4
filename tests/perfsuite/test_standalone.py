"""The gate stands alone: what it imports, and what is in the distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from perfsuite.__main__ import COMMANDS

PERFSUITE = Path(__file__).parents[2] / "perfsuite"
HEAVY = (
    "jinja2", "matplotlib", "msgspec", "numpy", "pydantic", "rich", "runtime", "scipy", "torch",
    "transformers", "typer", "zmq",
)  # fmt: skip


def imported(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


def test_a_start_of_pytest_pays_for_nothing_heavy() -> None:
    assert imported("import perfsuite.plugin").isdisjoint(HEAVY)


def test_a_list_of_the_commands_imports_none_of_them() -> None:
    statement = (
        "from perfsuite.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    )
    modules = {command.module for command in COMMANDS.values()}
    assert imported(statement).isdisjoint({*HEAVY, *modules} - {"typer"})


@pytest.mark.parametrize("command", ["baselines", "calibrate", "compare", "history", "report"])
def test_a_command_imports_nothing_of_the_runtime(command: str) -> None:
    statement = (
        "from perfsuite.__main__ import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass"
    )
    assert imported(statement).isdisjoint({"runtime", "torch", "transformers", "zmq"})


def test_the_ladder_without_the_runtime_names_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['runtime'] = None\n"
        "from perfsuite.__main__ import main; sys.exit(main(['ladder']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("perfsuite: ladder: ")
    assert "perfsuite[llama]" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_the_report_without_its_extra_names_it(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from perfsuite.__main__ import main; sys.exit(main(['report', '--gate', 'gate.json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"perfsuite: report: no module {missing}: pip install 'perfsuite[report]'\n"
    )


def test_a_report_needs_no_other_extra(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text('{"subjects": []}')
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['psutil', 'ruptures', 'scipy', 'torch']))\n"
        "from perfsuite.__main__ import main; sys.exit(main(['report', '--gate', 'gate.json']))"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert "This page" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_neither_tests_nor_baselines(tmp_path: Path) -> None:
    source = tmp_path / "perfsuite"
    shutil.copytree(PERFSUITE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    pip += ["--no-build-isolation", "--wheel-dir", str(tmp_path / "wheels"), str(source)]
    subprocess.run(pip, check=True, capture_output=True, timeout=60)
    (wheel,) = (tmp_path / "wheels").iterdir()
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (listed,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        entry_points = ConfigParser()
        entry_points.read_string(archive.read(listed).decode())
    assert {name.partition("/")[0] for name in names} == {"perfsuite"}
    folder = {name.removeprefix("perfsuite/") for name in names}
    kept = {
        str(path.relative_to(PERFSUITE))
        for path in PERFSUITE.rglob("*.py")
        if not path.match("test_*.py")
    }
    assert (
        kept
        | {
            "py.typed",
            "charts.css",
            "render/blocks.html.j2",
            "report/page.html.j2",
            "report/report.css",
        }
        <= folder
    )
    assert "llama/data/accelerators.json" in folder
    assert not [name for name in folder if name.startswith("test_")]
    assert folder.isdisjoint({"baselines.json", "budgets.json", "pyproject.toml"})
    assert dict(entry_points["pytest11"]) == {"perfsuite.plugin": "perfsuite.plugin"}
    assert set(entry_points["console_scripts"]) == {"perfsuite"}
