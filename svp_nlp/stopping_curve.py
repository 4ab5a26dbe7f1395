"""What more labels will bring: a power law through the errors that there are, and how sure that is.

Shape legend: P points (labelled sizes at which an error is known), E exponents that are tried, G gains that are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from svp_nlp.errors import BudgetError

LEAST_POINTS = 4  # the law has three parameters
LEVEL = 0.8  # of the interval: wide enough to be right most of the time, and not so wide that it says nothing
_LEAST_VARIANCE = 0.25  # of the scatter, in units of that of an error on so many rows
_EXPONENTS_E = np.geomspace(0.02, 3.0, 200)
_EVERY = 4  # of them, where each is tried with all gains
_GAINS = 1_001
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """By how much the error falls with `more` labels than `labeled_size`: shares, 0.004 = 0.4 points, never negative.

    `low` and `high` are the ends of the interval; `error` is the curve's at `labeled_size`.
    """

    labeled_size: int
    more: int
    gain: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class _Sums:
    """Weighted sums over the points: all that a straight line in n^-c needs. `x` is [E], one for each exponent."""

    one: float
    y: float
    yy: float
    x: Float
    xx: Float
    xy: Float

    def of(self, exponents: npt.NDArray[np.int64]) -> _Sums:
        """Of some exponents only."""
        return replace(self, x=self.x[exponents], xx=self.xx[exponents], xy=self.xy[exponents])

    def offset(self, slope: Float) -> Float:
        """The best a >= 0 of err = a + slope x."""
        return np.maximum((self.y - slope * self.x) / self.one, 0.0)

    def misfit(self, offset: Float, slope: Float) -> Float:
        """Weighted sum of squares; >= 0."""
        found = (
            self.yy - 2 * offset * self.y - 2 * slope * self.xy
            + offset**2 * self.one + 2 * offset * slope * self.x + slope**2 * self.xx
        )  # fmt: skip
        return np.maximum(found, 0.0)


def expected_gain(
    sizes_P: Sequence[float],
    errors_P: Sequence[float],
    *,
    more: int,
    tested_P: Sequence[float] | float,
    level: float = LEVEL,
) -> Gain:
    """Fit err = a + b n^-c with a, b >= 0 and read off what `more` labels bring, with a profile interval.

    Only the sizes above half of the largest are used, at least the last four: real curves are power laws in parts, and
    fitted to all points the intervals were too narrow by far (benchmarks/README.md).

    A point counts by the inverse of the variance of an error that is measured on so many rows. The scatter is estimated
    from the residuals, so few points give wide intervals; one of less than half the standard deviation of such an error
    is not believed, for the same rows are mostly tested at all sizes, and others would have shown another curve. The
    interval is that of the curve, and right only as far as the power law is.

    Args:
        sizes_P: labelled sizes, > 0; at least four different ones.
        errors_P: in [0, 1].
        more: labels beyond the largest size, > 0.
        tested_P: rows that each error was measured on.
        level: of the interval, in (0, 1).
    Raises:
        BudgetError: fewer than four different sizes.
    Source: Figueroa et al. 2012, Predicting sample size required for classification performance (inverse power law,
    weighted least squares; there the weights grow with the point's number). Interval: the gains whose best curve is
    not worse than the best of all by more than an F(1, P - 3) quantile allows (Bates & Watts 1988, chapter 6), or a
    chi-squared one where the least scatter is taken.
    """
    sizes, errors = np.asarray(sizes_P, dtype=np.float64), np.asarray(errors_P, dtype=np.float64)
    known = len(np.unique(sizes))
    if known < LEAST_POINTS:
        raise BudgetError(
            f"a learning curve through {known} labelled sizes says nothing about the next; expected at least "
            f"{LEAST_POINTS}"
        )
    assert sizes.shape == errors.shape and sizes.min() > 0 and more > 0
    tested = np.broadcast_to(np.asarray(tested_P, dtype=np.float64), sizes.shape)
    last, late = sizes.max(), _late(sizes)
    sizes, errors, tested = sizes[late], errors[late], tested[late]
    weights = _weights(errors, tested)
    # In units of the last size: powers of large sizes lose no digits.
    powers_EP = (sizes / last) ** -_EXPONENTS_E[:, None]
    sums = _Sums(
        one=float(weights.sum()), y=float((weights * errors).sum()), yy=float((weights * errors**2).sum()),
        x=(powers_EP * weights).sum(axis=1), xx=(powers_EP**2 * weights).sum(axis=1),
        xy=(powers_EP * weights * errors).sum(axis=1),
    )  # fmt: skip
    step_E = 1.0 - ((last + more) / last) ** -_EXPONENTS_E  # what a slope of 1 brings

    slope_E = _slopes(sums)
    offset_E = sums.offset(slope_E)
    misfit_E = sums.misfit(offset_E, slope_E)
    best = int(np.argmin(misfit_E))

    gains_G = np.linspace(0.0, 1.0, _GAINS) ** 2 * max(float(errors.max()), 1e-9)  # finer where gains are small
    some = np.union1d(np.arange(0, len(_EXPONENTS_E), _EVERY), best)
    sums, slope_GE = sums.of(some), gains_G[:, None] / step_E[some]
    profile_G = sums.misfit(sums.offset(slope_GE), slope_GE).min(axis=1)
    free, least = len(sizes) - 3, float(misfit_E[best])
    believed = _LEAST_VARIANCE * _t_quantile(level, math.inf) ** 2
    allowed = least + max(least / free * _t_quantile(level, free) ** 2, believed)
    inside = np.flatnonzero(profile_G <= allowed)
    gain = float(slope_E[best] * step_E[best])
    low, high = (float(gains_G[inside[0]]), float(gains_G[inside[-1]])) if len(inside) else (gain, gain)
    return Gain(
        labeled_size=int(last),
        more=more,
        gain=gain,
        low=min(low, gain),
        high=max(high, gain),
        error=float(offset_E[best] + slope_E[best]),
    )


def _late(sizes_P: Float) -> npt.NDArray[np.bool_]:
    """Which points are used."""
    fourth_last = np.unique(sizes_P)[-LEAST_POINTS]
    late_P: npt.NDArray[np.bool_] = sizes_P >= min(sizes_P.max() / 2, fourth_last)
    return late_P


def _weights(errors_P: Float, tested_P: Float) -> Float:
    # Agresti & Coull 1998: an error of 0 on 100 rows is not known for sure.
    smoothed_P = (errors_P * tested_P + 2.0) / (tested_P + 4.0)
    weights_P: Float = tested_P / (smoothed_P * (1.0 - smoothed_P))
    return weights_P


def _slopes(sums: _Sums) -> Float:
    """For each exponent the best b >= 0; where that asks for a < 0, the best with a = 0."""
    spread_E = sums.xx - sums.x**2 / sums.one
    slope_E = (sums.xy - sums.x * sums.y / sums.one) / np.maximum(spread_E, 1e-300)
    below = sums.y - slope_E * sums.x < 0
    return np.maximum(np.where(below, sums.xy / sums.xx, slope_E), 0.0)


def _t_quantile(level: float, free: float) -> float:
    """The two-sided quantile of Student's t; the normal one for infinitely many."""
    from scipy.special import stdtrit  # takes longer to import than all of the rest to compute

    found = float(stdtrit(free, 0.5 + level / 2))
    assert math.isfinite(found)
    return found
