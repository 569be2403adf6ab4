"""Head and base of a comparison as trees whose processes import their own revision's code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from perfsuite.compare import environments, imports, installers, revisions
from perfsuite.compare.imports import Survey
from perfsuite.compare.interrupts import interrupted
from perfsuite.compare.overlay import overlay
from perfsuite.compare.projects import installable
from perfsuite.errors import UsageError

_LAYOUTS = (Path(), Path("src"), Path("lib"), Path("python"))  # where packages are looked for


@dataclass(frozen=True)
class Tree:
    """One side: how it is called, where its files are, and what its processes run and import."""

    title: str
    folder: Path  # the root of its work tree
    python: Path = field(default_factory=lambda: Path(sys.executable))
    # Folders that its processes import from before all else, by PYTHONPATH, and those of them that were built.
    import_roots: tuple[Path, ...] = ()
    built: tuple[Path, ...] = field(default=(), repr=False)


@contextmanager
def prepare(
    folder: Path,
    *,
    base: str,
    head: str | None = None,
    tests_from: str = "head",
    files: Sequence[Path] = (),
    scratch: Path,
    path: Sequence[str] | None = None,
    install: bool = True,
) -> Iterator[tuple[Tree, Tree]]:
    """Check out what is to be compared, and give head and base while the block runs.

    Whichever way the project is installed in the running environment, each side's processes import that side's
    code. Base gets an environment of its own where it depends on what is not installed.

    Args:
        folder: Pytest's root folder, in the repository.
        base: A revision.
        head: Another; None: the work tree as it is, uncommitted changes included.
        tests_from: "head": the work tree's tests run on both sides, whatever head is; "base": base's do; "each": each
            side's own.
        files: The test files, in the work tree.
        scratch: A folder for what is built, which the caller removes.
        path: Where the running session imports from; None: ``sys.path`` as it is now.
        install: Whether a side's dependencies that are not installed here may be.

    Raises:
        UsageError: if a revision is unknown, cannot be built or installed, or would not be what is imported.
    """
    root = revisions.find_root(folder)
    with ExitStack() as stack:
        stack.enter_context(interrupted())
        revision = revisions.resolve(root, base)
        wanted = None if head is None else revisions.resolve(root, head, title="--head")
        files = [file.resolve() for file in files]
        survey = imports.survey(root, folder.resolve(), files, sys.path if path is None else path)
        base_tree = Tree(
            f"BASE {revision}", stack.enter_context(revisions.worktree(root, revision))
        )
        copied = bool(survey.copied or survey.compiled or tests_from == "base")
        head_tree = _head(root, wanted, stack, copied=copied)
        sides = _Preparation(root, survey, scratch, install=install).run(head_tree, base_tree)
        if tests_from == "each":
            yield sides
            return
        relative = [file.relative_to(root) for file in files if file.is_relative_to(root)]
        source = base_tree.folder if tests_from == "base" else root
        for side in sides:
            if side.folder not in (source, root):
                overlay(source, side.folder, relative)
        yield sides


def _head(root: Path, wanted: revisions.Revision | None, stack: ExitStack, *, copied: bool) -> Tree:
    """Return head: a revision, the work tree itself, or a copy of it that can be changed."""
    if wanted is not None:
        return Tree(f"head {wanted}", stack.enter_context(revisions.worktree(root, wanted)))
    current, changed = revisions.head(root)
    title = f"head {current.short}{' with changes' if changed else ''}"
    return Tree(title, stack.enter_context(revisions.snapshot(root)) if copied else root)


class _Preparation:
    """What both sides go through."""

    def __init__(self, root: Path, survey: Survey, scratch: Path, *, install: bool) -> None:
        self._root, self._survey, self._scratch = root, survey, scratch
        self._install = install
        self._declared = environments.declared(root, survey.projects)

    def run(self, head: Tree, base: Tree) -> tuple[Tree, Tree]:
        missing = [self._missing(tree) for tree in (head, base)]
        if any(missing) and not self._install:
            told = ", ".join(name for names in missing for name in names)
            raise UsageError(f"{base.title} has other dependencies: {told}: see perfsuite compare")
        # Both or none: a layer takes time to start, which commands would be charged with.
        layered = self._survey.leaks or any(missing)
        sides = []
        for name, tree, wanted in zip(("head", "base"), (head, base), missing, strict=True):
            scratch = self._scratch / name
            scratch.mkdir(parents=True, exist_ok=True)
            side = self._imported(tree, scratch)
            if layered:
                side = self._layered(side, scratch / "environment", wanted)
            self._check(side)
            sides.append(side)
        return sides[0], sides[1]

    def _missing(self, tree: Tree) -> list[str]:
        """Return what a tree depends on beyond what is installed; nothing where it says what the work tree says."""
        survey = self._survey
        if tree.folder == self._root:
            return []
        if environments.declared(tree.folder, survey.projects) == self._declared:
            return []
        try:
            installer = installers.find_installer()
            return environments.missing(tree.folder, survey.projects, installer)
        except UsageError as error:
            raise UsageError(f"{tree.title}: its dependencies cannot be found: {error}") from error

    def _imported(self, tree: Tree, scratch: Path) -> Tree:
        """Return the tree with the folders that its code is imported from."""
        survey = self._survey
        if tree.folder != self._root:
            self._add_generated(tree)
        built = []
        for number, project in enumerate(dict.fromkeys([*survey.copied, *survey.compiled])):
            target = scratch / f"built-{number}"
            if not installable(tree.folder / project):  # it came later
                continue
            self._build(tree, project, target)
            if project in survey.compiled:
                self._fill(tree, target)
            if project in survey.copied:
                built.append(target)
        roots = [tree.folder / one for one in survey.roots if (tree.folder / one).is_dir()]
        moved = [tree.folder / one for one in self._moved(tree)]
        shims = self._shims(tree, scratch / "shims")
        # What is built comes first: a root may hold its sources, without what was compiled.
        return replace(tree, import_roots=(*built, *shims, *roots, *moved), built=tuple(built))

    def _add_generated(self, tree: Tree) -> None:
        """Copy modules that some tool has written and git ignores, such as a file with the version."""
        survey = self._survey
        places = imports.packages(self._root, survey.roots, survey.shims, survey.names)
        folders = [place for place in places.values() if (self._root / place).is_dir()]
        if not folders:
            return
        for name in revisions.ignored(self._root, *folders):
            wanted = tree.folder / name
            if name.endswith(".py") and wanted.parent.is_dir() and not wanted.exists():
                revisions.copy_or_remove(self._root / name, wanted)

    def _build(self, tree: Tree, project: Path, target: Path) -> None:
        try:
            installers.build(installers.find_installer(), tree.folder / project, target)
        except UsageError as error:
            where = "" if project == Path() else f" in {project}"
            raise UsageError(
                f"{tree.title}: the project{where} cannot be built: {error}"
            ) from error

    def _fill(self, tree: Tree, target: Path) -> None:
        """Copy into the tree's packages what was built and is not there: extension modules above all."""
        survey = self._survey
        names = imports.installed_modules(target)
        for name, place in imports.packages(tree.folder, survey.roots, survey.shims, names).items():
            made = target.joinpath(*name.split("."))
            if not made.is_dir():
                continue
            for file in made.rglob("*"):
                wanted = tree.folder / place / file.relative_to(made)
                if file.is_file() and not wanted.exists() and "__pycache__" not in file.parts:
                    revisions.copy_or_remove(file, wanted)
        for file in target.iterdir():
            for root in survey.roots:
                if file.is_file() and (self._root / root / file.name).exists():
                    revisions.copy_or_remove(file, tree.folder / root / file.name)

    def _moved(self, tree: Tree) -> list[Path]:
        """Return further folders of a tree from which it imports what the work tree has elsewhere."""
        survey = self._survey
        found = imports.packages(tree.folder, survey.roots, survey.shims, survey.names)
        lost = [name for name in survey.names if name not in found]
        roots = [project / below for project in survey.projects or [Path()] for below in _LAYOUTS]
        return [
            root
            for root in dict.fromkeys(roots)
            if root not in survey.roots and imports.packages(tree.folder, [root], {}, lost)
        ]

    def _shims(self, tree: Tree, folder: Path) -> list[Path]:
        """Return a folder of links for modules whose files bear another name than they do."""
        made = False
        for module, place in self._survey.shims.items():
            target = tree.folder / place
            if not target.exists():
                continue
            link = folder.joinpath(*module.split("."))
            if target.is_file():
                link = link.with_name(link.name + "".join(target.suffixes))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
            made = True
        return [folder] if made else []

    def _layered(self, tree: Tree, folder: Path, wanted: Sequence[str]) -> Tree:
        python = environments.layer(folder, self._survey, tree.import_roots)
        if wanted:
            print(
                f"{tree.title}: other dependencies; installing {', '.join(wanted)}", file=sys.stderr
            )
            try:
                installers.find_installer().install(wanted, environments.packages(folder))
            except UsageError as error:
                raise UsageError(
                    f"{tree.title}: its dependencies cannot be installed: {error}"
                ) from error
        return replace(tree, python=python)

    def _check(self, tree: Tree) -> None:
        """Raise UsageError unless what the tree has is what its processes would import."""
        survey = self._survey
        own = set(imports.packages(tree.folder, survey.roots, survey.shims, survey.names))
        for folder in tree.built:
            own |= set(imports.installed_modules(folder))
        names = list(dict.fromkeys([*survey.names, *own]))
        places = imports.locate(tree.python, names, tree.import_roots, tree.folder)
        for name, place in places.items():
            # What only the other side has may come from anywhere, but not from there.
            if name not in own and not self._within(place, [self._root]):
                continue
            if not self._within(place, [tree.folder, *tree.built]):
                raise UsageError(
                    f"{tree.title}: {name} would be imported from {place or 'nowhere'}, not from "
                    f"{tree.folder}: install the project anew, as an editable install"
                )

    def _within(self, place: Path | None, folders: Iterable[Path]) -> bool:
        """Whether a place lies in one of the folders, less an environment that lies there too."""
        if place is None:
            return False
        place = place.resolve()
        if any(place.is_relative_to(Path(site).resolve()) for site in self._survey.sites):
            return False
        return any(place.is_relative_to(folder.resolve()) for folder in folders)
