"""The figure of a range test."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes

from lrtut.figure import axes_or_new, finish, styled
from lrtut.finder.rules import OTHER, PLAIN, NoSuggestion, ceiling


@styled
def plot_range_test(test, *, title: str = "Learning-rate range test", ax: Axes | None = None) -> Axes:
    """Draw the raw and the smoothed loss of a `RangeTest` against the first group's rate, and the suggestion.

    The shaded region reaches from the suggestion to the rate at the minimum. The words below say where the suggestion
    comes from or, where there is none, what was seen instead.
    """
    ax = axes_or_new(ax)
    finite = np.isfinite(test.loss)
    ax.plot(test.lr[finite], test.loss[finite], color="0.7", lw=1, label="loss before each step")
    ax.plot(test.lr, test.smoothed, color="#31688e", lw=2, label="smoothed")
    try:
        suggestion = test.suggestion()
    except NoSuggestion as refusal:
        why = f"No suggestion: {refusal}"
    else:
        lowest = suggestion * test.divisor
        ax.axvspan(suggestion, lowest, color="#fde725", alpha=0.25, lw=0, label="from the suggestion to the minimum")
        ax.axvline(suggestion, color="#440154", ls="--", label=f"suggestion {suggestion:.2g}")
        ax.plot(lowest, np.nanmin(test.smoothed), color="#440154", marker="v", ls="none", label=f"minimum {lowest:.2g}")
        part = {PLAIN: "a third", OTHER: "a sixth"}.get(test.divisor, f"1/{test.divisor:g}")
        why = f"The smoothed loss is lowest at {lowest:.2g}"
        why += f"; beside the cliff one keeps a distance: {part} of it, {suggestion:.2g}."
    shown = test.loss[finite]
    if len(shown):
        bottom, top = shown.min(), min(shown.max(), ceiling(shown))
        margin = 0.05 * (top - bottom)
        ax.set_ylim(bottom - margin, max(top, bottom) + margin + 1e-12)
    if (np.diff(test.lr) > 1.5 * np.diff(test.lr)[:1]).any():  # exponential: the steps in rate grow
        ax.set_xscale("log")
    finish(ax, "learning rate", "training loss", title)
    inches = ax.get_position().width * ax.figure.get_figwidth()
    ax.set_xlabel("learning rate\n" + textwrap.fill(why, max(30, round(14 * inches))))
    return ax
