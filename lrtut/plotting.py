"""The course's figures. A curve's colour is its learning rate: small is dark, large is bright.

Every function takes `ax=None`, returns the Axes, and never calls `plt.show()`.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import math
import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrtut.alttext import alt_text
from lrtut.misuse import check_whole
from lrtut.sweep import Run
from lrtut.training import History

_MARKERS = "osD^vP*X"
_LINES = ["-", "--", "-.", ":"]
_BRIGHTEST = 0.8  # the brightest fifth of viridis is lost on white, and in grey among the grid lines


@contextlib.contextmanager
def _style():
    """The course's style sheet."""
    with plt.style.context("lrtut.style"):
        yield
        interactive = matplotlib.is_interactive()
    # pyplot's first figure sets up the backend. Undoing the interactive mode with the style would silence a notebook.
    matplotlib.interactive(interactive)


styled = _style()  # as a decorator, it is entered at each call


class CourseFigure(Figure):
    """A Figure that shows itself as HTML with alt text.

    JupyterLab and nbconvert drop the alt text of a bare PNG, and prefer HTML if there are both. A method of the class,
    unlike a registered formatter, survives pyplot's set-up of its inline backend.
    """

    @styled
    def _repr_html_(self) -> str:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        data = base64.b64encode(picture.getvalue()).decode()
        alt = html.escape(alt_text(self))
        width = round(self.get_figwidth() * 100)
        return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="width:{width}px;max-width:100%">'


class CourseAxes(Axes):
    """Axes whose title and legend are in the course's style, also when a cell of a notebook sets them."""

    set_title = styled(Axes.set_title)
    legend = styled(Axes.legend)


@styled
def subplots(nrows: int = 1, ncols: int = 1, **kwargs) -> tuple[CourseFigure, Any]:
    """`plt.subplots` in the course's style and with alt text; the size grows with the number of panels.

    >>> fig, axes = lrtut.subplots(1, 2)
    >>> lrtut.plot_lr(history, ax=axes[0])
    >>> lrtut.plot_loss(history, ax=axes[1])
    """
    _show_as_html_alone()
    size = {1: (7, 4), 2: (10, 3.8)}.get(ncols, (11, 3.4))
    kwargs.setdefault("figsize", (size[0], size[1] * nrows))
    kwargs["subplot_kw"] = {"axes_class": CourseAxes} | (kwargs.get("subplot_kw") or {})
    return plt.subplots(nrows, ncols, FigureClass=CourseFigure, **kwargs)


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
        colors[lr] = cmap(_BRIGHTEST * place if len(ranked) > 1 else 0.35)
    return {lr: colors[lr] for lr in lrs}


@styled
def plot_paths(
    paths: Mapping[Any, Sequence[float]], *, xlabel: str = "step", ylabel: str = "w", title: str = "", ax: Axes = None
) -> Axes:
    """Draw one path for each learning rate (or name): `paths[lr]` holds a value for each step.

    >>> paths = {lr: [(1 - lr) ** step for step in range(10)] for lr in (0.1, 0.5, 1.5)}
    >>> ax = lrtut.plot_paths(paths, ylabel="w")
    >>> ax.set_ylim(-1, 1)

    Raises:
        ValueError: `paths` is empty.
    """
    colors = _colors(paths)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        style = {"marker": _MARKERS[i % len(_MARKERS)], "markevery": len(paths[key]) // 25 + 1, "ls": _LINES[i % 4]}
        ax.plot(paths[key], color=color, label=_label(key), **style)
    return finish(ax, xlabel, ylabel, title, _legend_title(paths))


@styled
def plot_loss(histories: History | Mapping[Any, History], *, window: int = 1, title: str = "", ax: Axes = None) -> Axes:
    """Draw the training loss at each step, on a log scale.

    >>> histories = {lr: train_with(lr) for lr in (0.01, 0.1)}
    >>> ax = lrtut.plot_loss(histories, window=5)
    >>> ax.set_ylim(0.1, 10)

    Args:
        histories: one History, or a mapping from learning rate (or name) to History.
        window: draw the mean of this many steps instead of each step.

    Raises:
        ValueError: `histories` is empty, or `window` below 1.
    """
    check_whole("window", window)
    histories = {"": histories} if isinstance(histories, History) else histories
    colors = _colors(histories)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        loss = np.asarray(histories[key].loss, float)
        kept = loss[: len(loss) // window * window] if len(loss) >= window else loss
        mean = kept.reshape(-1, window).mean(1) if len(loss) >= window else kept
        steps = (np.arange(len(mean)) + 0.5) * window - 0.5
        label = _label(key) + (", diverged" if histories[key].diverged else "")
        finite = np.isfinite(mean)
        ax.plot(steps[finite], mean[finite], color=color, ls=_LINES[i % 4], lw=1.5, label=label)
        if histories[key].diverged and finite.any():
            ax.plot(steps[finite][-1], mean[finite][-1], color=color, marker="X", ms=9, ls="none")
    ax.set_yscale("log")
    what = "training loss" if window == 1 else f"training loss, mean of {window} steps"
    return finish(ax, "step", what, title, _legend_title(histories))


@styled
def plot_lr(
    lrs: Any, *, steps_per_epoch: int | None = None, title: str = "PyTorch Learning Rate", ax: Axes = None
) -> Axes:
    """Draw the learning rate at each step.

    >>> ax = lrtut.plot_lr(history)
    >>> plan = lrtut.preview(make_scheduler, lr=0.1, steps=100)
    >>> ax = lrtut.plot_lr({"plan": plan, "used": history}, steps_per_epoch=20)

    Args:
        lrs: a History, an array `[steps]` or `[steps, groups]`, or a mapping from names to any of these.
        steps_per_epoch: if given, the x axis counts epochs.

    Raises:
        ValueError: `lrs` is empty, or one of its curves.
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
    colors = _colors(curves)
    ax = axes_or_new(ax)
    for i, (key, color) in enumerate(colors.items()):
        rates = curves[key]
        x = np.arange(len(rates) + 1) / (steps_per_epoch or 1)  # the last rate lasts a step too
        style = {"ls": _LINES[i % 4], "drawstyle": "steps-post"}
        ax.plot(x, np.append(rates, rates[-1]), color=color, label=labels[key], **style)
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
def plot_sweep(runs: Sequence[Run], *, ylabel: str = "final validation loss", title: str = "", ax: Axes = None) -> Axes:
    """Draw the final loss against the learning rate: a dot for each run, the median as a line, the range as a band.

    >>> runs = lrtut.sweep(run, [0.01, 0.1, 1.0], seeds=(0, 1, 2))
    >>> ax = lrtut.plot_sweep(runs)
    >>> ax.axhline(2.3, ls=":")

    A cross on the upper edge marks a rate at which runs diverged or failed, and says how many. In the median such a run
    counts as infinite, so the line breaks off where most did.

    Args:
        runs: what `sweep` returned; each result is a History or a number (see `final_loss`).

    Raises:
        ValueError: `runs` is empty.
    """
    lrs = sorted({run.lr for run in runs})
    colors = lr_colors(lrs)
    ax = axes_or_new(ax)
    losses = {lr: [final_loss(r.result) if r.error is None else math.nan for r in runs if r.lr == lr] for lr in lrs}
    finite = {lr: [v for v in values if math.isfinite(v)] for lr, values in losses.items()}
    whole = [lr for lr in lrs if finite[lr]]
    if whole:
        ax.fill_between(
            whole, *([f(finite[lr]) for lr in whole] for f in (min, max)), color="0.88", label="range over seeds"
        )
        ax.plot(whole, [_median(losses[lr]) for lr in whole], color="0.35", lw=1.2, label="median")
    for lr in whole:
        ax.plot([lr] * len(finite[lr]), finite[lr], color=colors[lr], marker="o", ls="none")
    lost = {lr: len(losses[lr]) - len(finite[lr]) for lr in lrs if len(losses[lr]) > len(finite[lr])}
    if lost:
        edge = ax.get_xaxis_transform()  # x in data, y from 0 to 1: at the upper edge whatever the losses
        for i, (lr, count) in enumerate(lost.items()):
            label = "diverged (runs)" if i == 0 else None
            ax.plot(lr, 0.97, marker="X", ms=9, ls="none", color="#b2182b", transform=edge, label=label)
            ax.annotate(str(count), (lr, 0.97), (0, -16), xycoords=edge, textcoords="offset points", ha="center")
    ax.set_xscale("log")
    ax.set_yscale("log")
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
    ax.imshow(grid, cmap="gray_r", interpolation="nearest")
    ax.set_axis_off()
    labels = "" if y is None else f", labelled {', '.join(str(int(v)) for v in y)}"
    ax.set_label(f"{n} images of {height} × {width} pixels{labels}")
    return ax


def _show_as_html_alone() -> None:
    """In a notebook, leave out the bare PNG beside the HTML: it has no alt text, and takes as long to draw again."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type(CourseFigure, lambda figure: None)


def _median(losses: Sequence[float]) -> float:
    median = np.median([loss if math.isfinite(loss) else math.inf for loss in losses])
    return median if math.isfinite(median) else math.nan


def axes_or_new(ax: Axes | None, **kwargs) -> Axes:
    """`ax`, or the Axes of a new figure (`subplots`) for None."""
    return ax if ax is not None else subplots(**kwargs)[1]


def _colors(curves: Mapping[Any, Any]) -> dict[Any, tuple]:
    """By learning rate where the keys are numbers (`lr_colors` refuses none at all); evenly spread for names."""
    if all(isinstance(key, Real) for key in curves):
        return lr_colors(list(curves))
    return dict(zip(curves, plt.get_cmap("viridis")(np.linspace(0, _BRIGHTEST, len(curves))), strict=True))


def _label(key: Any) -> str:
    return f"{key:g}" if isinstance(key, Real) else str(key)


def _legend_title(curves: Mapping[Any, Any]) -> str | None:
    return "learning rate" if all(isinstance(key, Real) for key in curves) else None


def finish(ax: Axes, xlabel: str, ylabel: str, title: str, legend_title: str | None = None) -> Axes:
    """Label the axes, and draw a legend if a series has a name."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        ax.set_title(title)
    if any(ax.get_legend_handles_labels()[1]):
        ax.legend(title=legend_title)
    return ax
