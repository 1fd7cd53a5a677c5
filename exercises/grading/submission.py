"""Read what a student handed in, whatever it is, and never raise about its contents."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.utils import parse_utc

MOST_MB = 20  # of a notebook, and of all other files of one submission together
UNREADABLE, MISSING = "unreadable", "missing"


@dataclass
class Submission:
    """What was found: the cells, or None with `problem` (UNREADABLE or MISSING); remarks are sentences."""

    cells: list[NotebookNode] | None = None
    problem: str = ""
    remarks: list[str] = field(default_factory=list)


def read(folder: Path, notebook: str) -> Submission:
    """The notebook called `notebook` in a student's folder, or the only one that is there."""
    path = folder / f"{notebook}.ipynb"
    remarks = []
    try:
        there = path.exists()
    except OSError as error:
        return Submission(problem=UNREADABLE, remarks=[f"the folder cannot be read: {error.strerror}"])
    if not there:
        others = sorted(p for p in folder.glob("*.ipynb") if not p.name.startswith("."))
        if len(others) != 1:
            names = ", ".join(p.name for p in others) or "no notebook"
            return Submission(problem=MISSING, remarks=[f"there is no {path.name} ({names} in the folder)"])
        path = others[0]
        remarks.append(f"the file is called {path.name}; it was taken for {notebook}.ipynb")
    try:
        return Submission(read_cells(path), remarks=remarks)
    except (ValueError, OSError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return Submission(problem=UNREADABLE, remarks=[*remarks, f"{path.name} cannot be read: {said}"])


def read_cells(path: Path) -> list[NotebookNode]:
    """The cells of a notebook file: type, source, ids and nbgrader's metadata, and nothing else.

    Raises:
        ValueError: says what is wrong with the file.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is a link or no file")
    if path.stat().st_size > MOST_MB * 10**6:
        raise ValueError(f"it has {path.stat().st_size / 1e6:.0f} MB, {MOST_MB} are allowed; clear its outputs")
    data = path.read_bytes()
    if not data.strip():
        raise ValueError("it is empty")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if isinstance(document, dict) and "worksheets" in document:
        try:
            document = nbformat.convert(nbformat.from_dict(document), 4)
        except Exception as error:  # an old format may fail in any way
            raise ValueError(f"its old format cannot be converted ({error})") from None
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it is JSON but no notebook: it has no list of cells")
    return [_cell(cell) for cell in cells if isinstance(cell, dict)]


def _cell(cell: dict) -> NotebookNode:
    source = cell.get("source", "")
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
    kind = cell.get("cell_type")
    return nbformat.from_dict(
        {
            "cell_type": kind if kind in ("code", "markdown") else "raw",
            "source": source.encode("utf-8", "replace").decode(),  # lone surrogates cannot be hashed or stored
            "id": _text(cell.get("id")),
            "metadata": {"id": _text(metadata.get("id")), "nbgrader": metadata.get("nbgrader")},
        }
    )


def _text(value: object) -> str | None:
    """An id is looked up by `repair`, so it must be text; anything else is as good as none."""
    return value if isinstance(value, str) else None


def copy_other_files(folder: Path, to: Path) -> list[str]:
    """Copy what lies beside the notebook, but no link and not more than MOST_MB; returns remarks."""
    remarks = []
    total = 0
    for path in _below(folder):
        try:
            if path.is_symlink():
                remarks.append(f"{path.name} is a link and was left out")
                continue
            if not path.is_file() or path.suffix == ".ipynb":
                continue
            if path.name == "timestamp.txt" and not _is_time(path):
                remarks.append("its timestamp.txt cannot be read; it counts as handed in on time")
                continue
            total += path.stat().st_size
            if total > MOST_MB * 10**6:
                remarks.append(
                    f"its other files have more than {MOST_MB} MB; {path.name} and what follows was left out"
                )
                break
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        except PermissionError as error:
            remarks.append(f"{path.name} cannot be read and was left out: {error.strerror}")
    return remarks


def _below(folder: Path) -> list[Path]:
    """All files, folders and links below a folder; nothing below a link, or below what may not be listed."""
    return sorted(Path(above, name) for above, *names in os.walk(folder) for name in [*names[0], *names[1]])


def _is_time(path: Path) -> bool:
    try:
        return not (text := path.read_text(encoding="utf-8").strip()) or parse_utc(text) is not None
    except (ValueError, OverflowError):
        return False


def digest(folder: Path) -> str:
    """A hash of all files of a submission, names included; of a file that cannot be read, of why."""
    total = hashlib.sha256()
    for path in _below(folder):
        total.update(f"{path.relative_to(folder)} ".encode("utf-8", "surrogateescape"))
        try:
            if path.is_symlink() or not path.is_file():
                total.update(b"is no file\n")
                continue
            total.update(f"{path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                while part := file.read(1 << 20):
                    total.update(part)
        except OSError as error:
            total.update(type(error).__name__.encode())
    return total.hexdigest()
