"""How sure an alarm must be at each look, so that all looks together err no more often than one would.

Alpha spending (Lan and DeMets, Discrete Sequential Boundaries for Clinical Trials, Biometrika 70, 1983) after
the shape of O'Brien and Fleming: hardly anything is spent on early looks, where only gross changes can
show, so that the last look is almost as sharp as if it were the only one. The probabilities are integrated
numerically (Armitage, McPherson and Rowe, Repeated Significance Tests on Accumulating Data, J. R. Stat. Soc. A
132, 1969). The levels are used with t quantiles, as Jennison and Turnbull advise where the variance is
not known (Group Sequential Methods, 2000, section 3.8).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from perfsuite.distributions import normal_cdf, normal_quantile

_STEP = 0.05  # of the integration, in standard deviations of one look's information
_REACH = 9.0  # standard deviations; beyond is nothing


@lru_cache(maxsize=64)
def nominal_levels(looks: int, alpha: float) -> tuple[float, ...]:
    """Return the one-sided level of each look that together make ``alpha``.

    Args:
        looks: How often is looked, each time after equally much new information.
        alpha: The one-sided chance of any false alarm over all looks, below 0.5.
    """
    shares = np.arange(1, looks + 1) / looks
    spent = 2 * normal_cdf(normal_quantile(alpha / 2) / np.sqrt(shares))
    levels = [float(spent[0])]
    # The sum of the looks so far, in standard deviations of one look, where nothing has crossed yet.
    bound = -float(normal_quantile(levels[0]))
    grid = np.arange(-_REACH, bound, _STEP)
    density = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
    for look in range(2, looks + 1):
        target = float(spent[look - 1] - spent[look - 2])
        low, high = 0.0, _REACH * np.sqrt(look)
        for _ in range(50):
            middle = (low + high) / 2
            crossed = float(density @ normal_cdf(grid - middle)) * _STEP
            low, high = (middle, high) if crossed > target else (low, middle)
        bound = (low + high) / 2
        levels.append(float(normal_cdf(-bound / np.sqrt(look))))
        following = np.arange(-_REACH * np.sqrt(look), bound, _STEP)
        kernel = np.exp(-0.5 * (following[:, None] - grid) ** 2) / np.sqrt(2 * np.pi)
        grid, density = following, kernel @ density * _STEP
    return tuple(levels)
