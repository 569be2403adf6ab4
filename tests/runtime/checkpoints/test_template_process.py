"""A template's program: what it finds, and what its process cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from runtime.checkpoints import template_process


def rendered(template: str, **variables: Any) -> dict[str, str]:
    """What the process answers, started as it is started for a tokenizer."""
    done = subprocess.run(
        [sys.executable, "-I", template_process.__file__, *filter(None, sys.path)],
        input=json.dumps({"template": template, "variables": variables}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        return {"ended": str(done.returncode)}
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


ENVIRONMENT = template_process.environment()


def text(template: str, **variables: Any) -> str:
    return ENVIRONMENT.from_string(template).render(variables)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ {'a': '<ä>'} | tojson }}", '{"a": "<ä>"}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2"),
        ("{{ dict(a=1).a }}", "1"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
    ],
)
def test_templates_find_what_those_of_the_hub_expect(template: str, expected: str) -> None:
    assert text(template) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{{ dict.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
    ],
)
def test_pythons_internals_are_out_of_reach(template: str) -> None:
    answer = template_process._answer(template, {"messages": []})
    refused = answer.get("broken", "").startswith(("SecurityError: ", "UndefinedError: "))
    assert refused or answer == {"text": ""}, answer


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        ("hello {{ name }}", {"text": "hello you"}),
        ("{{ raise_exception('roles must alternate') }}", {"refused": "roles must alternate"}),
        (
            "line\n{% if %}",
            {"broken": "line 2: Expected an expression, got 'end of statement block'"},
        ),
        ("{{ 1 // 0 }}", {"broken": "ZeroDivisionError: integer division or modulo by zero"}),
        ("{{ 'x' * 20000000 }}", {"broken": "it writes 20,000,000 characters"}),
    ],
    ids=["text", "refused", "syntax", "error", "long"],
)
def test_whatever_comes_of_it_is_told(template: str, answer: dict[str, str]) -> None:
    assert template_process._answer(template, {"name": "you"}) == answer


def test_a_text_of_gigabytes_is_not_made() -> None:
    answer = rendered("{{ 'x' * 900000000 }}")
    assert "ended" in answer or "MemoryError" in answer["broken"], answer


def test_the_process_reads_one_request_and_answers_it() -> None:
    assert rendered("{{ a }}", a="ä\n") == {"text": "ä\n"}
