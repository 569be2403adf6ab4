from __future__ import annotations

import numpy as np
import pytest

from perfsuite.llama.line_fit import fit_line

SIZES = np.repeat([1e3, 1e5, 1e7, 1e8], 5)


def test_a_line_is_found_again() -> None:
    fit = fit_line(SIZES, 5e-5 + 2e-9 * SIZES)
    assert fit.alpha.value == pytest.approx(5e-5)
    assert fit.beta.value == pytest.approx(2e-9)
    assert fit.worst < 1e-9


def test_the_interval_holds_the_truth_under_noise() -> None:
    noise = np.exp(np.random.default_rng(1).normal(0, 0.05, len(SIZES)))
    fit = fit_line(SIZES, (5e-5 + 2e-9 * SIZES) * noise)
    assert fit.alpha.low <= 5e-5 <= fit.alpha.high
    assert fit.beta.low <= 2e-9 <= fit.beta.high
    assert fit.alpha.low < fit.alpha.value < fit.alpha.high


def test_what_is_no_line_has_a_large_error() -> None:
    assert fit_line(SIZES, 5e-5 + 1e-17 * SIZES**2).worst > 0.3


def test_a_line_that_hardly_rises_keeps_its_beginning() -> None:
    fit = fit_line(SIZES, 3e-4 + 5e-12 * SIZES)
    assert fit.alpha.value == pytest.approx(3e-4)
    assert fit.beta.value == pytest.approx(5e-12)


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([1, 1], [1, 1]), ([1, 2], [1, 0]), ([1, 2], [1]), ([], [])]
)
def test_what_gives_no_line_is_refused(sizes: list[float], seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="two sizes"):
        fit_line(sizes, seconds)
