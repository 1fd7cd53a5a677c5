"""nbgrader's marks for right and for wrong answers to the exercises, and for none."""

import os
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader")

from answers import ANSWERS, compositions
from grading import course as courses
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment
from sample import EXERCISES

CASES = [(name, which) for name in ANSWERS for which in ("untouched", "solved", *compositions(name))]


def convert(converter, root, **ids):
    course, config = courses.load(root)
    for name, value in ids.items():
        setattr(course, name, value)
    converter(coursedir=course, config=config).start()


@pytest.fixture(scope="session")
def course(shared, tmp_path_factory, monkeypatch_session):
    """A course of this process's own, with all assignments generated."""

    def make(folder):
        shutil.copytree(EXERCISES / "source", folder / "source")
        shutil.copy(EXERCISES / "nbgrader_config.py", folder)
        for name in ANSWERS:
            convert(GenerateAssignment, folder, assignment_id=name)
        return "made"

    folder, _ = shared("answers", make)
    root = tmp_path_factory.mktemp("course") / "course"
    shutil.copytree(folder, root)
    return root


@pytest.fixture(scope="session")
def monkeypatch_session():
    """alembic, which nbgrader calls by name, is found beside this Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield patch


def points(root, name, student, notebook):
    """(marks, most) for each task that is graded by tests, from nbgrader's autograde of this submission."""
    path = root / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    convert(Autograde, root, assignment_id=name, student_id=student)
    got = {}
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        for grade in gradebook.find_submission_notebook(name, name, student).grades:
            task = grade.name.split("-")[0]
            if task in ANSWERS[name]:
                marks, most = got.get(task, (0, 0))
                got[task] = marks + grade.auto_score, most + grade.max_score
            else:  # in words
                assert grade.needs_manual_grade == (student != "untouched") and not grade.auto_score
    assert set(got) == set(ANSWERS[name])
    return got


def filled(root, name, answers):
    """The release with the source's solutions, but with these answers where there are some."""
    source, release = (nbformat.read(root / kind / name / f"{name}.ipynb", 4) for kind in ("source", "release"))
    filled = deepcopy(release)
    for cell, solved in zip(filled.cells, source.cells, strict=True):
        if solved.metadata.get("nbgrader", {}).get("solution"):
            task = cell.id.split("-")[0]
            cell.source = answers[task][1] if task in answers else solved.source
    return filled


@pytest.mark.parametrize(("name", "which"), CASES, ids=lambda value: value)
def test_marks(course, name, which):
    answers = compositions(name).get(which, {})
    if which == "untouched":
        notebook = nbformat.read(course / "release" / name / f"{name}.ipynb", 4)
    else:
        notebook = filled(course, name, answers)
    for task, (marks, most) in points(course, name, which, notebook).items():
        answer, _, right = answers.get(task, ("the source's", None, True))
        if which == "untouched":
            assert marks == 0, task
        elif right:
            assert marks == most, f"{task}: {answer!r} is right and got {marks} of {most}"
        else:
            assert marks < most, f"{task}: {answer!r} is wrong and got all {most}"


@pytest.mark.parametrize("name", ANSWERS)
def test_the_sources_solutions_hold_on_the_small_digits(course, name, monkeypatch):
    if os.environ.get("LRTUT_DATA") == "digits":
        pytest.skip("the other tests ran on them")
    monkeypatch.setenv("LRTUT_DATA", "digits")
    assert all(marks == most for marks, most in points(course, name, "on-digits", filled(course, name, {})).values())
