"""The course's figures. A curve's colour is its learning rate: small is dark, large is bright; names have hues.

Every function takes `ax=None`, returns the Axes, and never calls `plt.show()`.

`guess=` marks what a reader typed before running the cell. A curve's rate or name marks that curve, in the legend and
by a wider line; any other number is a dotted line at that place of the x axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch

from lrtut.figure import axes_or_new, finish, styled
from lrtut.misuse import check_choice, check_mapping, check_whole, numbers, short
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
        ValueError: `lrs` is empty, or holds anything but finite numbers.
    """
    lrs = list(lrs) if isinstance(lrs, Iterable) and np.ndim(lrs) else [lrs]
    if not lrs:
        raise ValueError("nothing to draw: give at least one learning rate, curve or run.")
    if wrong := [lr for lr in lrs if not (isinstance(lr, Real) and math.isfinite(lr))]:
        raise ValueError(f"lrs holds {short(wrong[0])}: give a list of learning rates, finite numbers.")
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
        TypeError: `paths` is not a mapping.
        ValueError: `paths` is empty, a path holds anything but numbers, or `guess` is neither a key nor a number.
    """
    check_mapping("paths", paths)
    paths = {key: numbers(f"paths[{key!r}]", path, "give a number for each step") for key, path in paths.items()}
    colors, labels = _colors(paths), {key: label_of(key) for key in paths}
    marked = _marked(guess, labels)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        style = {"marker": _MARKERS[i % len(_MARKERS)], "markevery": len(paths[key]) // 25 + 1, "ls": _LINES[i % 4]}
        ax.plot(paths[key], color=color, **style, **_named(labels[key], guess is not None and key == marked))
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
        yscale: `"log"`, `"linear"` or `"symlog"`. Linear in place of log where a loss drawn is not above zero.
        guess: a key of `histories`: its curve is marked as your guess. Another number is a step: a dotted line.

    Raises:
        TypeError: `histories` is neither a History nor a mapping to such.
        ValueError: `histories` is empty, or one of its lists; `window` below 1; `guess` is neither a key nor a number.
    """
    check_whole("window", window)
    check_choice("yscale", yscale, ("log", "linear", "symlog"))
    runs = _histories(histories)
    colors, labels = _colors(runs), {key: label_of(key) for key in runs}
    marked = _marked(guess, labels)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        steps, loss = _median_loss(runs[key], window)
        lost, count = sum(run.diverged for run in runs[key]), len(runs[key])
        end = f"{lost} of {count} diverged" if lost and count > 1 else "diverged" if lost else ""
        label = ", ".join(filter(None, [labels[key], end]))
        ax.plot(steps, loss, color=color, ls=_LINES[i % 4], **_named(label, guess is not None and key == marked))
        if 2 * lost >= count and len(steps):
            ax.plot(
                steps[-1],
                loss[-1],
                color=color,
                marker="X",
                ms=9,
                ls="none",
                label="_" + f"{labels[key]} diverges".strip(),
            )
    _line_at(ax, guess, marked)
    ax.set_yscale(_scale(ax) if yscale == "log" else yscale)
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
        TypeError: `lrs` is a list of histories.
        ValueError: `lrs` is empty, or one of its curves, or holds anything but numbers; `guess` is neither a key nor a
            number.
    """
    if steps_per_epoch is not None:
        check_whole("steps_per_epoch", steps_per_epoch)
    if isinstance(lrs, list | tuple) and any(isinstance(value, History) for value in lrs):
        check_mapping("lrs", lrs)
    curves, labels = {}, {}  # by key, or by key and group where there are several
    for key, value in (lrs if isinstance(lrs, Mapping) else {"": lrs}).items():
        groups = _groups("lrs" if lrs is value else f"lrs[{key!r}]", value)
        if not groups.size:
            raise ValueError(f"no learning rate{f' of {key!r}' if key != '' else ''}: give at least one step.")
        for g, column in enumerate(groups):
            one, name = ((key, g), f"{label_of(key)} group {g}") if len(groups) > 1 else (key, label_of(key))
            curves[one], labels[one] = column, name.strip()
    colors, marked = _colors(curves), _marked(guess, labels)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        rates = curves[key]
        x = np.arange(len(rates) + 1) / (steps_per_epoch or 1)  # the last rate lasts a step too
        style = {"color": color, "ls": _LINES[i % 4], "drawstyle": "steps-post"}
        ax.plot(x, np.append(rates, rates[-1]), **style, **_named(labels[key], guess is not None and key == marked))
    _line_at(ax, guess, marked)
    low, high = _limits(ax)
    ax.autoscale(axis="y")  # a panel that shares the axis may have set its lower end
    ax.set_yscale(_scale(ax) if high > 20 * low else "linear")
    if ax.get_yscale() == "linear":
        ax.set_ylim(bottom=min(0, low))
    return finish(ax, "epoch" if steps_per_epoch else "step", "learning rate", title, _legend_title(curves))


def final_loss(result: Any) -> float:
    """A run's score: a number as it is; of a History, the last validation loss if there is one, or training loss.

    NaN for a run that diverged. Raises TypeError for anything else.
    """
    if isinstance(result, History):
        return math.nan if result.diverged or not result.loss else (result.val_loss or result.loss)[-1]
    if isinstance(result, np.ndarray | torch.Tensor) and math.prod(result.shape) == 1:
        result = result.item()
    if not isinstance(result, Real):
        raise TypeError(f"the result of a run is {short(result)}: run() must return a History or a number.")
    return float(result)


@styled
def plot_sweep(
    runs: Sequence[Run],
    *,
    ylabel: str | None = None,
    title: str = "",
    guess: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the final loss against the learning rate: a dot for each run, the median as a line, the range as a band.

    >>> runs = lrtut.sweep(run, [0.01, 0.1, 1.0], seeds=(0, 1, 2))
    >>> ax = lrtut.plot_sweep(runs, guess=0.3)
    >>> ax.axhline(2.3, ls=":")

    A cross on the upper edge marks a rate at which runs diverged or failed, and says how many. In the median such a run
    counts as infinite: where most did, the line goes up to the cross. Names, tuples and other things that are no rates
    above zero stand side by side in their order, and no line joins them.

    Args:
        runs: what `sweep` returned; each result is a History or a number (see `final_loss`).
        ylabel: None names the loss that the histories hold.
        guess: a learning rate, among those of the runs or not, or one of the names: a dotted line.

    Raises:
        ValueError: `runs` is empty, or `guess` is not a rate above zero, or none of the names.
        TypeError: `runs` holds anything but runs, or a result is neither a History nor a number.
    """
    if isinstance(runs, str | Mapping) or not isinstance(runs, Iterable) or np.ndim(runs) == 0:
        raise TypeError(f"runs is {short(runs)}: give the list that sweep() returned.")
    for run in (runs := list(runs)):
        if not isinstance(run, Run):
            raise TypeError(f"runs holds {short(run)}: give the list that sweep() returned.")
    rates = all(_is_rate(run.lr) for run in runs)
    losses: dict[Any, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.lr) if rates else runs:
        loss = final_loss(run.result) if run.error is None else math.nan
        losses.setdefault(run.lr if rates else label_of(run.lr), []).append(loss)
    colors = _colors(losses)
    if guess is not None and not (_is_rate(guess) if rates else (guess := label_of(guess)) in losses):
        what = "a learning rate above zero, such as" if rates else "one of"
        raise ValueError(f"guess={guess!r}: give {what} {', '.join(map(label_of, losses))}.")
    ax = axes_or_new(ax)
    _draw_median(ax, losses, joined=rates)
    finite = {lr: found for lr, values in losses.items() if (found := [v for v in values if math.isfinite(v)])}
    if finite and rates:
        least, most = ([f(values) for values in finite.values()] for f in (min, max))
        ax.fill_between(list(finite), least, most, color=_GREY, alpha=0.2, lw=0, label="range over seeds")
    for lr, values in finite.items():
        style = {"color": colors[lr], "marker": "o", "ls": "none", "label": f"_runs at {label_of(lr)}"}
        ax.plot([lr] * len(values), values, **style)
    lost = {lr: count for lr, values in losses.items() if (count := len(values) - len(finite.get(lr, [])))}
    if lost:
        edge = ax.get_xaxis_transform()
        style = {"marker": "X", "ms": 9, "ls": "none", "color": "#d6604d"}
        ax.plot(list(lost), [_EDGE] * len(lost), transform=edge, label="diverged (runs)", **style)
        for lr, count in lost.items():
            place = (ax.convert_xunits(lr), _EDGE)
            ax.annotate(str(count), place, (0, -16), xycoords=edge, textcoords="offset points", ha="center")
    _line_at(ax, guess, None)
    if rates:
        ax.set_xscale("log")
    ax.set_yscale(_scale(ax))
    ax.margins(y=0.15)  # room for the crosses
    kinds = {bool(run.result.val_loss) for run in runs if isinstance(run.result, History) and not run.result.diverged}
    what = {(True,): "validation ", (False,): "training "}.get(tuple(kinds), "")
    return finish(ax, "learning rate" if rates else "", ylabel or f"final {what}loss", title)


def _histories(histories: Any) -> dict[Any, list[History]]:
    """The histories of each key; "" for one History."""
    histories = {"": histories} if isinstance(histories, History) else histories
    check_mapping("histories", histories)
    runs = {}
    for key, value in histories.items():
        several = [value] if isinstance(value, History) else value
        if not isinstance(several, list | tuple) or not all(isinstance(one, History) for one in several):
            raise TypeError(f"histories[{key!r}] is {short(value)}: give a History, or a list of several.")
        if not any(one.loss for one in several):
            raise ValueError(f"no history of {key!r}: give at least one.")
        runs[key] = list(several)
    return runs


def _groups(name: str, value: Any) -> np.ndarray:
    """Rates `[groups, steps]`; NaN before a group was added."""
    rows = value.lrs if isinstance(value, History) else value
    way_out = "give a History, rates [steps] or [steps, groups], or a dict of these"
    if isinstance(rows, list | tuple) and all(isinstance(row, list | tuple) for row in rows):
        rows = list(zip(*itertools.zip_longest(*rows, fillvalue=math.nan), strict=True))
    rates = numbers(name, rows, way_out)
    if rates.ndim not in (1, 2):
        raise ValueError(f"{name} is of shape {list(rates.shape)}: {way_out}.")
    return rates[None] if rates.ndim == 1 else rates.T


def _limits(ax: Axes) -> tuple[float, float]:
    """The least and the largest value drawn on the y axis, also in panels that share it."""
    ends = [panel.dataLim.intervaly for panel in ax.get_shared_y_axes().get_siblings(ax)]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _scale(ax: Axes) -> str:
    """Log if anything is drawn and all of it is above zero."""
    return "log" if 0 < _limits(ax)[0] < math.inf else "linear"


def _is_rate(value: Any) -> bool:
    return isinstance(value, Real) and 0 < value < math.inf


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


def _draw_median(ax: Axes, losses: Mapping[Any, Sequence[float]], joined: bool) -> None:
    """The median at each rate, as a line if `joined`, up to the height of the crosses where it is infinite."""
    medians = {lr: np.median([v if math.isfinite(v) else math.inf for v in values]) for lr, values in losses.items()}
    style = {"color": _GREY, "lw": 1.4, "ls": "-" if joined else "none"}
    shown = [value if math.isfinite(value) else math.nan for value in medians.values()]
    ax.plot(list(medians), shown, marker="_", ms=12, label="median", **style)
    ends = [(lr, y, "data") if math.isfinite(y) else (lr, _EDGE, ax.get_xaxis_transform()) for lr, y in medians.items()]
    for (lr, y, where), (next_lr, next_y, there) in itertools.pairwise(ends):
        if joined and not where == there == "data":
            ax.add_artist(ConnectionPatch((lr, y), (next_lr, next_y), where, there, axesA=ax, axesB=ax, **style))


def _colors(curves: Mapping[Any, Any]) -> dict[Any, Any]:
    """By learning rate where the keys are numbers (`lr_colors` refuses none at all); the style's hues for names."""
    if all(isinstance(key, Real) for key in curves):
        return lr_colors(list(curves))
    return dict(zip(curves, itertools.cycle(plt.rcParams["axes.prop_cycle"].by_key()["color"]), strict=False))


def _marked(guess: Any, labels: Mapping[Any, str]) -> Any:
    """The key of the curve that `guess` names; None for no guess, and for a number beside them all."""
    named = {key: label for key, label in labels.items() if label}
    found = [guess] if isinstance(guess, Hashable) and guess in named else []
    found = found or [key for key in named if named[key] == label_of(guess)]
    if found or guess is None:
        return found[0] if found else None
    if not (isinstance(guess, Real) and math.isfinite(guess)):
        choices = "".join(f"{label!r}, " for label in named.values())
        raise ValueError(f"guess={guess!r} is no curve: give {f'one of {choices}or ' if choices else ''}a number.")
    return None


def _named(label: str, guessed: bool) -> dict[str, Any]:
    return {"label": f"{label}, your guess", "lw": 4, "ms": 9} if guessed else {"label": label}


def _line_at(ax: Axes, guess: Any, marked: Any) -> None:
    """The guess as a vertical line, unless it is a curve."""
    if guess is not None and marked is None:
        ax.axvline(guess, color=_GREY, ls=":", lw=2.5, label=f"your guess: {label_of(guess)}")


def label_of(key: Any) -> str:
    return f"{float(key):g}" if isinstance(key, Real) else str(key)


def _legend_title(curves: Mapping[Any, Any]) -> str | None:
    return "learning rate" if all(isinstance(key, Real) for key in curves) else None
