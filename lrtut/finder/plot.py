"""The figure of a range test."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from lrtut import misuse
from lrtut.figure import axes_or_new, finish, styled
from lrtut.finder.rules import FIRST, NoSuggestion, ceiling, stretches

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
    if not isinstance(readings, Mapping | None):
        raise ValueError(f"readings={readings!r}: give a dict of rates by name.")
    for name, rate in (readings or {}).items():
        misuse.check_rate(f"readings[{name!r}]", rate)
    ax = axes_or_new(ax, **({"figsize": (6.4, 4 + 0.3 * len(readings))} if readings else {}))
    finite = np.isfinite(test.loss)
    ax.plot(test.lr[finite], test.loss[finite], color="0.5", alpha=0.6, lw=1, label="loss before each step")
    ax.plot(test.lr, test.smoothed, color=_BLUE, label="smoothed")
    shown, where = test.loss[finite], {}
    bottom, top = (shown.min(), min(shown.max(), ceiling(shown))) if len(shown) else (0, 1)
    try:
        suggestion = test.suggestion()
    except NoSuggestion as refusal:
        why, seen = f"No suggestion: {refusal}", "A range test without a suggestion"
    else:
        middle = test.max_lr()
        at_start, least = np.median(shown[:FIRST]), np.nanmin(test.smoothed)
        top = min(top, at_start + (at_start - least) / 2)
        ax.axvline(suggestion, color=_RED, ls="--", label=f"suggestion {suggestion:.2g}")
        ax.plot(middle, least, color=_RED, marker="v", ms=8, ls="none", label=f"middle of the valley {middle:.2g}")
        where = stretches(test.lr, test.smoothed)
        why = f"The middle of the valley is {middle:.2g}, a peak for a schedule. For a constant rate one keeps a "
        why += f"distance from the cliff: a third of it, {suggestion:.2g}."
        low, high = where["valley"]
        if high > 10 * low:
            why += f" The curve hardly tells {low:.2g} to {high:.2g} apart: take the median of three tests."
        seen = f"A valley around {middle:.2g}"
    inches = ax.get_position().width * ax.figure.get_figwidth()
    margin = 0.08 * (top - bottom)
    ax.set_ylim(bottom - margin, max(top, bottom) + margin + 1e-12)
    if (np.diff(test.lr) > 1.5 * np.diff(test.lr)[:1]).any():  # exponential: the steps in rate grow
        ax.set_xscale("log")
        rates = [*test.lr, *(readings or {}).values()]
        ax.set_xlim(min(rates), max(rates))  # also where no loss is finite
        ax.xaxis.get_major_locator().set_params(numticks=6 if inches > 4 else 4)
    _shade(ax, where)
    _draw_readings(ax, readings or {})
    finish(ax, "learning rate", "training loss", "")
    ax.set_title(seen if title is None else title, pad=32 if where else None)  # above the names of the stretches
    ax.set_xlabel("learning rate\n" + textwrap.fill(why, max(30, round(10 * inches))))
    return ax


def _shade(ax: Axes, where: Mapping[str, tuple[float, float]]) -> None:
    for i, (name, ends) in enumerate(where.items()):
        ax.axvspan(*ends, color="0.5", alpha=_SHADES[name], lw=0, label=f"_{name}")
        place = np.mean([_place(ax, rate) for rate in ends])
        above = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "fontsize": 10}
        ax.annotate(name, (place, 1), (0, 4 + i % 2 * 12), **above)  # in two rows: a stretch may be narrow


def _draw_readings(ax: Axes, readings: Mapping[str, float]) -> None:
    """A strip below the curve: a row for each reading, in the order of the rates."""
    if not readings:
        return
    bottom, top = ax.get_ylim()
    ticks = [tick for tick in ax.get_yticks() if bottom <= tick <= top]
    strip = _ROW * len(readings) / (1 + _ROW * len(readings))  # of the whole height
    ax.set_ylim(bottom - strip / (1 - strip) * (top - bottom), top)
    ax.set_yticks(ticks)
    ax.spines.left.set_bounds(bottom, top)  # the y axis is the curve's alone
    ax.plot([0, 1], [strip, strip], color="0.5", lw=0.8, transform=ax.transAxes)
    for i, (name, rate) in enumerate(sorted(readings.items(), key=lambda item: item[1])):
        y, row = strip * (1 - (i + 0.5) / len(readings)), ax.get_xaxis_transform()
        ax.plot(rate, y, marker="D", ls="none", color=_BLUE, transform=row, label=f"_{name} {rate:.2g}")
        ha, gap = ("right", -8) if _place(ax, rate) > 0.5 else ("left", 8)  # where there is more room
        style = {"textcoords": "offset points", "ha": ha, "va": "center", "fontsize": 10}
        ax.annotate(f"{name} {rate:.2g}", (rate, y), (gap, 0), xycoords=row, **style)


def _place(ax: Axes, rate: float) -> float:
    """From 0, at the left end of the x axis, to 1."""
    return ax.transAxes.inverted().transform(ax.transData.transform((rate, 1)))[0]
