"""The diagnosis on the page."""

from __future__ import annotations

import re
from collections.abc import Callable

MakePage = Callable[..., str]


def test_what_if_is_shown_as_a_projection(make_page: MakePage) -> None:
    found = re.search('<section id="what-if".*?</section>', make_page(), re.DOTALL)
    assert found is not None
    for words in ("device=abacus", "not a measurement", "Abacus 9: published peaks (Datasheet)"):
        assert words in found[0]
    assert "500 ms, 2.0x" in found[0]
