"""A small course for the tests: one assignment with two autograded tasks and one free-text answer."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

EXERCISES = Path(__file__).parents[2] / "exercises"
NAME = "01_sample"
STEP_DECAY = "return base * 0.1 ** (epoch // every)"
GROUP_RATE = 'return groups[1]["lr"]'


def nbgrader(grade_id, **flags):
    meta = {"grade_id": grade_id, "grade": False, "solution": False, "locked": False, "task": False}
    return {"nbgrader": meta | {"schema_version": 3} | flags}


def task(name, head, solution, visible, hidden, points):
    """The cells of an answer and of its tests."""
    source = f"{head}\n    ### BEGIN SOLUTION\n    {solution}\n    ### END SOLUTION"
    tests = f"{visible}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    meta = nbgrader(test := f"{name}-test", grade=True, locked=True, points=points)
    answer = new_code_cell(source, id=name, metadata=nbgrader(name, solution=True))
    return [answer, new_code_cell(tests, id=test, metadata=meta)]


def source_notebook():
    decay = "assert step_decay(1.0, 0, 3) == 1.0, 'epoch 0 has the base rate'"
    group = 'groups = [{"lr": 1.0}, {"lr": 0.25}]\nassert second_rate(groups) is not None'
    hidden = "assert abs(step_decay(1.0, 6, 3) - 0.01) < 1e-9", "assert second_rate(groups) == 0.25"
    why = "### BEGIN SOLUTION\nBecause.\n### END SOLUTION"
    cells = [
        new_markdown_cell("# Sample", id="title"),
        new_code_cell("import math\nimport numpy as np", id="setup", metadata=nbgrader("setup", locked=True)),
        new_markdown_cell("## Task 1: step decay", id="task-1"),
        *task("decay", "def step_decay(base, epoch, every):", STEP_DECAY, decay, hidden[0], 2),
        new_markdown_cell("## Task 2: the second group's rate", id="task-2"),
        *task("group", "def second_rate(groups):", GROUP_RATE, group, hidden[1], 3),
        new_markdown_cell("## Task 3: why?", id="task-3"),
        new_markdown_cell(why, id="why", metadata=nbgrader("why", grade=True, solution=True, points=1)),
        new_markdown_cell("The end.", id="end"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def make_course(root: Path) -> None:
    """A course folder with the project's configuration; the sample is in its gradebook and in release/."""
    (root / "source" / NAME).mkdir(parents=True)
    shutil.copy(EXERCISES / "nbgrader_config.py", root)
    shutil.copytree(EXERCISES / "templates", root / "templates")
    nbformat.write(source_notebook(), root / "source" / NAME / f"{NAME}.ipynb")
    command(root, "generate_assignment", NAME)


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """nbgrader's command line in the course's folder."""
    line = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def released(root: Path):
    return nbformat.read(root / "release" / NAME / f"{NAME}.ipynb", as_version=4)


def answer(notebook, *, decay=STEP_DECAY, group=GROUP_RATE, why="Because it is so."):
    """Fill the released notebook's stubs."""
    for cell in notebook.cells:
        if body := {"decay": decay, "group": group}.get(cell.id):
            cell.source = cell.source.split("\n")[0] + "\n" + "\n".join("    " + line for line in body.split("\n"))
        if cell.id == "why":
            cell.source = why
    return notebook


def hand_in(root: Path, student: str, contents, name: str = f"{NAME}.ipynb") -> None:
    """Store a student's file: a notebook, text, bytes, a link to a path, or (None) only the folder."""
    path = root / "submitted" / student / NAME / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(contents, Path):
        path.symlink_to(contents)
    elif isinstance(contents, bytes):
        path.write_bytes(contents)
    elif contents is not None:
        path.write_text(contents if isinstance(contents, str) else nbformat.writes(contents), encoding="utf-8")
