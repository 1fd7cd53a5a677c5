"""The rules on known curves: a rate where there is one to see, else a refusal that says what was seen."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtut import NoSuggestion, RangeTest
from lrtut.finder import rules
from lrtut.finder.rules import RULES

GRID = np.geomspace(1e-6, 10, 200)


def curve(losses, *, lrs=GRID):
    losses = np.asarray(losses, float)
    return RangeTest(np.asarray(lrs)[: len(losses), None], losses)


def noisy(losses, sigma, seed=0):
    return losses * np.exp(sigma * np.random.default_rng(seed).standard_normal(len(losses)))


def suggested(losses, lrs=GRID):
    """The suggestion, NaN where there is none."""
    try:
        return curve(losses, lrs=lrs).suggestion()
    except NoSuggestion:
        return math.nan


def found(make, seeds):
    """For how many of these seeds the curve `make(seed)` has a suggestion."""
    return sum(not math.isnan(suggested(make(seed))) for seed in range(seeds))


def valley(lrs=GRID, *, low=0.1, fall=1.5, cliff=0.5, depth=2.0, level=2.3):
    """Flat, falling over about `fall` decades down to `low`, and `cliff` decades further up again, steeply."""
    place = np.log10(lrs / low)
    falling = -depth / (1 + np.exp(-(place + fall / 2) * 8 / fall))
    return level * np.exp(np.minimum(falling + (place > 0) * 4 * (place / cliff) ** 2, 20))


def parabola(lrs, low):
    return np.exp(0.05 * np.log10(lrs / low) ** 2)


# --- what is suggested --------------------------------------------------------------------------------------------


def test_suggestion_is_a_third_of_the_middle_of_the_valley():
    losses = parabola(GRID, 0.02)
    test = curve(losses)
    assert test.max_lr() == pytest.approx(0.02, rel=0.1)
    assert test.suggestion() == pytest.approx(test.max_lr() / 3) == test.suggestion("minimum")


def test_in_a_wide_valley_noise_hardly_moves_the_suggestion():
    place = np.log10(GRID / 0.03)
    floor = np.exp(np.minimum(np.maximum(np.abs(place) - 0.5, 0) ** 2 * 3, 1.5))  # flat over a decade
    rates = [suggested(noisy(floor, 0.05, seed)) for seed in range(30)]
    lowest = [curve(noisy(floor, 0.05, seed)).smoothed.argmin() for seed in range(30)]
    assert max(rates) < 2 * min(rates) and GRID[max(lowest)] > 3 * GRID[min(lowest)]
    low, high = curve(noisy(floor, 0.05)).valley()
    assert 0.003 < low < 0.01 and 0.1 < high < 0.3
    assert np.mean(np.log10(rates)) == pytest.approx(np.log10(0.03 / 3), abs=0.1)


def test_a_linear_grid_gives_the_suggestion_of_an_exponential_one():
    even, logarithmic = np.linspace(1e-3, 1, 4000), np.geomspace(1e-3, 1, 1000)
    exponential, linear = curve(valley(logarithmic), lrs=logarithmic), curve(valley(even), lrs=even)
    assert linear.suggestion() == pytest.approx(exponential.suggestion(), rel=0.03)


def test_losses_below_zero_are_fine():
    test = curve(np.log(noisy(valley(), 0.02)))
    assert (test.loss < 0).any() and 0.02 < test.max_lr() < 0.3


def test_a_curve_that_breaks_at_its_lowest_point_has_a_suggestion():
    losses = valley()
    losses[GRID > 0.1] = math.nan
    assert 0.03 < curve(losses).max_lr() <= 0.1


def test_smoothed_loss_is_clipped_and_nan_from_the_first_loss_that_is_not_finite():
    losses = np.full(200, 2.0)
    losses[60], losses[120], losses[150] = 1e9, math.inf, math.nan
    smoothed, clipped = curve(losses).smoothed, curve(np.where(losses == 1e9, 8.0, losses)).smoothed
    np.testing.assert_array_equal(smoothed, clipped)  # four times the level at the start
    assert np.isfinite(smoothed[:120]).all() and np.isnan(smoothed[120:]).all() and len(smoothed) == 200


def test_smoothing_is_a_gaussian_mean_of_the_logarithm_over_decades():
    spike = np.ones(len(GRID))
    spike[100] = math.e
    weights = np.exp(-0.5 * (np.log10(GRID / GRID[100]) / 0.2) ** 2)
    smoothed = np.log(rules.smooth(GRID, spike))
    assert smoothed[70:130] == pytest.approx((weights / weights.sum())[70:130], rel=0.02, abs=1e-6)


# --- what is refused ----------------------------------------------------------------------------------------------

FALLING = 3 - np.log10(GRID / GRID[0]) / 3
RISING = 0.5 + np.log10(GRID / GRID[0]) ** 2 / 10
REFUSED = {
    "NaN at once": ([math.nan], "the loss was nan at the first step"),
    "infinite throughout": ([math.inf] * 200, "the loss was inf at the first step"),
    "an early NaN": ([2.3] * 19 + [math.nan], f"19 usable points, 20 .* from {GRID[19]:.3g} on.*smaller start_lr"),
    "short": (valley()[:12], "12 usable points, 20 are needed"),
    "empty": ([], "0 usable points"),
    **{f"flat {y:g}": ([y] * 200, f"stands at {y:.4g} at every rate.*requires_grad") for y in (2.3, 0.0, -5.0)},
    "flat but for rounding": (1 + 1e-15 * (np.arange(200) % 3), "stands at 1 at every rate"),
    **{f"rising {s}": (noisy(RISING, s), "only rises between 1e-06 and 10.*smaller start_lr") for s in (0, 0.1)},
    **{f"flat, then rising {s}": (noisy(2.3 + 11.5 * GRID, s), "no rate between .* on it rises") for s in (0, 0.1)},
    "zero, then rising": (np.r_[np.zeros(150), GRID[150:]], "no rate between .* on it rises"),
    "flat, then broken": (np.r_[noisy(np.full(150, 2.3), 0.1), [math.inf]], "no rate between.*smaller start_lr does"),
    **{f"falling {s}": (noisy(FALLING, s), "still falls at the end .*, at 10.*larger end_lr") for s in (0, 0.1)},
}


@pytest.mark.parametrize("losses, words", REFUSED.values(), ids=REFUSED)
def test_a_curve_without_a_suggestion_says_what_was_seen(losses, words):
    test = curve(losses)
    with pytest.raises(NoSuggestion, match=words):
        test.suggestion()
    with pytest.raises(NoSuggestion):
        test.max_lr()
    assert issubclass(NoSuggestion, ValueError)


def test_a_linear_test_over_decades_is_told_to_be_exponential():
    lrs = np.linspace(1e-6, 10, 200)
    with pytest.raises(NoSuggestion, match="the rates jump from 1e-06 to 0.0503 in one step.*scale='exponential'"):
        RangeTest(lrs[:, None], 2.3 + lrs).suggestion()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_refuses_a_curve_that_breaks_early(rule):
    with pytest.raises(NoSuggestion, match="19 usable points"):
        curve([2.3] * 19 + [math.nan]).suggestion(rule)


def test_an_unknown_rule_is_named_and_is_no_refusal():
    with pytest.raises(ValueError, match="rule='best'.*'minimum/10'") as caught:
        curve(valley()).suggestion("best")
    assert not isinstance(caught.value, NoSuggestion)


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_noise_around_a_flat_line_is_refused(sigma):
    assert found(lambda seed: noisy(np.full(200, 2.3), sigma, seed), 100) <= 5


@pytest.mark.parametrize(
    "flat", [lambda noise: 2.3 * np.exp(2 * noise), lambda noise: noise - 0.5], ids=["loss", "reward"]
)
def test_noise_that_grows_with_the_rate_is_hardly_taken_for_a_valley(flat):
    def losses(seed):
        return flat(np.random.default_rng(seed).standard_t(3, 200) * np.where(GRID > 1e-2, 1, 0.02))

    assert found(losses, 60) <= 12


def test_a_valley_before_a_cliff_that_scatters_is_hardly_refused():
    def losses(seed):  # as with batches of four
        noise = np.random.default_rng(seed).standard_t(3, 200)
        return valley(low=0.05, depth=0.5) * np.exp(noise * np.where(GRID > 0.05, 3, 0.15))

    assert found(losses, 60) >= 32


def test_a_fall_and_a_rise_at_the_end_count_where_they_stand_out_from_the_noise():
    def falling(height):  # and then broken, so that it need not rise
        return lambda seed: noisy(np.exp(np.r_[np.linspace(height, 0, 199), math.nan]), 0.1, seed)

    def rising(height):
        return lambda seed: noisy(np.exp(np.r_[np.linspace(1.5, 0, 150), np.linspace(0, height, 50)]), 0.1, seed)

    assert found(falling(0.1), 50) <= 30 and found(falling(0.15), 50) >= 38
    assert found(rising(0), 50) <= 15 and found(rising(0.1), 50) >= 33


# --- the rules of others ------------------------------------------------------------------------------------------


def test_trailing_is_the_weighted_mean_of_what_came_before():
    losses = np.random.default_rng(0).uniform(1, 3, 50)
    for i, mean in enumerate(rules.trailing(losses)):
        assert mean == pytest.approx(np.average(losses[: i + 1], weights=0.98 ** np.arange(i, -1, -1)))


def test_valley_is_half_way_down_the_longest_fall():
    lrs = np.geomspace(1e-3, 1.0, 40)
    assert rules.valley(lrs[:30], np.linspace(3, 1, 30)) == lrs[14]
    # A rise counts for nothing: the last 20 fall.
    assert rules.valley(lrs, np.r_[np.linspace(1, 1.01, 20), np.geomspace(0.9, 1e-3, 20)]) == lrs[29]


def test_a_tenth_of_the_lowest_point():
    losses = np.r_[np.linspace(3, 2, 30), np.full(10, 1e6)]  # the trailing average falls up to the thirtieth
    lrs = np.geomspace(1e-3, 1.0, 40)
    assert rules.minimum_tenth(lrs, losses) == pytest.approx(lrs[29] / 10)


def test_steepest_is_up_to_the_minimum_and_per_decade():
    lrs = 10.0 ** np.arange(-6, 0)  # so far apart that the smoothing does nothing
    assert rules.steepest(lrs, np.array([5.0, 4.9, 4.7, 4.3, 3.5, 1.9])) == pytest.approx(0.1)
    assert rules.steepest(lrs, np.array([5.0, 4.9, 2.0, 1.8, 1.7, 9.0])) == pytest.approx(1e-4)
    assert rules.steepest(lrs, np.array([5.0, 1.0, 1.2, 4.0, 9.0, 2.0])) == pytest.approx(1e-6)


# --- any valley ---------------------------------------------------------------------------------------------------


@st.composite
def valleys(draw):
    lrs = np.geomspace(1e-6, 10, draw(st.integers(60, 300)))
    shape = {"fall": st.floats(0.5, 2.5), "cliff": st.floats(0.2, 1), "depth": st.floats(0.1, 3)}
    shape = {name: draw(values) for name, values in shape.items()}
    losses = valley(lrs, low=10 ** draw(st.floats(-3.5, 0)), level=draw(st.floats(0.1, 10)), **shape)
    return lrs, noisy(losses, draw(st.floats(0.001, 0.1)), draw(st.integers(0, 10**6)))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(valleys(), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6))
def test_suggestion_scales_with_the_rates_and_not_with_the_loss_and_is_below_the_minimum(points, faster, larger):
    lrs, losses = points
    rate, lowest = suggested(losses, lrs), lrs[curve(losses, lrs=lrs).smoothed.argmin()]
    assert math.isnan(rate) or 0 < rate <= lowest
    assert suggested(losses, lrs * faster) == pytest.approx(rate * faster, rel=1e-6, nan_ok=True)
    assert suggested(losses * larger, lrs) == pytest.approx(rate, rel=1e-6, nan_ok=True)
    for rule in set(RULES) - {"minimum"}:
        assert lrs[0] / 10 <= curve(losses, lrs=lrs).suggestion(rule) <= lrs[-1]
