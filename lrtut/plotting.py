"""The course's figures. A curve's colour is its learning rate: small is dark, large is bright; names have hues.

Every function takes `ax=None`, returns the Axes, and never calls `plt.show()`.

`guess=` marks what a reader typed before running the cell. A curve's rate or name marks that curve, in the legend and
by a wider line; any other number is a dotted line at that place of the x axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import ConnectionPatch

from lrtut.figure import axes_or_new, finish, styled
from lrtut.misuse import check_whole
from lrtut.sweep import Run
from lrtut.training import History

_MARKERS = "osD^vP*X"
_LINES = ["-", "--", "-.", ":"]
_DARKEST, _BRIGHTEST = 0.16, 0.86  # of viridis; its ends are lost on black and on white
_GREY = "0.5"  # seen on both
_EDGE = 0.97  # the height of the crosses, 1 is the upper edge


def lr_colors(lrs: Sequence[float]) -> dict[float, tuple]:
    """A colour for each learning rate: viridis on a log scale, dark for the smallest, bright for the largest.

    >>> colors = lrtut.lr_colors([0.01, 0.1, 1.0])
    >>> for lr, path in paths.items():
    ...     ax.plot(path, color=colors[lr])

    Raises:
        ValueError: `lrs` is empty.
    """
    if len(lrs) == 0:
        raise ValueError("nothing to draw: give at least one learning rate, curve or run.")
    ranked = sorted(set(lrs))
    logs = [math.log(max(lr, 1e-12)) for lr in ranked]
    spread = (logs[-1] - logs[0]) or 1.0
    cmap = plt.get_cmap("viridis")
    colors = {}
    for i, (lr, log) in enumerate(zip(ranked, logs, strict=True)):
        # Two thirds by rank, so that close rates can be told apart.
        place = ((log - logs[0]) / spread + 2 * i / max(len(ranked) - 1, 1)) / 3
        colors[lr] = cmap(_DARKEST + (_BRIGHTEST - _DARKEST) * place if len(ranked) > 1 else 0.5)
    return {lr: colors[lr] for lr in lrs}


@styled
def plot_paths(
    paths: Mapping[Any, Sequence[float]],
    *,
    xlabel: str = "step",
    ylabel: str = "w",
    title: str = "",
    guess: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one path for each learning rate (or name): `paths[lr]` holds a value for each step.

    >>> paths = {lr: [(1 - lr) ** step for step in range(10)] for lr in (0.1, 0.5, 1.5)}
    >>> ax = lrtut.plot_paths(paths, ylabel="w", guess=0.5)
    >>> ax.set_ylim(-1, 1)

    Args:
        guess: a key of `paths`: its path is marked as your guess. Another number only stands in the legend.

    Raises:
        ValueError: `paths` is empty, or `guess` is neither a key nor a number.
    """
    colors, labels = _colors(paths), {key: _label(key) for key in paths}
    marked = _marked(guess, labels)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        style = {"marker": _MARKERS[i % len(_MARKERS)], "markevery": len(paths[key]) // 25 + 1, "ls": _LINES[i % 4]}
        ax.plot(paths[key], color=color, **style, **_named(labels[key], key == marked))
    if guess is not None and marked is None:
        ax.plot([], [], color=_GREY, marker="*", ms=10, ls="none", label=f"your guess: {guess:g}")
    return finish(ax, xlabel, ylabel, title, _legend_title(paths))


@styled
def plot_loss(
    histories: History | Mapping[Any, History | Sequence[History]],
    *,
    window: int = 1,
    yscale: str = "log",
    title: str = "",
    guess: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the training loss at each step; of several runs, the median.

    >>> histories = {lr: [train_with(lr, seed) for seed in range(3)] for lr in (0.01, 0.1)}
    >>> ax = lrtut.plot_loss(histories, window=5, guess=0.1)
    >>> ax.set_ylim(0.1, 10)

    A cross marks where a run diverged; in a median, a run counts as infinite from there on.

    Args:
        histories: one History, or a mapping from learning rate (or name) to a History or to those of several seeds.
        window: draw the mean of this many steps instead of each step.
        yscale: `"log"` or `"linear"`.
        guess: a key of `histories`: its curve is marked as your guess. Another number is a step: a dotted line.

    Raises:
        ValueError: `histories` is empty, or one of its lists; `window` below 1; `guess` is neither a key nor a number.
    """
    check_whole("window", window)
    histories = histories if isinstance(histories, Mapping) else {"": histories}
    runs = {key: [value] if isinstance(value, History) else list(value) for key, value in histories.items()}
    if empty := [key for key, several in runs.items() if not several]:
        raise ValueError(f"no history of {empty[0]!r}: give at least one.")
    colors, labels = _colors(runs), {key: _label(key) for key in runs}
    marked = _marked(guess, labels)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        steps, loss = _median_loss(runs[key], window)
        lost, count = sum(run.diverged for run in runs[key]), len(runs[key])
        label = labels[key] + (f", {lost} of {count} diverged" if lost and count > 1 else ", diverged" if lost else "")
        ax.plot(steps, loss, color=color, ls=_LINES[i % 4], **_named(label, key == marked))
        if 2 * lost >= count and len(steps):
            ax.plot(steps[-1], loss[-1], color=color, marker="X", ms=9, ls="none", label=f"_{labels[key]} diverges")
    _line_at(ax, guess, marked)
    ax.set_yscale(yscale)
    counts = sorted({len(several) for several in runs.values()})
    seeds = "" if counts[-1] == 1 else f"\nmedian of {counts[0]} seeds" if len(counts) == 1 else "\nmedian over seeds"
    what = f"training loss{seeds}" + (f", mean of {window} steps" if window > 1 else "")
    return finish(ax, "step", what, title, _legend_title(runs))


@styled
def plot_lr(
    lrs: Any, *, steps_per_epoch: int | None = None, title: str = "", guess: Any = None, ax: Axes | None = None
) -> Axes:
    """Draw the learning rate at each step.

    >>> ax = lrtut.plot_lr(history)
    >>> plan = lrtut.preview(make_scheduler, lr=0.1, steps=100)
    >>> ax = lrtut.plot_lr({"plan": plan, "used": history}, steps_per_epoch=20, guess="used")

    Args:
        lrs: a History, an array `[steps]` or `[steps, groups]`, or a mapping from names to any of these.
        steps_per_epoch: if given, the x axis counts epochs.
        guess: a key of `lrs`: its curve is marked as your guess. Another number is a step, or an epoch where the x axis
            counts these: a dotted line.

    Raises:
        ValueError: `lrs` is empty, or one of its curves; `guess` is neither a key nor a number.
    """
    curves, labels = {}, {}  # by key, or by key and group where there are several
    for key, value in (lrs if isinstance(lrs, Mapping) else {"": lrs}).items():
        rates = np.asarray(value.lrs if isinstance(value, History) else value, float)
        if not len(rates):
            raise ValueError(f"no learning rate{f' of {key!r}' if key != '' else ''}: give at least one step.")
        rates = rates[:, None] if rates.ndim == 1 else rates
        for g, column in enumerate(rates.T):
            one, name = ((key, g), f"{_label(key)} group {g}") if rates.shape[1] > 1 else (key, _label(key))
            curves[one], labels[one] = column, name.strip()
    colors, marked = _colors(curves), _marked(guess, labels)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        rates = curves[key]
        x = np.arange(len(rates) + 1) / (steps_per_epoch or 1)  # the last rate lasts a step too
        style = {"color": color, "ls": _LINES[i % 4], "drawstyle": "steps-post"}
        ax.plot(x, np.append(rates, rates[-1]), **style, **_named(labels[key], key == marked))
    _line_at(ax, guess, marked)
    values = np.concatenate(list(curves.values()))
    positive = values[values > 0]
    if len(positive) == len(values) and positive.max() / positive.min() > 20:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=min(0, values.min()))
    return finish(ax, "epoch" if steps_per_epoch else "step", "learning rate", title, _legend_title(curves))


def final_loss(result: Any) -> float:
    """A run's score: a number as it is; of a History, the last validation loss if there is one, or training loss.

    NaN for a run that diverged.
    """
    if not isinstance(result, History):
        return float(result)
    if result.diverged:
        return math.nan
    return (result.val_loss or result.loss)[-1]


@styled
def plot_sweep(
    runs: Sequence[Run],
    *,
    ylabel: str = "final validation loss",
    title: str = "",
    guess: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the final loss against the learning rate: a dot for each run, the median as a line, the range as a band.

    >>> runs = lrtut.sweep(run, [0.01, 0.1, 1.0], seeds=(0, 1, 2))
    >>> ax = lrtut.plot_sweep(runs, guess=0.3)
    >>> ax.axhline(2.3, ls=":")

    A cross on the upper edge marks a rate at which runs diverged or failed, and says how many. In the median such a run
    counts as infinite: where most did, the line goes up to the cross.

    Args:
        runs: what `sweep` returned; each result is a History or a number (see `final_loss`).
        guess: a learning rate, among those of the runs or not: a dotted line.

    Raises:
        ValueError: `runs` is empty, or `guess` is not a rate above zero.
    """
    lrs = sorted({run.lr for run in runs})
    colors = lr_colors(lrs)
    if guess is not None and not (isinstance(guess, Real) and 0 < guess < math.inf):
        raise ValueError(f"guess={guess!r}: give a learning rate above zero, such as {', '.join(map(_label, lrs))}.")
    ax = axes_or_new(ax)
    losses = {lr: [final_loss(r.result) if r.error is None else math.nan for r in runs if r.lr == lr] for lr in lrs}
    finite = {lr: [v for v in values if math.isfinite(v)] for lr, values in losses.items()}
    whole = [lr for lr in lrs if finite[lr]]
    _draw_median(ax, losses)
    if whole:
        least, most = ([f(finite[lr]) for lr in whole] for f in (min, max))
        ax.fill_between(whole, least, most, color=_GREY, alpha=0.2, lw=0, label="range over seeds")
    for lr in whole:
        ax.plot([lr] * len(finite[lr]), finite[lr], color=colors[lr], marker="o", ls="none", label=f"_runs at {lr:g}")
    lost = {lr: len(losses[lr]) - len(finite[lr]) for lr in lrs if len(losses[lr]) > len(finite[lr])}
    if lost:
        edge = ax.get_xaxis_transform()
        style = {"marker": "X", "ms": 9, "ls": "none", "color": "#d6604d"}
        ax.plot(list(lost), [_EDGE] * len(lost), transform=edge, label="diverged (runs)", **style)
        for lr, count in lost.items():
            ax.annotate(str(count), (lr, _EDGE), (0, -16), xycoords=edge, textcoords="offset points", ha="center")
    _line_at(ax, guess, None)
    ax.set(xscale="log", yscale="log")
    ax.margins(y=0.15)  # room for the crosses
    return finish(ax, "learning rate", ylabel, title)


@styled
def plot_images(
    x: torch.Tensor, y: torch.Tensor | Sequence | None = None, *, columns: int = 10, ax: Axes = None
) -> Axes:
    """Draw images `[N, 1, H, W]` (uint8 or float) in one grid, with their labels above them.

    >>> data = lrtut.load_mnist()
    >>> ax = lrtut.plot_images(data.x_train[:20], data.y_train[:20])
    >>> ax.set_title("Twenty digits")
    """
    ax = axes_or_new(ax, figsize=(8, 8 * math.ceil(len(x) / columns) / columns * 1.25))
    images = x[:, 0].detach().cpu().numpy()
    n, height, width = images.shape
    rows, top = math.ceil(n / columns), 8  # pixels above an image, for its label
    grid = np.full((rows * (height + top), columns * width), images.min(), dtype=images.dtype)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        grid[row * (height + top) + top : (row + 1) * (height + top), column * width : (column + 1) * width] = image
        if y is not None:
            ax.text((column + 0.5) * width, row * (height + top) + top / 2, str(int(y[i])), ha="center", va="center")
    ink = LinearSegmentedColormap.from_list("ink", [(0.48, 0.48, 0.48, 0), (0.48, 0.48, 0.48, 1)])
    ax.imshow(grid, cmap=ink, interpolation="nearest")
    ax.set_axis_off()
    labels = "" if y is None else f", labelled {', '.join(str(int(v)) for v in y)}"
    ax.set_label(f"{n} images of {height} × {width} pixels{labels}")
    return ax


def _median_loss(histories: Sequence[History], window: int) -> tuple[np.ndarray, np.ndarray]:
    """The steps and, at each, the median over the runs of the mean over `window` steps, as far as it is finite."""
    length = max(len(history.loss) for history in histories)
    losses = np.full((len(histories), length), np.nan)
    for row, history in zip(losses, histories, strict=True):
        row[: len(history.loss)] = history.loss
        if history.diverged:
            row[~np.isfinite(row)] = np.inf
    window = min(window, max(length, 1))
    means = losses[:, : length // window * window].reshape(len(histories), -1, window).mean(2)
    median = np.nanmedian(means, axis=0)
    steps = (np.arange(len(median)) + 0.5) * window - 0.5
    return steps[np.isfinite(median)], median[np.isfinite(median)]


def _draw_median(ax: Axes, losses: Mapping[float, Sequence[float]]) -> None:
    """The median at each rate as a line, up to the height of the crosses where it is infinite."""
    medians = {lr: np.median([v if math.isfinite(v) else math.inf for v in values]) for lr, values in losses.items()}
    style = {"color": _GREY, "lw": 1.4}
    shown = [value if math.isfinite(value) else math.nan for value in medians.values()]
    ax.plot(list(medians), shown, marker="_", ms=12, label="median", **style)
    ends = [(lr, y, "data") if math.isfinite(y) else (lr, _EDGE, ax.get_xaxis_transform()) for lr, y in medians.items()]
    for (lr, y, where), (next_lr, next_y, there) in itertools.pairwise(ends):
        if not where == there == "data":
            ax.add_artist(ConnectionPatch((lr, y), (next_lr, next_y), where, there, axesA=ax, axesB=ax, **style))


def _colors(curves: Mapping[Any, Any]) -> dict[Any, Any]:
    """By learning rate where the keys are numbers (`lr_colors` refuses none at all); the style's hues for names."""
    if all(isinstance(key, Real) for key in curves):
        return lr_colors(list(curves))
    return dict(zip(curves, itertools.cycle(plt.rcParams["axes.prop_cycle"].by_key()["color"]), strict=False))


def _marked(guess: Any, labels: Mapping[Any, str]) -> Any:
    """The key of the curve that `guess` names; None for no guess, and for a number beside them all."""
    named = {key: label for key, label in labels.items() if label}
    found = [key for key in named if key == guess] or [key for key in named if named[key] == _label(guess)]
    if found or guess is None:
        return found[0] if found else None
    if not (isinstance(guess, Real) and math.isfinite(guess)):
        choices = "".join(f"{label!r}, " for label in named.values())
        raise ValueError(f"guess={guess!r} is no curve: give {f'one of {choices}or ' if choices else ''}a number.")
    return None


def _named(label: str, guessed: bool) -> dict[str, Any]:
    return {"label": f"{label}, your guess", "lw": 4, "ms": 9} if guessed else {"label": label}


def _line_at(ax: Axes, guess: float | None, marked: Any) -> None:
    """The guess as a vertical line, unless it is a curve."""
    if guess is not None and marked is None:
        ax.axvline(guess, color=_GREY, ls=":", lw=2.5, label=f"your guess: {guess:g}")


def _label(key: Any) -> str:
    return f"{key:g}" if isinstance(key, Real) else str(key)


def _legend_title(curves: Mapping[Any, Any]) -> str | None:
    return "learning rate" if all(isinstance(key, Real) for key in curves) else None
