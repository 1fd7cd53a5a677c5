"""Whatever is done to a released notebook, nbgrader gets every cell that it needs exactly once."""

from copy import deepcopy

import nbformat
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

pytest.importorskip("nbgrader")

from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.utils import is_grade, is_locked
from repair import NothingToGrade, repair
from sample import source_notebook

RELEASED = source_notebook()
for _cell in RELEASED.cells:
    lines = _cell.source.split("\n")
    _cell.source = "\n".join(line for line in lines if "###" not in line)


def cells(notebook):
    return deepcopy(notebook.cells)


def ids(notebook):
    return [cell.metadata.nbgrader.grade_id for cell in notebook.cells if "nbgrader" in cell.metadata]


def cell(source):
    return nbformat.from_dict({"cell_type": "code", "source": source, "metadata": {}})


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
    "insert": lambda work, i, j: work.insert(i, cell("x = 1")),
}
PLACE = st.integers(0, 30)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), PLACE, PLACE), max_size=8))
def test_every_graded_cell_is_there_once(changes):
    work = cells(RELEASED)
    for change, i, j in changes:
        if not work:
            break
        CHANGES[change](work, i % len(work), j % len(work))
    count = len(work)
    try:
        notebook, remarks = repair(work, RELEASED)
    except NothingToGrade:
        reject()
    assert len(ids(notebook)) == len(set(ids(notebook)))
    originals = {c.metadata.nbgrader.grade_id: c for c in RELEASED.cells if "nbgrader" in c.metadata}
    assert (
        {name for name, c in originals.items() if is_grade(c) or is_locked(c)} <= set(ids(notebook)) <= set(originals)
    )
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            original = originals[cell.metadata.nbgrader.grade_id]
            assert cell.metadata == original.metadata and cell.cell_type == original.cell_type
            assert cell.source == original.source or not is_locked(original)
        else:
            assert cell.metadata == {}
    MetadataValidator().validate_nb(notebook)
    nbformat.validate(notebook)
    assert len(notebook.cells) >= count  # nothing that a student wrote is dropped


def test_cells_without_metadata_are_found_and_a_person_looks_for_an_answer():
    work = cells(RELEASED)
    for cell in work:
        cell.metadata = nbformat.from_dict({})
        if cell.source == "Because.":
            cell.source = "The second group overrides the default."
    notebook, remarks = repair(work, RELEASED)
    found = {c.metadata.nbgrader.grade_id: c.source for c in notebook.cells if "nbgrader" in c.metadata}
    assert found.keys() == set(ids(RELEASED)) and found["why"] not in ("", "Because.")
    assert "the cell why was missing and was put back" in remarks
    assert sum("had lost its nbgrader metadata" in remark for remark in remarks) == len(found) - 1


def test_a_lost_answer_cell_is_not_replaced_by_its_stub():
    work = [c for c in cells(RELEASED) if c.get("id") != "decay"]
    work.insert(2, cell("step_decay = lambda *a: 1"))
    notebook, remarks = repair(work, RELEASED)
    assert "decay" not in ids(notebook) and not remarks
    assert any(c.source == "step_decay = lambda *a: 1" for c in notebook.cells)


def test_a_test_is_put_back_after_what_was_written_for_its_task():
    work = [c for c in cells(RELEASED) if c.get("id") != "decay-test"]
    at = next(k for k, c in enumerate(work) if c.get("id") == "task-2")
    work.insert(at, cell("final = 1"))
    notebook, remarks = repair(work, RELEASED)
    order = [c.metadata.get("nbgrader", {}).get("grade_id") or c.source for c in notebook.cells]
    assert order.index("final = 1") + 1 == order.index("decay-test") < order.index("group")
    assert remarks == ["the cell decay-test was missing and was put back"]


def test_the_copy_that_was_worked_on_counts():
    work = cells(RELEASED)
    at = next(k for k, c in enumerate(work) if c.get("id") == "why")
    edited = deepcopy(work[at])
    edited.source = "My answer."
    work.insert(at, edited)  # the untouched copy comes last
    notebook, remarks = repair(work, RELEASED)
    found = {c.metadata.nbgrader.grade_id: c.source for c in notebook.cells if "nbgrader" in c.metadata}
    assert found["why"] == "My answer." and len(remarks) == 1 and "why was there 2 times" in remarks[0]
