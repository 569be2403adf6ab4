"""Twelve benchmarks of other people's code, from 50 ns to a second: what the gate's own rates are measured with.

Among them one whose processes fall into two speeds (``json loads``), one that hangs on the hash seed (``specifier
contains``), coroutines, and a command. None has a reference of its own.
"""

from __future__ import annotations

import json
import sys

import anyio
import jinja2
import networkx
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

RECORDS = [
    {"id": number, "name": f"name {number}", "tags": ["a", "b"], "price": number / 7}
    for number in range(3000)
]
TEXT = json.dumps(RECORDS)
TABLE = dict(enumerate(range(100)))
SPECIFIERS = SpecifierSet(">=1.2,!=1.5.*,<4,~=2.1")
VERSIONS = [Version(f"{major}.{minor}") for major in range(5) for minor in range(10)]
ENVIRONMENT = jinja2.Environment(autoescape=True)
TEMPLATE = ENVIRONMENT.from_string(
    "{% for row in rows %}<tr><td>{{ row.id }}</td><td>{{ row.name }}</td></tr>{% endfor %}"
)
DOCUMENT = yaml.safe_dump(RECORDS[:60])
LARGE_GRAPH = networkx.gnm_random_graph(600, 3600, seed=1)


def test_lookup(latency_gate):
    latency_gate(lambda: TABLE[7], name="dict lookup")


def test_version(latency_gate):
    latency_gate(lambda: Version("1.2.3rc4.post5+local.7"), name="version parse")


def test_specifier(latency_gate):
    latency_gate(lambda: [SPECIFIERS.contains(one) for one in VERSIONS], name="specifier contains")


def test_json_loads(latency_gate):
    latency_gate(lambda: json.loads(TEXT), name="json loads")


def test_json_dumps(latency_gate):
    latency_gate(lambda: json.dumps(RECORDS), name="json dumps")


def test_template(latency_gate):
    latency_gate(lambda: TEMPLATE.render(rows=RECORDS[:300]), name="template render")


def test_template_compile(latency_gate):
    text = "{% if a %}{{ a|upper }}{% endif %}"
    latency_gate(lambda: ENVIRONMENT.from_string(text), name="template compile")


def test_yaml(latency_gate):
    latency_gate(lambda: yaml.safe_load(DOCUMENT), name="yaml load")


def test_shuffled(latency_gate):
    latency_gate(
        list.sort, setup=lambda: [number * 7919 % 10007 for number in range(10_000)], name="sort"
    )


async def _through_a_stream() -> None:
    send, receive = anyio.create_memory_object_stream(10)
    async with send, receive:
        for number in range(20):
            await send.send(number)
            await receive.receive()


def test_stream(latency_gate):
    latency_gate(_through_a_stream, name="async stream")


def test_command(latency_gate):
    latency_gate(latency_gate.command([sys.executable, "-S", "-c", "pass"]), name="command")


def test_paths(latency_gate):
    latency_gate(lambda: networkx.betweenness_centrality(LARGE_GRAPH), name="betweenness")
