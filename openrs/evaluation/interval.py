"""How sure a share of right answers is."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


def wilson(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of `correct` out of `n`, 95 % by default (E. B. Wilson, JASA 22, 1927).

    It takes the answers for independent: several samples of one problem are not, so it is then too narrow.
    Raises ValueError unless 0 ≤ correct ≤ n and n ≥ 1.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"no share: {correct} of {n}")
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At its ends the interval is closed exactly; the formula misses them by a rounding error.
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half
