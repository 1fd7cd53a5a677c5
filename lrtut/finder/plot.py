"""The figure of a range test."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from lrtut.figure import axes_or_new, finish, styled
from lrtut.finder.rules import OTHER, PLAIN, NoSuggestion, ceiling

_TENTH = 0.1  # of the fall: what is near enough to the level at the start, or to the minimum
_SHADES = {"flat": 0.05, "falling": 0.15, "valley": 0.28, "cliff": 0.15}
_ROW = 0.11  # of the curve's height, for each reading
_BLUE, _RED = "#3b86c4", "#d6604d"


@styled
def plot_range_test(
    test, *, readings: Mapping[str, float] | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the raw and the smoothed loss of a `RangeTest` against the first group's rate, and the suggestion.

    The y axis ends a little above the loss at the start, so that the valley is seen. The four stretches are shaded and
    named where there is a suggestion. Words below say where it comes from or, where there is none, what was seen.

    Args:
        readings: rates by name, for instance what several rules read: each is a row of a strip below the curve.
        title: what is seen, if None.

    Raises:
        ValueError: a reading is not a rate above zero.
    """
    for name, rate in (readings or {}).items():
        if not 0 < rate < math.inf:
            raise ValueError(f"readings[{name!r}]={rate!r}: give a learning rate above zero.")
    ax = axes_or_new(ax, **({"figsize": (6.4, 4 + 0.3 * len(readings))} if readings else {}))
    finite = np.isfinite(test.loss)
    ax.plot(test.lr[finite], test.loss[finite], color="0.5", alpha=0.6, lw=1, label="loss before each step")
    ax.plot(test.lr, test.smoothed, color=_BLUE, label="smoothed")
    shown = test.loss[finite]
    bottom, top = (shown.min(), min(shown.max(), ceiling(shown))) if len(shown) else (0, 1)
    try:
        suggestion = test.suggestion()
    except NoSuggestion as refusal:
        why, seen = f"No suggestion: {refusal}", "A range test without a suggestion"
    else:
        lowest = suggestion * test.divisor
        at_start, least = np.nanmax(test.smoothed[test.lr <= lowest]), np.nanmin(test.smoothed)
        top = min(top, at_start + (at_start - least) / 2)
        ax.axvline(suggestion, color=_RED, ls="--", label=f"suggestion {suggestion:.2g}")
        ax.plot(lowest, least, color=_RED, marker="v", ms=8, ls="none", label=f"minimum {lowest:.2g}")
        _shade(ax, stretches(test.lr, test.smoothed))
        part = {PLAIN: "a third", OTHER: "a sixth"}.get(test.divisor, f"1/{test.divisor:g}")
        why = f"The smoothed loss is lowest at {lowest:.2g}"
        why += f"; beside the cliff one keeps a distance: {part} of it, {suggestion:.2g}."
        seen = f"The loss is lowest at {lowest:.2g}: {part} of it is {suggestion:.2g}"
    margin = 0.08 * (top - bottom)
    ax.set_ylim(bottom - margin, max(top, bottom) + margin + 1e-12)
    if (np.diff(test.lr) > 1.5 * np.diff(test.lr)[:1]).any():  # exponential: the steps in rate grow
        ax.set_xscale("log")
    _draw_readings(ax, readings or {})
    finish(ax, "learning rate", "training loss", seen if title is None else title)
    inches = ax.get_position().width * ax.figure.get_figwidth()
    ax.set_xlabel("learning rate\n" + textwrap.fill(why, max(30, round(12 * inches))))
    return ax


def stretches(lrs: np.ndarray, smoothed: np.ndarray) -> dict[str, tuple[float, float]]:
    """Where a smoothed curve `[N]` with a minimum inside is flat, falling, in its valley and on the cliff: rates.

    The flat stretch ends where the loss has left the first tenth of its fall; the valley is where it is within the last
    tenth of it, and the cliff is beyond.
    """
    kept = np.isfinite(smoothed)
    lrs, smoothed = lrs[kept], smoothed[kept]
    lowest = int(smoothed.argmin())
    least, fall = smoothed[lowest], smoothed[: lowest + 1].max() - smoothed[lowest]
    flat = int(np.flatnonzero(smoothed[: lowest + 1] >= least + (1 - _TENTH) * fall)[-1])
    high = np.flatnonzero(smoothed > least + _TENTH * fall)
    start, end = int(high[high < lowest][-1]), int(min(high[high > lowest], default=len(lrs) - 1))
    places = [0, flat, start, end, len(lrs) - 1]
    return {name: (lrs[one], lrs[other]) for name, one, other in zip(_SHADES, places, places[1:], strict=False)}


def _shade(ax: Axes, where: Mapping[str, tuple[float, float]]) -> None:
    for name, (left, right) in where.items():
        if left < right:
            ax.axvspan(left, right, color="0.5", alpha=_SHADES[name], lw=0, label=f"_{name}")
            middle = math.sqrt(left * right)
            ax.text(middle, 0.98, name, transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=10)


def _draw_readings(ax: Axes, readings: Mapping[str, float]) -> None:
    """A strip below the curve: a row for each reading."""
    if not readings:
        return
    strip = _ROW * len(readings) / (1 + _ROW * len(readings))  # of the whole height
    (bottom, top), row = ax.get_ylim(), strip / len(readings)
    ticks = [tick for tick in ax.get_yticks() if bottom <= tick <= top]
    ax.set_ylim(bottom - strip / (1 - strip) * (top - bottom), top)
    ax.set_yticks(ticks)
    ax.axhline(bottom, color="0.5", lw=0.8, label="_edge of the strip")
    left, right = ax.get_xlim()
    for i, (name, rate) in enumerate(sorted(readings.items(), key=lambda item: item[1])):
        y, place = strip - (i + 0.5) * row, ax.get_xaxis_transform()
        ax.plot(rate, y, marker="D", ls="none", color=_BLUE, transform=place, label=f"_{name} {rate:.2g}")
        on_left = math.log(rate / left) > math.log(right / rate)  # more room there
        ax.annotate(
            f"{name} {rate:.2g}", (rate, y), (-8 if on_left else 8, 0), xycoords=place, textcoords="offset points",
            ha="right" if on_left else "left", va="center", fontsize=10,
        )  # fmt: skip
