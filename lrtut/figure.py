"""Figures in the course's style that show themselves with alt text, on white and in a dark theme."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import itertools
import sys
import textwrap
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lrtut.alttext import alt_text, panel_texts
from lrtut.misuse import check_kind, check_whole

_LEAST_WIDTH = 320  # pixels: a phone's
_LEGEND_WIDTH = 18  # characters; a longer name takes several lines


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

    JupyterLab drops the alt text of a bare PNG, and prefers HTML if there are both. A method of the class,
    unlike a registered formatter, survives pyplot's set-up of its inline backend.
    """

    text = styled(Figure.text)  # titles and labels of the whole figure, too

    @styled
    def _repr_html_(self) -> str:
        pictures = ""
        for box, alt in self._parts():
            picture = io.BytesIO()
            self.savefig(picture, format="png", bbox_inches=box)
            data = base64.b64encode(picture.getvalue()).decode()
            share = 100 * (box.width if box else self.get_figwidth()) / self.get_figwidth()
            size = f"width:{share:.4g}%;min-width:min(100%,{_LEAST_WIDTH}px)"
            pictures += f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" style="{size}">'
        return f'<div style="max-width:{round(self.get_figwidth() * 100)}px">{pictures}</div>'

    def _parts(self) -> list[tuple[Bbox | None, str]]:
        """What is shown as a picture of its own, in inches, and its alt text.

        Panels in a row are, if each has its own labels: where there is no room, they stand below each other.
        """
        grids = [ax.get_gridspec() for ax in self.axes]
        row = len(grids) > 1 and all(grid is grids[0] and grid.nrows == 1 for grid in grids)
        if not row or self.texts or not all(ax.get_ylabel() for ax in self.axes):
            return [(None, alt_text(self))]
        self.draw_without_rendering()  # where the panels are
        boxes = [ax.get_tightbbox().transformed(self.dpi_scale_trans.inverted()) for ax in self.axes]
        width, height = self.get_size_inches()
        cuts = [0, *((one.x1 + other.x0) / 2 for one, other in itertools.pairwise(boxes)), width]
        parts = [Bbox([[left, 0], [right, height]]) for left, right in itertools.pairwise(cuts)]
        return list(zip(parts, panel_texts(self), strict=True))


class CourseAxes(Axes):
    """Axes whose words are in the course's style, also when a cell sets them; the legend is beside them."""

    text = styled(Axes.text)
    annotate = styled(Axes.annotate)
    set_title = styled(Axes.set_title)

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        rc = matplotlib.rcParams
        # Ticks are made when they are asked for, which may be outside the style.
        grid = {f"grid_{name}": rc[f"grid.{name}"] for name in ("color", "alpha", "linewidth")}
        self.tick_params(which="both", color=rc["xtick.color"], labelcolor=rc["xtick.color"], **grid)

    @styled
    def legend(self, *args, **kwargs):
        """As `Axes.legend`, but to the right of the axes unless `loc` says otherwise."""
        if "loc" not in kwargs:
            kwargs = {"loc": "upper left", "bbox_to_anchor": (1, 1), "borderaxespad": 0} | kwargs
        legend = super().legend(*args, **kwargs)
        for text in legend.get_texts():
            text.set_text(textwrap.fill(text.get_text(), _LEGEND_WIDTH))
        return legend


@styled
def subplots(nrows: int = 1, ncols: int = 1, **kwargs) -> tuple[CourseFigure, Any]:
    """`plt.subplots` in the course's style and with alt text; the size grows with the number of panels.

    fig, axes = lrtut.subplots(1, 2)
    lrtut.plot_lr(history, ax=axes[0])
    lrtut.plot_loss(history, ax=axes[1])
    """
    check_whole("nrows", nrows)
    check_whole("ncols", ncols)
    _show_as_html_alone()
    width, height = {1: (6.4, 4), 2: (10, 3.8)}.get(ncols, (11, 3.4))
    kwargs.setdefault("figsize", (width, height * nrows))
    of_panels = kwargs.get("subplot_kw") or {}
    if not {"projection", "polar"} & set(of_panels):  # those have classes of their own
        kwargs["subplot_kw"] = {"axes_class": CourseAxes} | of_panels
    return plt.subplots(nrows, ncols, FigureClass=CourseFigure, **kwargs)


def axes_or_new(ax: Axes | None, **kwargs) -> Axes:
    """`ax`, or the Axes of a new figure (`subplots`) for None. Raises TypeError for anything else."""
    check_kind("ax", ax, Axes | None, "give one panel, such as axes[0], or None for a new figure")
    return ax if ax is not None else subplots(**kwargs)[1]


def finish(ax: Axes, xlabel: str, ylabel: str, title: str, legend_title: str | None = None) -> Axes:
    """Label the axes, and draw a legend if a series has a name."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        ax.set_title(title)
    if any(ax.get_legend_handles_labels()[1]):
        ax.legend(title=legend_title)
    return ax


def _show_as_html_alone() -> None:
    """In a notebook, leave out the bare PNG beside the HTML: it has no alt text, and takes as long to draw again."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type(CourseFigure, lambda figure: None)
