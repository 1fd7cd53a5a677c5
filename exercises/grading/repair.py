"""Give a submitted notebook back what nbgrader needs to grade it, and say what was missing.

nbgrader finds tests by their metadata alone: a test cell that lost them, or was deleted, or carries the tag
`skip-execution`, would silently count as nothing or even in full. So every cell of the assignment is looked up in the
submission (by nbgrader's id, the cell's id, its text, its place), gets the released metadata back, and a test that is not
there is put back. All other cells keep their source and nothing else. The tests' own text comes from nbgrader later.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import SequenceMatcher

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from nbgrader.utils import is_grade, is_locked, is_solution, is_task

REMARKS = {
    "deleted": "the cell {cell} was missing and was put back",
    "changed": "the cell {cell} had been changed; the original was used",
    "copied": "the cell {cell} was there {count} times; the last one that was worked on counts",
    "restored": "the cell {cell} had lost its nbgrader metadata and was recognised by its text or place",
    "metadata": "the nbgrader metadata of the cell {cell} had been changed; the original was used",
    "moved": "the cell {cell} stands at another place than in the assignment",
    "lost": "the answer cell {cell} was not found",
    "foreign": "none of the assignment's cells was found: is this the right file?",
}
LIKE_ENOUGH = 0.3  # of an answer to its stub; unrelated code of the same length has about 0.1


@dataclass(frozen=True)
class Remark:
    """Something about a submission that a teacher should know: a key of REMARKS, the cell's nbgrader id, a count."""

    kind: str
    cell: str = ""
    count: int = 0

    def __str__(self):
        return REMARKS[self.kind].format(cell=self.cell, count=self.count)


def repair(submitted: Sequence[NotebookNode], released: NotebookNode) -> tuple[NotebookNode, list[Remark]]:
    """A notebook that nbgrader grades as it should, from the submitted cells.

    Args:
        submitted: the cells, as `submission.read_cells` makes them.
        released: the notebook that was handed out.

    Returns:
        the notebook, and remarks in the order of the assignment's cells.
    """
    places, remarks = _find(submitted, released)
    if not any(_graded(cell) and i in places for i, cell in enumerate(released.cells)):
        remarks = [Remark("foreign")]
    cells = [_bare(cell) for cell in submitted]
    for i, place in places.items():
        original = released.cells[i]
        if not _graded(original):
            continue
        same = submitted[place].cell_type == original.cell_type and _text(submitted[place]) == _text(original)
        if is_locked(original) and not same:
            remarks.append(Remark("changed", _name(original)))
        elif _meta(submitted[place]) and _differs(_meta(submitted[place]), _meta(original)):
            remarks.append(Remark("metadata", _name(original)))
        source = original.source if is_locked(original) else submitted[place].source
        cells[place] = _new(original.cell_type, source)
        cells[place].metadata = deepcopy(original.metadata)
    cells, missing = _put_back(cells, places, released)
    foreign = any(remark.kind == "foreign" for remark in remarks)
    order = [_name(cell) for cell in released.cells if _graded(cell)]
    remarks = remarks if foreign else sorted([*remarks, *missing], key=lambda remark: order.index(remark.cell))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    notebook = new_notebook(cells=cells, metadata=deepcopy(released.metadata))
    notebook.nbformat_minor = 5
    return notebook, remarks


def _find(submitted: Sequence[NotebookNode], released: NotebookNode) -> tuple[dict[int, int], list[Remark]]:
    """Where in the submission each released cell stands, cells without nbgrader metadata included."""
    places: dict[int, int] = {}
    free = set(range(len(submitted)))
    remarks = []
    for i, cell in enumerate(released.cells):
        if not _graded(cell):
            continue
        found = [k for k, other in enumerate(submitted) if _name(other) == _name(cell)]
        if found:
            worked_on = [k for k in found if _text(submitted[k]) != _text(cell)]
            places[i] = (worked_on or found)[-1] if not is_locked(cell) else found[-1]
            free -= set(found)
        if len(found) > 1:
            remarks.append(Remark("copied", _name(cell), len(found)))
    free = {k for k in free if not _name(submitted[k]) or not _known(submitted[k], released)}
    for alike in (_same_id, _same_text):
        for i, cell in enumerate(released.cells):
            match = next((k for k in sorted(free) if i not in places and alike(cell, submitted[k])), None)
            if match is not None:
                places[i] = match
                free.remove(match)
    recognised = any(_graded(released.cells[i]) for i in places)  # if nothing is, place says nothing either
    for i, cell in enumerate(released.cells):
        if i not in places and is_solution(cell) and recognised:
            match = _by_place(i, cell, submitted, released, places, free)
            if match is not None:
                places[i] = match
                free.remove(match)
    remarks += [
        Remark("restored", _name(cell))
        for i, cell in enumerate(released.cells)
        if _graded(cell) and i in places and _name(submitted[places[i]]) != _name(cell)
    ]
    return places, remarks + _moved(places, released)


def _by_place(i, cell, submitted, released, places, free) -> int | None:
    """An answer stands between its neighbours: code that is like its stub, or the longest text."""
    before = max((places[k] for k in range(i) if k in places), default=-1)
    after = min((places[k] for k in range(i + 1, len(released.cells)) if k in places), default=len(submitted))
    between = [k for k in sorted(free) if before < k < after and submitted[k].cell_type == cell.cell_type]
    if cell.cell_type != "code":
        return max(between, key=lambda k: len(submitted[k].source), default=None)
    like = {k: SequenceMatcher(None, submitted[k].source[:5000], cell.source).ratio() for k in between}
    best = max(like, key=like.get, default=None)
    return best if best is not None and like[best] >= LIKE_ENOUGH else None


def _moved(places: dict[int, int], released: NotebookNode) -> list[Remark]:
    """Tests that stand before something which they follow in the assignment."""
    graded = [i for i in sorted(places) if _graded(released.cells[i])]
    return [
        Remark("moved", _name(released.cells[i]))
        for n, i in enumerate(graded)
        if is_grade(released.cells[i]) and any(places[k] > places[i] for k in graded[:n])
    ]


def _put_back(cells: list[NotebookNode], places: dict[int, int], released: NotebookNode):
    """Insert what is missing right before the next cell of the assignment that is there.

    A missing code answer is not put back: its stub would take the place of what was written elsewhere.
    """
    inserts: dict[int, list[NotebookNode]] = {}
    remarks = []
    for i, cell in enumerate(released.cells):
        if i in places or not _graded(cell):
            continue
        if is_solution(cell) and not is_grade(cell):
            remarks.append(Remark("lost", _name(cell)))
            continue
        remarks.append(Remark("deleted", _name(cell)))
        place = min((places[k] for k in range(i + 1, len(released.cells)) if k in places), default=len(cells))
        inserts.setdefault(place, []).append(deepcopy(cell))
    together = []
    for k in range(len(cells) + 1):
        together += inserts.get(k, []) + cells[k : k + 1]
    return together, remarks


def _bare(cell: NotebookNode) -> NotebookNode:
    return _new(cell.cell_type, cell.source)


def _new(kind: str, source: str) -> NotebookNode:
    return {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}[kind](source)


def _graded(cell: NotebookNode) -> bool:
    return is_grade(cell) or is_solution(cell) or is_locked(cell) or is_task(cell)


def _meta(cell: NotebookNode) -> dict:
    meta = cell.metadata.get("nbgrader")
    return meta if isinstance(meta, dict) else {}


def _name(cell: NotebookNode) -> str:
    return str(_meta(cell).get("grade_id") or "")


def _known(cell: NotebookNode, released: NotebookNode) -> bool:
    return _name(cell) in {_name(other) for other in released.cells}


def _text(cell: NotebookNode) -> str:
    return "\n".join(line.rstrip() for line in cell.source.strip().splitlines())


def _same_id(cell: NotebookNode, other: NotebookNode) -> bool:
    return cell.get("id") in {other.get("id"), other.metadata.get("id")} - {None}


def _same_text(cell: NotebookNode, other: NotebookNode) -> bool:
    return bool(_text(cell)) and cell.cell_type == other.cell_type and _text(cell) == _text(other)


def _differs(found: dict, original: dict) -> bool:
    keys = ("grade", "solution", "locked", "task", "points", "schema_version")
    return any(found.get(key, False) != original.get(key, False) for key in keys)
