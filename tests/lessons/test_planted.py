"""The mistakes of planted.py can be planted; that each turns a check red is seen by `python tests/lessons/planted.py`."""

import ast

import planted
import pytest
from lessons import ROOT, Lesson, source

from lrtut.cli import find_lessons

LESSONS = {path.name[:2]: Lesson(path) for path in find_lessons(ROOT)}


@pytest.mark.parametrize("mistake", planted.MISTAKES, ids=str)
def test_a_mistake_changes_its_cell_and_leaves_it_python(mistake):
    cell = next(c for c in LESSONS[mistake.lesson].cells if c.id == mistake.cell)
    wrong = planted.plant(mistake, cell)
    assert ast.dump(ast.parse(source(wrong))) != ast.dump(ast.parse(source(cell)))


def test_each_classic_mistake_is_planted_and_each_lesson_has_some():
    classic = {planted.LEFT_OUT, planted.PER_BATCH, planted.TOO_EARLY, planted.INVERTED, planted.IGNORED}
    classic |= {planted.TEN_TIMES, planted.WRONG_GROUP, planted.LABELS}
    assert classic <= {m.name for m in planted.MISTAKES}
    assert {m.lesson for m in planted.MISTAKES} == set(LESSONS)
    assert len(set(planted.MISTAKES)) == len(planted.MISTAKES)


def test_a_mistake_whose_text_is_not_there_is_refused():
    cell = LESSONS["01"].cells[0]
    with pytest.raises(ValueError, match="stands there 0 times"):
        planted.plant(planted.Mistake("01", "none", cell.id, "no such text", ""), cell)
