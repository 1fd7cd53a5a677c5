"""Bring what a student handed in into the shape that nbgrader needs, and say what was wrong with it.

nbgrader finds tests by their metadata alone: a test cell that lost them, or was deleted, or carries the tag
`skip-execution`, would silently count as nothing or even in full. So every cell of the assignment is looked up in the
submission (by nbgrader's id or its text), gets the released metadata back, and a test that is not there is
put back. All other cells keep their source and nothing else. The tests' own text comes from nbgrader later.
"""

import json
import os
import shutil
from copy import deepcopy
from pathlib import Path

from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from nbgrader.utils import is_grade, is_locked, is_solution, parse_utc

MOST_MB = 20  # of a notebook, and of all other files of one submission together
FOREIGN, UNREADABLE, MISSING = "foreign", "unreadable", "missing"
NEW_CELL = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
Cells = list[NotebookNode]


class NothingToGrade(Exception):
    """No notebook can be graded: the verdict (FOREIGN, UNREADABLE or MISSING), and why."""


def read(folder: Path, name: str, released: NotebookNode) -> tuple[Cells, list[str]]:
    """The cells of the notebook to grade in a student's folder, and remarks.

    That is `name`.ipynb or, where nobody has worked in that, the only other one with answers, or the only other one.

    Raises:
        NothingToGrade: there is none, or it cannot be read.
    """
    if not os.access(folder, os.R_OK | os.X_OK) or folder.is_symlink():
        raise NothingToGrade(UNREADABLE, "the folder is a link or cannot be read")
    own, found, unread = f"{name}.ipynb", {}, {}
    for path in beside(folder):
        try:
            if path.suffix == ".ipynb":
                found[path.name] = read_cells(path)
        except (ValueError, OSError, RecursionError) as error:
            unread[path.name] = f"{path.name} cannot be read: {error}"
    answered = [file for file, cells in found.items() if _has_answers(cells, released)]
    there = [own] if own in found or own in unread else [*found, *unread]
    chosen = [own] if own in answered else answered or there
    if len(chosen) != 1:
        raise NothingToGrade(MISSING, f"there is no {own} ({', '.join(chosen) or 'no notebook'} in the folder)")
    if chosen[0] in unread:
        raise NothingToGrade(UNREADABLE, unread[chosen[0]])
    if chosen[0] != own:
        return found[chosen[0]], [f"{own} is not there or has no answers; {chosen[0]} was taken for it"]
    return found[own], [f"{file} has answers, too; {own} was graded" for file in answered if file != own]


def _has_answers(cells: Cells, released: NotebookNode) -> bool:
    try:
        _find(cells, released)
    except NothingToGrade:
        return False
    texts = {_text(cell) for cell in cells}
    return any(is_solution(cell) and _text(cell) not in texts for cell in released.cells)


def read_cells(path: Path) -> Cells:
    """The cells of a notebook file: type, source and nbgrader's metadata, and nothing else.

    Raises:
        ValueError: says what is wrong with the file.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is a link or no file")
    if path.stat().st_size > MOST_MB * 10**6:
        raise ValueError(f"it has {path.stat().st_size / 1e6:.0f} MB, {MOST_MB} are allowed; clear its outputs")
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"it is not JSON in UTF-8 ({error})") from None
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it is JSON but no notebook: it has no list of cells")
    return [_cell(cell) for cell in cells if isinstance(cell, dict)]


def _cell(cell: dict) -> NotebookNode:
    source, metadata = cell.get("source", ""), cell.get("metadata")
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    source = source.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    metadata = metadata if isinstance(metadata, dict) else {}
    nbgrader = metadata["nbgrader"] if isinstance(metadata.get("nbgrader"), dict) else {}
    kind = cell.get("cell_type") if cell.get("cell_type") in ("code", "markdown") else "raw"
    return from_dict({"cell_type": kind, "source": source, "metadata": {"nbgrader": nbgrader}})


def beside(folder: Path) -> list[Path]:
    """What is in a folder and not hidden; nothing if the folder is a link or may not be looked into."""
    seen = os.access(folder, os.R_OK | os.X_OK) and not folder.is_symlink()
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if seen else []


def copy_other_files(folder: Path, to: Path) -> list[str]:
    """Copy the files beside the notebook, but not more than MOST_MB; returns remarks."""
    remarks, left = [], MOST_MB * 10**6
    for path in beside(folder):
        try:
            if path.is_symlink() or not path.is_file():
                remarks.append(f"{path.name} is a link or not a file, and was left out")
            elif path.name == "timestamp.txt" and not _is_time(path):
                remarks.append("its timestamp.txt cannot be read; it counts as handed in on time")
            elif path.suffix != ".ipynb" and path.stat().st_size > left:
                remarks.append(f"{path.name} was left out: the other files have more than {MOST_MB} MB")
            elif path.suffix != ".ipynb":
                left -= path.stat().st_size
                shutil.copyfile(path, to / path.name)
        except OSError as error:
            remarks.append(f"{path.name} cannot be read and was left out: {error.strerror}")
    return remarks


def _is_time(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return not (text := file.read(100).strip()) or parse_utc(text) is not None
    except (ValueError, OverflowError):
        return False


def repair(submitted: Cells, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A notebook that nbgrader grades as it should, from cells as `read_cells` makes them and what was handed out.

    Returns:
        the notebook, and remarks in the order of the assignment's cells.

    Raises:
        NothingToGrade: it is another notebook.
    """
    places, remarks = _find(submitted, released)
    cells = [NEW_CELL[cell.cell_type](cell.source) for cell in submitted]
    inserts: dict[int, Cells] = {}
    for i, said in remarks.items():
        original = released.cells[i]
        if i not in places:
            if is_grade(original) or is_locked(original):  # an answer that a test grades counts wherever it is
                said.append("was missing and was put back")
                place = min((place for k, place in places.items() if k > i), default=len(cells))
                inserts.setdefault(place, []).append(new := deepcopy(original))
                if is_solution(original):  # to nbgrader, the original text is no answer and no work for a person
                    new.source = "This answer's cell was not found: is the answer in another cell?"
            continue
        found = submitted[places[i]]
        if is_locked(original) and _text(found) != _text(original):
            said.append("had been changed; the original was used")
        cells[places[i]] = NEW_CELL[original.cell_type](original.source if is_locked(original) else found.source)
        cells[places[i]].metadata = deepcopy(original.metadata)
    together = [cell for k in range(len(cells) + 1) for cell in [*inserts.get(k, []), *cells[k : k + 1]]]
    for number, cell in enumerate(together):
        cell.id = f"cell-{number}"
    notebook = new_notebook(cells=together, metadata=deepcopy(released.metadata), nbformat_minor=5)
    return notebook, [f"the cell {_name(released.cells[i])} {what}" for i in remarks for what in remarks[i]]


def _find(submitted: Cells, released: NotebookNode) -> tuple[dict[int, int], dict[int, list[str]]]:
    """Where in the submission the cells of the assignment are, and remarks on those that have nbgrader's metadata."""
    remarks: dict[int, list[str]] = {i: [] for i, cell in enumerate(released.cells) if _name(cell)}
    places: dict[int, int] = {}
    for i, said in remarks.items():
        cell = released.cells[i]
        found = [k for k, other in enumerate(submitted) if _name(other) == _name(cell)]
        if found:
            worked_on = [k for k in found if not is_locked(cell) and _text(submitted[k]) != _text(cell)]
            places[i] = (worked_on or found)[-1]
        if len(found) > 1:
            said.append(f"was there {len(found)} times; the last one that was worked on counts")
    taken = {_name(released.cells[i]) for i in remarks}
    free = [k for k, cell in enumerate(submitted) if _name(cell) not in taken]
    for i, cell in enumerate(released.cells):
        alike = [k for k in free if _text(submitted[k]) == _text(cell) and cell.source.strip()]
        if alike and i not in places:
            places[i] = alike[0]
            free.remove(alike[0])
            if i in remarks:
                remarks[i].append("had lost its nbgrader metadata and was recognised by its text")
    if not any(is_grade(released.cells[i]) or is_solution(released.cells[i]) for i in places):
        raise NothingToGrade(FOREIGN, "none of the assignment's answers and tests was found: is this the right file?")
    return places, remarks


def _name(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id") or "")


def _text(cell: NotebookNode) -> tuple[str, str]:
    return cell.cell_type, "\n".join(line.rstrip() for line in cell.source.strip().splitlines())
