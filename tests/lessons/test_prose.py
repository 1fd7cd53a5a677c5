"""Every claim of the prose has a check, and the rules that find a claim find it."""

import claims
import nbformat
import pytest
from lessons import each_lesson, read


@each_lesson
def test_every_claim_has_a_check(path):
    assert claims.problems(read(path)) == []


def problems(prose, check, setting="## Two"):
    cells = [nbformat.v4.new_markdown_cell(setting, id="asks"), nbformat.v4.new_code_cell("x = [1, 2]", id="run")]
    cells.append(nbformat.v4.new_markdown_cell(prose, id="says"))
    cells.append(nbformat.v4.new_code_cell(check, id="two-check", metadata={"tags": ["check", "hide-input"]}))
    return claims.problems(nbformat.v4.new_notebook(cells=cells))


TWO = '# @title Check: two\n# "2 is larger than 1"\nassert x[1] > x[0]'


@pytest.mark.parametrize(
    ("prose", "check", "problem"),
    [
        ("2 is larger than 1.", "assert x[1] > x[0]", "an assertion below no quote"),
        ("2 is larger than 1.", '# "2 is larger than 1"\nx[1] > x[0]', "no assertion below"),
        ("3 is larger than 1.", TWO, "in no sentence"),
        ("2 is larger than 1 and 0.", TWO, "no check quotes 0 in"),
        ("2 is larger than 1. It is the best.", TWO, "no check quotes best in: It is the best."),
        ("2 is larger than 1. It lasts because it is even.", TWO, "no check quotes because in"),
        ("2 is larger than 1, so it wins.", TWO, "no check quotes , so in"),
        ("2 is larger than 1, as the steps shrink.", TWO, "no check quotes , as the in"),
    ],
)
def test_a_claim_without_its_check_is_found(prose, check, problem):
    assert problem in "\n".join(problems(prose, check))


@pytest.mark.parametrize(
    ("prose", "check"),
    [
        ("Often 2, the last, is larger\nthan 1.", '# "2 … is larger\n# than 1": here\nassert x[1] > x[0]'),
        ("2 is larger than 1. Is it larger than 3?", TWO),
        ("2 is larger than 1. `x = 3` was in lesson 03, as the table shows.", TWO),
        ("2 is larger than 1. Large rates win because they are large (Smith et al. 2018).", TWO),
        ("2 is larger than 1. So look at it as long as you like, such as now, so that you see it.", TWO),
        ("2 is larger than 1.\n\n**Predict before you run.** 3 comes first, since it is odd.", TWO),
        ("2 is larger than 1.", TWO + "\n# Premise: there are two\nassert len(x) == 2"),
    ],
)
def test_what_is_checked_or_no_claim_is_left_alone(prose, check):
    assert problems(prose, check) == []


def test_before_the_code_only_reasons_count():
    assert problems("2 is larger than 1.", TWO, setting="## Two\n\nTake 3 steps; they are larger than 2.") == []
    assert problems("2 is larger than 1.", TWO, setting="## Two\n\nIt lasts, since it is even.") != []
