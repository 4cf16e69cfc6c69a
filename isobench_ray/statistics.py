"""Estimates from paired blocks: the contrast of two arms, and how many blocks it takes.

All contrasts are differences of natural logarithms within a block, signed so that positive means
that the first arm is better. Covers the paired t interval, Stein's two-stage rule, binomial bands
and Wilson intervals. Not here yet: bootstrap, sign-flip test, unpaired data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from isobench_ray.schema import RecordModel

CONFIDENCE = 0.95


class Contrast(RecordModel):
    """By how much one arm is better than another, in natural logarithms, with its interval."""

    n_blocks: int
    """Blocks that both arms have."""
    mean: float
    """Mean log-ratio over all blocks; exp(mean) is the speed-up."""
    sd: float
    """Sample standard deviation of the log-ratios over all blocks."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n_pilot: int
    """Pilot blocks: their variance makes the interval."""
    sd_pilot: float
    """Sample standard deviation over the pilot blocks."""

    @property
    def speedup(self) -> float:
        """The ratio exp(mean): 2.0 means twice as fast."""
        return math.exp(self.mean)


def log_ratios(
    arm: Sequence[float], reference: Sequence[float], lower_is_better: bool
) -> list[float]:
    """ln(reference / arm) per block, or its negative where higher is better.

    Raises:
        ValueError: the sequences differ in length, or a value is not positive and finite.
    """
    if len(arm) != len(reference):
        raise ValueError(f"{len(arm)} blocks of one arm against {len(reference)} of the other")
    if not all(math.isfinite(x) and x > 0 for x in (*arm, *reference)):
        raise ValueError("a metric must be a positive, finite number")
    sign = 1.0 if lower_is_better else -1.0
    return [sign * math.log(r / a) for a, r in zip(arm, reference, strict=True)]


def contrast(differences: Sequence[float], n_pilot: int) -> Contrast:
    """Mean and 95 % interval of per-block differences.

    The interval is mean +- t(.975, n0 - 1) * s0 / sqrt(n), with s0 the standard deviation of the
    n0 pilot blocks: exact for normal data when n was fixed from s0 (Stein 1945, Annals of
    Mathematical Statistics 16:243-258). With n = n0 it is the ordinary paired t interval.

    Raises:
        ValueError: fewer than two pilot blocks.
    """
    n, n_pilot = len(differences), min(n_pilot, len(differences))
    if n_pilot < 2:
        raise ValueError("an interval needs at least two blocks")
    mean = math.fsum(differences) / n
    sd_pilot = _sd(differences[:n_pilot])
    half = t_quantile(n_pilot - 1) * sd_pilot / math.sqrt(n)
    return Contrast(
        n_blocks=n,
        mean=mean,
        sd=_sd(differences),
        low=mean - half,
        high=mean + half,
        n_pilot=n_pilot,
        sd_pilot=sd_pilot,
    )


def blocks_needed(pilots: Sequence[Sequence[float]], margin_ratio: float, most: int) -> int:
    """Blocks for an interval whose half-width is at most half of ln(1 + margin), for each contrast.

    n = clamp(ceil((t(.975, n0 - 1) * s0 / (ln(1 + margin) / 2))^2), n0, most), the largest over
    the pilots (one sequence of per-block differences for each required contrast); Stein 1945.
    """
    wanted = math.log1p(margin_ratio) / 2
    most_needed = 0
    for pilot in pilots:
        half = t_quantile(len(pilot) - 1) * _sd(pilot)
        most_needed = max(most_needed, len(pilot), math.ceil((half / wanted) ** 2))
    return min(most, most_needed)


def t_quantile(degrees: int) -> float:
    """The two-sided 95 % point of Student's t with so many degrees of freedom."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def _sd(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def wilson_interval(successes: int, n: int) -> tuple[float, float] | None:
    """95 % interval of a proportion (Wilson 1927, JASA 22:209-212); None for n = 0."""
    if n == 0:
        return None
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def binomial_band(n: int, rate: float, level: float) -> tuple[int, int]:
    """The central band of counts that a binomial variable falls in with probability `level`."""
    tail = (1 - level) / 2
    return int(stats.binom.ppf(tail, n, rate)), int(stats.binom.ppf(1 - tail, n, rate))
