"""Build the website: gather its pages in build/source/, laid out as the repository is, and call Sphinx on them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from lrtut import answers
from lrtut.execution import read

NOT_SHOWN = re.compile(r"^\s*### (BEGIN|END) SOLUTION\n?|^### BEGIN HIDDEN TESTS$.*^### END HIDDEN TESTS$", re.M | re.S)


class SiteError(Exception):
    """Sphinx could not build the site; it has said why."""


def build(root: Path, notebooks: Sequence[Path], executed: Path) -> list[Path]:
    """Build `root`/build/site/, and return the notebooks that it shows without outputs.

    Args:
        root: a checkout of the course.
        notebooks: all its lessons and answers.
        executed: the folder of executed copies; one that does not fit its notebook (`fits`) is not shown.

    Raises:
        SiteError: Sphinx failed, or warned.
    """
    source, site = root / "build" / "source", root / "build" / "site"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(site, ignore_errors=True)
    gather_docs(root, source)
    gather_exercises(root, source)
    bare = []
    for path in notebooks:
        done = executed / f"{path.stem}.ipynb"
        if not fits(done, path):
            bare.append(path)
            done = path
        (source / path.relative_to(root)).unlink(missing_ok=True)
        notebook = read(done)
        if path.suffix == ".md":
            answers.add_badge(notebook, path)
        _write(source / path.relative_to(root).with_suffix(".ipynb"), notebook)
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--fresh-env"]
    folders = [root / "docs", "-d", root / "build" / "doctrees", source, site]
    if subprocess.run([*command, "-c", *map(str, folders)]).returncode:
        raise SiteError(f"the website could not be built: Sphinx says why, above. Its sources are in {source}.")
    return bare


def fits(done: Path, path: Path) -> bool:
    """Whether `done` is an executed copy of the notebook as it is now."""
    return done.exists() and [cell.source for cell in read(done).cells] == [cell.source for cell in read(path).cells]


def stale(pages: Sequence[Path], executed: Path) -> list[Path]:
    """The answers that have no executed copy which is newer than lrtut's code: those to execute."""
    changed = max(file.stat().st_mtime for file in Path(__file__).parent.rglob("*.py"))
    copies = {path: executed / f"{path.stem}.ipynb" for path in pages}
    return [path for path, done in copies.items() if not (fits(done, path) and done.stat().st_mtime > changed)]


def gather_docs(root: Path, source: Path) -> None:
    """Copy docs/, the pictures, the teachers' page and, as the landing page, the README."""
    for folder in ("docs", "images"):
        shutil.copytree(root / folder, source / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (source / "exercises").mkdir()
    shutil.copy(root / "exercises" / "README.md", source / "exercises")
    contents = source / "docs" / "index.md"
    readme = (root / "README.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(f"{readme}\n{contents.read_text(encoding='utf-8')}", encoding="utf-8")
    contents.unlink()


def gather_exercises(root: Path, source: Path) -> None:
    """Write the exercises and their solutions as the site shows them: tests folded, hidden tests left out."""
    for path in [*root.glob("exercises/release/*/*.ipynb"), *root.glob("exercises/source/*/*.ipynb")]:
        notebook = read(path)
        for cell in notebook.cells:
            nbgrader = cell.metadata.get("nbgrader", {})
            if cell.cell_type == "code" and nbgrader.get("grade") and not nbgrader.get("solution"):
                cell.metadata["tags"] = ["hide-input"]
            cell.source = NOT_SHOWN.sub("", cell.source)
        if path.parts[-3] == "source":
            title = notebook.cells[0].source.splitlines()[0].replace("Exercises", "Solutions")
            exercises = f"../../release/{path.stem}/{path.name}"
            notebook.cells[0].source = f"{title}\n\nOne way to solve each of [the exercises]({exercises})."
            del notebook.cells[-1]  # the link from the exercises to this page
        _write(source / path.relative_to(root), notebook)


def _write(path: Path, notebook: nbformat.NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
