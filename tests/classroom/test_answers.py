"""Right answers to the exercises pass every test, hidden ones included; wrong ones fail a visible one, and say why."""

import shutil
import traceback

import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

pytest.importorskip("nbgrader")

from compose import ANSWERS, compositions, forgetful
from nbgrader.api import Gradebook
from sample import EXERCISES, command, hand_in

each_assignment = pytest.mark.parametrize("name", ANSWERS)


def read(kind, name):
    return nbformat.read(EXERCISES / kind / name / f"{name}.ipynb", 4)


def errors(name, answers, hidden):
    """{task: its tests' errors} with these answers, {task: code}, in the source notebook; others are left alone."""
    stubs = {cell.id: cell.source for cell in read("release", name).cells}
    names, found = {"__name__": "__main__"}, {task: [] for task in ANSWERS[name]}
    for cell in read("source", name).cells:
        if cell.cell_type != "code":
            continue
        task = cell.id.split("-")[0]
        answered = cell.id.endswith("-answer")
        source = cell.source if hidden and not answered else stubs[cell.id]
        source = answers.get(task, source) if answered else source
        try:
            exec(compile(TransformerManager().transform_cell(source), cell.id, "exec"), names)
        except Exception as error:
            if not answered:
                found[task].append(error)
    plt.close("all")
    return found


def tells(error):
    """Whether an error helps: a sentence of the tests, torch's own, or one that the answer raised itself."""
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    if place.endswith("-answer"):
        return True
    sentence = len(str(error).split()) >= 3
    return sentence and (isinstance(error, AssertionError) or (isinstance(error, ValueError) and "/torch/" in place))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@each_assignment
def test_right_answers_pass_and_wrong_ones_fail_with_a_reason(name):
    source = read("source", name)
    submissions = [{}, forgetful(source), *compositions(name, source)]
    faults = []
    for answers in submissions:
        all_right = all(right for _, _, right in answers.values())  # a learner alone never sees the hidden tests
        found = errors(name, {task: code for task, (_, code, _) in answers.items()}, hidden=all_right)
        for task, raised in found.items():
            answer, _, right = answers.get(task, ("no answer", "", False))
            if right == bool(raised):
                faults.append(f"{task}, {answer}: " + ("; ".join(map(repr, raised)) or "passes, though it is wrong"))
            faults += [f"{task}, {answer}: {error!r} tells nothing" for error in raised if not tells(error)]
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_nbgrader_gives_the_sources_solutions_all_points(tmp_path):
    shutil.copytree(EXERCISES / "source", tmp_path / "source")
    shutil.copy(EXERCISES / "nbgrader_config.py", tmp_path)
    for name in ANSWERS:
        command(tmp_path, "generate_assignment", name)
        notebook = nbformat.read(tmp_path / "release" / name / f"{name}.ipynb", 4)
        for cell, solved in zip(notebook.cells, read("source", name).cells, strict=True):
            cell.source = solved.source if cell.id.endswith("-answer") else cell.source
        hand_in(tmp_path, "ada", notebook, assignment=name)
        command(tmp_path, "autograde", name)
        with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as gradebook:
            grades = gradebook.find_submission_notebook(name, name, "ada").grades
            assert grades and all(g.needs_manual_grade or g.auto_score == g.max_score > 0 for g in grades), name
