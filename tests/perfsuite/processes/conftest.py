"""Test files of a user's, and the processes that are forked for them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from perfsuite.processes.forkserver import Target
from perfsuite.processes.pool import Pool

Serve = Callable[..., Pool]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return what serves a test file of this text; ``servers`` and fields of ``Target`` by name."""
    folder = tmp_path / "project"
    scratch = tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    with ExitStack() as stack:

        def served(text: str, *, servers: int = 1, **fields: Any) -> Pool:
            file = folder / "test_it.py"
            file.write_text(textwrap.dedent(text))
            arguments = [
                f"--rootdir={folder}",
                "-p",
                "no:cacheprovider",
                *fields.pop("arguments", ()),
            ]
            target = Target("it", file, arguments=arguments, folder=folder, **fields)
            return stack.enter_context(Pool(target, scratch, servers=servers))

        yield served
