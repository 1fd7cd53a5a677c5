"""A warning in lrtut or in a notebook's own code, or anything else on a notebook's stderr, fails the notebook."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import nbmake.pytest_items
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lrtut import cli, execution, sweep
from lrtut.execution import execute_all, kernel_environment, on_stderr

ROOT = Path(__file__).parents[2]

SPEAKS = {
    "own warning": ("import warnings\nwarnings.warn('steep')", "UserWarning: steep"),
    "own deprecation": ("import warnings\nwarnings.warn('old', DeprecationWarning)", "old"),
    "warning of lrtut": (
        "import warnings\nwarnings.warn_explicit('shaky', RuntimeWarning, 'x.py', 1, module='lrtut.sweep')",
        "RuntimeWarning: shaky",
    ),
    "print": ("import sys\nprint('psst', file=sys.stderr)", "on stderr: psst"),
    "library in C": ("import os\nos.write(2, b'OMP: Info')", "on stderr: OMP: Info"),
    "bar and a word": (
        "import sys\nfrom tqdm import tqdm\nfor _ in tqdm(range(3)): pass\nprint('psst', file=sys.stderr)",
        "on stderr: psst",
    ),
}
SILENT = """\
import sys, warnings
from tqdm import tqdm
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    warnings.warn("steep")
warnings.warn_explicit("old", DeprecationWarning, "x.py", 1, module="another.library")
for _ in tqdm(range(3), desc="text"): pass
for _ in tqdm(iter(range(3)), leave=False): pass
print(caught[0].message)"""


def notebook(folder, source):
    path = folder / "01_lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1"), new_code_cell(source)]), path)
    return path


@pytest.fixture
def strict_environment(monkeypatch):
    for name, value in kernel_environment(os.environ["LRTUT_DATA"], strict=True).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("source, words", SPEAKS.values(), ids=SPEAKS)
def test_notebook_that_speaks_fails_in_pytest(source, words, tmp_path, strict_environment):
    error = nbmake.pytest_items.NotebookRun(notebook(tmp_path, source), 60).execute().error
    assert error is not None and error.failing_cell_index == 1
    assert words in re.sub(r"\x1b\[[\d;]*m", "", error.summary)


@pytest.mark.parametrize("source, words", SPEAKS.values(), ids=SPEAKS)
def test_notebook_that_speaks_fails_a_strict_run(source, words, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "")  # put back afterwards
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # or the kernel would not hand on what libraries in C write
    (outcome,) = execute_all([notebook(tmp_path, source)], tmp_path / "build", strict=True)
    assert outcome.error.startswith("cell 1: ") and words.removeprefix("on stderr: ") in outcome.error


def test_notebook_that_catches_its_warning_and_draws_bars_passes_both(tmp_path, strict_environment):
    path = notebook(tmp_path, SILENT)
    result = nbmake.pytest_items.NotebookRun(path, 60).execute()
    assert result.error is None
    outputs = result.nb.cells[1].outputs
    assert "3/3" in "".join(o.text for o in outputs if o.name == "stderr")  # the bars were there
    assert [o.text for o in outputs if o.name == "stdout"] == ["steep\n"]
    (outcome,) = execute_all([path], tmp_path / "build", strict=True)
    assert outcome.error == ""


def test_run_that_is_not_strict_shows_warnings_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS")
    (outcome,) = execute_all([notebook(tmp_path, SPEAKS["own warning"][0])], tmp_path / "build")
    assert outcome.error == ""
    assert on_stderr(nbformat.read(tmp_path / "build" / "01_lesson.ipynb", as_version=4))[0] == 1


def test_pytest_runs_notebooks_by_the_strict_class():
    assert nbmake.pytest_items.NotebookRun.__name__ == "StrictRun"
    assert nbmake.pytest_items.NotebookItem.runtest.__globals__["NotebookRun"] is nbmake.pytest_items.NotebookRun


def test_every_module_of_lrtut_is_strict_in_kernels():
    filters = kernel_environment("digits", strict=True)["PYTHONWARNINGS"].split(",")
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in (ROOT / "lrtut").rglob("*.py")
    }
    assert set(filters) == {f"error:::{name}" for name in modules | {"lrtut", "__main__"}}
    assert "PYTHONWARNINGS" not in kernel_environment("digits")


def test_warnings_of_lrtut_and_of_tests_are_errors_here_and_others_are_not():
    with pytest.raises(RuntimeWarning, match="1 of 2 runs failed"):
        sweep(lambda lr, seed: 1 / (lr - 1), [1.0, 2.0])
    with pytest.raises(UserWarning, match="shaky"):
        warnings.warn_explicit("shaky", UserWarning, "x.py", 1, module="lrtut.training")
    with pytest.warns(UserWarning, match="another's"):
        warnings.warn_explicit("another's", UserWarning, "x.py", 1, module="matplotlib.cm")


def test_import_of_lrtut_warns_of_nothing():
    names = kernel_environment("digits", strict=True)["PYTHONWARNINGS"]
    code = "import lrtut, lrtut.execution, lrtut.cli"
    environment = os.environ | {"PYTHONWARNINGS": names}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("options, strict", [(["--strict"], True), ([], False)])
def test_the_command_hands_strict_on(options, strict, monkeypatch):
    given = []
    monkeypatch.setattr(execution, "execute_all", lambda *_, strict: given.append(strict) or [])
    monkeypatch.chdir(ROOT)
    assert cli.main(["run", "01", *options]) == 0
    assert given == [strict]
