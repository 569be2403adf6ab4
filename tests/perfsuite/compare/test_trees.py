"""Each side's processes import that side's code, whichever way the project is installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from perfsuite.compare import imports
from perfsuite.compare.trees import Tree, prepare
from perfsuite.errors import UsageError

Git = Callable[..., str]
MakeRepository = Callable[..., Path]
MakeWheel = Callable[[str, str], Path]
Write = Callable[[Path, Mapping[str, str]], None]

PROJECT = """
    [build-system]
    requires = ["setuptools"]
    build-backend = "setuptools.build_meta"
    [project]
    name = "A.package"
    version = "1"
"""
TEST = "def test_it(latency_gate): ...\n"
ROOT = Path(__file__).parents[3]


@contextmanager
def compared(root: Path, tmp_path: Path, **options: object) -> Iterator[tuple[Tree, Tree]]:
    settings = {"base": "HEAD", "path": [], "files": [root / "tests" / "test_it.py"], **options}
    with prepare(root, scratch=tmp_path / "scratch", **settings) as sides:  # type: ignore[arg-type]
        yield sides


def value(tree: Tree, module: str = "package") -> str:
    """Return what VALUE a process of the tree finds in a module; "" where there is no module."""
    code = f"import {module} as module; print(module.VALUE)"
    done = subprocess.run(
        [tree.python, "-P", "-c", code],
        cwd=tree.folder,
        env=imports.environment(tree.import_roots),
        capture_output=True,
        text=True,
        check=False,
    )
    if "ModuleNotFoundError" in done.stderr:
        return ""
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def editable(packages: Path, root: Path, *, files: Mapping[str, str], direct: bool = True) -> None:
    """Write what an installer leaves of the project at ``root``; with ``direct`` of an editable one."""
    info = packages / "a_package-1.dist-info"
    info.mkdir()
    for name, text in files.items():
        (packages / name).parent.mkdir(exist_ok=True)
        (packages / name).write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package\nVersion: 1\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    if direct:
        url = {"url": root.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(url))


def test_flat_and_not_installed_it_comes_from_the_sessions_path(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    root = repository({"package/__init__.py": "VALUE = 'old'", "tests/test_it.py": TEST})
    (root / "package" / "__init__.py").write_text("VALUE = 'new'")
    with compared(root, tmp_path, path=[str(root)]) as (head, base):
        assert (value(head), value(base)) == ("new", "old")
        assert head.folder == root
        assert head.python == Path(
            sys.executable
        )  # nothing leads to the tree, so nothing is hidden
        assert head.title.endswith(" with changes")
        assert base.title.startswith("BASE HEAD (")


def test_a_path_file_leads_each_side_to_its_own_folder(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    root = repository(
        {
            "pyproject.toml": PROJECT,
            "src/package/__init__.py": "VALUE = 'old'",
            "src/module.py": "VALUE = 'old'",
            "src/space/inner/__init__.py": "VALUE = 'old'",  # in a namespace
            "tests/test_it.py": TEST,
        }
    )
    for name in ("package/__init__.py", "module.py", "space/inner/__init__.py"):
        (root / "src" / name).write_text("VALUE = 'new'")
    (root / "src" / "later.py").write_text("VALUE = 'new'")
    editable(environment, root, files={"_a_package.pth": f"{root}/src\n"})
    with compared(root, tmp_path) as (head, base):
        for module in ("package", "module", "space.inner"):
            assert (value(head, module), value(base, module)) == ("new", "old")
        # Nothing of the work tree is left where base looks.
        assert (value(head, "later"), value(base, "later")) == ("new", "")


def test_an_editable_install_of_another_checkout_is_refused(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    files = {"pyproject.toml": PROJECT, "src/package/__init__.py": "VALUE = 'old'"}
    root = repository({**files, "tests/test_it.py": TEST})
    other = tmp_path / "other"
    (other / "src" / "package").mkdir(parents=True)
    (other / "src" / "package" / "__init__.py").write_text("VALUE = 'other'")
    editable(environment, other, files={"_a_package.pth": f"{other}/src\n"})
    with (
        pytest.raises(UsageError, match=f"a-package: is an editable install of {other}"),
        compared(root, tmp_path),
    ):
        pass
    # The session imports from this checkout all the same, where its path says so.
    with compared(root, tmp_path, path=[str(root / "src")]) as (head, base):
        assert value(head) == value(base) == "old"


def finder(mapping: Mapping[str, Path]) -> str:
    """As setuptools writes them."""
    mapped = {name: str(path) for name, path in mapping.items()}
    return f"""
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

MAPPING = {mapped}
NAMESPACES = {{}}
PATH_PLACEHOLDER = "__editable__.a_package-1.finder.__path_hook__"


class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            place = Path(MAPPING[fullname])
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.exists():
                    return spec_from_file_location(fullname, file)


def install():
    sys.meta_path.append(_EditableFinder)
    sys.path.append(PATH_PLACEHOLDER)
"""


def test_a_finder_leads_each_side_to_its_own_folder(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    root = repository(
        {
            "pyproject.toml": PROJECT,
            "source/package/__init__.py": "VALUE = 'old'",
            "other/__init__.py": "VALUE = 'old'",
            "single_file.py": "VALUE = 'old'",
            "tests/test_it.py": TEST,
        }
    )
    (root / "later").mkdir()
    for name in (
        "source/package/__init__.py",
        "other/__init__.py",
        "single_file.py",
        "later/__init__.py",
    ):
        (root / name).write_text("VALUE = 'new'")
    mapping = {
        "package": root / "source" / "package",
        "renamed": root / "other",  # the folder bears another name
        "single": root / "single_file.py",
        "later": root / "later",
    }
    name = "__editable___a_package_1_finder"
    editable(
        environment,
        root,
        files={
            f"{name}.py": finder(mapping),
            "__editable__.a_package-1.pth": f"import {name}; {name}.install()",
        },
    )
    with compared(root, tmp_path) as (head, base):
        for module in ("package", "renamed", "single"):
            assert (value(head, module), value(base, module)) == ("new", "old")
        assert (value(head, "later"), value(base, "later")) == ("new", "")


@pytest.mark.parametrize("direct", [False, True])  # told by where it came from, or by its name
def test_what_was_copied_is_built_for_each_side(
    repository: MakeRepository, environment: Path, tmp_path: Path, direct: bool, write: Write
) -> None:
    root = repository(
        {
            "pyproject.toml": PROJECT.replace("A.package", "A.other" if direct else "A.package"),
            "src/package/__init__.py": "VALUE = 'old'",
            "tests/test_it.py": TEST,
        }
    )
    write(
        root, {"src/package/__init__.py": "VALUE = 'new'", "src/package/more.py": "VALUE = 'new'"}
    )
    editable(
        environment,
        root,
        files={"package/__init__.py": "VALUE = 'installed'"},
        direct=False,
    )
    if direct:
        url = {"url": root.as_uri(), "dir_info": {}}
        (environment / "a_package-1.dist-info" / "direct_url.json").write_text(json.dumps(url))
    before = sorted(root.rglob("*"))
    with compared(root, tmp_path) as (head, base):
        assert (value(head), value(base)) == ("new", "old")
        assert (value(head, "package.more"), value(base, "package.more")) == ("new", "")
        assert head.folder != root  # what a build leaves behind is not left in the work tree
    assert [path for path in sorted(root.rglob("*")) if ".git" not in path.parts] == [
        path for path in before if ".git" not in path.parts
    ]


def test_a_copy_that_the_tree_hides_is_not_built(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    root = repository(
        {
            "pyproject.toml": PROJECT.replace("setuptools", "no-such-tool"),
            "package/__init__.py": "VALUE = 'old'",
            "tests/test_it.py": TEST,
        }
    )
    (root / "package" / "__init__.py").write_text("VALUE = 'new'")
    editable(environment, root, files={"package/__init__.py": "VALUE = 'installed'"}, direct=False)
    with compared(root, tmp_path, path=[str(root)]) as (head, base):
        assert (value(head), value(base)) == ("new", "old")


# Builds a wheel of the package, and in it a file that git does not have. Not a real extension module: what
# matters is where it goes.
BACKEND = """
    import zipfile
    from pathlib import Path

    def build_wheel(folder, config_settings=None, metadata_directory=None):
        text = Path("package/__init__.py").read_text()
        files = {
            "package/__init__.py": text,
            "package/_fast%(suffix)s": text,
            "a_package-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: A.package\\nVersion: 1\\n",
            "a_package-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        }
        files["a_package-1.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in files)
        name = "a_package-1-py3-none-any.whl"
        with zipfile.ZipFile(Path(folder, name), "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)
        return name
"""


def test_extension_modules_that_were_built_in_place_are_built_for_each_side(
    repository: MakeRepository, environment: Path, tmp_path: Path, write: Write
) -> None:
    suffix = EXTENSION_SUFFIXES[0]
    root = repository(
        {
            ".gitignore": "*.so\n_version.py\n",
            "pyproject.toml": """
                [build-system]
                requires = []
                build-backend = "backend"
                backend-path = ["."]
                [project]
                name = "A.package"
                version = "1"
            """,
            "backend.py": BACKEND % {"suffix": suffix},
            "package/__init__.py": "VALUE = 'old'",
            "tests/test_it.py": TEST,
        }
    )
    write(root, {"package/__init__.py": "VALUE = 'new'", f"package/_fast{suffix}": "in place"})
    editable(environment, root, files={"_a_package.pth": f"{root}\n"})
    with compared(root, tmp_path) as (head, base):
        assert (value(head), value(base)) == ("new", "old")
        for tree, text in ((head, "new"), (base, "old")):
            assert (tree.folder / "package" / f"_fast{suffix}").read_text() == f"VALUE = '{text}'"
    assert (root / "package" / f"_fast{suffix}").read_text() == "in place"


def test_a_module_that_a_tool_has_written_is_there_too(
    repository: MakeRepository, environment: Path, tmp_path: Path, write: Write
) -> None:
    root = repository(
        {
            ".gitignore": "_version.py\n",
            "src/package/__init__.py": "from package._version import VALUE",
            "tests/test_it.py": TEST,
        }
    )
    write(root, {"src/package/_version.py": "VALUE = 'written'"})
    with compared(root, tmp_path, path=[str(root / "src")]) as (head, base):
        assert (value(head), value(base)) == ("written", "written")


def test_base_may_have_another_layout(
    repository: MakeRepository, environment: Path, tmp_path: Path, git: Git
) -> None:
    root = repository({"package/__init__.py": "VALUE = 'old'", "tests/test_it.py": TEST})
    (root / "src").mkdir()
    git(root, "mv", "package", "src/package")
    (root / "src" / "package" / "__init__.py").write_text("VALUE = 'new'")
    with compared(root, tmp_path, path=[str(root / "src")]) as (head, base):
        assert (value(head), value(base)) == ("new", "old")


def test_an_environment_in_the_repository_is_no_part_of_it(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    root = repository({"package/__init__.py": "VALUE = 'old'", "tests/test_it.py": TEST})
    (root / "package" / "__init__.py").write_text("VALUE = 'new'")
    packages = root / ".venv" / environment.relative_to(tmp_path / "environment")
    (tmp_path / "environment").rename(root / ".venv")
    sys.executable = str(root / ".venv" / "bin" / "python")  # monkeypatch restores it
    (packages / "installed.py").write_text("VALUE = 'installed'")
    (root / ".venv" / "vendored").mkdir()
    (root / ".venv" / "vendored" / "vendored.py").write_text("VALUE = 'vendored'")
    (packages / "vendored.pth").write_text(f"{root}/.venv/vendored\n")
    with compared(root, tmp_path, path=[str(root), str(packages)]) as (head, base):
        assert head.import_roots == (root,)
        assert (value(head), value(base)) == ("new", "old")
        for module in ("installed", "vendored"):
            assert value(head, module) == value(base, module) == module


def test_what_comes_from_elsewhere_is_told(
    repository: MakeRepository, environment: Path, tmp_path: Path, write: Write
) -> None:
    root = repository({"package/__init__.py": "VALUE = 'old'", "tests/test_it.py": TEST})
    write(tmp_path, {"elsewhere/package/__init__.py": "VALUE = 'elsewhere'"})
    write(
        environment,
        {
            "rogue.py": f"""
                import sys
                from importlib.util import spec_from_file_location

                class Finder:
                    @staticmethod
                    def find_spec(name, path=None, target=None):
                        if name == "package":
                            return spec_from_file_location(name, "{tmp_path}/elsewhere/package/__init__.py")

                sys.meta_path.insert(0, Finder)
            """,
            "rogue.pth": "import rogue",
        },
    )
    with (
        pytest.raises(UsageError, match=rf"package would be imported from {tmp_path}/elsewhere/"),
        compared(root, tmp_path, path=[str(root)]),
    ):
        pass


def test_other_dependencies_get_an_environment_laid_over_this_one(
    repository: MakeRepository,
    environment: Path,
    tmp_path: Path,
    git: Git,
    wheel: MakeWheel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for version in ("1.0", "2.0"):
        wheel("dependency", version)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(environment)]
    subprocess.run([*install, "dependency==2.0"], check=True, capture_output=True)
    (environment / "beneath.py").write_text("VALUE = 'beneath'")
    root = repository(
        {
            "pyproject.toml": PROJECT + "    dependencies = ['dependency<2']\n",
            "package.py": "from dependency import VERSION as VALUE",
            "tests/test_it.py": TEST,
        }
    )
    (root / "pyproject.toml").write_text(
        (root / "pyproject.toml").read_text().replace("dependency<2", "dependency")
    )
    with compared(root, tmp_path, path=[str(root)]) as (head, base):
        assert (value(head), value(base)) == ("2.0", "1.0")
        assert value(base, "beneath") == "beneath"
    assert "other dependencies; installing dependency==1.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dependencies = ['no-such-dependency']", "no-such-dependency"),
        ("requires-python = '>=4'", "requires a different Python"),
    ],
)
def test_what_cannot_be_installed_is_told_in_one_line(
    repository: MakeRepository,
    environment: Path,
    tmp_path: Path,
    wheel: MakeWheel,
    text: str,
    problem: str,
) -> None:
    root = repository(
        {
            "pyproject.toml": f"{PROJECT}    {text}\n",
            "package.py": "VALUE = 1",
            "tests/test_it.py": TEST,
        }
    )
    (root / "pyproject.toml").write_text((root / "pyproject.toml").read_text().replace(text, ""))
    with (
        pytest.raises(
            UsageError, match=f"^BASE HEAD .*dependencies cannot be found.*{problem}"
        ) as told,
        compared(root, tmp_path, path=[str(root)]),
    ):
        pass
    assert "\n" not in str(told.value)


def test_a_base_that_cannot_be_built_is_told(
    repository: MakeRepository, environment: Path, tmp_path: Path, wheel: MakeWheel
) -> None:
    root = repository(
        {
            "pyproject.toml": PROJECT,
            "setup.py": "raise SystemExit('error: not today')",
            "src/package/__init__.py": "VALUE = 'old'",
            "tests/test_it.py": TEST,
        }
    )
    editable(environment, root, files={"package/__init__.py": ""}, direct=False)
    with (
        pytest.raises(UsageError, match="cannot be built"),
        compared(root, tmp_path),
    ):
        pass


def test_the_work_trees_tests_run_on_both_sides(
    repository: MakeRepository, environment: Path, tmp_path: Path
) -> None:
    root = repository(
        {"package.py": "VALUE = 'older'", "tests/test_it.py": "older"},
        {"package.py": "VALUE = 'old'", "tests/test_it.py": "old"},
    )
    (root / "tests" / "test_it.py").write_text("new")
    (root / "tests" / "data").write_text("new")
    with compared(root, tmp_path, path=[str(root)], base="HEAD~1", head="HEAD") as (head, base):
        assert (value(head), value(base)) == ("old", "older")
        assert head.title.startswith("head HEAD (")
        for tree in (head, base):
            assert (tree.folder / "tests" / "test_it.py").read_text() == "new"
            assert (tree.folder / "tests" / "data").exists()


def test_or_those_of_base(repository: MakeRepository, environment: Path, tmp_path: Path) -> None:
    root = repository({"package.py": "VALUE = 'old'", "tests/test_it.py": "old"})
    for name in ("package.py", "tests/test_it.py", "tests/new"):
        (root / name).write_text("VALUE = 'new'")
    with compared(root, tmp_path, path=[str(root)], tests_from="base") as (head, base):
        assert (value(head), value(base)) == ("new", "old")
        for tree in (head, base):
            assert (tree.folder / "tests" / "test_it.py").read_text() == "old"
            assert not (tree.folder / "tests" / "new").exists()
    assert (root / "tests" / "test_it.py").read_text() == "VALUE = 'new'"


def test_nothing_is_left(
    repository: MakeRepository, environment: Path, tmp_path: Path, temporary: Path, git: Git
) -> None:
    root = repository({"package.py": "VALUE = 'old'", "tests/test_it.py": TEST})
    with compared(root, tmp_path, tests_from="base"):
        assert git(root, "worktree", "list").count("\n") == 2
    assert git(root, "worktree", "list").count("\n") == 0
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(
    repository: MakeRepository, tmp_path: Path, temporary: Path, git: Git, number: signal.Signals
) -> None:
    root = repository({"package.py": "VALUE = 'old'", "tests/test_it.py": TEST})
    code = f"""
import time
from pathlib import Path
from perfsuite.compare.trees import prepare
with prepare(Path({str(root)!r}), base="HEAD", path=[], scratch=Path({str(tmp_path / "scratch")!r})):
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert git(root, "worktree", "list").count("\n") == 1
        process.send_signal(number)
        process.send_signal(number)  # an impatient user's second one changes nothing
        began = time.monotonic()
        process.wait(20)
    assert time.monotonic() - began < 20
    assert git(root, "worktree", "list").count("\n") == 0
    assert not list(temporary.iterdir())
