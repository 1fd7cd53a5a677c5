"""Alt text for a figure, written from what is in it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MOST_SERIES = 12


def alt_text(figure: Figure) -> str:
    """Describe a figure for a screen reader: each panel's title, axes with their scale and range, and its series."""
    panels = [ax for ax in figure.axes if ax.get_visible()]
    parts = [_describe(ax) for ax in panels]
    if len(parts) > 1:
        parts = [f"Panel {i}: {part}" for i, part in enumerate(parts, 1)]
    title = figure.get_suptitle()
    return " ".join(filter(None, [title and f"{title}.", *parts])) or "Empty figure."


def _describe(ax: Axes) -> str:
    if ax.images:
        label = ax.get_label()
        return (f"{ax.get_title()}. " if ax.get_title() else "") + f"Picture: {label or 'an image'}."
    titles = [ax.get_title(loc) for loc in ("left", "center", "right")]
    title = " ".join(filter(None, titles))
    head = f"{title}. " if title else ""
    axes = f"x axis: {_axis(ax, 'x')}; y axis: {_axis(ax, 'y')}."
    series = [text for text in map(_series, ax.lines) if text]
    more = f" And {len(series) - _MOST_SERIES} more." if len(series) > _MOST_SERIES else ""
    return f"{head}Chart, {axes} " + " ".join(series[:_MOST_SERIES]) + more


def _axis(ax: Axes, which: str) -> str:
    axis, (low, high) = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
    low, high = sorted((low, high))
    scale = ", log scale" if axis.get_scale() == "log" else ""
    return f"{_label(ax, which) or 'no label'}, {low:.3g} to {high:.3g}{scale}"


def _label(ax: Axes, which: str) -> str:
    """An axis' label; where panels share an axis, it may stand at another panel or at the figure's edge."""
    shared = (ax.get_shared_x_axes() if which == "x" else ax.get_shared_y_axes()).get_siblings(ax)
    labels = [getattr(panel, f"get_{which}label")() for panel in (ax, *shared)]
    return next(filter(None, [*labels, getattr(ax.figure, f"get_sup{which}label")()]), "")


def _series(line) -> str:
    label = str(line.get_label())
    if label.startswith("_child"):  # matplotlib's name for a series that was given none
        label = ""
    x, y = (np.asarray(line.get_data()[i], float) for i in (0, 1))
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    name = label or "Series"
    if len(y) == 0:
        return f"{name}: no finite value."
    if len(y) == 1:
        return f"{name}: {y[0]:.3g} at {x[0]:.3g}."
    lowest = np.argmin(y)
    return f"{name}: from {y[0]:.3g} to {y[-1]:.3g}, lowest {y[lowest]:.3g} at {x[lowest]:.3g}, highest {y.max():.3g}."
