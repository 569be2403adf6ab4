"""The ladder on the page."""

from __future__ import annotations

import re
from collections.abc import Callable

MakePage = Callable[..., str]


def test_the_forecast_stands_only_beside_a_measurement(make_page: MakePage) -> None:
    text = make_page()
    found = re.search('<section id="speedup".*?</section>', text, re.DOTALL)
    assert found is not None
    assert "2x, forecast 33x" in found[0]
    assert "332 ms" not in text  # the forecast's milliseconds, which were never measured
