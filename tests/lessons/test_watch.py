"""Whatever a lesson says wrongly fails it, in pytest and in `lrtut run`; what it computes, it computes again."""

import nbformat
import nbmake.pytest_items
import watch
from lessons import LESSONS, code_cells, each_lesson, read

from lrtut.execution import execute_all


def beginning(folder, last, more=""):
    """A copy of lesson 01 up to the cell `last`, with `more` in that cell."""
    notebook = read(LESSONS[0])
    end = next(i for i, cell in enumerate(notebook.cells) if cell.id == last)
    notebook.cells = notebook.cells[: end + 1]
    notebook.cells[end].source += more
    path = folder / LESSONS[0].name
    nbformat.write(notebook, path)
    return path


def test_a_false_claim_fails_in_pytest_and_in_lrtut_run(tmp_path):
    path = beginning(tmp_path, "quadratic-check", "\nassert paths[0.1][-1] < 0")
    (outcome,) = execute_all([path], tmp_path / "build")
    assert "AssertionError" in outcome.error
    assert "AssertionError" in nbmake.pytest_items.NotebookRun(path, 60).execute().error.summary


WRONG = """
for _ in ():
    assert paths
paths[0.1][-1] *= 1.01
import matplotlib.pyplot as plt
plt.figure()
plt.plot([1]);
"""


def test_what_else_is_wrong_fails_in_pytest(tmp_path):
    said = nbmake.pytest_items.NotebookRun(beginning(tmp_path, "quadratic-check", WRONG), 60).execute().error.trace
    assert "a figure has no alt text" in said and "never ran" in said and "key figure, w after 12 steps" in said


def test_two_runs_agree_to_the_bit(tmp_path):
    path = beginning(tmp_path, "loop-check")
    first = watch.run(path)["figures"]
    assert len(first) == 4 and watch.run(path)["figures"] == first


@each_lesson
def test_key_figures_would_notice_a_change(path):
    figures = watch.recorded(path.stem)
    assert {figure["cell"] for figure in figures.values()} <= {cell.id for cell in code_cells(read(path))}
    for name, figure in figures.items():
        assert 0 < figure["within"] <= 0.2 and {"digits", "MNIST"} <= figure.keys(), name
