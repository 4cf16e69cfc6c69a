"""Intervals and block counts: against SciPy, closed forms, published values, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isobench_ray.statistics import (
    binomial_band,
    blocks_needed,
    contrast,
    log_ratios,
    t_quantile,
    wilson_interval,
)

SESSIONS = 4000


def test_the_interval_is_scipys_paired_t_interval_of_the_logarithms():
    random = np.random.default_rng(1)
    base = random.lognormal(4.0, 0.1, size=11)
    arm = base / 1.3 * random.lognormal(0.0, 0.05, size=11)
    found = contrast(log_ratios(list(arm), list(base), lower_is_better=True), n_pilot=11)
    theirs = stats.ttest_rel(np.log(base), np.log(arm)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert found.mean == pytest.approx(np.mean(np.log(base / arm)), rel=1e-12)
    assert found.sd == pytest.approx(np.std(np.log(base / arm), ddof=1), rel=1e-12)


def test_blocks_after_the_pilot_move_the_mean_but_the_pilots_deviation_makes_the_interval():
    pilot, later = [0.1, 0.2, 0.3], [0.7, 0.7, 0.7]
    found = contrast(pilot + later, n_pilot=3)
    half = 4.302652729911275 * 0.1 / math.sqrt(6)  # t(.975, 2) from a printed table, times s0
    assert found.mean == pytest.approx(0.45)
    assert found.sd_pilot == pytest.approx(0.1)
    assert (found.n_blocks, found.n_pilot) == (6, 3)
    assert (found.low, found.high) == pytest.approx((0.45 - half, 0.45 + half))
    assert found.sd > found.sd_pilot


def test_an_arm_with_fewer_blocks_than_the_pilot_has_the_plain_interval_of_what_it_has():
    assert contrast([0.1, 0.2, 0.3], n_pilot=7) == contrast([0.1, 0.2, 0.3], n_pilot=3)


def test_one_block_is_no_interval():
    with pytest.raises(ValueError, match="at least two blocks"):
        contrast([0.1], n_pilot=7)


def test_the_speed_up_is_the_exponential_of_the_mean():
    assert contrast([math.log(2)] * 3, n_pilot=3).speedup == pytest.approx(2.0)


def test_positive_means_better_in_both_directions_of_a_metric():
    assert log_ratios([50.0], [100.0], lower_is_better=True) == [pytest.approx(math.log(2))]
    assert log_ratios([50.0], [100.0], lower_is_better=False) == [pytest.approx(-math.log(2))]
    assert log_ratios([200.0], [100.0], lower_is_better=False) == [pytest.approx(math.log(2))]


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("side", ["arm", "reference"])
def test_a_metric_that_has_no_logarithm_is_an_error(value, side):
    arm, reference = ([value], [1.0]) if side == "arm" else ([1.0], [value])
    with pytest.raises(ValueError, match="positive, finite"):
        log_ratios(arm, reference, lower_is_better=True)


def test_blocks_of_unequal_number_are_not_paired():
    with pytest.raises(ValueError, match="2 blocks of one arm against 1"):
        log_ratios([1.0, 2.0], [1.0], lower_is_better=True)


def test_the_number_of_blocks_is_steins_formula_between_pilot_and_maximum():
    pilot = [0.0, 0.02, 0.04, 0.0, 0.02, 0.04, 0.02]
    half = float(stats.t.ppf(0.975, 6)) * np.std(pilot, ddof=1)
    wanted = math.ceil((half / (math.log(1.05) / 2)) ** 2)
    assert 2 < wanted < 7
    assert blocks_needed([pilot], 0.05, most=15) == 7
    assert blocks_needed([[3 * v for v in pilot]], 0.05, most=500) == math.ceil(
        (3 * half / (math.log(1.05) / 2)) ** 2
    )
    assert blocks_needed([[3 * v for v in pilot]], 0.05, most=15) == 15


def test_the_noisiest_contrast_decides_the_number_of_blocks():
    calm, loud = [0.0, 0.001, 0.002], [0.0, 0.02, 0.04]
    alone = blocks_needed([loud], 0.05, most=10_000)
    assert alone > 3
    assert blocks_needed([calm, loud], 0.05, most=10_000) == alone
    assert blocks_needed([calm, calm], 0.05, most=10_000) == 3


@given(
    pilot=st.lists(st.floats(-1, 1), min_size=3, max_size=9),
    shift=st.floats(-5, 5),
    margin=st.floats(0.01, 0.5),
)
def test_the_number_of_blocks_does_not_depend_on_the_size_of_the_effect(pilot, shift, margin):
    moved = [value + shift for value in pilot]
    here, there = (blocks_needed([p], margin, most=40) for p in (pilot, moved))
    assert abs(here - there) <= 1  # but for rounding at a whole number
    assert min(len(pilot), 40) <= here <= 40


def _sessions(effect: float, sd: float, pilot: int, most: int) -> tuple[int, int]:
    """How many of SESSIONS intervals by the shipped rule hold the effect, and leave out 0."""
    random = np.random.default_rng(20260101)
    holds = leaves_out_zero = 0
    for draws in random.normal(effect, sd, size=(SESSIONS, most)).tolist():
        n = blocks_needed([draws[:pilot]], 0.05, most)
        found = contrast(draws[:n], pilot)
        holds += found.low <= effect <= found.high
        leaves_out_zero += found.low > 0 or found.high < 0
    return holds, leaves_out_zero


@pytest.mark.parametrize(
    ("sd", "pilot", "most"),
    [
        pytest.param(0.04, 7, 15, id="the defaults, quiet machine"),
        pytest.param(0.08, 5, 40, id="the rule chooses"),
        pytest.param(0.30, 7, 15, id="always cut at the maximum"),
        pytest.param(0.04, 11, 11, id="no look: the quickstart"),
    ],
)
def test_two_stage_intervals_hold_the_effect_in_95_percent(sd, pilot, most):
    holds, false_alarms = _sessions(0.0, sd, pilot, most)
    low, high = binomial_band(SESSIONS, 0.95, 0.999)
    assert low <= holds <= high
    assert false_alarms == SESSIONS - holds


def test_coverage_is_the_same_where_there_is_an_effect():
    holds, _ = _sessions(math.log(1.2), 0.08, 5, 40)
    low, high = binomial_band(SESSIONS, 0.95, 0.999)
    assert low <= holds <= high


def test_stopping_at_significance_would_be_seen_by_the_same_simulation():
    """Positive control: the band above is narrow enough to catch a rule that peeks."""
    random = np.random.default_rng(20260101)
    false_alarms, sessions = 0, SESSIONS // 4
    for draws in random.normal(0.0, 0.08, size=(sessions, 15)).tolist():
        intervals = (contrast(draws[:n], n) for n in range(3, 16))
        false_alarms += any(i.low > 0 or i.high < 0 for i in intervals)
    _, most = binomial_band(sessions, 0.05, 0.999)
    assert false_alarms > 2 * most


def test_the_t_quantile_is_the_printed_one():
    assert t_quantile(6) == pytest.approx(2.446912, abs=1e-6)
    assert t_quantile(10) == pytest.approx(2.228139, abs=1e-6)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(18, 39, 31.6, 61.4), (7, 39, 9.0, 32.7), (12, 15, 54.8, 93.0), (13, 15, 62.1, 96.3)],
)
def test_wilson_intervals_of_published_rates(successes, n, low, high):
    found = wilson_interval(successes, n)
    assert found is not None
    assert [round(100 * end, 1) for end in found] == [low, high]


def test_wilson_intervals_stay_within_0_and_1_and_know_nothing_about_nothing():
    nothing, everything = wilson_interval(0, 10), wilson_interval(10, 10)
    assert nothing is not None
    assert everything is not None
    assert nothing == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert everything == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert everything[1] <= 1.0
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(("n", "rate", "level"), [(30, 0.05, 0.99), (4000, 0.95, 0.999)])
def test_the_binomial_band_holds_at_least_its_level_and_no_narrower_one_does(n, rate, level):
    low, high = binomial_band(n, rate, level)
    count = stats.binom(n, rate)
    tail = (1 - level) / 2
    assert count.cdf(low - 1) <= tail < count.cdf(low)
    assert count.sf(high) <= tail < count.sf(high - 1)
