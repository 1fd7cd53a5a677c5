"""The figures show what they should, to everyone, and leave matplotlib as it was."""

import base64
import io
import itertools
import math
import re
from fractions import Fraction
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from colorspacious import cspace_convert
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

import lrtut
from lrtut import History, Run
from lrtut.cli import find_lessons

ROOT = Path(__file__).parents[2]
DARK = "#111111"  # as JupyterLab has it


def history(losses=(3.0, 2.0, 1.0), diverged=False, val=(0.5,)):
    return History(list(losses), [[0.1]] * len(losses), list(val), steps_per_epoch=3, diverged=diverged)


RUNS = [Run(0.1, 0, history()), Run(1.0, 0, history(diverged=True))]
CALLS = {
    lrtut.plot_paths: ({0.1: [1, 2]},),
    lrtut.plot_loss: (history(),),
    lrtut.plot_lr: ([0.1, 0.01],),
    lrtut.plot_sweep: (RUNS,),
    lrtut.plot_images: (torch.zeros(3, 1, 8, 8), [1, 2, 3]),
}


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__name__)
def test_draws_into_the_axes_given_or_new_ones_shows_nothing_and_leaves_the_style(function, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a plotting function showed its figure"))
    _, ax = plt.subplots()
    before, style = plt.get_fignums(), dict(matplotlib.rcParams)
    assert function(*CALLS[function], ax=ax) is ax
    assert function(*CALLS[function]).figure.number not in before
    assert dict(matplotlib.rcParams) == style


def test_what_a_cell_sets_itself_is_in_the_style_too():
    ax = lrtut.plot_lr({"a": [1.0, 0.3, 0.01]})
    ax.set(title="Set by a cell", ylim=(0.01, 1))
    assert ax.get_title(loc="left") == "Set by a cell" and ax.get_title(loc="center") == ""
    assert ax.legend().get_texts()[0].get_fontsize() == 11
    _, panels = lrtut.subplots(1, 2, subplot_kw={"xlabel": "mine"})
    assert panels[0].get_xlabel() == "mine"


def test_small_rates_are_dark_and_large_ones_bright():
    rates = [1e-4, 1e-3, 0.075, 0.081, 10.0]
    colors = lrtut.lr_colors(rates[::-1])
    values = [np.dot(to_rgb(colors[lr]), [0.2126, 0.7152, 0.0722]) for lr in rates]
    assert min(np.diff(values)) > 0.03  # rates that lie close are told apart too
    assert list(colors) == rates[::-1] and len(lrtut.lr_colors([0.1])) == 1
    assert lrtut.lr_colors([0.1, 0.0])[0.0] != lrtut.lr_colors([0.1, 0.0])[0.1]


CURVES = {lrtut.plot_paths: [1.0, 2.0], lrtut.plot_loss: history(), lrtut.plot_lr: [1.0, 2.0]}


@pytest.mark.parametrize("kind", [float, np.float32, np.int64])
def test_a_curve_has_the_colour_and_the_name_of_its_rate(kind):
    rates = [kind(rate) for rate in ((1, 2, 900) if kind is np.int64 else (0.001, 0.0011, 1.0))]
    expected = list(lrtut.lr_colors(rates).values())
    for function, curve in CURVES.items():
        ax = function(dict.fromkeys(rates, curve))
        assert [tuple(line.get_color()) for line in ax.lines] == expected, function.__name__
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"{rate:g}" for rate in rates]


def test_loss_is_averaged_over_windows_and_divergence_is_marked():
    histories = {0.1: history((4.0, 2.0, 1.0, 1.0, 9.0)), 9.0: history((1.0, 5.0, math.inf), diverged=True)}
    ax = lrtut.plot_loss(histories, window=2)
    mean, broken, mark = ax.lines
    assert mean.get_xydata().tolist() == [[0.5, 3.0], [2.5, 1.0]] and mark.get_xydata().tolist() == [[0.5, 3.0]]
    assert mark.get_marker() == "X" and "diverged" in broken.get_label()
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "step" and "mean of 2 steps" in ax.get_ylabel()
    assert lrtut.plot_loss(history((3.0, 2.0))).lines[0].get_xydata().tolist() == [[0, 3.0], [1, 2.0]]


def test_rates_are_drawn_as_steps_log_where_they_span_decades():
    ax = lrtut.plot_lr(np.array([[0.1, 0.01], [0.001, 0.0001]]))
    assert [line.get_label() for line in ax.lines] == ["group 0", "group 1"]
    assert ax.get_yscale() == "log" and ax.lines[1].get_ydata().tolist() == [0.01, 0.0001, 0.0001]
    assert ax.lines[0].get_drawstyle() == "steps-post"
    ax = lrtut.plot_lr({"a": [0.1, 0.05, 0.0]}, steps_per_epoch=2)
    assert ax.get_yscale() == "linear" and ax.get_xlabel() == "epoch"
    assert ax.lines[0].get_xdata().tolist() == [0, 0.5, 1.0, 1.5]
    close = {0.12345671: [1.0, 2.0], 0.12345672: [2.0, 1.0]}  # alike in words, and both drawn
    assert [line.get_ydata()[0] for line in lrtut.plot_lr(close).lines] == [1.0, 2.0]
    two = lrtut.plot_lr({"a": np.ones((2, 2)), "a group 0": [2.0, 2.0]})
    assert [line.get_label() for line in two.lines] == ["a group 0", "a group 1", "a group 0"]


def test_sweep_shows_the_median_and_leaves_no_diverged_run_out():
    runs = [Run(0.1, s, loss) for s, loss in enumerate((1.0, 2.0, 6.0))]
    runs += [Run(0.5, s, loss) for s, loss in enumerate((1.0, 3.0, math.nan))]
    runs += [Run(1.0, 0, history(diverged=True)), Run(1.0, 1, 3.0), Run(10.0, 0, None, ValueError("x"))]
    runs += [Run(0.05, 0, history()), Run(0.05, 1, history((3.0, 0.6), val=())), Run(0.05, 2, 0.7)]
    ax = lrtut.plot_sweep(runs)
    lines = {line.get_label(): line for line in ax.lines}
    # A run counts by its last validation loss, else its last training loss; one that diverged counts as infinite.
    expected = [[0.05, 0.6], [0.1, 2.0], [0.5, 3.0], [1.0, math.nan], [10.0, math.nan]]
    np.testing.assert_array_equal(lines["median"].get_xydata(), expected)
    # There it goes up to the crosses: the cliff.
    ax.figure.draw_without_rendering()
    cliff = [patch.get_transform().transform(patch.get_path().vertices)[[0, -1]] for patch in ax.patches]
    valley, (one, other) = ax.transData.transform([0.5, 3.0]), lines["diverged (runs)"].get_xydata()[1:]
    one, other = ax.get_xaxis_transform().transform([one, other])
    np.testing.assert_allclose(cliff, [[valley, one], [one, other]])
    crosses = list(lines["diverged (runs)"].get_xdata())
    assert crosses == [0.5, 1.0, 10.0] and [text.get_text() for text in ax.texts] == ["1", "1", "1"]
    dots = sorted(y for line in ax.lines if line.get_marker() == "o" for y in line.get_ydata())
    assert dots == [0.5, 0.6, 0.7, 1.0, 1.0, 2.0, 3.0, 3.0, 6.0]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_images_lie_in_a_grid_below_their_labels():
    x = torch.arange(3 * 4, dtype=torch.float).reshape(3, 1, 2, 2)
    ax = lrtut.plot_images(x, [7, 8, 9], columns=2)
    grid, places = ax.images[0].get_array(), {text.get_text(): text.get_position() for text in ax.texts}
    for i, label in enumerate("789"):
        row, column = divmod(i, 2)
        height = grid.shape[0] // 2
        picture = grid[(row + 1) * height - 2 : (row + 1) * height, 2 * column : 2 * column + 2]
        assert np.array_equal(picture, x[i, 0])
        assert places[label][0] == 2 * column + 1 and row * height < places[label][1] < (row + 1) * height - 2


def test_the_median_of_several_seeds_counts_a_run_that_diverged_as_infinite():
    broken = history((2.0, math.inf), diverged=True)
    several = {
        "a": [history((1.0, 2.0, 6.0)), history((3.0, 4.0, 6.0)), broken],
        "b": [history((5.0,)), broken, broken],
    }
    ax = lrtut.plot_loss(several, yscale="linear")
    one, other, mark = ax.lines
    assert one.get_xydata().tolist() == [[0, 2.0], [1, 4.0], [2, 6.0]] and ax.get_yscale() == "linear"
    assert other.get_xydata().tolist() == mark.get_xydata().tolist() == [[0, 2.0]] and mark.get_marker() == "X"
    assert [line.get_label() for line in (one, other)] == ["a, 1 of 3 diverged", "b, 2 of 3 diverged"]
    assert "median of 3 seeds" in ax.get_ylabel()


@pytest.mark.parametrize("function, curve", CURVES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_guess_is_marked_at_its_curve_or_on_the_x_axis(function, curve):
    ax = function({0.1: curve, np.float32(0.3): curve}, guess=0.3)
    plain, marked = ax.lines
    assert marked.get_label() == "0.3, your guess" and marked.get_linewidth() > plain.get_linewidth()
    line = function({"SGD": curve}, guess=0.5).lines[-1]
    assert line.get_label() == "your guess: 0.5" and list(line.get_xdata()) == (
        [] if function is lrtut.plot_paths else [0.5] * 2
    )
    assert "your guess, 0.5: " in lrtut.alt_text(line.figure)


def test_a_guess_may_be_a_group_and_in_a_sweep_a_rate():
    labels = [line.get_label() for line in lrtut.plot_lr(np.ones((2, 2)), guess="group 1").lines]
    assert labels == ["group 0", "group 1, your guess"]
    (line,) = [line for line in lrtut.plot_sweep(RUNS, guess=0.1).lines if "guess" in line.get_label()]
    assert list(line.get_xdata()) == [0.1, 0.1]


@pytest.mark.parametrize("function", [lrtut.plot_loss, lrtut.plot_lr])
def test_none_is_a_name_and_no_guess(function):
    labels = [line.get_label() for line in function({None: history(), Fraction(1, 2): history()}).lines]
    assert labels == ["None", "0.5"]


@pytest.mark.parametrize("result", [torch.ones(()), torch.ones(1, 1, requires_grad=True), np.float32(1), np.ones(1)])
def test_a_score_is_any_one_number(result):
    (dot,) = [line for line in lrtut.plot_sweep([Run(0.1, 0, result)]).lines if line.get_marker() == "o"]
    assert dot.get_ydata() == [1.0]


def test_images_may_be_flipped_by_numpy():
    image = np.arange(4.0).reshape(1, 1, 2, 2)
    drawn = lrtut.plot_images(image[..., ::-1], columns=1).images[0].get_array()
    assert drawn[-2:].tolist() == [[1, 0], [3, 2]]


NOTHING = [
    (lrtut.lr_colors, []),
    (lrtut.plot_paths, {}),
    (lrtut.plot_loss, {}),
    (lrtut.plot_lr, {}),
    (lrtut.plot_sweep, []),
]
NOTHING += [(lrtut.plot_loss, {"a": []}), (lrtut.plot_lr, History()), (lrtut.plot_lr, {"a": [0.1], "b": []})]


@pytest.mark.parametrize("function, argument", NOTHING)
def test_nothing_to_draw_is_said(function, argument):
    with pytest.raises(ValueError, match="(nothing to draw|no history of 'a'|no learning rate.*): give at least one"):
        function(argument)
    assert plt.get_fignums() == []


@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's
@pytest.mark.parametrize("losses", [(-1.0, -2.0), (1.0, 0.0), (3.0, -0.1, 2.0)])
def test_losses_at_or_below_zero_are_all_in_view(losses):
    for ax in (lrtut.plot_loss(history(losses)), lrtut.plot_sweep([Run(i + 1, 0, v) for i, v in enumerate(losses)])):
        low, high = ax.get_ylim()
        assert ax.get_yscale() == "linear" and low < min(losses) and max(losses) < high
        assert not re.search("y axis: [^.]*, log", lrtut.alt_text(ax.figure))


@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's
@pytest.mark.parametrize("rates", list(itertools.permutations([(0.1, 0.001), (0.1, 0.0), (0.1, 0.05), (1.0, 0.5)], 2)))
def test_rates_are_in_view_in_panels_that_share_an_axis(rates):
    _, axes = lrtut.subplots(1, 2, sharey=True)
    for ax, values in zip(axes, rates, strict=True):
        lrtut.plot_lr(values, ax=ax)
    low, high = axes[0].get_ylim()
    assert low <= np.min(rates) and np.max(rates) < high and (low > 0) == (axes[0].get_yscale() == "log")


def test_a_group_that_comes_later_is_drawn_from_there():
    first, later = lrtut.plot_lr(History([1.0, 1.0], [[0.1], [0.1, 0.2]])).lines
    np.testing.assert_array_equal(later.get_ydata(), [math.nan, 0.2, 0.2])


@pytest.mark.parametrize("keys", [["sgd", "adam"], [(0.1, 8), (0.2, 8)], [{"a": 1}, {"a": 2}], [0.0, 0.1]])
def test_a_sweep_of_anything_is_drawn_side_by_side_and_names_its_loss(keys):
    ax = lrtut.plot_sweep([Run(keys[0], 0, history(val=())), Run(keys[1], 0, history(diverged=True))], guess=keys[0])
    ax.figure.draw_without_rendering()
    assert len({tick.get_text() for tick in ax.get_xticklabels()}) == 2 and ax.get_ylabel() == "final training loss"


@pytest.mark.parametrize("scale", [1.0, 255, torch.tensor(255, dtype=torch.uint8)])
def test_colours_are_drawn(scale):
    green = torch.tensor([0.0, 1.0, 0.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    x = (green * scale).to(torch.uint8) if isinstance(scale, torch.Tensor) else green * scale
    ax = lrtut.plot_images(x, ["cat", "dog"])
    assert ax.images[0].get_array()[-1, 0].tolist() == [0, 1, 0, 1] and ax.texts[1].get_text() == "dog"


def picture(page):
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page)[1]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def contrast(one, other):
    """Between two colours, 1 to 21 (WCAG 2)."""
    rgb = np.array([to_rgb(one), to_rgb(other)])
    low, high = sorted(np.where(rgb <= 0.04, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_a_figures_words_are_read_on_white_and_in_a_dark_theme_also_those_that_a_cell_sets():
    figure, axes = lrtut.subplots(1, 2)
    axes[0].set(xlabel="mine", title="mine", xticks=[0, 1], yscale="log")
    axes[0].annotate("mine", (0.5, 0.5))
    figure.suptitle("mine")
    figure.supxlabel("mine")
    lrtut.plot_loss({0.1: history()}, title="a title", ax=axes[1])
    page = figure._repr_html_()
    assert np.asarray(picture(page))[0, 0, 3] == 0  # the page is seen through it
    words = [text for text in figure.findobj(Text) if text.get_text()]
    assert len(words) > 12
    for text in words:
        assert min(contrast(text.get_color(), ground) for ground in ("white", DARK)) > 4, text


# --- told apart by everyone ---------------------------------------------------------------------------------------

# In CAM02-UCS (Luo, Cui and Li 2006), 1 is about what one just sees between two large patches. Lines are thin.
APART = 8
VISIONS = {"usual": None, "deuteranopia": "deuteranomaly", "protanopia": "protanomaly", "tritanopia": "tritanomaly"}
GREY = "grey"


def differences(colors, vision):
    """Between each colour and the next, as this vision sees them (Machado, Oliveira and Fernandes 2009)."""
    rgb = np.array([to_rgb(color) for color in colors])
    if VISIONS.get(vision):
        space = {"name": "sRGB1+CVD", "cvd_type": VISIONS[vision], "severity": 100}
        rgb = np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)
    ucs = cspace_convert(rgb, "sRGB1", "CAM02-UCS")
    return np.linalg.norm(np.diff(ucs * [1, 0, 0] if vision == GREY else ucs, axis=0), axis=1)


def grid(style, ground):
    """The colour of a grid line on a ground."""
    share = style["grid.alpha"]
    return share * np.array(to_rgb(style["grid.color"])) + (1 - share) * np.array(to_rgb(ground))


@pytest.mark.parametrize("vision", [*VISIONS, GREY])
def test_neighbours_in_the_palettes_are_told_apart_by_everyone(vision):
    style = matplotlib.rc_params_from_file(ROOT / "lrtut" / "style.mplstyle", use_default_template=False)
    for n in range(2, 8):
        rates = list(lrtut.lr_colors(np.logspace(-4, 1, n).tolist()).values())
        names = [line.get_color() for line in lrtut.plot_paths({f"name {i}": [1, 2] for i in range(n)}).lines]
        for colors in (rates, names):
            assert differences(colors, vision).min() >= APART
            for color, ground in itertools.product(colors, ("white", DARK)):
                assert differences([ground, color], vision) >= 2 * APART
                assert differences([grid(style, ground), color], vision) >= APART
    assert (differences(["#1f77b4", "#d62728"], vision) < APART) == (vision == GREY)  # the measure sees what is known


def alike(one, other):
    """Whether two lines are told apart neither by line style or marker nor by colour, in some vision."""
    if (one.get_linestyle(), one.get_marker()) != (other.get_linestyle(), other.get_marker()):
        return False
    return min(differences([one.get_color(), other.get_color()], vision) for vision in (*VISIONS, GREY)) < APART


def words_of(figure):
    """The texts that are drawn in a figure, with their boxes in pixels."""
    figure.canvas.draw()
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (ax.axison and low <= tick.get_loc() <= high):
                    hidden |= {tick.label1, tick.label2}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in texts]


def check_figure(figure, where):
    """No text is cut off or lies on another, and any two named curves of a panel are told apart."""
    for ax in figure.axes:
        named = [line for line in ax.lines if not str(line.get_label()).startswith("_") and line.get_label()]
        for one, other in itertools.combinations(named, 2):
            assert not alike(one, other), (where, one.get_label(), other.get_label())
    words, page = words_of(figure), figure.bbox.padded(1)  # boxes are a little larger than what is drawn
    for text, box in words:
        assert page.containsx(box.x0) and page.containsx(box.x1), (where, text)
        assert page.containsy(box.y0) and page.containsy(box.y1), (where, text)
    for (one, box), (other, another) in itertools.combinations(words, 2):
        assert not box.padded(-1).overlaps(another.padded(-1)), (where, one, other)


def gist(alt):
    """What alt text says apart from the data: titles, axes and the names of series, without numbers."""
    blank = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", alt)
    return {s for s in re.split(r"(?<=\.) ", blank) if not s.startswith("runs at #: ")}


@pytest.mark.slow
@pytest.mark.parametrize("path", find_lessons(ROOT), ids=lambda path: path.stem)
def test_a_lessons_figures(path):
    """Each lesson's figures, drawn in this process; those of the README are up to date."""
    namespace, drawn = {"__name__": "__main__"}, 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        source = re.sub(r"^(\s*)%.*", r"\1pass", cell.source, flags=re.M)
        exec(compile(source, cell.id, "exec", optimize=1), namespace)  # without asserts: those are tested elsewhere
        for figure in map(plt.figure, plt.get_fignums()):
            drawn += 1
            figure._repr_html_()  # lays the figure out in the course's style
            check_figure(figure, cell.id)
            if "readme" in cell.metadata.get("tags", []):
                stored = Image.open(ROOT / "images" / f"{cell.id}.png").info["Description"]
                assert gist(stored) == gist(lrtut.alt_text(figure)), "uv run nox -s images"
        plt.close("all")
    assert drawn
