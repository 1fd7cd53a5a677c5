"""Right answers to the exercises pass every test, hidden ones included; wrong ones fail a visible one, and say why.

In answers/*.yaml, an answer is code, or replacements {old: new} in the source's solution.
"""

import functools
import re
import traceback
from collections import defaultdict
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from sample import EXERCISES

import lrtut

# Trainings in the notebooks' own cells that depend on no answer.
PURE = {"accuracy_of", "fine_tuned", "real_run", "record", "validation_loss"}
PATHS = sorted(Path(__file__).parent.glob("answers/*.yaml"))
ANSWERS = {path.stem: yaml.safe_load(path.read_bytes()) for path in PATHS}


def read(kind, name):
    return nbformat.read(EXERCISES / kind / name / f"{name}.ipynb", 4)


def tries(name):
    """{task: [(what it is, code, is it right?), …]}: no answer, the solution without `return`, and those in answers/."""
    stubs, solutions = ({cell.id: cell.source for cell in read(kind, name).cells} for kind in ("release", "source"))
    made = {}
    for task, answers in ANSWERS[name].items():
        solution = solutions[f"{task}-answer"]
        forgetful = re.sub(r"(?m)(^ +|: )return\b", r"\1pass;", solution)
        made[task] = [("no answer", stubs[f"{task}-answer"], False)]
        made[task] += [("no return", forgetful, False)] if forgetful != solution else []
        for kind in ("wrong", "right"):
            made[task] += [(what, code(answer, solution), kind == "right") for what, answer in answers[kind].items()]
    return made


def code(answer, solution):
    if isinstance(answer, str):
        return answer
    for old, new in answer.items():
        assert old in solution, f"the solution has no {old!r}"
        solution = solution.replace(old, new)
    return solution


def once(function):
    """Each call with other arguments is computed once; its result is a copy, which no answer can spoil for the next."""
    cached = functools.cache(function)
    return lambda *args, **options: deepcopy(cached(*args, **options))


def errors(name, answers, kept):
    """{task: its tests' errors} in the notebook with one answer of some tasks; only right ones meet hidden tests."""
    stubs = {cell.id: cell.source for cell in read("release", name).cells}
    names, found = {"__name__": "__main__"}, defaultdict(list)
    for cell in read("source", name).cells:
        task, _, kind = cell.id.partition("-")
        _, answer, right = answers.get(task, ("", stubs[cell.id], False))
        source = answer if kind == "answer" else cell.source if right else stubs[cell.id]
        try:
            if cell.cell_type == "code" and (task in answers or not kind):
                exec(compile(TransformerManager().transform_cell(source), cell.id, "exec"), names)
                names |= {pure: kept.setdefault(pure, once(names[pure])) for pure in PURE & names.keys()}
        except Exception as error:
            if kind != "answer":
                found[task].append(error)
    plt.close("all")
    return found


def tells(error):
    """Whether an error helps: a sentence of the tests, torch's own, or one that the answer raised itself."""
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    said = isinstance(error, AssertionError) or (isinstance(error, ValueError) and "/torch/" in place)
    return place.endswith("-answer") or (said and len(str(error).split()) >= 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ANSWERS)
def test_right_answers_pass_and_wrong_ones_fail_with_a_reason(name, monkeypatch):
    monkeypatch.setattr(lrtut, "load_mnist", functools.cache(lrtut.load_mnist))
    faults, kept, made = [], {}, tries(name)
    for k in range(max(map(len, made.values()))):  # the k-th of each task that has one
        answers = {task: tried[k] for task, tried in made.items() if k < len(tried)}
        found = errors(name, answers, kept)
        for task, (what, _, right) in answers.items():
            if right == bool(found[task]):
                said = "; ".join(map(repr, found[task]))
                faults.append(f"{task}, {what}: " + (said or "passes, though it is wrong"))
            faults += [f"{task}, {what}: {error!r} tells nothing" for error in found[task] if not tells(error)]
    assert not faults, "\n".join(faults)
