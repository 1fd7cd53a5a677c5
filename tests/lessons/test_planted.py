"""Every mistake can be planted. That a check catches it, planted.py says; `.ci/run` asks."""

import ast

import nbformat
import planted
import pytest
from lessons import code_cells, each_lesson, python, read


@each_lesson
def test_each_mistake_changes_its_cell_and_leaves_it_python(path):
    sources = {cell.id: cell.source for cell in code_cells(read(path))}
    for mistake in planted.mistakes(path):
        source = sources[mistake["cell"]]
        wrong = ast.parse(python(planted.plant(mistake, source)))
        assert ast.dump(wrong) != ast.dump(ast.parse(python(source))), mistake


def test_a_mistake_that_does_not_fit_its_cell_is_refused():
    with pytest.raises(ValueError, match="fit: 'lr=0.1' occurs 2 times, not once"):
        planted.plant({"cell": "fit", "old": "lr=0.1", "new": "lr=1"}, "a(lr=0.1)\nb(lr=0.1)")


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("x = 2", "two-check"),
        ("x = 1", ""),
        ("x = 1 / 0", ""),
        ("import lrtut\nlrtut.load_mnist(train_size=0)", "refused: "),
    ],
)
def test_what_catches_a_mistake(source, caught):
    check = nbformat.v4.new_code_cell("assert x == 1", id="two-check", metadata={"tags": ["check"]})
    found = planted.first_red([nbformat.v4.new_code_cell(source), check], {})
    assert found[:9] == caught
