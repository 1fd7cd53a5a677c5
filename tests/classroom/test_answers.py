"""Marks for right and for wrong answers to the exercises, and for none.

On the small digits the source's solutions go through nbgrader's Autograde as it is. Everything else is graded on the
data that were found (MNIST, in CI) with the grader's Execute in it, whose kernels need not import torch anew; that
needs Linux.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader")

from compose import ANSWERS, compositions, forgetful
from grading import course as courses
from grading.autograde import GRADED
from nbformat.v4 import new_code_cell
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment
from sample import EXERCISES

if sys.platform == "linux":
    from grading.limits import Limits
    from grading.run import grade

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's relations
each_assignment = pytest.mark.parametrize("name", ANSWERS)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the grader needs Linux")


def convert(converter, root, **ids):
    course, config = courses.load(root)
    for attribute, value in ids.items():
        setattr(course, attribute, value)
    converter(coursedir=course, config=config).start()


@pytest.fixture
def exercises(shared, tmp_path, monkeypatch):
    """A course with all the assignments, of this test's own."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # nbgrader calls alembic by name

    def make(folder):
        shutil.copytree(EXERCISES / "source", folder / "source")
        shutil.copy(EXERCISES / "nbgrader_config.py", folder)
        for name in ANSWERS:
            convert(GenerateAssignment, folder, assignment_id=name)
        return "made"

    folder, _ = shared("course-of-exercises", make)
    return Path(shutil.copytree(folder, tmp_path / "course"))


def solutions(root, name):
    """{task: ("the source's", code or text, True)} for all tasks, those in words included."""
    notebook = nbformat.read(root / "source" / name / f"{name}.ipynb", 4)
    return {cell.id.split("-")[0]: ("the source's", cell.source, True) for cell in notebook.cells if answerable(cell)}


def answerable(cell):
    return cell.metadata.get("nbgrader", {}).get("solution")


def hand_in(root, name, student, answers):
    """The release with the answers, {task: (what it is, code, is it right?)}; the other tasks are left alone."""
    notebook = nbformat.read(root / "release" / name / f"{name}.ipynb", 4)
    for cell in filter(answerable, notebook.cells):
        if (task := cell.id.split("-")[0]) in answers:
            cell.source = answers[task][1]
    notebook.cells.insert(0, new_code_cell("%xmode Plain"))  # a quarter of the time went into coloured contexts
    path = root / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


def marks_of(root, name, student):
    """{task: (marks, most)} of the tasks that tests grade."""
    got = {}
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        for grade_cell in gradebook.find_submission_notebook(name, name, student).grades:
            task = grade_cell.name.split("-")[0]
            if task in ANSWERS[name]:
                marks, most = got.get(task, (0, 0))
                got[task] = marks + grade_cell.auto_score, most + grade_cell.max_score
            else:  # in words: a person's business, unless nothing was written
                assert not grade_cell.auto_score
                assert bool(grade_cell.needs_manual_grade) == (student != "untouched"), grade_cell.name
    assert set(got) == set(ANSWERS[name])
    return got


def untold(root, name, student):
    """What the feedback shows for a wrong answer where a sentence should be: another error, or one without words.

    An error that the answer itself raises is the student's own, and a ValueError of torch's says what is wrong.
    """
    notebook = nbformat.read(root / "autograded" / student / name / f"{name}.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    answers = {cell.execution_count for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")}
    for cell in cells:
        for error in (output for output in cell.outputs if output.output_type == "error"):
            places = re.findall(
                r"Cell In\[(\d+)\]|File (\S+)", re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
            )
            told = error.ename == "AssertionError" and len(re.findall(r"[^\W\d]{2,}", error.evalue)) >= 3
            told |= error.ename == "ValueError" and "/torch/" in places[-1][1]
            if not told and int([number for number, _ in places if number][-1]) not in answers:
                yield f"{cell.metadata.nbgrader.grade_id}, {student}: {error.ename}: {error.evalue}"


def run(root, name):
    limits = Limits(cell_seconds=200, seconds=500)  # other tests run beside this one
    return grade(root, name, workers=2, limits=limits, progress=False).results


@pytest.mark.slow
@each_assignment
def test_nbgrader_gives_the_sources_solutions_all_points_on_the_small_digits(exercises, name, monkeypatch):
    monkeypatch.setenv("LRTUT_DATA", "digits")
    hand_in(exercises, name, "solved", solutions(exercises, name))
    convert(Autograde, exercises, assignment_id=name, student_id="solved")
    for task, (marks, most) in marks_of(exercises, name, "solved").items():
        assert marks == most > 0, f"{task}: {marks} of {most}"


@needs_linux
@each_assignment
def test_right_answers_get_all_points_and_wrong_ones_a_reason_why_not(exercises, one_server, name):
    solved = solutions(exercises, name)
    in_words = {task: answer for task, answer in solved.items() if task not in ANSWERS[name]}
    source = nbformat.read(exercises / "source" / name / f"{name}.ipynb", 4)
    submissions = {"untouched": {}, "solved": solved, "forgetful": forgetful(source) | in_words}
    submissions |= {student: answers | in_words for student, answers in compositions(name).items()}
    for student, answers in submissions.items():
        hand_in(exercises, name, student, answers)
    results, faults = run(exercises, name), []
    for student, answers in submissions.items():
        assert results[student].verdict == GRADED, results[student]
        for task, (marks, most) in marks_of(exercises, name, student).items():
            answer, _, right = answers.get(task, ("no answer", None, False))
            if marks if task not in answers else (marks == most) != right:
                faults.append(f"{task}, {answer!r}: {marks} of {most}, though it is {'right' if right else 'wrong'}")
        faults += untold(exercises, name, student)
    assert not faults, "\n".join(faults)
