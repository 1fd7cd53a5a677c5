"""The figures of the lessons and of the README: told apart by everyone, nothing overlaps, alt text arrives, up to date.

`uv run python tests/package/test_pictures.py` prints the colour differences of the course's palette.
"""

import base64
import html
import io
import itertools
import re
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
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

import lrtut
from lrtut.cli import find_lessons
from lrtut.data import DIGITS, find_data
from lrtut.plotting import _colors

ROOT = Path(__file__).parents[2]
LESSONS = find_lessons(ROOT)
matplotlib.use("agg")

# Differences in CAM02-UCS (Luo, Cui and Li 2006), where 1 is about what one just sees between two large patches side by
# side, and black is 100 from white. Lines are thin and lie apart, so we ask for eight times that, and in grey for eight
# steps of lightness alone. Line style or marker varies too, so colour is never the only thing that tells curves apart.
APART = 8
FROM_WHITE = 2 * APART  # a curve stands out from its ground more than from its neighbour, and from a grid line as much
VISIONS = {"usual": None, "deuteranopia": "deuteranomaly", "protanopia": "protanomaly", "tritanopia": "tritanomaly"}
GREY = "grey"
LESSON_RATES = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 3.0, 10.0]
STYLE = matplotlib.rc_params_from_file(ROOT / "lrtut" / "style.mplstyle", use_default_template=False)
PALETTES = {
    "rates over five decades": lambda n: list(lrtut.lr_colors(np.logspace(-4, 1, n).tolist()).values()),
    "first rates of lesson 01": lambda n: list(lrtut.lr_colors(LESSON_RATES[:n]).values()),
    "names": lambda n: list(_colors([f"name {i}" for i in range(n)]).values()),
    "what a cell plots itself": lambda n: STYLE["axes.prop_cycle"].by_key()["color"][:n],
}


def seen(colors, vision):
    """Colours `[n]` in CAM02-UCS, `[n, 3]`, as this vision sees them (Machado, Oliveira and Fernandes 2009)."""
    rgb = np.array([to_rgb(color) for color in colors])
    if VISIONS.get(vision):
        space = {"name": "sRGB1+CVD", "cvd_type": VISIONS[vision], "severity": 100}
        rgb = np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)
    ucs = cspace_convert(rgb, "sRGB1", "CAM02-UCS")
    return ucs * [1, 0, 0] if vision == GREY else ucs  # the first coordinate is lightness


def neighbours(colors, vision):
    """The smallest difference between one colour and the next."""
    return np.linalg.norm(np.diff(seen(colors, vision), axis=0), axis=1).min()


def alike(one, other):
    """Whether two lines are told apart neither by line style or marker nor by colour, in some vision."""
    if (one.get_linestyle(), one.get_marker()) != (other.get_linestyle(), other.get_marker()):
        return []
    pair = [one.get_color(), other.get_color()]
    return [vision for vision in (*VISIONS, GREY) if neighbours(pair, vision) < APART]


def draw(path, last=None):
    """Run a lesson's code cells in this process, up to cell `last`; yields each cell's id and figure."""
    namespace = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        source = re.sub(r"^(\s*)%.*", r"\1pass", cell.source, flags=re.M)
        exec(compile(source, cell.id, "exec", optimize=1), namespace)  # without asserts: those are tested elsewhere
        for number in plt.get_fignums():
            yield cell.id, plt.figure(number)
        plt.close("all")
        if cell.id == last:
            return


@pytest.fixture(autouse=True)
def one_thread_and_no_figure_left():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the lessons' kernels
    yield
    torch.set_num_threads(threads)
    plt.close("all")


@pytest.mark.parametrize("vision", [*VISIONS, GREY])
@pytest.mark.parametrize("palette", PALETTES)
def test_neighbours_in_the_palette_are_told_apart(palette, vision):
    for n in range(2, 8):
        colors = PALETTES[palette](n)
        assert neighbours(colors, vision) >= APART, n
        assert min(neighbours(["white", color], vision) for color in colors) >= FROM_WHITE, n
        assert min(neighbours([STYLE["grid.color"], color], vision) for color in colors) >= APART, n


def test_the_measure_finds_what_is_known_to_be_alike():
    assert neighbours(["#d62728", "#2ca02c"], "usual") > 4 * neighbours(["#d62728", "#2ca02c"], "deuteranopia")
    assert neighbours(["#1f77b4", "#d62728"], GREY) < APART < neighbours(["#1f77b4", "#d62728"], "usual")
    one, other = plt.plot([1], "-", [2], "-", color="#1f77b4")
    other.set_color("#d62728")
    assert alike(one, other) == [GREY]
    other.set_linestyle("--")
    assert alike(one, other) == []


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


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lessons_figures(path, monkeypatch):
    monkeypatch.setenv("LRTUT_DATA", "digits")
    drawn = 0
    for cell, figure in draw(path):
        drawn += 1
        for ax in figure.axes:
            named = [line for line in ax.lines if not str(line.get_label()).startswith("_") and line.get_label()]
            for one, other in itertools.combinations(named, 2):
                assert alike(one, other) == [], (cell, one.get_label(), other.get_label())
        figure._repr_html_()  # lays the figure out in the course's style
        words = words_of(figure)
        for text, box in words:
            # A pixel of slack: boxes are a little larger than what is drawn.
            assert figure.bbox.padded(1).containsx(box.x0) and figure.bbox.padded(1).containsx(box.x1), (cell, text)
            assert figure.bbox.padded(1).containsy(box.y0) and figure.bbox.padded(1).containsy(box.y1), (cell, text)
        for (one, box), (other, another) in itertools.combinations(words, 2):
            assert not box.padded(-1).overlaps(another.padded(-1)), (cell, one, other)
    assert drawn >= 4


def test_a_figures_ground_is_opaque():
    ax = lrtut.plot_paths({0.1: [1, 2]})
    pixels = np.asarray(picture(ax.figure._repr_html_()).convert("RGBA"))
    assert pixels[..., 3].min() == 255 and pixels[0, 0, :3].tolist() == [255, 255, 255]


def picture(page):
    """The PNG in a figure's HTML."""
    return Image.open(io.BytesIO(base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page)[1])))


FIRST = "import lrtut\nax = lrtut.plot_paths({0.1: [1, 2]}, title='The <first> figure')"


def test_alt_text_of_a_kernels_first_figure_is_in_its_output_and_in_every_page():
    notebook = new_notebook(cells=[new_code_cell(FIRST), new_code_cell("fig, axes = lrtut.subplots(1, 2)")])
    NotebookClient(notebook, kernel_name="python3").execute()
    for cell in notebook.cells:
        bundles = [output.data for output in cell.outputs if "text/html" in output.get("data", {})]
        # JupyterLab, Colab and nbconvert each take the HTML; a bare PNG beside it would be shown without its words.
        assert bundles and all(set(bundle) == {"text/html", "text/plain"} for bundle in bundles)
    (output,) = notebook.cells[0].outputs
    alt = html.unescape(re.search(r'<img alt="([^"]+)"', output.data["text/html"])[1])
    assert alt.startswith("The <first> figure. Chart, x axis: step, ") and "0.1: from 1 to 2" in alt
    for template in ("lab", "classic", "basic"):
        page, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
        pictures = [tag for tag in re.findall("<img [^>]+>", page) if "data:image/png" in tag]
        assert len(pictures) == 2 and all('alt="' in tag for tag in pictures)
        assert any(alt in html.unescape(tag) for tag in pictures)


def gist(alt):
    """What alt text says apart from the data: titles, axes and the names of series, without numbers."""
    blank = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", alt)
    return {s for s in re.split(r"(?<=\.) ", blank) if not s.startswith("Series: ")}


def readme_cells():
    for path in LESSONS:
        for cell in nbformat.read(path, as_version=4).cells:
            if "readme" in cell.metadata.get("tags", []):
                yield path, cell.id


WITHOUT_DATA = {"catalogue-figure"}  # schedules alone: the same pixels on every machine


def coarse(image, block=20):
    """The mean colour of each block of so many pixels, 0 to 1."""
    pixels = np.asarray(image.convert("RGB"), float) / 255
    height, width = (size // block * block for size in pixels.shape[:2])
    return pixels[:height, :width].reshape(height // block, block, width // block, block, 3).mean((1, 3))


@pytest.mark.parametrize(("path", "cell"), list(readme_cells()), ids=lambda value: getattr(value, "stem", value))
def test_the_readmes_figure_is_up_to_date(path, cell):
    """What it says on any data; its pixels, coarsely, on MNIST or where no data are in it."""
    remake = "on MNIST: uv run lrtut run && uv run python images/make_images.py"
    stored = Image.open(ROOT / "images" / f"{cell}.png")
    *_, (last, figure) = draw(path, last=cell)
    assert last == cell
    fresh = picture(figure._repr_html_())
    assert gist(stored.info["Description"]) == gist(lrtut.alt_text(figure)), remake
    assert stored.size == fresh.size, remake
    if stored.info["Software"] != fresh.info["Software"]:
        pytest.skip(f"made by {stored.info['Software']}, which sets text in another way: only its words were compared")
    if find_data()[0] != DIGITS or cell in WITHOUT_DATA:
        # Another CPU moves a dot or two (0.001 was seen); the digits' figure in place of MNIST's gives 0.008.
        most = 0.0005 if cell in WITHOUT_DATA else 0.004
        assert np.abs(coarse(stored) - coarse(fresh)).mean() < most, remake


def test_every_picture_has_its_cell():
    assert {path.stem for path in (ROOT / "images").glob("*.png")} == {cell for _, cell in readme_cells()}


if __name__ == "__main__":
    print(f"{'smallest ΔE between neighbours':31}" + "".join(f"{v:>14}" for v in (*VISIONS, GREY)))
    for name, palette in PALETTES.items():
        for n in range(2, 8):
            row = [neighbours(palette(n), vision) for vision in (*VISIONS, GREY)]
            print(f"{name:25} {n:>5}" + "".join(f"{value:14.1f}" for value in row))
