from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, field

from perfsuite.errors import UsageError
from perfsuite.schema import (
    AtLeastOne,
    Count,
    FieldError,
    Finite,
    Interval,
    NotNegative,
    Positive,
    decode,
    parse_json,
    read,
    words,
)


class Part(Struct, frozen=True):
    size: Positive = 1.0
    low: Finite = 0.0
    high: NotNegative = 0.0
    count: Count = 0
    number: AtLeastOne = 1
    told: str | None = field(default=None, name="said")
    shares: dict[str, NotNegative] = {}
    range: Interval | None = None

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise FieldError("low", "must be low")


class Whole(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    parts: tuple[Part, ...] = ()
    named: dict[str, dict[str, Part]] = {}


def refused(text: str) -> str:
    """What is said of a file with this text, after the file's name."""
    with pytest.raises(UsageError) as raised:
        decode(parse_json(text, "f.json"), Whole, "f.json")
    message = str(raised.value)
    assert message.startswith("f.json: ")
    return message.removeprefix("f.json: ")


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ('{"size": 0}', "size: expected `float` > 0.0"),
        ('{"size": NaN}', "size: expected `float` > 0.0"),
        ('{"size": Infinity}', "size: must be a finite number"),
        ('{"size": 1e999}', "size: must be a finite number"),
        ('{"size": 1' + "0" * 400 + "}", "size: must be a finite number"),
        ('{"size": true}', "size: expected `float`, got `bool`"),
        ('{"size": "1"}', "size: expected `float`, got `str`"),
        ('{"low": NaN}', "low: must be a finite number"),
        ('{"low": -Infinity}', "low: must be a finite number"),
        ('{"high": -1}', "high: expected `float` >= 0.0"),
        ('{"count": -1}', "count: expected `int` >= 0"),
        ('{"count": 1.0}', "count: expected `int`, got `float`"),
        ('{"number": 0}', "number: expected `int` >= 1"),
        ('{"size": null}', "size: is missing"),
        ('{"shares": {"a": 1, "b.c": -1, "d": -2}}', "shares.b.c: expected `float` >= 0.0"),
        ('{"low": 2, "high": 1}', "low: must be low"),
        (
            '{"range": {"low": 2, "high": 1}}',
            "range: must be an interval: a low end and a high one",
        ),
        ("7", "expected `object`, got `int`"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(part: str, problem: str) -> None:
    joint = "" if part == "7" else "."
    at = f"parts[1]{joint or ': '}{problem}"
    assert refused(f'{{"name": "x", "parts": [{{}}, {part}]}}') == at
    within = f'{{"name": "x", "named": {{"a": {{"b": {{}}}}, "c": {{"d": {{}}, "e": {part}}}}}}}'
    assert refused(within) == f"named.c.e{joint or ': '}{problem}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "name: is missing"),
        ('{"name": null}', "name: is missing"),
        ('{"name": "x", "other": 1}', "other: is unknown"),
        ("[]", "expected `object`, got `array`"),
        ('{"name": "x", "parts": {}}', "parts: expected `array`, got `object`"),
        ('{"name": "x", "\\ud800": 1}', "is damaged: 'utf-8'"),
    ],
)
def test_what_is_wrong_at_the_top_is_told(text: str, problem: str) -> None:
    assert refused(text).startswith(problem)


def test_what_was_refused_is_as_it_was() -> None:
    content = {"name": "x", "named": {"a": {"b": {"size": 1.0}, "c": {"size": -1.0}}}}
    before = copy.deepcopy(content)
    with pytest.raises(UsageError, match=r"^f: below\.named\.a\.c\.size: "):
        decode(content, Whole, "f", "below")
    assert content == before


def test_fields_that_nobody_names_may_hold_anything() -> None:
    content = '{"size": 2, "said": "\\ud800", "other": [NaN, {"\\ud800": null}]}'
    found = decode(parse_json(content, "f"), Part, "f")
    assert found == Part(size=2.0, told="\ud800")


def test_a_structs_own_check_names_its_field() -> None:
    with pytest.raises(FieldError, match="low: must be low"):
        Part(low=2.0, high=1.0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", r"is damaged: .*line 1 column 2"),
        (b"\xff\xfe", "is damaged: 'utf-8'"),
        (b"[" * 100_000, "is damaged: "),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "f.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^{path}: {problem}"):
        read(path, Whole)


def test_words_are_texts_and_numbers() -> None:
    told: dict[str, Any] = json.loads('{"a": "x", "b": 2, "c": 1.5, "d": null, "e": [1], "f": {}}')
    assert words(told) == {"a": "x", "b": "2", "c": "1.5"}
