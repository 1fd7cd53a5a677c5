"""The pages of docs/answers/ as notebooks that Colab opens: complete in themselves, from a branch of their own."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import nbformat

from lrtut.execution import read
from lrtut.version import files, repository

BRANCH = "answers"  # .github/workflows/pages.yml puts them there
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+")
_FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}


def badge(path: Path) -> str:
    """A badge, in Markdown, that opens the page `path` on Colab."""
    slug = repository().removeprefix("https://github.com/")
    page = f"https://colab.research.google.com/github/{slug}/blob/{BRANCH}/{path.stem}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})"


def add_badge(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Put the badge of the page `path` below its title."""
    first = notebook.cells[0]
    title, _, rest = first.source.lstrip().partition("\n")
    first.source = f"{title}\n\n{badge(path)}\n\n{rest.lstrip()}"


def write_notebooks(root: Path, pages: list[Path], folder: Path) -> None:
    """Write each page as a notebook to `folder`, with full addresses, and the setup cell where it needs `lrtut`."""
    lesson = read(min((root / "notebooks").glob("*.ipynb")))
    setup = [cell for cell in lesson.cells if cell.id == "setup"]
    folder.mkdir(parents=True, exist_ok=True)
    for path in pages:
        notebook, here = read(path), path.parent.relative_to(root).as_posix()

        def full(link: re.Match, here: str = here) -> str:
            return f"{files()}/{posixpath.normpath(posixpath.join(here, link[0]))}"

        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _LINK.sub(full, cell.source)
            elif "check" in cell.metadata.get("tags", []):
                cell.metadata |= _FOLDED
        add_badge(notebook, path)
        if any(cell.cell_type == "code" and "import lrtut" in cell.source for cell in notebook.cells):
            notebook.cells[1:1] = setup
        nbformat.write(notebook, folder / f"{path.stem}.ipynb")
