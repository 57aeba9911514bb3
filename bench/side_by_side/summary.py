"""What repeated timings say: a median and how far to trust it. The definitions are those of tune/statistics.h."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Sequence


@dataclass(frozen=True)
class Summary:
    median: float  # seconds per call
    noise: float  # median absolute deviation / median
    uncertainty: float  # relative standard error of the median, from the order statistics around it
    samples: int


def summarize(samples: Sequence[float]) -> Summary:
    middle = median(samples)
    noise = median(abs(sample - middle) for sample in samples)
    # The number of samples below the true median is binomial, n/2 +- sqrt(n)/2: so far from the middle, the order
    # statistics bracket it with one standard error. Unlike the deviation this sees two modes with few samples.
    ordered, count = sorted(samples), len(samples)
    lower = math.floor((count - math.sqrt(count)) / 2)
    upper = math.ceil((count + math.sqrt(count)) / 2) - 1
    return Summary(middle, noise / middle, (ordered[upper] - ordered[lower]) / 2 / middle, count)
