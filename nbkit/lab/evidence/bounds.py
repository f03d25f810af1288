"""Compute the ends of intervals from values, as functions of the confidence."""

from __future__ import annotations

import math
from functools import partial

from nbkit.lab.evidence.intervals import Bounds


def student_bounds(values: list[float]) -> Bounds:
    """Compute Student's t interval of the mean, by scipy.stats.ttest_1samp."""
    from scipy.stats import ttest_1samp

    test = ttest_1samp(values, 0.0)

    def bounds_at(confidence: float) -> tuple[float, float]:
        low, high = test.confidence_interval(confidence)
        return low, high

    return bounds_at


def bca_bounds(values: list[float]) -> Bounds:
    """Compute the bias-corrected and accelerated bootstrap interval of the mean.

    The values are resampled once, with a fixed seed; every confidence reads the same resamples.
    """
    import numpy as np
    from scipy.stats import bootstrap

    resample = partial(bootstrap, (values,), np.mean, method="BCa")
    drawn = resample(n_resamples=9999, random_state=np.random.default_rng(0))

    def bounds_at(confidence: float) -> tuple[float, float]:
        # With no further resamples, scipy computes from those that it is given.
        again = resample(n_resamples=0, bootstrap_result=drawn, confidence_level=confidence)
        low, high = again.confidence_interval
        return low, high

    return bounds_at


def median_bounds(ratios: list[float]) -> Bounds:
    """Compute the sign test's interval of the median, open on the side of runs that diverged.

    Args:
        ratios: 0 stands for a lost denominator, infinity for a lost numerator.
    """
    from scipy.stats import quantile_test

    test = quantile_test(ratios, p=0.5)
    has_lost_denominator, has_lost_numerator = min(ratios) == 0, max(ratios) == math.inf

    def bounds_at(confidence: float) -> tuple[float, float]:
        # scipy returns NaN for an end that so few values cannot bound.
        low, high = test.confidence_interval(confidence)
        if math.isnan(low) or has_lost_denominator:
            low = 0.0
        if math.isnan(high) or has_lost_numerator:
            high = math.inf
        return low, high

    return bounds_at
