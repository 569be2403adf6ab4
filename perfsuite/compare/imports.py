"""From where the running environment imports what lies in a repository, however that was installed.

Either from inside the work tree (its folders on the path, ``.pth`` files and finders of editable installs), or
as a copy among the installed packages, which has to be built anew for each revision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, all_suffixes
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from perfsuite.compare import revisions
from perfsuite.compare.projects import find_projects, project_name
from perfsuite.errors import UsageError

_PROBE = Path(__file__).with_name("probe.py")
_TIMEOUT_S = 120.0
_STRICT = "__editable__."  # in the name of a folder of links that setuptools makes
_CODE = (".py", *EXTENSION_SUFFIXES)
# What stands beside a package and is no part of it.
_NO_PACKAGES = frozenset(
    {
        "bench",
        "benchmark",
        "benchmarks",
        "build",
        "ci",
        "conftest",
        "dist",
        "doc",
        "docs",
        "example",
    }
    | {
        "examples",
        "noxfile",
        "perf",
        "script",
        "scripts",
        "setup",
        "tasks",
        "test",
        "testing",
        "tests",
        "tools",
    }
)


@dataclass(frozen=True)
class Survey:
    """What the running environment imports from one repository. Folders are relative to the repository's root."""

    roots: tuple[
        Path, ...
    ]  # on the path of a fresh interpreter or of the running session, in its order
    shims: Mapping[str, Path]  # modules whose folders, or files, bear another name than they do
    names: tuple[
        str, ...
    ]  # packages and modules that come from the work tree: the topmost that have code
    compiled: tuple[Path, ...]  # projects with extension modules that were built into the work tree
    copied: tuple[Path, ...]  # projects that were installed as a copy
    projects: tuple[Path, ...]  # all that can be installed
    sites: tuple[str, ...]  # folders of installed packages
    hidden_path: tuple[str, ...]  # entries of a fresh interpreter's path that are the repository's
    hidden_finders: tuple[str, ...]  # modules of finders that find the repository's packages

    @property
    def leaks(self) -> bool:
        """Whether a fresh interpreter sees this work tree, whichever one is wanted."""
        return bool(self.hidden_path or self.hidden_finders)


def survey(root: Path, folder: Path, files: Sequence[Path], path: Sequence[str]) -> Survey:
    """Find out what the running environment imports from the repository at ``root``.

    Args:
        root: The repository's top folder.
        folder: Pytest's root folder.
        files: The test files: the projects that they belong to are found from them upwards.
        path: Where the running session imports from.
    """
    projects = find_projects(root, [folder, *files])
    names = [name for project in projects if (name := project_name(root / project))]
    found = _ask(Path(sys.executable), {"survey": names})
    sites = [Path(site).resolve() for site in found["sites"]]
    prefix = Path(found["prefix"]).resolve()

    def own(entry: str) -> Path | None:
        """Return an entry of a path, relative to the root, where it is the repository's."""
        place = Path(entry).resolve()  # an empty one is the current folder
        if not place.is_relative_to(root) or not place.is_dir():
            return None
        if any(place.is_relative_to(site) for site in sites):
            return None
        relative = place.relative_to(root)
        if revisions.tracked(root, relative) or place == root or _STRICT in place.name:
            return relative
        return None if place.is_relative_to(prefix) else relative

    fresh = [entry for entry in found["path"] if own(entry) is not None]
    roots = list(
        dict.fromkeys(relative for entry in [*path, *fresh] if (relative := own(entry)) is not None)
    )
    distributions = [
        (one, project)
        for one in found["distributions"]
        if (project := _project_of(one, root, projects)) is not None
    ]
    mappings, finders = _finders(found["finders"], [one for one, _ in distributions], root)
    shims: dict[str, Path] = {}
    for module, place in mappings.items():
        above = _root_of(module, place)
        if above is None:
            shims[module] = place.relative_to(root)
        elif above.relative_to(root) not in roots:
            roots.append(above.relative_to(root))
    linked = [one for one in roots if _STRICT in one.name]  # what an installer has made from links
    roots = [one for one in roots if one not in linked]
    modules = tuple(dict.fromkeys([*mappings, *_modules(root, roots, mappings)]))
    unmapped = {finder["file"] for finder in finders if not finder["mapping"]}
    copied = [
        project
        for one, project in distributions
        if not _installed_modules(one, sites) <= set(modules)
        or unmapped.intersection(one["files"])
        or (one["editable"] and any(link.is_relative_to(project) for link in linked))
    ]
    _refuse_elsewhere(found["distributions"], root, projects, modules)
    projects = list(dict.fromkeys([*projects, *copied]))
    places = packages(root, roots, shims, modules)
    hidden = [*fresh, *(finder["placeholder"] for finder in finders if finder["placeholder"])]
    return Survey(
        roots=tuple(roots),
        shims=shims,
        names=modules,
        compiled=tuple(_compiled(root, roots, places.values(), projects)),
        copied=tuple(dict.fromkeys(copied)),
        projects=tuple(projects),
        sites=tuple(found["sites"]),
        hidden_path=tuple(hidden),
        hidden_finders=tuple(finder["module"] for finder in finders),
    )


def locate(
    python: Path, modules: Sequence[str], import_roots: Sequence[Path], folder: Path
) -> dict[str, Path | None]:
    """Return where ``python`` would import each module from, in a process of a side; None: from nowhere."""
    found = _ask(python, {"locate": list(modules)}, import_roots, folder)
    return {module: None if place is None else Path(place) for module, place in found.items()}


def environment(import_roots: Sequence[Path]) -> dict[str, str]:
    """Return the variables of a process that imports from ``import_roots`` before all else."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*map(str, import_roots), *filter(None, [inherited])])
    return {**os.environ, "PYTHONPATH": path} if path else dict(os.environ)


def packages(
    tree: Path, roots: Iterable[Path], shims: Mapping[str, Path], names: Iterable[str]
) -> dict[str, Path]:
    """Return the folder or file, relative to ``tree``, of each of the modules that the tree has."""
    found: dict[str, Path] = {}
    for name in names:
        if name in shims:
            if (tree / shims[name]).exists():
                found[name] = shims[name]
            continue
        for root in roots:
            place = _place(tree / root, name)
            if place is not None:
                found[name] = place.relative_to(tree)
                break
    return found


def installed_modules(folder: Path) -> list[str]:
    """Return the topmost packages and modules with code in a folder that was installed into."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return list(_modules_of(files, flat=False))


def _refuse_elsewhere(
    distributions: Iterable[Mapping[str, Any]],
    root: Path,
    projects: Iterable[Path],
    modules: Iterable[str],
) -> None:
    """Refuse an editable install of another checkout of a project: both sides would import that one.

    Raises:
        UsageError: naming the project, and where it is installed from.
    """
    by_name = {name: project for project in projects if (name := project_name(root / project))}
    for one in distributions:
        project, url = by_name.get(one["name"]), urlsplit(one["url"])
        if project is None or not one["editable"] or url.scheme != "file":
            continue
        folder = Path(unquote(url.path), one["subdirectory"]).resolve()
        layout = project / "src" if (root / project / "src").is_dir() else project
        own = set(_modules(root, [layout], {}))
        if not folder.is_relative_to(root) and own and not own.intersection(modules):
            raise UsageError(
                f"{one['name']}: is an editable install of {folder}, so that neither revision of {root} would "
                "be imported: install this checkout, as an editable install"
            )


def _finders(
    finders: Iterable[Mapping[str, Any]], distributions: Iterable[Mapping[str, Any]], root: Path
) -> tuple[dict[str, Path], list[Mapping[str, Any]]]:
    """Return what finders map into the repository, and those that find nothing else."""
    files = {file for one in distributions for file in one["files"]}
    mappings: dict[str, Path] = {}
    found = []
    for finder in finders:
        places = {
            str(module): Path(place).resolve()
            for module, place in (finder["mapping"] or {}).items()
        }
        inside = {module: place for module, place in places.items() if place.is_relative_to(root)}
        mappings |= inside
        if finder["file"] in files or (inside and inside == places):
            found.append(finder)
    return mappings, found


def _root_of(module: str, place: Path) -> Path | None:
    """Return the folder from which ``module`` is imported as ``place``; None where their names differ."""
    parts = module.split(".")
    named = place if place.is_dir() else place.with_name(_stem(place.name))
    if list(named.parts[-len(parts) :]) != parts:
        return None
    return named.parents[len(parts) - 1]


def _stem(name: str) -> str:
    suffix = next((one for one in all_suffixes() if name.endswith(one)), "")
    return name.removesuffix(suffix)


def _modules(root: Path, roots: Iterable[Path], mapped: Mapping[str, Path]) -> Iterator[str]:
    """Return what has code at the top of ``roots``, as far as git tracks it."""
    for one in roots:
        if one.name in _NO_PACKAGES:
            continue
        if any(_root_of(module, place) == root / one for module, place in mapped.items()):
            continue  # its finder says what is imported from there
        files = [Path(name).relative_to(one) for name in revisions.tracked(root, one)]
        flat = one == Path() or (root / one / "pyproject.toml").is_file()
        yield from _modules_of(files, flat=flat)


def _modules_of(files: Sequence[Path], *, flat: bool) -> Iterator[str]:
    """Return the topmost packages and modules among ``files``; of a flat layout, what stands at its top."""
    regular = {file.parent for file in files if file.name == "__init__.py"}
    found: dict[str, None] = {}
    for file in files:
        if not file.name.endswith(_CODE):
            continue
        above = [parent for parent in reversed(file.parents) if parent != Path()]
        topmost = next((parent for parent in above if parent in regular), None)
        if topmost is None and above:
            continue  # a module in a namespace, or a script
        parts = topmost.parts if topmost is not None else (_stem(file.name),)
        if parts[0] in _NO_PACKAGES or parts[0] in sys.stdlib_module_names:
            continue
        if not all(part.isidentifier() for part in parts):
            continue
        if flat and len(parts) > 1:
            continue  # below a folder that is no package: data, tools
        found[".".join(parts)] = None
    yield from found


def _place(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    if (place / "__init__.py").is_file():
        return place
    for suffix in all_suffixes():
        if (file := place.with_name(place.name + suffix)).is_file():
            return file
    return None


def _project_of(
    distribution: Mapping[str, Any], root: Path, projects: Sequence[Path]
) -> Path | None:
    """Return the project that a distribution was installed from, None where that is not the repository's."""
    url = urlsplit(distribution["url"])
    if url.scheme == "file":
        folder = Path(unquote(url.path), distribution["subdirectory"]).resolve()
        if folder.is_relative_to(root) and folder.is_dir():
            return folder.relative_to(root)
    named = (one for one in projects if project_name(root / one) == distribution["name"])
    return next(named, None)


def _installed_modules(distribution: Mapping[str, Any], sites: Iterable[Path]) -> set[str]:
    """Return the topmost packages and modules that a distribution has among the installed ones."""
    found: set[str] = set()
    for site in sites:
        files = [
            file.relative_to(site)
            for file in map(Path, distribution["files"])
            if file.is_relative_to(site) and ".." not in file.parts
        ]
        found |= set(_modules_of(files, flat=False))
    if distribution["editable"]:  # what installers add to find the tree
        return {module for module in found if "editable" not in module}
    return found


def _compiled(
    root: Path, roots: Iterable[Path], places: Iterable[Path], projects: Sequence[Path]
) -> list[Path]:
    """Return the projects with extension modules, in ``places`` or beside them, that git does not track."""
    folders = [place for place in places if (root / place).is_dir()]
    if not folders:
        return []
    files = [*revisions.ignored(root, *folders), *revisions.untracked(root, *folders)]
    beside = {file.relative_to(root) for one in roots for file in (root / one).iterdir()}
    files += map(str, beside - {Path(name) for name in revisions.tracked(root)})
    found: dict[Path, None] = {}
    for name in files:
        if name.endswith(tuple(EXTENSION_SUFFIXES)):
            above = [project for project in projects if Path(name).is_relative_to(project)]
            if above:
                found[max(above, key=lambda project: len(project.parts))] = None
    return list(found)


def _ask(
    python: Path,
    request: Mapping[str, Any],
    import_roots: Sequence[Path] = (),
    folder: Path | None = None,
) -> dict[str, Any]:
    command = [str(python), "-P", str(_PROBE), json.dumps(request)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(import_roots),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
        # Code in .pth files may print as well.
        answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().rpartition("\n")[2]
        raise UsageError(f"{python}: cannot be asked what it imports: {words}") from error
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{python}: cannot be asked what it imports: {error}") from error
    return answer
