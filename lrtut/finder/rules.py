"""From the curve of a range test to a learning rate: the course's rule, and the rules that others use.

A rule takes the rates `[N]` (ascending) and the losses `[N]` (the loss at each of them) and returns one rate. All work
on the usable part of a curve, which `usable` cuts out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

WIDTH = 0.2
"""Standard deviation of the smoothing, in decades of the rate."""
CEILING = 4.0
"""Losses are clipped at this many times the level at the start."""
FIRST = 10
"""The level at the start is the median of this many losses."""
LEAST = 20
"""A curve needs this many usable points."""
DIVISOR = 3.0
"""What the middle of the valley is divided by, for a constant rate; as the peak of a schedule it is taken as it is.

Chosen on the tuning tasks of benchmarks/finders.py and on CHOOSE of benchmarks/modern_tasks.py, which has Transformers,
recurrent networks and fine-tuning, with SGD, momentum, Adam, AdamW and RMSprop. Lesson 05 says what the distance is
for; benchmarks/README.md, what was tried and did not help.
"""
VALLEY = 0.1
"""The share of the fall that counts as little.

A rate is in the valley if less of the fall than this is lost again at it. In the valley's middle, a rate counts by
exp(-h / `VALLEY`), where h is the share that is lost.
"""


class NoSuggestion(ValueError):
    """The curve supports no rate; the message says what was seen, and what to try."""


def usable(lrs: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve up to its first loss that is not finite, clipped at `CEILING` × the median of the first `FIRST`."""
    finite = np.isfinite(losses)
    stop = len(losses) if finite.all() else int(finite.argmin())
    lrs, losses = lrs[:stop], losses[:stop]
    if stop == 0:
        return lrs, losses
    return lrs, np.minimum(losses, ceiling(losses))


def ceiling(losses: Sequence[float]) -> float:
    """The loss above which a run counts as broken, also where losses are negative or scatter around zero.

    Infinite where the first ones are zero: that is no scale.
    """
    first = [float(loss) for loss in losses[:FIRST]]
    level = statistics.median(first)
    scatter = statistics.median(abs(loss - level) for loss in first)  # of positive losses, never above their level
    return level + (CEILING - 1) * max(abs(level), scatter) if level or scatter else math.inf


def smooth(lrs: np.ndarray, losses: np.ndarray, *, width: float = WIDTH) -> np.ndarray:
    """A centred Gaussian mean over the logarithm of the rate, of the logarithm of the loss.

    Losses that are not all positive are averaged as they are. The weights are normalised at the edges.

    Args:
        lrs: `[N]`.
        losses: `[N]`, finite.
        width: standard deviation, decades.
    """
    positive = bool((losses > 0).all())
    values = np.log(losses) if positive else losses
    mean = _kernel(lrs, width) @ values
    return np.exp(mean) if positive else mean


def stretches(lrs: np.ndarray, smoothed: np.ndarray) -> dict[str, tuple[float, float]]:
    """Where a smoothed curve `[N]` with a minimum inside is flat, falling, in its valley and on the cliff: rates.

    The flat stretch ends where the loss has left the first tenth of its fall; the valley is where it is within the last
    tenth of it, and the cliff is beyond.
    """
    kept = np.isfinite(smoothed)
    lrs, smoothed = lrs[kept], smoothed[kept]
    lowest = int(smoothed.argmin())
    least, fall = smoothed[lowest], smoothed[: lowest + 1].max() - smoothed[lowest]
    flat = int(np.flatnonzero(smoothed[: lowest + 1] >= least + (1 - VALLEY) * fall)[-1])
    high = np.flatnonzero(smoothed > least + VALLEY * fall)
    start, end = int(high[high < lowest][-1]), int(min(high[high > lowest], default=len(lrs) - 1))
    places = [0, flat, start, end, len(lrs) - 1]
    ends = zip(("flat", "falling", "valley", "cliff"), places, places[1:], strict=False)
    return {name: (lrs[one], lrs[other]) for name, one, other in ends if one < other}


def _kernel(lrs: np.ndarray, width: float) -> np.ndarray:
    """Weights `[N, N]`; each row sums to 1. A point counts by the stretch around it, which matters on a linear grid."""
    place = np.log10(lrs / lrs[0])
    weights = np.exp(-0.5 * ((place[:, None] - place[None, :]) / width) ** 2)
    if len(place) > 1:
        weights = weights * np.gradient(place)
    return weights / weights.sum(axis=1, keepdims=True)


def minimum(lrs: np.ndarray, losses: np.ndarray, *, broke: bool = False) -> float:
    """The middle of the valley: the geometric mean of the rates around the minimum of the smoothed loss.

    The rate at the minimum itself is a matter of chance where the valley is wide. Each rate counts by exp(-h / VALLEY),
    where h is its height above the minimum, as a share of the fall to it.

    Args:
        lrs: `[N]`.
        losses: `[N]`.
        broke: the sweep went on to a loss that was not finite.

    Raises:
        NoSuggestion: the loss fell by less than its noise; or it rises from the first rate on; or it scatters too much
            around its minimum; or (unless `broke`) it had not risen again by more than its noise when the sweep ended.
    """
    smoothed = smooth(lrs, losses)
    # Where the loss has a logarithm, noise and falls are compared in it: then they have no unit.
    scale = np.log if (losses > 0).all() else np.asarray
    curve, values = scale(smoothed), scale(losses)
    lowest = int(curve.argmin())
    if curve.max() - curve.min() <= 1e-9 * max(1.0, np.abs(curve).max()):
        raise NoSuggestion(
            f"the loss stands at {losses[0]:.4g} at every rate. Do the parameters get a gradient "
            "(requires_grad), and are they the ones that the optimizer has?"
        )
    # How much noise is left at each point after the smoothing.
    weights = _kernel(lrs, WIDTH) ** 2
    noise = _noise(values) * np.sqrt(weights.sum(axis=1))
    above = _above(curve, noise)
    ends = f"between {lrs[0]:.3g} and {lrs[-1]:.3g}"
    if above[: lowest + 1].max() <= _FALL:
        _refuse(lrs, curve, noise, ends, broke)
    # Noise may grow with the rate. The cliff scatters too, and says nothing of the fall before it.
    near = np.maximum(noise, _near(weights, values, lowest + 1))
    if _above(curve, near)[: lowest + 1].max() <= _CLEAR:
        raise NoSuggestion(
            f"{ends} the losses scatter so much that the lowest point, at {lrs[lowest]:.3g}, may be chance, and far "
            "too large a rate. Try larger batches, or more steps."
        )
    if not broke and above[lowest:].max() <= _RISE:
        raise NoSuggestion(f"the loss still falls at the end of the sweep, at {lrs[-1]:.3g}: try a larger end_lr.")
    return middle(lrs, curve)


def middle(lrs: np.ndarray, curve: np.ndarray) -> float:
    """The middle of the valley of a smooth curve `[N]` (logarithms of a loss), as `minimum` takes it."""
    lowest = int(curve.argmin())
    fall = curve[: lowest + 1].max() - curve[lowest]
    place = np.log10(lrs)
    weights = np.exp((curve[lowest] - curve) / max(VALLEY * fall, 1e-12))
    if len(place) > 1:
        weights = weights * np.gradient(place)  # as in `_kernel`
    return float(10 ** np.average(place, weights=weights))


# In standard deviations of what the smoothing leaves of the noise:
_FALL, _RISE, _CLEAR = 4.0, 2.0, 3.0
_SEEN = 0.05  # of the curve's height: a rise that one sees, where there is no noise
_JUMP = 10  # times the first rate in one step: a linear test over decades
_FLAT = 1.5  # decades without a rise: a smaller start_lr would only make them more


def _refuse(lrs: np.ndarray, curve: np.ndarray, noise: np.ndarray, ends: str, broke: bool) -> None:
    """Say why a curve that never falls does not: its rates are all too large, or all gain nothing."""
    start = int(curve[:FIRST].argmin())
    least = np.maximum(_FALL * np.hypot(noise, noise[start]), _SEEN * np.ptp(curve))
    risen = curve - curve[start] > least
    since = len(lrs) - int(risen[::-1].argmin()) if risen[-1] else len(lrs)  # all of the end, from here on, is above
    rises = broke or since < len(lrs)
    edge = min(since, len(lrs) - 1)
    if lrs[1] > _JUMP * lrs[0]:
        raise NoSuggestion(
            f"the rates jump from {lrs[0]:.3g} to {lrs[1]:.3g} in one step, over all that may have been good. Try "
            "scale='exponential'."
        )
    if rises and (edge < FIRST or lrs[edge] < lrs[0] * 10**_FLAT):
        raise NoSuggestion(
            f"the loss only rises {ends}: every rate after the first is too large. Try a smaller start_lr."
        )
    gained = f"no rate {ends} lowered the loss by more than its noise"
    if not rises:
        raise NoSuggestion(
            f"{gained}. Try a larger end_lr, more steps, or larger batches. If that does not help, the model may be "
            "trained already, or the labels may carry nothing (shuffled?)."
        )
    raise NoSuggestion(
        f"{gained}, and from {lrs[edge]:.3g} on it rises. The model may be trained already, the labels may carry "
        "nothing (shuffled?), or the batches may be too small. Try a fresh model, larger batches, more steps; a "
        "smaller start_lr does not help."
    )


def _above(curve: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """How far each point is above the lowest, in standard deviations."""
    lowest = curve.argmin()
    return (curve - curve[lowest]) / np.maximum(np.hypot(noise, noise[lowest]), 1e-12)


def _near(weights: np.ndarray, values: np.ndarray, end: int) -> np.ndarray:
    """What the smoothing leaves of the noise at each point, from the differences of neighbours near it, up to `end`."""
    squares = np.diff(values[:end]) ** 2
    squares = (np.r_[squares[:1], squares] + np.r_[squares, squares[-1:]]) / 2 if end > 1 else np.zeros(1)
    weighed = np.maximum(weights[:, :end].sum(axis=1), 1e-30)
    return np.sqrt(weights[:, :end] @ squares / weighed * weights.sum(axis=1) / 2)


def _noise(values: np.ndarray) -> float:
    """Standard deviation of a loss around its trend, from the differences of neighbours: a trend hardly shifts them."""
    differences = np.diff(values)
    return float(1.4826 * np.median(np.abs(differences - np.median(differences))) / np.sqrt(2))


def minimum_tenth(lrs: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate at the lowest loss, smoothed by a trailing average.

    Source: the fastai library's `minimum` (Howard & Gugger 2020, arXiv 2002.04688).
    """
    return float(lrs[trailing(losses).argmin()]) / 10


def steepest(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The rate, up to the minimum, at which the smoothed loss falls fastest, per decade of the rate.

    Source: the idea is Smith's (2015, arXiv 1506.01186): where the loss begins to fall. PyTorch Lightning and
    torch-lr-finder take the steepest point too, on curves of their own.
    """
    smoothed = smooth(lrs, losses)
    slope = np.gradient(smoothed, np.log10(lrs))
    return float(lrs[slope[: smoothed.argmin() + 1].argmin()])


def valley(lrs: np.ndarray, losses: np.ndarray) -> float:
    """Half-way into the middle third of the longest falling subsequence of the loss, smoothed by a trailing average.

    Source: the fastai library's default since 2021.
    """
    smoothed = trailing(losses)
    lengths = np.ones(len(smoothed), dtype=int)
    for i in range(1, len(smoothed)):
        higher = lengths[:i][smoothed[:i] > smoothed[i]]
        if len(higher):
            lengths[i] = higher.max() + 1
    end = int(lengths.argmax())
    return float(lrs[end - lengths[end] // 2])


def trailing(losses: np.ndarray, *, beta: float = 0.98) -> np.ndarray:
    """An exponential moving average of the losses so far, corrected at the start: what most finders smooth by."""
    mean, means = 0.0, []
    for i, loss in enumerate(losses, start=1):
        mean = beta * mean + (1 - beta) * loss
        means.append(mean / (1 - beta**i))
    return np.array(means)


RULES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "minimum": minimum,
    "minimum/10": minimum_tenth,
    "steepest": steepest,
    "valley": valley,
}
"""The rules by name. What `"minimum"` gives is a peak; a constant rate is `DIVISOR` times smaller."""
