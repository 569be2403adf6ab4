from __future__ import annotations

import functools
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.specifiers import SpecifierSet

from perfsuite.benchmark_code import code_hash
from perfsuite.processes.benchmark import command

FILE = '''
"""What the file is about."""

import json
import random
from dataclasses import dataclass

import pytest

SIZE = 10
TABLE = {}
TABLE[7] = 8
OTHER = json.dumps([0])
random.seed(0)


@dataclass
class Parcel:
    size: int = 1


def step(number):
    return number + SIZE


def build():
    """Build it."""
    return [step(1), TABLE, Parcel(), random.random()]


def unrelated():
    return 1


def reference():
    return step(2)


@pytest.fixture
def payload():
    return SIZE


@pytest.mark.parametrize("size", [1, 2], ids=["one", "two"])
@pytest.mark.skipif(False, reason="none")
def test_build(latency_gate, size):
    """Is it fast?"""
    data = build()
    latency_gate(lambda: len(data), name="build", margin=5)  # percent


class TestClass:
    count = 3

    def setup_method(self):
        self.data = [0] * self.count

    def test_one(self, latency_gate):
        latency_gate(lambda: self.data)

    def test_other(self, latency_gate):
        latency_gate(lambda: self.count)


def make():
    def made(latency_gate):
        latency_gate(build)

    return made


test_made = make()
test_lambda = lambda latency_gate: latency_gate(build)  # noqa: E731


if __name__ == "__main__":
    pytest.main([__file__, str(SIZE)])
'''
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Import a text as a module: another one at each call, under the same name, as another revision's is."""
    count = 0

    def imported(text: str) -> ModuleType:
        nonlocal count
        count += 1
        path = tmp_path / str(count) / "test_file.py"
        path.parent.mkdir()
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("test_file_of_benchmark", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield imported
    sys.modules.pop("test_file_of_benchmark", None)


def replaced(old: str, new: str) -> str:
    assert FILE.count(old) == 1
    return FILE.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# percent", "# of what it was"),
        ("Is it fast?", "Is it slow?"),
        ('    """Is it fast?"""\n', ""),
        ("What the file is about.", "Another text."),
        ('    """Build it."""\n', ""),
        ("[step(1), TABLE, Parcel(), random.random()]",
         "[\n        step(1),\n        TABLE, Parcel(), (random.random()),\n    ]"),
        ("def test_build(latency_gate, size):", "def test_build(latency_gate: object, size: int) -> None:"),
        ("def test_build(", "def test_renamed("),
        ("margin=5", "margin=50, max_ms=3, throughput=4"),
        ('name="build", ', 'name="another", '),
        ('@pytest.mark.skipif(False, reason="none")\n', ""),
        ('@pytest.mark.skipif(False, reason="none")\n', "@pytest.mark.timeout(9)\n@pytest.mark.slow\n"),
        ("    return 1\n", "    return 2\n"),
        ("def unrelated():", "def unrelated_by_another_name():"),
        ("OTHER = json.dumps([0])", "OTHER = json.dumps([1])"),
        ("import json\n", "import json\nimport os\n"),
        ("latency_gate(lambda: self.data)", "latency_gate(lambda: [self.data])"),
        ("str(SIZE)", "str(SIZE + 1)"),
    ],
)  # fmt: skip
def test_what_does_not_change_the_benchmark_does_not_count(load: Load, old: str, new: str) -> None:
    before, after = load(FILE), load(replaced(old, new))
    test = getattr(after, "test_build", None) or after.test_renamed
    assert code_hash(test) == code_hash(before.test_build)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("len(data)", "sum(data)"),
        ("SIZE = 10", "SIZE = 11"),
        ("TABLE[7] = 8", "TABLE[7] = 9"),
        ("random.seed(0)", "random.seed(1)"),
        ("return number + SIZE", "return number + SIZE + 0"),
        ("    size: int = 1", "    size: int = 2"),
        ("    size: int = 1", "    size: float = 1"),
        ("@dataclass\n", "@dataclass(slots=True)\n"),
        ("import random\n", "import random as other_random, secrets as random\nrandom.seed = print\n"),
        ("[1, 2]", "[1, 20]"),
        ('@pytest.mark.skipif(False, reason="none")\n', "@pytest.mark.usefixtures('payload')\n"),
        ("margin=5", "setup=dict"),
        ("    data = build()", "    data = build() * 2"),
    ],
)  # fmt: skip
def test_what_changes_the_benchmark_counts(load: Load, old: str, new: str) -> None:
    assert code_hash(load(replaced(old, new)).test_build) != code_hash(load(FILE).test_build)


def test_what_stands_elsewhere_in_the_file_is_the_same(load: Load) -> None:
    parcel = FILE[FILE.index("def step") : FILE.index("def build")]
    moved = FILE.replace(parcel, "") + parcel
    assert code_hash(load(moved).test_build) == code_hash(load(FILE).test_build)


def test_values_of_parameters_count_instead_of_the_list(load: Load) -> None:
    before, after = load(FILE), load(replaced("[1, 2]", "[1, 3]"))

    def hashes(size: object) -> list[str]:
        return [code_hash(module.test_build, params={"size": size}) for module in (before, after)]

    (one, same), (two, _) = hashes(1), hashes([1, {"a": 2}])
    assert one == same
    assert one != two
    # An object says too little of itself: the list counts then.
    old, new = hashes(object())
    assert old != new
    assert code_hash(before.test_build, params={"size": before.step}) != code_hash(
        before.test_build, params={"size": before.unrelated}
    )


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("latency_gate(lambda: self.data)", "latency_gate(lambda: [self.data])", True),
        ("count = 3", "count = 4", True),
        ("[0] * self.count", "[1] * self.count", True),
        ("latency_gate(lambda: self.count)", "latency_gate(lambda: [self.count])", False),
        ("class TestClass", "class TestRenamed", False),
        ("SIZE = 10", "SIZE = 11", False),
    ],
)
def test_a_class_counts_without_its_other_tests(
    load: Load, old: str, new: str, counts: bool
) -> None:
    before, after = load(FILE), load(replaced(old, new))
    changed = getattr(after, "TestClass", None) or after.TestRenamed
    assert (code_hash(changed.test_one) != code_hash(before.TestClass.test_one)) == counts


@pytest.mark.parametrize("name", ["test_made", "test_lambda"])
def test_tests_that_are_made_count_with_what_makes_them(load: Load, name: str) -> None:
    before, after = load(FILE), load(replaced("def build():", "def build(more=1):"))
    assert code_hash(getattr(before, name)) != code_hash(getattr(after, name))


@pytest.mark.parametrize(
    "extra",
    [
        lambda module: module.reference,
        lambda module: module.payload,
        lambda module: functools.partial(module.reference),
        lambda module: module.Parcel,
        lambda module: module.Parcel(),
    ],
    ids=["function", "fixture", "partial", "class", "instance"],
)
def test_extras_count_with_what_they_use(load: Load, extra: Callable[[ModuleType], object]) -> None:
    text = FILE.replace("SIZE = 10", "SIZE = 11").replace("size: int = 1", "size: int = 2")

    def with_extra(module: ModuleType) -> str:
        found = extra(module)
        found = getattr(found, "_get_wrapped_function", lambda: found)()
        return code_hash(zlib.crc32, [found])

    before = with_extra(load(FILE))
    assert before != with_extra(load(text))
    assert before != code_hash(zlib.crc32)


def test_what_the_test_defines_itself_is_not_counted_twice(load: Load) -> None:
    text = "def test_it():\n    return lambda: 1\n"
    module = load(text)
    assert code_hash(module.test_it, [module.test_it()]) == code_hash(module.test_it)


def test_what_is_installed_counts_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_hash(zlib.crc32, [SpecifierSet("").contains])
    assert before == code_hash(zlib.crc32, [SpecifierSet(">1").contains])
    assert before != code_hash(zlib.crc32, [SpecifierSet("").filter])
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert before != code_hash(zlib.crc32, [SpecifierSet("").contains])


def test_commands_count_by_their_arguments_and_not_by_where_programs_lie() -> None:
    one, other = (command([f"{folder}/python", "-c", "pass"]) for folder in ("/a", "/b"))
    assert code_hash(zlib.crc32, [one]) == code_hash(zlib.crc32, [other])
    assert code_hash(zlib.crc32, [one]) != code_hash(zlib.crc32, [command(["python", "-c", "0"])])


def test_callables_without_source_count_by_their_name() -> None:
    made: dict[str, Callable[[], None]] = {}
    exec("def one(): pass\ndef two(): pass", made)  # noqa: S102
    assert code_hash(made["one"]) != code_hash(made["two"])
    assert code_hash(zlib.crc32) != code_hash(zlib.adler32)
    assert code_hash(len, [print, None, 3, [1], {"a": 1}]) != code_hash(len, [print, None, 4])


def test_a_hash_is_short_and_the_same_in_every_process(load: Load) -> None:
    found = code_hash(load(FILE).test_build)
    assert len(found) == 12
    assert int(found, 16) >= 0
