"""The course as nbgrader sees it: folders, what was released, and the marks in the gradebook."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from grading.kernels import GradingError

CONFIG = "nbgrader_config.py"


def load(root: Path) -> tuple[CourseDirectory, Config]:
    """The course folder that holds nbgrader_config.py, and the configuration.

    Raises:
        GradingError: there is none.
    """
    if not (root / CONFIG).is_file():
        raise GradingError(f"there is no {CONFIG} in {root}; name the course's folder with --course")
    config = PyFileConfigLoader(CONFIG, path=str(root)).load_config()
    config.CourseDirectory.root = str(root.resolve())
    return CourseDirectory(config=config), config


def submissions(course: CourseDirectory, assignment: str) -> dict[str, Path]:
    """Each student who has handed in a folder for the assignment, with that folder."""
    above = Path(course.format_path(course.submitted_directory, "x", assignment)).parents[1]
    found = sorted(above.glob("*")) if above.is_dir() else []
    return {p.name: p / assignment for p in found if not p.name.startswith(".") and _may_be_folder(p / assignment)}


def _may_be_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # of another user: the student shall get a verdict that says so
        return True


@dataclass(frozen=True)
class Assignment:
    """An assignment as the gradebook has it: notebooks as they were handed out, and a hash of its tests."""

    name: str
    released: dict[str, NotebookNode]
    digest: str


def assignment(course: CourseDirectory, name: str) -> Assignment:
    """Look an assignment up.

    Raises:
        GradingError: it is not in the gradebook, or its released notebooks are not there or of another version.
    """
    again = f"run: nbgrader generate_assignment --force {name}"
    total = hashlib.sha256()
    released = {}
    with Gradebook(course.db_url) as gradebook:
        try:
            notebooks = gradebook.find_assignment(name).notebooks
        except MissingEntry:
            raise GradingError(f"the gradebook knows no assignment {name!r}; {again}") from None
        if not notebooks:
            raise GradingError(f"the gradebook knows no notebook of the assignment {name!r}; {again}")
        for notebook in sorted(notebooks, key=lambda n: n.name):
            path = Path(course.format_path(course.release_directory, ".", name), f"{notebook.name}.ipynb")
            if not path.is_file():
                raise GradingError(f"{path} is missing; {again}")
            released[notebook.name] = nbformat.read(path, as_version=4)
            cells = {cell.name: cell for cell in notebook.source_cells}
            handed_out = {
                c.metadata.nbgrader.grade_id for c in released[notebook.name].cells if "nbgrader" in c.metadata
            }
            if handed_out != set(cells):
                differ = ", ".join(sorted(handed_out ^ set(cells)))
                raise GradingError(
                    f"{path.name} as released and the gradebook have different cells ({differ}); {again}"
                )
            for key in sorted(cells):
                total.update(f"{notebook.name} {key} {cells[key].checksum}\n".encode())
    return Assignment(name, released, total.hexdigest())


@dataclass(frozen=True)
class Marks:
    """What the gradebook holds for one submission; `manual` says that something waits for a person."""

    score: float
    max_score: float
    manual: bool
    unmarked: tuple[str, ...]  # autograded cells without a mark: the grading has failed


def marks(course: CourseDirectory, name: str, student: str) -> Marks:
    """Read a submission's marks.

    Raises:
        MissingEntry: the gradebook has none.
    """
    with Gradebook(course.db_url) as gradebook:
        found = gradebook.find_submission(name, student)
        grades = [grade for notebook in found.notebooks for grade in notebook.grades]
        unmarked = [
            g.name for g in grades if g.auto_score is None and not g.needs_manual_grade and g.manual_score is None
        ]
        return Marks(found.score, found.max_score, found.needs_manual_grade, tuple(sorted(unmarked)))


def to_hide(course: CourseDirectory, needed: list[str]) -> list[str]:
    """What student code shall not see: everything in the course's folder but what Python itself needs."""
    package = Path(find_spec("lrtut").origin).resolve().parent  # importing it would import PyTorch
    keep = [Path(sys.prefix).resolve(), package, *(Path(p).resolve() for p in needed)]
    hidden = []
    for entry in sorted(os.listdir(course.root)):
        path = Path(course.root, entry).resolve()
        if not any(kept == path or path in kept.parents for kept in keep):
            hidden.append(str(path))
    return hidden
