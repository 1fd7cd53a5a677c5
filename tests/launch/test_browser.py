"""The course as a learner meets it: `lrtut lab` in Chromium, Run All, and what is then on the page.

Screenshots go to build/browser/. Where LRTUT_BROWSER names a browser, as in CI, nothing may be skipped.
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
from nbformat.v4 import new_code_cell, new_notebook

from lrtut.cli import find_lessons

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "browser"
LESSONS = find_lessons(ROOT)
TOKEN = "only-for-this-test"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("LRTUT_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
MISSING = not BROWSER or not importlib.util.find_spec("playwright")
FLAGS = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(MISSING and "LRTUT_BROWSER" not in os.environ, reason="needs Chromium: uv run nox -s browser"),
]


class Lab:
    """A running `lrtut lab` on a copy of the notebooks, with settings and workspaces of its own."""

    def __init__(self, folder: Path):
        self.notebooks, self.config = folder / "notebooks", folder / "config"
        shutil.copytree(ROOT / "notebooks", self.notebooks, ignore=shutil.ignore_patterns(".*"))
        (folder / "lrtut").mkdir()
        (folder / "lrtut" / "cli.py").touch()  # by which `lrtut` knows a checkout
        self.set("notebook-extension/tracker", windowingMode="none")  # else cells out of view may be missing
        self.set("apputils-extension/notification", fetchNews="false", checkForUpdates=False)
        own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        own |= {"IPYTHONDIR": str(folder / "ipython"), "LRTUT_DATA": "digits"}
        command = [Path(sys.executable).with_name("lrtut"), "lab", "--no-browser", "--ip=127.0.0.1", "--port=0"]
        command.append(f"--IdentityProvider.token={TOKEN}")
        self.log = folder / "log"
        with self.log.open("w") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=self.notebooks, env=os.environ | own, **streams)
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
        path = self.config / "lab" / "user-settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
        return path

    def write(self, name: str, cells: list) -> str:
        """Make a notebook with these cells; returns its name."""
        metadata = nbformat.read(LESSONS[0], 4).metadata
        nbformat.write(new_notebook(cells=cells, metadata=metadata), self.notebooks / name)
        return name

    def api(self, method: str, path: str):
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.api("POST", "/api/shutdown")
    assert lab.process.wait(60) == 0


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


def run_all(lab, page, name: str) -> None:
    """Run All by the menu, and save, until every cell has run; what the saved cells say is an error is raised."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    code, end = [], time.monotonic() + 600
    while not code or not all(cell.execution_count for cell in code):
        assert time.monotonic() < end, f"{name} did not end"
        page.wait_for_timeout(500)
        page.keyboard.press("Control+s")  # a folded cell shows no number
        try:
            code = [c for c in nbformat.read(lab.notebooks / name, as_version=4).cells if c.cell_type == "code"]
        except nbformat.reader.NotJSONError:
            continue  # JupyterLab is writing it
        bad = [o for c in code for o in c.outputs if o.output_type == "error" or o.get("name") == "stderr"]
        assert bad == []


def images_in_outputs(page) -> list[str]:
    """The names of the images in the browser's own accessibility tree of the outputs."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    found = []
    for i in range(page.locator(".jp-Cell-outputArea").count()):
        area = f"document.querySelectorAll('.jp-Cell-outputArea')[{i}]"
        node = session.send("Runtime.evaluate", {"expression": area})["result"]["objectId"]
        tree = session.send("Accessibility.queryAXTree", {"objectId": node})["nodes"]
        images = [n for n in tree if not n["ignored"] and n["role"]["value"] in ("image", "img")]
        found += [n["name"]["value"] for n in images]
    return found


def shoot(page, name: str) -> None:
    """The whole notebook as one picture, as far as Chromium can draw one."""
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
    page.set_viewport_size({"width": 1400, "height": min(height + 200, 16_000)})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")  # Run All ends at the last cell
    page.wait_for_function("document.querySelector('.jp-Cell').getBoundingClientRect().top >= 0")
    page.screenshot(path=SHOTS / f"{name}.png")


# `uv run pytest` takes the quickest; `nox -s browser` takes all.
QUICK, *OTHERS = sorted(LESSONS, key=lambda path: not path.stem.startswith("04"))
EACH = [QUICK, *(pytest.param(path, marks=pytest.mark.slow) for path in OTHERS)]


@pytest.mark.parametrize("path", EACH, ids=lambda path: path.stem)
def test_a_lesson_in_jupyterlab(lab, page, path):
    open_notebook(lab, page, path.name)
    run_all(lab, page, path.name)
    shoot(page, path.stem)
    outputs = page.locator(".jp-Cell-outputArea")

    # Every figure has alt text, the kernel's first included; none is a bare picture.
    alts = images_in_outputs(page)
    assert len(alts) == outputs.locator("img").count() > 0
    assert all(re.search(r"x axis: .+; y axis: .+, [\d.e+-]+ to |Picture: \d+ images", alt) for alt in alts), alts
    assert outputs.locator('[data-mime-type="image/png"]').count() == 0

    # Progress bars are gone when what they counted is done, and leave no message behind.
    assert outputs.locator(".progress-bar").count() == 0
    words = "\n".join(outputs.all_inner_texts())
    assert not re.search("Error displaying widget|Loading widget|model not found|FloatProgress", words)


SLOW = """
import time
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
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
LONG = {  # what shows a bar, by its words; the last one diverges half-way
    "train: [0-9]+% [0-9]+/40": "history = lrtut.train(model, optimizer, Slow(), epochs=1)",
    "sweep: [0-9]+% [0-9]+/20": "runs = lrtut.sweep(lambda lr, seed: time.sleep(0.5), [0.1], range(20))",
    "range test: [0-9]+% [0-9]+/40": "test = lrtut.lr_range_test(model, optimizer, Slow(), steps=40)",
    "train: [0-9]+% [0-9]+/80": """lost = lrtut.train(
    model, optimizer, Slow(), epochs=2, loss_fn=lambda o, t: o.sum() * torch.nan
)""",
}


def test_progress_bars_show_and_leave(lab, page):
    open_notebook(lab, page, lab.write("bars.ipynb", [new_code_cell(source) for source in (SLOW, *LONG.values())]))
    page.evaluate("""() => {
        window.seen = [];
        setInterval(() => document.querySelectorAll('.jp-Cell-outputArea').forEach(area => {
            for (const bar of area.querySelectorAll('.progress-bar'))
                window.seen.push([bar.clientHeight, area.innerText.replace(/\\s+/g, ' ')]);
        }), 50);
    }""")
    run_all(lab, page, "bars.ipynb")
    seen = page.evaluate("window.seen")
    for words in LONG:
        assert max((height for height, text in seen if re.search(words, text)), default=0) > 5, words
    page.wait_for_function("document.querySelectorAll('.jp-Cell-outputArea .progress-bar').length == 0")
    assert "".join(page.locator(".jp-Cell-outputArea").all_inner_texts()).strip() == ""


def test_figures_are_readable_in_the_dark_theme(lab, page):
    source = "import lrtut\nax = lrtut.plot_paths({0.1: [1, 2], 0.3: [2, 1]}, title='In the dark')"
    name = lab.write("dark.ipynb", [new_code_cell(source)])
    theme = lab.set("apputils-extension/themes", theme="JupyterLab Dark")
    try:
        open_notebook(lab, page, name)
        run_all(lab, page, name)
    finally:
        theme.unlink()
    page.screenshot(path=SHOTS / "dark.png")
    assert page.evaluate("document.body.dataset.jpThemeLight") == "false"

    picture = page.locator(".jp-Cell-outputArea img").screenshot()
    figure = matplotlib.image.imread(io.BytesIO(picture))[..., :3]
    assert max(figure[2].mean(), figure[:, 2].mean()) < 0.2  # the page is seen through the figure, to its edges
    words = figure[-25:].max(2)  # the axis' name
    assert words.max() > 0.4
