"""A small course for the tests: one assignment with two autograded tasks and one free-text answer."""

import os
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


def nbgrader(grade_id, *, grade=False, solution=False, locked=False, points=None):
    meta = {"grade_id": grade_id, "grade": grade, "solution": solution, "locked": locked, "schema_version": 3}
    return {"nbgrader": meta | {"task": False} | ({} if points is None else {"points": points})}


def solution(grade_id, head, body):
    source = f"{head}\n    ### BEGIN SOLUTION\n    {body}\n    ### END SOLUTION"
    return new_code_cell(source, id=grade_id, metadata=nbgrader(grade_id, solution=True))


def check(grade_id, visible, hidden, points):
    source = f"{visible}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    meta = nbgrader(grade_id, grade=True, locked=True, points=points)
    return new_code_cell(source, id=grade_id, metadata=meta)


def source_notebook():
    cells = [
        new_markdown_cell("# Sample", id="title"),
        new_code_cell("import math\nimport numpy as np", id="setup", metadata=nbgrader("setup", locked=True)),
        new_markdown_cell("## Task 1: step decay", id="task-1"),
        solution("decay", "def step_decay(base, epoch, every):", STEP_DECAY),
        check(
            "decay-test",
            "assert step_decay(1.0, 0, 3) == 1.0, 'epoch 0 has the base rate'",
            "assert abs(step_decay(1.0, 6, 3) - 0.01) < 1e-9",
            2,
        ),
        new_markdown_cell("## Task 2: the second group's rate", id="task-2"),
        solution("group", "def second_rate(groups):", GROUP_RATE),
        check(
            "group-test",
            'groups = [{"lr": 1.0}, {"lr": 0.25}]\nassert second_rate(groups) is not None',
            "assert second_rate(groups) == 0.25",
            3,
        ),
        new_markdown_cell("## Task 3: why?", id="task-3"),
        new_markdown_cell(
            "### BEGIN SOLUTION\nBecause.\n### END SOLUTION",
            id="why",
            metadata=nbgrader("why", grade=True, solution=True, points=1),
        ),
        new_markdown_cell("The end.", id="end"),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def make_course(root: Path) -> Path:
    """A course folder with the project's configuration; the sample is in its gradebook and in release/."""
    (root / "source" / NAME).mkdir(parents=True)
    shutil.copy(EXERCISES / "nbgrader_config.py", root)
    shutil.copytree(EXERCISES / "templates", root / "templates")
    nbformat.write(source_notebook(), root / "source" / NAME / f"{NAME}.ipynb")
    command(root, "generate_assignment", NAME)
    return root


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """nbgrader's command line in the course's folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # nbgrader calls `alembic` by its name
    line = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(line, cwd=root, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def released(root: Path):
    return nbformat.read(root / "release" / NAME / f"{NAME}.ipynb", as_version=4)


def answer(notebook, *, decay=STEP_DECAY, group=GROUP_RATE, why="Because it is so."):
    """Fill the released notebook's stubs; None leaves one alone."""
    for cell in notebook.cells:
        body = {"decay": decay, "group": group}.get(cell.id)
        if body is not None:
            cell.source = cell.source.split("\n")[0] + "\n" + "\n".join("    " + line for line in body.split("\n"))
        if cell.id == "why" and why is not None:
            cell.source = why
    return notebook


def hand_in(root: Path, student: str, contents, name: str = "", assignment: str = NAME) -> Path:
    """Store a student's file: a notebook, text, bytes, a link to a path, so many empty bytes, or (None) none at all."""
    folder, name = root / "submitted" / student / assignment, name or f"{assignment}.ipynb"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(contents, bytes):
        (folder / name).write_bytes(contents)
    elif isinstance(contents, int):
        os.truncate(os.open(folder / name, os.O_CREAT | os.O_RDWR), contents)
    elif isinstance(contents, Path):
        (folder / name).symlink_to(contents)
    elif contents is not None:
        text = contents if isinstance(contents, str) else nbformat.writes(contents)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
