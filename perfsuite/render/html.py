"""Blocks as HTML, by Jinja2; whoever imports this needs the extra ``report``."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from perfsuite.charts import clean


def environment() -> Environment:
    """Return what makes pages of templates; ``render/blocks.html.j2`` has the macro ``show`` for a block.

    Everything that is shown is escaped, and holds nothing that no file can hold.
    """
    return Environment(
        loader=PackageLoader("perfsuite", ""),
        autoescape=True,
        finalize=lambda shown: clean(shown) if type(shown) is str else shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
