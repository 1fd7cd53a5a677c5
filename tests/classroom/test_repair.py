"""Whatever is done to a released notebook, nbgrader gets every cell that it needs exactly once."""

from copy import deepcopy

import nbformat
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.utils import is_grade, is_locked
from repair import NothingToGrade, repair
from sample import source_notebook

RELEASED = source_notebook()
for _cell in RELEASED.cells:
    _cell.source = "\n".join(line for line in _cell.source.split("\n") if "###" not in line)


def by_name(notebook):
    named = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    found = {cell.metadata.nbgrader.grade_id: cell for cell in named}
    assert len(found) == len(named)
    return found


def place(work, name):
    return next(k for k, cell in enumerate(work) if cell.get("id") == name)


# What may happen to the cells `work`, at the places i and j.
CHANGES = {
    "delete": lambda work, i, j: work.pop(i),
    "copy": lambda work, i, j: work.insert(j, deepcopy(work[i])),
    "move": lambda work, i, j: work.insert(j, work.pop(i)),
    "strip": lambda work, i, j: work[i].update(metadata=nbformat.from_dict({})),
    "edit": lambda work, i, j: work[i].update(source=work[i].source + "\nedited"),
    "retype": lambda work, i, j: work[i].update(cell_type="raw"),
    "junk": lambda work, i, j: work[i].metadata.update(nbgrader={"grade_id": "unheard-of", "points": "many"}),
    "tag": lambda work, i, j: work[i].metadata.update(tags=["skip-execution", "raises-exception"]),
    "insert": lambda work, i, j: work.insert(i, new_code_cell("x = 1")),
}
PLACE = st.integers(0, 30)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), PLACE, PLACE), max_size=8))
def test_every_graded_cell_is_there_once(changes):
    work = deepcopy(RELEASED.cells)
    for change, i, j in changes:
        if work:
            CHANGES[change](work, i % len(work), j % len(work))
    try:
        notebook, _ = repair(work, RELEASED)
    except NothingToGrade:
        reject()
    found, originals = by_name(notebook), by_name(RELEASED)
    assert {name for name, c in originals.items() if is_grade(c) or is_locked(c)} <= set(found) <= set(originals)
    for name, cell in found.items():
        assert (cell.metadata, cell.cell_type) == (originals[name].metadata, originals[name].cell_type)
        assert cell.source == originals[name].source or not is_locked(cell)
    assert not any(cell.metadata for cell in notebook.cells if "nbgrader" not in cell.metadata)
    MetadataValidator().validate_nb(notebook)
    nbformat.validate(notebook)
    assert len(notebook.cells) >= len(work)  # nothing that a student wrote is dropped


def test_a_test_is_put_back_where_its_answer_is_and_no_stub_replaces_an_answer():
    work = deepcopy(RELEASED.cells)
    work[place(work, "decay")] = new_code_cell(rewritten := "step_decay = lambda *a: 1")
    work.pop(place(work, "decay-test"))
    work.insert(place(work, "why"), edited := deepcopy(work[place(work, "why")]))
    edited.source = "My answer."  # the untouched copy comes last
    notebook, remarks = repair(work, RELEASED)
    named, sources = by_name(notebook), [cell.source for cell in notebook.cells]
    order = [sources.index(source) for source in (rewritten, named["decay-test"].source, named["group"].source)]
    assert order == sorted(order) and "decay" not in named and named["why"].source == "My answer."
    assert remarks == [
        "the cell decay-test was missing and was put back",
        "the cell why was there 2 times; the last one that was worked on counts",
    ]
