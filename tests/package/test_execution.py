"""What fails a lesson: an error, and in a strict run a warning of its own or of lrtut, or a word on stderr."""

import os
import re
import warnings
from pathlib import Path

import nbformat
import nbmake.pytest_items
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lrtut import sweep
from lrtut.execution import execute_all, kernel_environment

STRICT = """\
import warnings
def raises(**kwargs):
    try:
        warnings.warn_explicit("shaky", filename="x.py", lineno=1, **kwargs)
    except Warning:
        return True
print(*[raises(category=category, module=module) for category in (UserWarning, DeprecationWarning)
        for module in ("__main__", "lrtut.sweep", "lrtut.finder.rules")],
      raises(category=DeprecationWarning, module="another"))
----
import sys
from tqdm import tqdm
for _ in tqdm(range(3), desc="text"): pass
for _ in tqdm(iter(range(3)), leave=False): pass
----
from tqdm.notebook import tqdm as widget
for _ in widget(range(3)): pass
----
import os
for _ in tqdm(range(3), desc="text"): pass
os.write(2, b"OMP: Info")
"""


def notebook(folder, source):
    path = folder / "01_lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(part) for part in source.split("----\n")]), path)
    return path


def test_a_strict_run_fails_on_warnings_and_on_stderr_but_not_on_bars_or_other_peoples_warnings(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "")  # put back afterwards
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # or the kernel would not hand on what libraries in C write
    read_text = Path.read_text

    def without_proc(path, **kwargs):  # as on a Mac, where memory is asked for in another way
        if "/proc" in str(path):
            raise OSError
        return read_text(path, **kwargs)

    monkeypatch.setattr(Path, "read_text", without_proc)
    (outcome,) = execute_all([notebook(tmp_path, STRICT)], tmp_path / "build", strict=True)
    assert outcome.error == "cell 3: on stderr: OMP: Info"
    assert outcome.seconds > 0 and outcome.peak_memory > 20e6
    cells = nbformat.read(tmp_path / "build" / "01_lesson.ipynb", as_version=4).cells
    (said,) = [o.text for o in cells[0].outputs if o.name == "stdout"]
    assert said == "True True True True True True None\n"
    assert "3/3" in "".join(o.text for o in cells[1].outputs)  # the bars were there
    monkeypatch.setattr("lrtut.execution.MOST_BYTES", 20e6)
    (outcome,) = execute_all([notebook(tmp_path, "x = 1")], tmp_path / "build", strict=True)
    assert re.fullmatch(r"it took \d+ MB of memory, more than 20", outcome.error)
    # A page cannot show a widget of a kernel that has gone.
    assert not any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in cells[2].outputs)


def test_pytest_is_as_strict(tmp_path, monkeypatch):
    for name, value in kernel_environment(os.environ["LRTUT_DATA"], strict=True).items():
        monkeypatch.setenv(name, value)
    error = nbmake.pytest_items.NotebookRun(notebook(tmp_path, "x = 1\n----\n" + STRICT), 60).execute().error
    assert error.failing_cell_index == 4 and "on stderr: OMP: Info" in re.sub(r"\x1b\[[\d;]*m", "", error.summary)


def test_a_warning_of_lrtut_or_of_a_test_is_an_error_in_pytest():
    with pytest.raises(RuntimeWarning, match="1 of 2 runs failed"):
        sweep(lambda lr, seed: 1 / (lr - 1), [1.0, 2.0])
    with pytest.raises(UserWarning, match="shaky"):
        warnings.warn_explicit("shaky", UserWarning, "x.py", 1, module="lrtut.training")
