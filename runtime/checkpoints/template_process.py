"""A chat template's program, run in a process of its own that can do little and not for long.

A template comes with somebody's weights, and is a program: Jinja2's sandbox keeps it from Python's internals, but not
from looping for ever or from filling the memory. Run with the folders to import from as arguments, it reads JSON from
its standard input, and writes the rendered text, or what was wrong, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

sys.path.extend(sys.argv[1:])

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_SECONDS = 5  # of computing
_MEMORY = 512 << 20
_LONGEST = 16 << 20  # characters


class Refused(Exception):
    """What a template says of the messages by ``raise_exception``."""


class GenerationBlock(Extension):
    """``{% generation %}``, with which templates mark what the model said; here its content is all there is to it."""

    tags = {"generation"}  # noqa: RUF012 - as its base declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class PlainNamespace(Namespace):
    """A namespace without attributes that Python itself gives a meaning to."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **attributes).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace of a chat template has no {name!r}")
        super().__setitem__(name, value)


def environment() -> ImmutableSandboxedEnvironment:
    """What templates of the Hugging Face hub expect to find."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(
        raise_exception=_refuse,
        strftime_now=lambda form: datetime.now().strftime(form),  # noqa: DTZ005 - of this place
        dict=_new_dict,
        namespace=PlainNamespace,
    )
    return made


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja2's own filter would write it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _new_dict(*args: Any, **items: Any) -> dict[str, Any]:
    """What ``dict`` makes, without the methods of the type itself."""
    return dict(*args, **items)


def _refuse(message: object) -> None:
    raise Refused(str(message))


def _limit() -> None:
    """Take from this process what no template needs: endless time and memory, and files to write to."""
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _answer(template: str, variables: Mapping[str, Any]) -> Mapping[str, str]:
    try:
        text = environment().from_string(template).render(variables)
    except Refused as error:
        return {"refused": str(error)}
    except jinja2.TemplateSyntaxError as error:
        return {"broken": f"line {error.lineno}: {error.message}"}
    except Exception as error:  # noqa: BLE001 - whatever a template can raise
        return {"broken": f"{type(error).__name__}: {error}"}
    if len(text) > _LONGEST:
        return {"broken": f"it writes {len(text):,} characters"}
    return {"text": text}


def main() -> None:
    """Render what the standard input says."""
    given = json.load(sys.stdin)
    _limit()
    json.dump(_answer(given["template"], given["variables"]), sys.stdout)


if __name__ == "__main__":
    main()
