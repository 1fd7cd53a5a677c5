import math
import re

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


def test_nothing_to_draw_is_said():
    nothing = {
        lrtut.lr_colors: ([],),
        lrtut.plot_paths: ({},),
        lrtut.plot_loss: ({},),
        lrtut.plot_lr: ({},),
        lrtut.plot_sweep: ([],),
    }
    for function, arguments in nothing.items():
        with pytest.raises(ValueError, match=r"nothing to draw: give at least one learning rate, curve or run\."):
            function(*arguments)
    for rates in (History(), {"a": [0.1], "b": []}):
        with pytest.raises(ValueError, match="no learning rate( of 'b')?: give at least one step."):
            lrtut.plot_lr(rates)
    with pytest.raises(ValueError, match="window=0: give a whole number of at least 1"):
        lrtut.plot_loss(history(), window=0)
    assert plt.get_fignums() == []


def test_curves_whose_rates_look_alike_are_both_drawn():
    close = {0.12345671: [1.0, 2.0], 0.12345672: [2.0, 1.0]}
    assert [line.get_ydata()[0] for line in lrtut.plot_lr(close).lines] == [1.0, 2.0]
    two = lrtut.plot_lr({"a": np.ones((2, 2)), "a group 0": [2.0, 2.0]})
    assert [line.get_label() for line in two.lines] == ["a group 0", "a group 1", "a group 0"]


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.int64])
def test_rates_of_numpys_kinds_have_the_colours_of_their_rates(kind):
    rates = [kind(rate) for rate in ((1, 2, 900) if kind is np.int64 else (0.001, 0.0011, 1.0))]
    expected = [lrtut.lr_colors(rates)[rate] for rate in rates]
    for function, curve in ((lrtut.plot_loss, history()), (lrtut.plot_paths, [1.0, 2.0]), (lrtut.plot_lr, [1.0, 2.0])):
        lines = function(dict.fromkeys(rates, curve)).lines
        assert [tuple(line.get_color()) for line in lines] == expected, function.__name__
        assert [line.get_label() for line in lines] == [f"{rate:g}" for rate in rates]


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


def said(figure):
    """The sentences of a figure's alt text that tell of its series."""
    return [sentence for sentence in re.split(r"(?<=\.) ", alt_text(figure)) if re.match(r"[^:;]+: [^;]+$", sentence)]


def test_alt_text_of_a_sweep_tells_rates_and_losses_and_no_place_in_the_picture():
    runs = [Run(0.1, 0, 1.0), Run(0.1, 1, 1.2), Run(1.0, 0, 0.5), Run(1.0, 1, 0.6), Run(10.0, 0, math.nan)]
    assert said(lrtut.plot_sweep(runs).figure) == [
        "median: from 1.1 to 0.55, lowest 0.55 at 1, highest 1.1.",
        "diverged (runs): x = 10.",
        "range over seeds: x = 0.1 to 1, y = 0.5 to 1.2.",
        "Series: 2 points at 0.1, from 1 to 1.2.",
        "Series: 2 points at 1, from 0.5 to 0.6.",
    ]


def test_alt_text_of_a_range_test_says_where_the_suggestion_is_and_its_words_apart_from_the_axis():
    lrs = np.geomspace(1e-4, 10, 200)
    fall = 2.3 - 1.5 * np.exp(-(((np.log10(lrs) + 0.5) / 0.8) ** 2))
    test = lrtut.RangeTest(lrs[:, None], fall + np.where(lrs > 2, 3 * (lrs - 2), 0), 3.0)
    figure, least = test.plot().figure, test.suggestion() * test.divisor
    sentences = said(figure)
    assert f"suggestion {test.suggestion():.2g}: x = {test.suggestion():.3g}." in sentences
    region = f"x = {test.suggestion():.3g} to {least:.3g}."
    assert f"from the suggestion to the minimum: {region}" in sentences
    assert re.search(r"x axis: learning rate, [\d.e-]+ to [\d.]+, log scale; y axis: ", alt_text(figure))
    assert f". The smoothed loss is lowest at {least:.2g}; " in alt_text(figure)


def test_alt_text_of_dots_bars_and_areas():
    figure, ax = lrtut.subplots()
    ax.scatter([1, 2, 3, 4], [4, 5, 6, math.nan], label="dots")
    ax.scatter([], [], label="none")
    ax.bar([1, 2, 3], [4, 5, -6], label="bars")
    ax.barh([1, 2], [7, 5])
    ax.fill_between([1, 2], [0, 1], [3, 2])
    ax.axhspan(1, 2)
    ax.axhline(1, label="level")
    ax.plot([1, 2], [3, 4], label="_nolegend_")
    ax.plot([1, 2], [3, 4], label="hidden", visible=False)
    ax.plot([0.1, 0.9], [0.1, 0.9], transform=ax.transAxes, label="frame")
    ax.axline((0, 1), slope=2, label="through the whole panel")
    ax.set(xlim=(0, 5), ylim=(-10, 20))
    assert said(figure) == [
        "level: y = 1.",
        "dots: 3 points, lowest 4 at 1, highest 6 at 3.",
        "none: no finite value.",
        "bars: 3 bars, lowest -6 at 3, highest 5 at 2.",
        "Series: from 3 to 4, lowest 3 at 1, highest 4.",
        "Series: x = 1 to 2, y = 0 to 3.",
        "Series: 2 bars, lowest 5 at 2, highest 7 at 1.",
        "Series: y = 1 to 2.",
    ]


def test_alt_text_of_names_and_dates():
    figure, (names, bars, dates) = lrtut.subplots(1, 3)
    names.plot(["SGD", "Adam"], [5, 4])
    bars.bar(["SGD", "Adam"], [5, 4], label="loss")
    dates.plot(np.array(["2024-01-01", "2024-01-31"], "datetime64[D]"), [5, 4])
    text = alt_text(figure)
    assert "no label, SGD to Adam;" in text and "Series: from 5 to 4, lowest 4 at Adam, highest 5." in text
    assert "loss: 2 bars, lowest 4 at Adam, highest 5 at SGD." in text
    assert "lowest 4 at 2024-01-31, highest 5." in text
    assert "SGD to Adam" in figure._repr_html_()


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
