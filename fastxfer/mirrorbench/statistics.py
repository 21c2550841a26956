"""Intervals of a mean by bootstrap, and when two of them part: pure, the seed an argument.

With few rounds the percentiles of the bootstrap lie too close together. They are taken further out, by as
much as Student's t is wider than the normal distribution (the expanded percentile interval of Hesterberg,
"What teachers should know about the bootstrap", 2015, section 3.5). So intervals of 8 samples hold the truth
in 94 to 95 % of cases; of 5 in 91 to 92, of 4 in 86 to 87, for the mean of a few cannot lie outside them; of
fewer nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
LEAST_SAMPLES = 4
# Student's t for 95 % on both sides, for 1, 2, ... degrees of freedom; then the normal distribution's.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.960


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval; `low` and `high` are None where there were too few samples to tell.
    `spread` is the standard deviation of the samples over their mean.
    """

    mean: float
    low: float | None
    high: float | None
    spread: float


def estimate(samples: Sequence[float], seed: int = 0) -> Estimate | None:
    """Returns the mean of samples with its interval, None where there are none."""
    if not samples:
        return None
    values = np.asarray(samples, dtype=float)
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) / mean if len(values) > 1 and mean > 0 else 0.0
    if len(values) < LEAST_SAMPLES:
        return Estimate(mean, None, None, spread)
    picks = np.random.default_rng(seed).integers(0, len(values), size=(RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    tail = 100 * _tail(len(values))
    low, high = np.percentile(means, [tail, 100 - tail])
    # The mean is inside, whatever the arithmetic of floating point says.
    return Estimate(mean, min(float(low), mean), max(float(high), mean), spread)


def _tail(count: int) -> float:
    """Returns which share of the resampled means is left out on each side."""
    t = _T[count - 2] if count - 2 < len(_T) else _NORMAL
    return 0.5 * math.erfc(t * math.sqrt(count / (count - 1)) / math.sqrt(2))


def above(one: Estimate | None, other: Estimate | None) -> bool:
    """Returns whether one is shown to be more than the other: their intervals part."""
    if one is None or other is None or one.low is None or other.high is None:
        return False
    return one.low > other.high
