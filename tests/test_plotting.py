import math

import IPython
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_rgb

import lrtut
from lrtut import History, Run, alt_text
from lrtut.plotting import final_loss

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def history(losses=(3.0, 2.0, 1.0), diverged=False):
    return History(loss=list(losses), lrs=[[0.1]] * len(losses), steps_per_epoch=3, val_loss=[0.5], diverged=diverged)


def luminance(color):
    return np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722])


def test_small_rates_are_dark_and_large_ones_bright():
    rates = [1e-4, 1e-3, 0.075, 0.081, 10.0]
    colors = lrtut.lr_colors(list(reversed(rates)))
    values = [luminance(colors[lr]) for lr in rates]
    assert values == sorted(values) and min(np.diff(values)) > 0.03  # rates that lie close are told apart too
    assert lrtut.lr_colors([0.1, 0.0])[0.0] != lrtut.lr_colors([0.1, 0.0])[0.1]
    assert len(lrtut.lr_colors([0.1])) == 1


def test_every_function_draws_into_the_axes_it_is_given_and_shows_nothing(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a plotting function showed its figure"))
    runs = [Run(0.1, 0, history()), Run(1.0, 0, history(diverged=True))]
    calls = {
        lrtut.plot_paths: ({0.1: [1, 2]},),
        lrtut.plot_loss: (history(),),
        lrtut.plot_lr: ([0.1, 0.01],),
        lrtut.plot_sweep: (runs,),
        lrtut.plot_images: (torch.zeros(3, 1, 8, 8), [1, 2, 3]),
    }
    for function, args in calls.items():
        _, ax = plt.subplots()
        assert function(*args, ax=ax) is ax
        before = plt.get_fignums()
        own = function(*args)
        assert own.figure.number not in before and own is not ax


def test_style_does_not_leak():
    before = dict(matplotlib.rcParams)
    lrtut.plot_paths({0.1: [1, 2]})
    assert dict(matplotlib.rcParams) == before


def test_what_a_cell_sets_itself_is_in_the_style_too():
    ax = lrtut.plot_lr({"a": [1.0, 0.3, 0.01]})
    ax.set(title="Set by a cell", ylim=(0.01, 1))
    assert ax.get_title(loc="left") == "Set by a cell" and ax.get_title(loc="center") == ""
    assert ax.legend().get_texts()[0].get_fontsize() == 10
    with plt.style.context("lrtut.style"):
        assert [ax.yaxis.get_major_formatter()(y) for y in (0.01, 1)] == [
            f"$\\mathdefault{{{y:g}}}$" for y in (0.01, 1)
        ]
    _, panels = lrtut.subplots(1, 2, subplot_kw={"xlabel": "mine"})
    assert panels[0].get_xlabel() == "mine"


def test_long_paths_have_few_markers():
    long, short = lrtut.plot_paths({0.1: range(100), 0.2: range(10)}).lines
    assert long.get_markevery() == 5 and short.get_markevery() == 1


def test_loss_is_averaged_over_windows_and_divergence_is_marked():
    ax = lrtut.plot_loss(
        {0.1: history((4.0, 2.0, 1.0, 1.0)), 9.0: history((1.0, 5.0, math.inf), diverged=True)}, window=2
    )
    mean, broken, mark = ax.lines
    assert mean.get_xydata().tolist() == [[0.5, 3.0], [2.5, 1.0]]
    assert mark.get_marker() == "X" and "diverged" in broken.get_label()
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "step"


def test_rates_are_drawn_as_steps_log_where_they_span_decades():
    ax = lrtut.plot_lr(np.array([[0.1, 0.01], [0.001, 0.0001]]))
    assert [line.get_label() for line in ax.lines] == ["group 0", "group 1"]
    assert ax.get_yscale() == "log" and ax.lines[1].get_ydata().tolist() == [0.01, 0.0001, 0.0001]
    linear = lrtut.plot_lr({"a": [0.1, 0.05, 0.0]}, steps_per_epoch=2)
    assert linear.get_yscale() == "linear" and linear.get_xlabel() == "epoch"
    assert (
        linear.lines[0].get_xdata().tolist() == [0, 0.5, 1.0, 1.5]
        and linear.get_title(loc="left") == "PyTorch Learning Rate"
    )


def test_sweep_shows_the_median_and_leaves_no_diverged_run_out():
    runs = [Run(0.1, s, loss) for s, loss in enumerate((1.0, 2.0, 6.0))]
    runs += [Run(0.5, s, loss) for s, loss in enumerate((1.0, 3.0, math.nan))]
    runs += [Run(1.0, 0, math.nan), Run(1.0, 1, 3.0), Run(10.0, 0, None, ValueError("x"))]
    ax = lrtut.plot_sweep(runs)
    lines = {line.get_label(): line for line in ax.lines}
    # A diverged run counts as infinite: the middle one of 1, 3 and it is 3; of 3 and it there is none.
    np.testing.assert_array_equal(lines["median"].get_xydata(), [[0.1, 2.0], [0.5, 3.0], [1.0, math.nan]])
    crosses = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "X"]
    assert crosses == [0.5, 1.0, 10.0] and [text.get_text() for text in ax.texts] == ["1", "1", "1"]
    assert ax.get_xscale() == "log"


def test_final_loss():
    assert final_loss(0.25) == 0.25
    assert final_loss(history()) == 0.5
    assert final_loss(History(loss=[3.0, 2.0])) == 2.0
    assert math.isnan(final_loss(history(diverged=True)))


def test_alt_text_tells_what_is_there():
    ax = lrtut.plot_paths({0.1: [4.0, 1.0, 2.0], 0.5: [4.0, math.nan]}, ylabel="w", title="Two <paths>")
    text = alt_text(ax.figure)
    for part in (
        "Two <paths>",
        "x axis: step",
        "y axis: w",
        "0.1: from 4 to 2, lowest 1 at 1, highest 4",
        "0.5: 4 at 0",
    ):
        assert part in text
    html = ax.figure._repr_html_()
    assert 'alt="Two &lt;paths&gt;. Chart' in html and "data:image/png;base64," in html


def test_alt_text_finds_the_label_of_a_shared_axis():
    fig, axes = plt.subplots(1, 2, sharey=True)
    axes[0].set_ylabel("loss")
    fig.supxlabel("step")
    for ax in axes:
        ax.plot([0, 1], [2, 1])
    assert alt_text(fig).count("x axis: step, ") == alt_text(fig).count("y axis: loss, ") == 2
    plt.close(fig)
    fig, axes = plt.subplots(1, 2)
    axes[0].set_ylabel("loss")
    assert alt_text(fig).count("y axis: loss, ") == alt_text(fig).count("y axis: no label, ") == 1


def test_alt_text_of_panels_images_unnamed_series_and_nothing():
    fig, axes = lrtut.subplots(1, 2)
    axes[0].plot([1, 2])
    axes[1].set_xscale("log")
    text = alt_text(fig)
    assert "Panel 1: " in text and "Panel 2: " in text and "log scale" in text and "Series: from 1 to 2" in text
    ax = lrtut.plot_images(torch.zeros(2, 1, 8, 8), [3, 7])
    assert "2 images of 8 × 8 pixels, labelled 3, 7" in alt_text(ax.figure)
    assert alt_text(plt.figure()) == "Empty figure."
    flat = lrtut.subplots()[1]
    flat.plot([math.nan, math.nan], label="lost")
    assert "lost: no finite value." in alt_text(flat.figure)


def test_a_notebook_shows_a_figure_as_html_alone(monkeypatch):
    class Shell:
        display_formatter = DisplayFormatter()

    Shell.display_formatter.formatters["image/png"].for_type(matplotlib.figure.Figure, lambda figure: b"png")
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    figure, _ = lrtut.subplots()
    shown, _ = Shell.display_formatter.format(figure)
    assert "text/html" in shown and "image/png" not in shown
    shown, _ = Shell.display_formatter.format(matplotlib.figure.Figure())  # other people's figures are left alone
    assert "image/png" in shown
