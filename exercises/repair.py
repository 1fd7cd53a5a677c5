"""Bring what a student handed in into the shape that nbgrader needs, and say what was wrong with it.

nbgrader finds tests by their metadata alone: a test cell that lost them, or was deleted, or carries the tag
`skip-execution`, would silently count as nothing or even in full. So every cell of the assignment is looked up in the
submission (by nbgrader's id, the cell's id, its text, its place), gets the released metadata back, and a test that is not
there is put back. All other cells keep their source and nothing else. The tests' own text comes from nbgrader later.
"""

import json
import os
import shutil
from copy import deepcopy
from difflib import SequenceMatcher
from pathlib import Path

from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from nbgrader.utils import is_grade, is_locked, is_solution, parse_utc

MOST_MB = 20  # of a notebook, and of all other files of one submission together
LIKE_ENOUGH = 0.3  # of an answer to its stub; unrelated code of the same length has about 0.1
UNREADABLE, MISSING = "unreadable", "missing"
FOREIGN = "none of the assignment's cells was found: is this the right file?"
NEW_CELL = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
MEANS = ("grade", "solution", "locked", "task", "points", "schema_version")  # what nbgrader's metadata tell it
Cells = list[NotebookNode]


class NothingToGrade(Exception):
    """No notebook can be graded: the verdict (UNREADABLE or MISSING), and why."""


def read(folder: Path, name: str, released: NotebookNode) -> tuple[Cells, list[str]]:
    """The cells of the notebook to grade in a student's folder, and remarks.

    That is `name`.ipynb or, where nobody has worked in that, the only other one with answers, or the only other one.

    Raises:
        NothingToGrade: there is none, or it cannot be read.
    """
    own, found, unread = f"{name}.ipynb", {}, {}
    try:
        paths = {p.name: p for p in sorted(folder.iterdir()) if p.suffix == ".ipynb" and not p.name.startswith(".")}
    except OSError as error:
        raise NothingToGrade(UNREADABLE, f"the folder cannot be read: {error.strerror}") from None
    for file, path in paths.items():
        try:
            found[file] = read_cells(path)
        except (ValueError, OSError, RecursionError) as error:
            said = "it is nested too deeply" if isinstance(error, RecursionError) else error
            unread[file] = f"{file} cannot be read: {said}"
    answered = [file for file, cells in found.items() if _has_answers(cells, released)]
    chosen = [own] if own in answered else answered or [own] if own in paths else answered or list(paths)
    if len(chosen) != 1:
        raise NothingToGrade(MISSING, f"there is no {own} ({', '.join(chosen) or 'no notebook'} in the folder)")
    if chosen[0] in unread:
        raise NothingToGrade(UNREADABLE, unread[chosen[0]])
    if chosen[0] != own:
        why = "has no answers" if own in found else "cannot be read" if own in unread else "is not there"
        return found[chosen[0]], [f"{own} {why}; {chosen[0]} was taken for it"]
    return found[own], [f"{file} has answers, too; {own} was graded" for file in answered if file != own]


def _has_answers(cells: Cells, released: NotebookNode) -> bool:
    pairs = [(released.cells[i], cells[place]) for i, place in _find(cells, released)[0].items()]
    return any(is_solution(cell) and _text(cell) != _text(other) for cell, other in pairs)


def read_cells(path: Path) -> Cells:
    """The cells of a notebook file: type, source, ids and nbgrader's metadata, and nothing else.

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
    ids = [value for value in (cell.get("id"), metadata.get("id")) if isinstance(value, str)]
    return from_dict({"cell_type": kind, "source": source, "ids": ids, "metadata": {"nbgrader": nbgrader}})


def below(folder: Path) -> list[Path]:
    """All files, folders and links below a folder; nothing below a link, or below what may not be listed."""
    return sorted(Path(above, name) for above, *names in os.walk(folder) for name in [*names[0], *names[1]])


def copy_other_files(folder: Path, to: Path) -> list[str]:
    """Copy what lies beside the notebook, but no link and not more than MOST_MB; returns remarks."""
    remarks, total = [], 0
    for path in below(folder):
        try:
            if path.is_symlink():
                remarks.append(f"{path.name} is a link and was left out")
            elif path.name == "timestamp.txt" and not _is_time(path):
                remarks.append("its timestamp.txt cannot be read; it counts as handed in on time")
            elif path.is_file() and path.suffix != ".ipynb":
                total += path.stat().st_size
                if total > MOST_MB * 10**6:
                    return [*remarks, f"its other files have more than {MOST_MB} MB; {path.name} and more was left out"]
                (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to / path.relative_to(folder))
        except OSError as error:
            remarks.append(f"{path.name} cannot be read and was left out: {error.strerror}")
    return remarks


def _is_time(path: Path) -> bool:
    try:
        return not (text := path.read_text(encoding="utf-8").strip()) or parse_utc(text) is not None
    except (ValueError, OverflowError):
        return False


def repair(submitted: Cells, released: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A notebook that nbgrader grades as it should, from cells as `read_cells` makes them and what was handed out.

    Returns:
        the notebook, and remarks in the order of the assignment's cells; FOREIGN alone, if it is another notebook.
    """
    places, remarks = _find(submitted, released)
    cells = [NEW_CELL[cell.cell_type](cell.source) for cell in submitted]
    inserts: dict[int, Cells] = {}
    for i, said in remarks.items():
        original, found = released.cells[i], submitted[places[i]] if i in places else None
        if found is None and is_solution(original) and not is_grade(original):
            said.append("was not found")  # its stub would take the place of what was written elsewhere
            continue
        as_released = found is None or is_locked(original)
        new = NEW_CELL[original.cell_type](original.source if as_released else found.source)
        new.metadata = deepcopy(original.metadata)
        if found is None:
            said.append("was missing and was put back")
            place = min((place for k, place in places.items() if k > i), default=len(cells))
            inserts.setdefault(place, []).append(new)
            continue
        meta, meant = found.metadata.get("nbgrader"), original.metadata.nbgrader
        if as_released and (found.cell_type, _text(found)) != (original.cell_type, _text(original)):
            said.append("had been changed; the original was used")
        elif meta and any(meta.get(key, False) != meant.get(key, False) for key in MEANS):
            said.append("had other nbgrader metadata; the original was used")
        cells[places[i]] = new
    together = [cell for k in range(len(cells) + 1) for cell in [*inserts.get(k, []), *cells[k : k + 1]]]
    for number, cell in enumerate(together):
        cell.id = f"cell-{number}"
    notebook = new_notebook(cells=together, metadata=deepcopy(released.metadata), nbformat_minor=5)
    said = [f"the cell {_name(released.cells[i])} {what}" for i in remarks for what in remarks[i]]
    return notebook, [FOREIGN] if remarks.keys().isdisjoint(places) else said


def _find(submitted: Cells, released: NotebookNode) -> tuple[dict[int, int], dict[int, list[str]]]:
    """Where in the submission each cell of the assignment stands, and remarks on those that nbgrader needs."""
    needed = {
        i: cell for i, cell in enumerate(released.cells) if is_grade(cell) or is_solution(cell) or is_locked(cell)
    }
    places: dict[int, int] = {}
    remarks: dict[int, list[str]] = {i: [] for i in needed}
    for i, cell in needed.items():
        found = [k for k, other in enumerate(submitted) if _name(other) == _name(cell)]
        if found:
            worked_on = [k for k in found if not is_locked(cell) and _text(submitted[k]) != _text(cell)]
            places[i] = (worked_on or found)[-1]
        if len(found) > 1:
            remarks[i].append(f"was there {len(found)} times; the last one that was worked on counts")
    known = {_name(cell) for cell in needed.values()}
    free = [k for k, cell in enumerate(submitted) if _name(cell) not in known]
    for alike in (_same_id, _same_text, None):
        for i, cell in enumerate(released.cells):
            match = None
            if i not in places and alike:
                match = next((k for k in free if alike(cell, submitted[k])), None)
            elif i not in places and is_solution(cell) and not needed.keys().isdisjoint(places):
                match = _by_place(i, cell, submitted, places, free)
            if match is not None:
                places[i] = match
                free.remove(match)
                if i in needed:
                    remarks[i].append("had lost its nbgrader metadata and was recognised by its text or place")
    for i in needed.keys() & places.keys():
        if is_grade(needed[i]) and any(k < i and places.get(k, -1) > places[i] for k in needed):
            remarks[i].append("stands at another place than in the assignment")
    return places, remarks


def _by_place(i: int, cell: NotebookNode, submitted: Cells, places: dict[int, int], free: list[int]) -> int | None:
    """An answer stands between its neighbours: code that is like its stub, or the longest text."""
    before = max((place for k, place in places.items() if k < i), default=-1)
    after = min((place for k, place in places.items() if k > i), default=len(submitted))
    between = [k for k in free if before < k < after and submitted[k].cell_type == cell.cell_type]
    if cell.cell_type != "code":
        return max(between, key=lambda k: len(submitted[k].source), default=None)
    like = {k: SequenceMatcher(None, submitted[k].source[:5000], cell.source).ratio() for k in between}
    return max((k for k in like if like[k] >= LIKE_ENOUGH), key=like.get, default=None)


def _name(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id") or "")


def _text(cell: NotebookNode) -> str:
    return "\n".join(line.rstrip() for line in cell.source.strip().splitlines())


def _same_id(cell: NotebookNode, other: NotebookNode) -> bool:
    return cell.get("id") in other.ids


def _same_text(cell: NotebookNode, other: NotebookNode) -> bool:
    return bool(_text(cell)) and cell.cell_type == other.cell_type and _text(cell) == _text(other)
