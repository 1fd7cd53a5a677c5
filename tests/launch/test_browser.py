"""The course as a learner meets it: `lrtut lab` in Chromium, Run All, and what is then on the page.

Screenshots land in build/browser/. Set LRTUT_BROWSER to a browser's path to make a missing browser or a missing
playwright a failure instead of a skip, as CI does.
"""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import lrtut
from lrtut.cli import find_lessons

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "browser"
LESSONS = find_lessons(ROOT)
TOKEN = "only-for-this-test"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("LRTUT_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
MISSING = [] if BROWSER else ["no Chromium (Debian: apt-get install chromium)"]
if not importlib.util.find_spec("playwright"):
    MISSING.append("no playwright (uv sync --group browser)")
FLAGS = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING) and "LRTUT_BROWSER" not in os.environ, reason="; ".join(MISSING)),
]

PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)"
ERRORS = "[...document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.error\"]')].map(e => e.textContent)"


class Lab:
    """A running `lrtut lab` on a copy of the notebooks, with settings, workspaces and kernels' files of its own."""

    def __init__(self, folder: Path):
        self.notebooks, self.settings = folder / "notebooks", folder / "settings"
        shutil.copytree(ROOT / "notebooks", self.notebooks, ignore=shutil.ignore_patterns(".*"))
        (folder / "lrtut").mkdir()
        (folder / "lrtut" / "cli.py").touch()  # by which `lrtut` knows a checkout
        self.set("notebook-extension/tracker", windowingMode="none")  # else cells out of view may be missing
        self.set("apputils-extension/notification", fetchNews="false", checkForUpdates=False)
        own = {"SETTINGS_DIR": "settings", "WORKSPACES_DIR": "workspaces"}
        environment = os.environ | {f"JUPYTERLAB_{name}": str(folder / place) for name, place in own.items()}
        environment |= {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        environment |= {"IPYTHONDIR": str(folder / "ipython"), "LRTUT_DATA": "digits"}
        command = [Path(sys.executable).with_name("lrtut"), "lab", "--no-browser", "--ip=127.0.0.1", "--port=0"]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, f"--IdentityProvider.token={TOKEN}"],
                cwd=self.notebooks, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            self.url = self._wait_for_address(folder / "runtime")
        except BaseException:
            self.process.kill()
            raise

    def _wait_for_address(self, runtime: Path) -> str:
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            for record in runtime.glob("jpserver-*.json"):
                if text := record.read_text():
                    return f"http://127.0.0.1:{json.loads(text)['port']}"
            time.sleep(0.2)
        raise RuntimeError(f"lrtut lab did not start:\n{self.log.read_text()[-3000:]}")

    def set(self, plugin: str, **values) -> Path:
        """Write a user setting of JupyterLab; returns its file."""
        path = self.settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
        return path

    def api(self, method: str, path: str):
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def stop(self) -> int:
        self.api("POST", "/api/shutdown")
        return self.process.wait(60)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    assert lab.stop() == 0


@pytest.fixture
def page(lab):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()
    for session in lab.api("GET", "/api/sessions"):  # a kernel with torch holds most of a gigabyte
        lab.api("DELETE", f"/api/sessions/{session['id']}")


def open_notebook(lab, page, name: str) -> None:
    """Open a notebook in a workspace of its own, and wait for all its cells and its kernel."""
    cells = nbformat.read(lab.notebooks / name, as_version=4).cells
    page.goto(f"{lab.url}/lab/workspaces/{Path(name).stem}/tree/notebooks/{name}?token={TOKEN}")
    page.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-Cell').length == {len(cells)}", timeout=90_000)
    page.locator("#jp-main-statusbar", has_text=re.compile(r"Python 3.*\| Idle")).wait_for(timeout=90_000)


def run_all(page) -> None:
    """Run All by the menu; returns when every cell has run or one has failed."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    done = rf"{PROMPTS}.every(text => /^\[\d+\]:$/.test(text)) || {ERRORS}.length > 0"
    page.wait_for_function(done, timeout=240_000, polling=250)


def images_in_outputs(page) -> list[list[str]]:
    """For each code cell, the names of the images in the browser's own accessibility tree of its outputs."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    found = []
    for i in range(page.locator(".jp-CodeCell").count()):
        area = f"document.querySelectorAll('.jp-CodeCell')[{i}].querySelector('.jp-Cell-outputArea')"
        node = session.send("Runtime.evaluate", {"expression": area})["result"]["objectId"]
        tree = session.send("Accessibility.queryAXTree", {"objectId": node})["nodes"]
        images = [n for n in tree if not n["ignored"] and n["role"]["value"] in ("image", "img")]
        found.append([n["name"]["value"] for n in images])
    return found


def draws(source: str) -> bool:
    """Whether a cell draws a figure when it runs (not only in a function that it defines)."""
    return any(re.match(r"(?!def |class |\s|#)(.*\b)?(plot\w*|subplots)\(", line) for line in source.splitlines())


def shoot(page, name: str) -> None:
    """The whole notebook as one picture, as far as Chromium can draw one, and each figure as its own."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
    page.set_viewport_size({"width": 1400, "height": min(height + 200, 16_000)})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")  # Run All ends at the last cell
    page.wait_for_function("document.querySelector('.jp-Cell').getBoundingClientRect().top >= 0")
    page.screenshot(path=SHOTS / f"{name}.png")
    for i, image in enumerate(page.locator(".jp-Cell-outputArea img").all(), 1):
        image.screenshot(path=SHOTS / f"{name}-figure-{i:02}.png")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_in_jupyterlab(lab, page, path):
    open_notebook(lab, page, path.name)
    run_all(page)
    shoot(page, path.stem)
    assert page.evaluate(ERRORS) == []
    outputs = page.locator(".jp-Cell-outputArea")
    assert outputs.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts() == []

    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert page.evaluate(PROMPTS) == [f"[{i}]:" for i in range(1, len(code) + 1)]  # the last check included

    # Figures: in each cell that draws, its first included, once, with alt text; nowhere as a bare picture.
    seen = images_in_outputs(page)
    assert {c.id: len(images) for c, images in zip(code, seen, strict=True)} == {c.id: draws(c.source) for c in code}
    for cell, images in zip(code, seen, strict=True):
        for alt in images:
            assert re.search(r"Chart, x axis: .+; y axis: .+, [\d.e+-]+ to |Picture: \d+ images", alt), (cell.id, alt)
            for title in re.findall(r'(?<!legend\()\btitle="([^"]+)"', cell.source):
                assert title in alt, cell.id
    assert outputs.locator('[data-mime-type="image/png"]').count() == 0

    # Progress bars are gone when what they counted is done, and leave no message behind.
    assert outputs.locator(".progress-bar").count() == 0
    words = "\n".join(outputs.all_inner_texts())
    assert not re.search("Error displaying widget|Loading widget|model not found|FloatProgress", words)

    page.locator('[data-id="table-of-contents"]').click()
    headings = re.findall(r"^#+ (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    entries = page.locator(".jp-TableOfContents-tree .jp-tocItem-heading")
    entries.nth(len(headings) - 1).wait_for()
    assert [text.strip() for text in entries.all_inner_texts()] == [h.replace("`", "") for h in headings]


SLOW = """
import time
from concurrent.futures import ThreadPoolExecutor

import torch
import lrtut

class Slow:
    def __len__(self):
        return 40

    def __iter__(self):
        for _ in range(40):
            time.sleep(0.1)
            yield torch.zeros(8, 1, 28, 28), torch.zeros(8, dtype=torch.long)

model = lrtut.mlp(seed=0)
"""
SGD = "torch.optim.SGD(model.parameters(), lr=0.1)"
LONG = {  # what shows a bar, and how far that gets at least; the last two stop early, as divergence makes them
    "train": (f"history = lrtut.train(model, {SGD}, Slow(), epochs=1)", 90),
    "sweep": ("runs = lrtut.sweep(lambda lr, seed: time.sleep(0.2), [0.1], range(40), ThreadPoolExecutor(2))", 90),
    "range test": (f"test = lrtut.lr_range_test(model, {SGD}, Slow(), steps=40)", 90),
    "train ": (f"lost = lrtut.train(model, {SGD}, Slow(), epochs=2, loss_fn=lambda o, t: o.sum() * torch.nan)", 45),
    "range test ": (
        "losses = iter([2.3] * 30 + [torch.nan])\n"
        f"test = lrtut.lr_range_test(model, {SGD}, Slow(), steps=40, train_step=lambda batch: next(losses))",
        65,
    ),
}


def test_progress_bars_render_grow_and_leave(lab, page):
    cells = [new_code_cell(source) for source in (SLOW, *(source for source, _ in LONG.values()))]
    metadata = nbformat.read(LESSONS[0], 4).metadata
    nbformat.write(new_notebook(cells=cells, metadata=metadata), lab.notebooks / "bars.ipynb")
    open_notebook(lab, page, "bars.ipynb")
    page.evaluate("""() => {
        window.seen = {};
        setInterval(() => document.querySelectorAll('.jp-CodeCell').forEach((cell, i) => {
            for (const bar of cell.querySelectorAll('.jp-Cell-outputArea .progress-bar')) {
                const words = cell.querySelector('.jp-Cell-outputArea').innerText.replace(/\\s+/g, ' ');
                (window.seen[i] ??= []).push([parseFloat(bar.style.width), bar.getBoundingClientRect().height, words]);
            }
        }), 50);
    }""")
    run_all(page)
    assert page.evaluate(ERRORS) == []
    seen = page.evaluate("window.seen")
    for i, (name, (_, least)) in enumerate(LONG.items(), 1):
        widths, heights, words = zip(*seen[str(i)], strict=True)
        # When a run ends early, the bar's total is set to what was done, so its last picture may fill up.
        assert list(widths) == sorted(widths) and widths[0] < least <= widths[-1], (name, widths)
        assert max(heights) > 5 and re.search(rf"{name.strip()}: \d+% \d+/\d+", words[-1]), (name, words[-1])
    page.wait_for_function("document.querySelectorAll('.jp-Cell-outputArea .progress-bar').length == 0", timeout=5_000)
    assert "".join(page.locator(".jp-Cell-outputArea").all_inner_texts()).strip() == ""


def test_alt_text_stays_in_a_notebook_that_was_run_elsewhere(lab, page):
    """JupyterLab does not trust it, and cleans its HTML."""
    figure = lrtut.plot_paths({0.1: [1, 2]}, title="Run <elsewhere>").figure
    output = new_output("display_data", data={"text/html": figure._repr_html_(), "text/plain": "a figure"})
    metadata = nbformat.read(LESSONS[0], 4).metadata
    cell = new_code_cell("ax = ...", outputs=[output], execution_count=1)
    nbformat.write(new_notebook(cells=[cell], metadata=metadata), lab.notebooks / "elsewhere.ipynb")
    open_notebook(lab, page, "elsewhere.ipynb")
    assert images_in_outputs(page) == [[lrtut.alt_text(figure)]]
    size = "document.querySelector('.jp-Cell-outputArea img').{}"
    assert page.evaluate(size.format("naturalWidth")) == 980  # it is there, and not as wide as its pixels
    assert page.evaluate(size.format("getBoundingClientRect().width")) == 700


def test_figures_are_readable_in_the_dark_theme(lab, page):
    source = "import lrtut\nax = lrtut.plot_paths({0.1: [1, 2], 0.3: [2, 1]}, title='In the dark')"
    metadata = nbformat.read(LESSONS[0], 4).metadata
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=metadata), lab.notebooks / "dark.ipynb")
    theme = lab.set("apputils-extension/themes", theme="JupyterLab Dark")
    try:
        open_notebook(lab, page, "dark.ipynb")
        run_all(page)
    finally:
        theme.unlink()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "dark.png")
    assert page.evaluate("document.body.dataset.jpThemeLight") == "false"

    def picture(locator):
        return matplotlib.image.imread(io.BytesIO(locator.screenshot()))[..., :3]

    around, figure = picture(page.locator(".jp-Cell-outputArea")), picture(page.locator(".jp-Cell-outputArea img"))
    assert around[-1, -1].max() < 0.3  # the page is dark
    edge = [figure[2], figure[-3], figure[:, 2], figure[:, -3]]
    assert all(side.mean() > 0.95 for side in edge)  # the figure brings its own light ground, to its edges
    assert figure.min() < 0.4  # and dark text on it
