"""Alt text for a figure, written from what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.transforms import Transform

from lrtut.misuse import check_kind

_MOST_SERIES = 16


def alt_text(figure: Figure) -> str:
    """Describe a figure for a screen reader: each panel's title, axes with their scale and range, and its series.

    >>> ax = lrtut.plot_loss(history)
    >>> print(lrtut.alt_text(ax.figure))
    Chart, x axis: step, 0 to 60; y axis: training loss, 0.1 to 2.3, log scale. ...
    """
    check_kind("figure", figure, FigureBase, "give a figure, such as ax.figure")
    title = figure.get_suptitle()
    return " ".join(filter(None, [title and f"{title}.", *panel_texts(figure)])) or "Empty figure."


def panel_texts(figure: Figure) -> list[str]:
    """The description of each panel."""
    texts = [_describe(ax) for ax in figure.axes if ax.get_visible()]
    return [f"Panel {i}: {text}" for i, text in enumerate(texts, 1)] if len(texts) > 1 else texts


def _describe(ax: Axes) -> str:
    if ax.images:
        label = ax.get_label()
        return (f"{ax.get_title()}. " if ax.get_title() else "") + f"Picture: {label or 'an image'}."
    titles = [ax.get_title(loc) for loc in ("left", "center", "right")]
    title = " ".join(filter(None, titles))
    head = f"{title}. " if title else ""
    (x_label, x_note), (y_label, y_note) = (_label(ax, which) for which in "xy")
    axes = f"x axis: {x_label}, {_range(ax, 'x')}; y axis: {y_label}, {_range(ax, 'y')}."
    series = sorted(_series(ax), key=lambda one: one[0].startswith("_"))  # what the legend shows comes first
    texts = [f"{_name(label) or kind}: {what}." for label, kind, what in series if what]
    more = [f"And {len(texts) - _MOST_SERIES} more."] if len(texts) > _MOST_SERIES else []
    return f"{head}Chart, {axes} " + " ".join([*filter(None, [x_note, y_note]), *texts[:_MOST_SERIES], *more])


def _range(ax: Axes, which: str) -> str:
    """Where an axis begins and ends: its spine may be shorter than the panel."""
    axis, spine = getattr(ax, f"{which}axis"), ax.spines.get("bottom" if which == "x" else "left")
    bounds = spine and spine.get_bounds()  # a polar panel has other spines
    low, high = (_value(axis, end) for end in sorted(bounds or axis.get_view_interval()))
    return f"{low} to {high}" + (f", {scale} scale" if (scale := axis.get_scale()) in ("log", "symlog") else "")


def _value(axis: Axis, value: float) -> str:
    """A place on an axis in words: a number, or the category or date there."""
    if not axis.have_units():
        return f"{value:.3g}"
    axis.get_majorticklocs()  # the precision of a date depends on the ticks
    return axis.get_major_formatter()(value)


def _label(ax: Axes, which: str) -> tuple[str, str]:
    """An axis' name, and what a label says below its first line.

    Where panels share an axis, the label may be at another panel or at the figure's edge.
    """
    shared = (ax.get_shared_x_axes() if which == "x" else ax.get_shared_y_axes()).get_siblings(ax)
    labels = [getattr(panel, f"get_{which}label")() for panel in (ax, *shared)]
    label = next(filter(None, [*labels, getattr(ax.figure, f"get_sup{which}label")()]), "no label")
    first, *rest = label.splitlines()
    return first, " ".join(rest)


# --- what is drawn with data ------------------------------------------------------------------------------------------


def _series(ax: Axes) -> Iterator[tuple[str, str, str]]:
    """For each series its label, its kind, and what it shows, or "" where it is not in data coordinates."""
    bars = [container for container in ax.containers if isinstance(container, BarContainer)]
    of_bars = {id(patch) for container in bars for patch in container}
    for line in filter(Artist.get_visible, ax.lines):
        yield line.get_label(), "Dots" if line.get_linestyle() == "None" else "Line", _line(ax, line)
    for collection in filter(Artist.get_visible, ax.collections):
        label = str(collection.get_label())
        if isinstance(collection, PathCollection):
            x, y = np.ma.filled(np.ma.asarray(collection.get_offsets(), float), np.nan).T
            inside = _in_data(ax, collection.get_offset_transform())
            yield label, "Dots", _points(ax.xaxis, ax.yaxis, x, y) if all(inside) else ""
        else:
            inside = _in_data(ax, collection.get_transform(), collection.get_offset_transform())
            kind = "Contours" if isinstance(collection, ContourSet) else "Area"
            yield label, kind, _extent(ax, inside, *collection.get_datalim(ax.transData).get_points().T)
    for container in bars:
        yield container.get_label(), "Bars", _bars(ax, container)
    for patch in filter(Artist.get_visible, ax.patches):
        if id(patch) not in of_bars and not isinstance(patch, FancyArrowPatch):  # an arrow has no data of its own
            outline = patch.get_patch_transform().transform_path(patch.get_path()).get_extents()
            inside = _in_data(ax, patch.get_data_transform())
            yield patch.get_label() or "_", "Area", _extent(ax, inside, *outline.get_points().T)


def _name(label: str) -> str:
    """A series' name, also where the legend leaves it out for a leading `_`; "" for matplotlib's own, as `_child0`."""
    return "" if re.match("_(child|container|nolegend)", label) else label.removeprefix("_").replace(": ", ", ")


def _in_data(ax: Axes, *transforms: Transform) -> list[bool]:
    """Whether x and y are in data coordinates, and not a share of the panel, as a vertical line's y is."""
    return [any(way) for way in zip(*(t.contains_branch_seperately(ax.transData) for t in transforms), strict=True)]


def _line(ax: Axes, line: Line2D) -> str:
    x, y = (np.asarray(values, float) for values in line.get_data(orig=False))  # categories and dates as numbers
    inside = _in_data(ax, line.get_transform())
    if not all(inside):
        return _extent(ax, inside, x, y, apart=line.get_linestyle() == "None")
    if not len(x):
        return "in the legend only"
    if line.get_linestyle() == "None":
        return _points(ax.xaxis, ax.yaxis, x, y)
    x, y = _finite(x, y)
    if len(y) < 2:
        return _points(ax.xaxis, ax.yaxis, x, y)
    lowest = np.argmin(y)
    first, last, least, most = (_value(ax.yaxis, value) for value in (y[0], y[-1], y[lowest], y.max()))
    return f"from {first} to {last}, lowest {least} at {_value(ax.xaxis, x[lowest])}, highest {most}"


def _bars(ax: Axes, container: BarContainer) -> str:
    boxes = np.array([(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in container], float).reshape(-1, 4)
    x, y, width, height = boxes.T
    if container.orientation == "horizontal":
        return _points(ax.yaxis, ax.xaxis, y + height / 2, x + width, "bars")
    return _points(ax.xaxis, ax.yaxis, x + width / 2, y + height, "bars")


def _points(place: Axis, level: Axis, places: np.ndarray, levels: np.ndarray, what: str = "points") -> str:
    """Points that are not joined: `levels` on the axis `level` at `places` on the axis `place`."""
    places, levels = _finite(places, levels)
    if len(levels) == 0:
        return "no finite value"
    low, high = np.argmin(levels), np.argmax(levels)
    least, most = (_value(level, levels[i]) for i in (low, high))
    at_least, at_most = (_value(place, places[i]) for i in (low, high))
    if len(levels) == 1:
        return f"{least} at {at_least}"
    if (places == places[0]).all():
        return f"{len(levels)} {what} at {at_least}, from {least} to {most}"
    return f"{len(levels)} {what}, lowest {least} at {at_least}, highest {most} at {at_most}"


def _extent(ax: Axes, inside: Sequence[bool], x: np.ndarray, y: np.ndarray, *, apart: bool = False) -> str:
    """Its range, or each value if `apart`, on each axis on which it is in data coordinates; "" if on none."""
    ranges = []
    for which, axis, values, counts in zip("xy", (ax.xaxis, ax.yaxis), (x, y), inside, strict=True):
        (values,) = _finite(values)
        if counts and len(values):
            shown = dict.fromkeys(_value(axis, value) for value in (values if apart else (values.min(), values.max())))
            ranges.append(f"{which} = {(', ' if apart else ' to ').join(shown)}")
    return ", ".join(ranges)


def _finite(*arrays: np.ndarray) -> list[np.ndarray]:
    kept = np.isfinite(arrays).all(0)
    return [array[kept] for array in arrays]
