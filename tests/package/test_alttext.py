"""Alt text tells what is drawn, in data and not in places on the page."""

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import torch

import lrtut
from lrtut import Run, alt_text

STRETCHES = ("flat", "falling", "valley", "cliff")


def said(figure):
    """The sentences of a figure's alt text that tell of its series."""
    return [sentence for sentence in re.split(r"(?<=\.) ", alt_text(figure)) if re.match(r"[^:;]+: [^;]+$", sentence)]


def test_a_chart_is_told_by_its_title_axes_and_series():
    paths = {0.1: [4.0, 1.0, 2.0], 0.5: [4.0, math.nan]}
    figure = lrtut.plot_paths(paths, ylabel="w", title="Two <paths>").figure
    figure.axes[0].set(xlim=(0, 2), ylim=(1, 4))
    assert alt_text(figure) == (
        "Two <paths>. Chart, x axis: step, 0 to 2; y axis: w, 1 to 4. "
        "0.1: from 4 to 2, lowest 1 at 1, highest 4. 0.5: 4 at 0."
    )
    assert 'alt="Two &lt;paths&gt;. Chart' in figure._repr_html_()


def test_panels_in_a_row_are_pictures_with_a_text_each_if_each_has_its_labels():
    figure, (one, other) = lrtut.subplots(1, 2)
    one.set_ylabel("one")
    assert figure._repr_html_().count("<img") == 1
    other.set_ylabel("other")
    lrtut.plot_lr({"a name": [1.0, 2.0]}, ax=other)
    pictures = re.findall('<img alt="([^"]+)".*?min-width:min', figure._repr_html_())
    assert [("one," in text, "a name: " in text) for text in pictures] == [(True, False), (False, True)]


def test_panels_pictures_and_nothing():
    figure, (one, other) = lrtut.subplots(1, 2)
    figure.suptitle("Both")
    one.plot([1, 2])
    other.set_xscale("log")
    text = alt_text(figure)
    assert text.startswith("Both. Panel 1: Chart, ") and "Panel 2: Chart, " in text and text.count("log scale") == 1
    assert "Line: from 1 to 2" in text
    text = alt_text(lrtut.plot_images(torch.zeros(2, 1, 8, 8), [3, 7]).figure)
    assert text == "Picture: 2 images of 8 × 8 pixels, labelled 3, 7."
    assert alt_text(plt.figure()) == "Empty figure."


def test_the_label_of_a_shared_axis_is_told_in_each_panel():
    figure, axes = plt.subplots(1, 2, sharey=True)
    axes[0].set_ylabel("loss")
    figure.supxlabel("step")
    assert alt_text(figure).count("x axis: step, ") == alt_text(figure).count("y axis: loss, ") == 2
    figure, axes = plt.subplots(1, 2)
    axes[0].set_ylabel("loss")
    assert alt_text(figure).count("y axis: loss, ") == alt_text(figure).count("y axis: no label, ") == 1


def test_a_sweep_is_told_by_rates_and_losses_and_by_no_place_in_the_picture():
    runs = [
        Run(0.1, 0, 1.0),
        Run(0.1, 1, 1.2),
        Run(1.0, 0, 0.5),
        Run(1.0, 1, 0.6),
        Run(10.0, 0, math.nan),
        Run(30.0, 0, math.nan),
    ]
    assert said(lrtut.plot_sweep(runs, guess=0.3).figure) == [
        "median: from 1.1 to 0.55, lowest 0.55 at 1, highest 1.1.",
        "diverged (runs): x = 10, 30.",
        "your guess, 0.3: x = 0.3.",
        "range over seeds: x = 0.1 to 1, y = 0.5 to 1.2.",
        "runs at 0.1: 2 points at 0.1, from 1 to 1.2.",
        "runs at 1: 2 points at 1, from 0.5 to 0.6.",
    ]


def test_a_range_test_is_told_by_its_suggestion_and_its_words_apart_from_the_axis():
    lrs = np.geomspace(1e-4, 10, 200)
    fall = 2.3 - 1.5 * np.exp(-(((np.log10(lrs) + 0.5) / 0.8) ** 2))
    test = lrtut.RangeTest(lrs[:, None], fall + np.where(lrs > 2, 3 * (lrs - 2), 0))
    figure, rate = test.plot(readings={"a rule": 0.02}).figure, test.suggestion()
    assert f"suggestion {rate:.2g}: x = {rate:.3g}." in said(figure)
    assert "a rule 0.02: x = 0.02." in said(figure)
    ends = [re.search(rf"{name}: x = (\S+) to (\S+)\.", alt_text(figure)).groups() for name in STRETCHES]
    assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]] and float(ends[2][0]) < 3 * rate
    assert "y axis: training loss, 0." in alt_text(figure)  # and not what the strip of readings takes below it
    assert re.search(r"x axis: learning rate, [\d.e-]+ to [\d.]+, log scale; y axis: ", alt_text(figure))
    assert f". The middle of the valley is {rate * 3:.2g}, a peak" in alt_text(figure)


def test_dots_bars_areas_and_what_is_not_in_data():
    figure, ax = lrtut.subplots()
    ax.scatter([1, 2, 3, 4], [4, 5, 6, math.nan], label="dots")
    ax.scatter([], [], label="none")
    ax.bar([1, 2, 3], [4, 5, -6], label="bars")
    ax.barh([1, 2], [7, 5])
    ax.fill_between([1, 2], [0, 1], [3, 2])
    ax.axhspan(1, 2)
    ax.axhline(1, label="level")
    ax.plot([math.nan, math.nan], label="lost")
    ax.plot([1, 2], [3, 4], label="_nolegend_")
    ax.plot([1, 2], [3, 4], label="hidden", visible=False)
    ax.plot([0.1, 0.9], [0.1, 0.9], transform=ax.transAxes, label="frame")
    ax.axline((0, 1), slope=2, label="through the whole panel")
    ax.set(xlim=(0, 5), ylim=(-10, 20))
    assert said(figure) == [
        "level: y = 1.",
        "lost: no finite value.",
        "dots: 3 points, lowest 4 at 1, highest 6 at 3.",
        "none: no finite value.",
        "bars: 3 bars, lowest -6 at 3, highest 5 at 2.",
        "Line: from 3 to 4, lowest 3 at 1, highest 4.",
        "Area: x = 1 to 2, y = 0 to 3.",
        "Bars: 2 bars, lowest 5 at 2, highest 7 at 1.",
        "Area: y = 1 to 2.",
    ]


def test_many_series_are_cut_short_and_counted():
    sentences = said(lrtut.plot_paths({f"curve {i}": [i, i + 1] for i in range(20)}).figure)
    assert len(sentences) == 16 and alt_text(plt.gcf()).endswith(" And 4 more.")


def test_names_and_dates():
    figure, (names, bars, dates) = lrtut.subplots(1, 3)
    names.plot(["SGD", "Adam"], [5, 4])
    bars.bar(["SGD", "Adam"], [5, 4], label="loss")
    dates.plot(np.array(["2024-01-01", "2024-01-31"], "datetime64[D]"), [5, 4])
    text = alt_text(figure)
    assert "no label, SGD to Adam;" in text and "Line: from 5 to 4, lowest 4 at Adam, highest 5." in text
    assert "loss: 2 bars, lowest 4 at Adam, highest 5 at SGD." in text
    assert "lowest 4 at 2024-01-31, highest 5." in text
