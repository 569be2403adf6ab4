"""A hash of a benchmark's own code: where it changes, what was stored is of another benchmark.

What counts is the test, whatever its file defines for it, and its reference; not the code under test, which is
imported, and not how any of it is laid out, commented, annotated or named.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import importlib.metadata
import inspect
import os
import platform
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

_LENGTH = 12  # hexadecimal digits
_GATE = "latency_gate"
# Arguments of the gate that say how its figures are called or judged, not what is measured.
_NOT_MEASURED = frozenset({"name", "margin", "max_ms", "quantile", "throughput", "memory"})
# Marks that say whether and when a test runs, not what it does. Others may be read by fixtures.
_SELECTING = frozenset(
    {
        "dependency",
        "filterwarnings",
        "flaky",
        "order",
        "skip",
        "skipif",
        "slow",
        "timeout",
        "tryfirst",
        "trylast",
        "xfail",
    }
)
_PARAMETRIZE = "parametrize"
_PLAIN = (type(None), bool, int, float, complex, str, bytes)

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def code_hash(
    function: object, extra: Sequence[object] = (), params: Mapping[str, object] | None = None
) -> str:
    """Return a short hash of the code of a test, and of what belongs to it.

    Args:
        function: The test's function. It counts whole, with its decorators, and so do functions, classes,
            constants and imports of the same file that it uses, directly or by others. Left out are marks that
            only select or order, and arguments of ``latency_gate`` that only name or judge. Methods of a class
            bring the class's other members along, not its other tests.
        extra: What else belongs to it, such as its reference and its fixtures. The code counts of what the
            project defines, name and version of what is installed, and the arguments of a command.
        params: This test's values of its parameters. With them ``parametrize`` counts only by these, so that
            another case can be added; without them, or if one of them is no plain value or callable, by its text.
    """
    values = None if params is None else _values(params)
    parts = _of_test(function, keep_parametrize=values is None)
    covered = _span(function)
    for one in extra:
        if not _lies_in(one, covered):
            parts |= _of_object(one)
    if values is not None:
        parts |= values
    return hashlib.sha256("\0".join(sorted(parts)).encode(errors="replace")).hexdigest()[:_LENGTH]


# Objects


def _of_test(function: object, *, keep_parametrize: bool) -> set[str]:
    function = _unwrapped(function)
    module, path = _file(function), _path_in_file(function)
    if module is None or path is None or not isinstance(path[-1], _Function):
        return _of_object(function)
    *classes, test = path
    used = [_normal_test(test, keep_parametrize=keep_parametrize)]
    for enclosing in classes:
        if isinstance(enclosing, ast.ClassDef):
            used += _surroundings(enclosing, keep_parametrize=keep_parametrize)
        else:  # a test that a function made
            used.append(enclosing)
    return module.closure(used)


def _of_object(value: object) -> set[str]:
    """Return what counts of a callable, or of a value."""
    if isinstance(value, functools.partial):
        given = [*value.args, *value.keywords.items()]
        return _of_object(value.func).union(*map(_of_object, given))
    value = _unwrapped(value)
    if isinstance(value, _PLAIN):
        return {f"value {value!r}"}
    if isinstance(value, list | tuple | set | frozenset):
        return {f"value {type(value).__name__}"}.union(*map(_of_object, value))
    if isinstance(value, Mapping):
        return {"value mapping"}.union(*map(_of_object, value.items()))
    arguments = getattr(value, "arguments", None)
    if callable(value) and isinstance(arguments, list | tuple):
        return {f"command {' '.join(map(_placeless, arguments))}"}
    if isinstance(value, types.MethodType):
        return _of_object(value.__func__)
    if not isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        value = type(value)
    module, path = _file(value), _path_in_file(value)
    if module is None or path is None:
        return {_named(value)}
    return module.closure(
        [path[0]]
    )  # a method with its class, an inner function with the one around it


def _placeless(argument: object) -> str:
    """Return a command's argument, without the folders that differ from one machine to the next."""
    text = os.fspath(argument) if isinstance(argument, str | os.PathLike) else str(argument)
    return Path(text).name if Path(text).is_absolute() else str(text)


def _values(params: Mapping[str, object]) -> set[str] | None:
    """Return what counts of a test's parameters; None where that cannot be told from the values."""
    if not all(map(_tells_all, params.values())):
        return None
    return {f"parameter {name} {sorted(_of_object(value))}" for name, value in params.items()}


def _tells_all(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_tells_all, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple):
        return all(map(_tells_all, value))
    return isinstance(value, (*_PLAIN, type, types.FunctionType, types.BuiltinFunctionType))


def _unwrapped(value: object) -> object:
    return inspect.unwrap(value) if callable(value) else value


def _named(value: object) -> str:
    """Return the name of what has no code here, and the version of what it came with."""
    module = str(getattr(value, "__module__", "") or "")
    name = f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        return f"{name} Python {'.'.join(platform.python_version_tuple()[:2])}"
    versions = [importlib.metadata.version(one) for one in _distributions().get(package, [])]
    return " ".join([name, *sorted(set(versions))])


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


# Files


class _Module:
    """A source file: what its statements bind, and which statements touch what is bound."""

    def __init__(self, source: bytes) -> None:
        self.tree = ast.parse(source)
        self._binding: dict[str, list[ast.stmt]] = {}  # statements by the names that they bind
        self._touching: dict[str, list[ast.stmt]] = {}  # such as TABLE[7] = 8, random.seed(0)
        for statement in self.tree.body:
            names = set(_bound(statement))
            for name in names:
                self._binding.setdefault(name, []).append(statement)
            for name in set(_touched(statement)) - names:
                self._touching.setdefault(name, []).append(statement)

    def closure(self, nodes: Iterable[ast.AST]) -> set[str]:
        """Return the text of ``nodes`` and of all in the file that they use."""
        texts: set[str] = set()
        waiting, seen, names = list(nodes), set[int](), set[str]()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            normal = _Normal().visit(_copy(node))
            if not isinstance(normal, ast.Import | ast.ImportFrom):
                texts.add(ast.unparse(ast.fix_missing_locations(normal)))
            for name in set(_loaded(normal)) - names:
                names.add(name)
                for statement in self._binding.get(name, []):
                    if isinstance(statement, ast.Import | ast.ImportFrom):
                        texts.add(_import_of(statement, name))
                    else:
                        waiting.append(statement)
                waiting += self._touching.get(name, [])
        return texts


def _file(value: object) -> _Module | None:
    """Return the source file of the project's that defines ``value``; None where there is none."""
    path = _source(value)
    if path is None:
        return None
    try:
        status = path.stat()
        return _parsed(path, status.st_mtime_ns, status.st_size)
    except (OSError, SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, changed_ns: int, size: int) -> _Module:
    return _Module(path.read_bytes())


def _source(value: object) -> Path | None:
    code = getattr(value, "__code__", None)
    if code is not None:
        name = code.co_filename
    else:
        module = sys.modules.get(str(getattr(value, "__module__", "")))
        name = getattr(module, "__file__", None) or ""
    path = Path(name)
    if path.suffix != ".py" or not path.is_file() or _installed(path):
        return None
    return path


def _installed(path: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return path.is_relative_to(sysconfig.get_path("stdlib"))


def _path_in_file(value: object) -> list[ast.AST] | None:
    """Return the definition of ``value``, after those that it lies in; None where it is not found."""
    module = _file(value)
    if module is None:
        return None
    code = getattr(value, "__code__", None)
    names = str(getattr(value, "__qualname__", "")).replace(".<locals>", "").split(".")
    for path in _definitions(module.tree):
        node = path[-1]
        if code is not None:
            if _first_line(node) == code.co_firstlineno and _name_of(node) == code.co_name:
                return path
        elif [_name_of(one) for one in path] == names:
            return path
    return None


def _definitions(node: ast.AST, above: tuple[ast.AST, ...] = ()) -> Iterator[list[ast.AST]]:
    """Yield the path to each function, lambda and class: the top-level statement first, then definitions."""
    for child in ast.iter_child_nodes(node):
        defines = isinstance(child, ast.ClassDef | _Function | ast.Lambda)
        path = above
        if defines or (not above and isinstance(node, ast.Module)):
            path = (*above, child)
        if defines:
            yield list(path)
        yield from _definitions(child, path)


def _name_of(node: ast.AST) -> str:
    return str(getattr(node, "name", "<lambda>"))


def _first_line(node: ast.AST) -> int:
    """Return the line that a code object has as its first: its first decorator's."""
    lines: list[int] = [one.lineno for one in getattr(node, "decorator_list", [])]
    return min([getattr(node, "lineno", 0), *lines])


def _span(function: object) -> tuple[str, int, int] | None:
    """Return file, first and last line of a test; None where it has no source."""
    function = _unwrapped(function)
    code, path = getattr(function, "__code__", None), _path_in_file(function)
    if code is None or path is None:
        return None
    return code.co_filename, _first_line(path[-1]), int(getattr(path[-1], "end_lineno", 0))


def _lies_in(value: object, span: tuple[str, int, int] | None) -> bool:
    """Whether ``value`` is a function that the test itself defines."""
    code = getattr(_unwrapped(value), "__code__", None)
    if code is None or span is None:
        return False
    file, first, last = span
    return bool(code.co_filename == file and first <= code.co_firstlineno <= last)


# Statements


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement of a module binds there."""
    if isinstance(statement, ast.ClassDef | _Function):
        yield statement.name
        return
    if isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield (alias.asname or alias.name).partition(".")[0]
        return
    for inner in _statements_in(statement):
        yield from _bound(inner)
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _loaded(node: ast.AST) -> Iterator[str]:
    """Yield the names that are read in ``node``; some may be local to it, which does no harm."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Store):
            yield inner.id


def _touched(statement: ast.stmt) -> Iterator[str]:
    """Yield the names whose values a statement of a module may change, as ``TABLE[7] = 8`` does."""
    if isinstance(statement, ast.ClassDef | _Function):
        return
    if isinstance(statement, ast.If) and "__name__" in set(_loaded(statement.test)):
        return  # for running the file as a program
    if isinstance(statement, ast.Expr):
        yield from _loaded(statement)
    targets = [*getattr(statement, "targets", []), getattr(statement, "target", None)]
    for target in filter(None, targets):
        yield from _loaded(target)
    for inner in _statements_in(statement):
        yield from _touched(inner)


def _statements_in(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Yield the statements that a compound one holds."""
    for node in ast.iter_child_nodes(statement):
        if isinstance(node, ast.stmt):
            yield node
        elif isinstance(node, ast.ExceptHandler | ast.match_case):
            yield from node.body


def _import_of(statement: ast.Import | ast.ImportFrom, name: str) -> str:
    """Return what imports ``name`` alone."""
    names = [
        alias for alias in statement.names if (alias.asname or alias.name).partition(".")[0] == name
    ]
    if isinstance(statement, ast.Import):
        return ast.unparse(ast.Import(names))
    return ast.unparse(ast.ImportFrom(statement.module, names, statement.level))


def _normal_test(test: ast.AST, *, keep_parametrize: bool) -> Any:
    """Return a test without its name, which may change, and without marks that do not count."""
    normal = _copy(test)
    normal.name = "_"
    normal.decorator_list = _counting(normal.decorator_list, keep_parametrize=keep_parametrize)
    return normal


def _surroundings(enclosing: ast.ClassDef, *, keep_parametrize: bool) -> list[ast.AST]:
    """Return what counts of a test's class: all but its name and its tests."""
    kept = [
        statement
        for statement in enclosing.body
        if not (isinstance(statement, _Function) and statement.name.startswith("test"))
        and not (isinstance(statement, ast.ClassDef) and statement.name.startswith("Test"))
    ]
    normal = _copy(enclosing)
    normal.name, normal.body = "_", [_copy(one) for one in kept] or [ast.Pass()]
    normal.decorator_list = _counting(normal.decorator_list, keep_parametrize=keep_parametrize)
    return [normal]


def _counting(decorators: Iterable[ast.expr], *, keep_parametrize: bool) -> list[ast.expr]:
    left_out = _SELECTING if keep_parametrize else _SELECTING | {_PARAMETRIZE}
    return [one for one in decorators if _mark(one) not in left_out]


def _mark(decorator: ast.expr) -> str | None:
    """Return the name of a mark of pytest's; None for another decorator."""
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    before, _, name = ast.unparse(function).rpartition(".")
    return name if before.rpartition(".")[2] == "mark" else None


class _Normal(ast.NodeTransformer):
    """Removes what is not run: docstrings, and annotations but those of classes, which dataclasses read.

    Also, from calls of the gate, the arguments that do not change what is measured.
    """

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == _GATE:
            node.keywords = [one for one in node.keywords if one.arg not in _NOT_MEASURED]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = _without_docstring(node.body)
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        node.body = [one if one in fields else self.visit(one) for one in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Pass()
        return ast.Assign([node.target], node.value)

    def _function(self, node: Any) -> ast.AST:
        node.body, node.returns = _without_docstring(node.body), None
        arguments = node.args
        for one in [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            *filter(None, [arguments.vararg, arguments.kwarg]),
        ]:
            one.annotation = None
        self.generic_visit(node)
        return node  # type: ignore[no-any-return]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return body[1:] or [ast.Pass()]
    return body


def _copy(node: ast.AST) -> Any:
    return copy.deepcopy(node)
