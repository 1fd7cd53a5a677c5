"""What the tests of the lessons share."""

import re
from pathlib import Path

import nbformat
import pytest

from lrtut.cli import find_lessons

ROOT = Path(__file__).parents[2]
LESSONS = find_lessons(ROOT)

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def is_check(cell):
    return "check" in cell.metadata.get("tags", [])


def python(source):
    """A cell's source as plain Python: IPython's own lines (%pip) become `pass`, so that lines keep their numbers."""
    return re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.M)
