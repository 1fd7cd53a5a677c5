"""Build the website: gather its pages in build/source/, laid out as the repository is, and call Sphinx on them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import torch

SOLUTION_MARKERS = re.compile(r"^\s*### (BEGIN|END) SOLUTION\n?", re.M)


class SiteError(Exception):
    """Sphinx could not build the site; it has said why."""


def build(root: Path, lessons: Sequence[Path], executed: Path) -> list[Path]:
    """Build `root`/build/site/, and return the lessons that it shows without outputs, since no executed copy fits them.

    Args:
        root: a checkout of the course.
        lessons: all its lessons.
        executed: the folder that holds executed copies of some of them.

    Raises:
        SiteError: Sphinx failed, or warned.
    """
    source, site = root / "build" / "source", root / "build" / "site"
    bare = gather(root, lessons, executed, source)
    shutil.rmtree(site, ignore_errors=True)
    cache = root / "build" / "answers" / fingerprint()
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    command += ["-c", str(root / "docs"), "-d", str(root / "build" / "doctrees"), "-D", f"nb_execution_cache_path={cache}"]
    if subprocess.run([*command, str(source), str(site)]).returncode:
        raise SiteError(f"the site could not be built; Sphinx says above why. Its sources: {source}")
    return bare


def gather(root: Path, lessons: Sequence[Path], executed: Path, source: Path) -> list[Path]:
    """Write all pages into `source`; returns the lessons without outputs."""
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("docs", "images"):
        shutil.copytree(root / folder, source / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    contents = (source / "docs" / "index.md").read_text(encoding="utf-8")
    (source / "docs" / "index.md").unlink()
    _write(source / "index.md", (root / "README.md").read_text(encoding="utf-8") + "\n" + contents)
    _write(source / "exercises" / "README.md", (root / "exercises" / "README.md").read_text(encoding="utf-8"))
    for path in sorted(root.glob("exercises/release/*/*.ipynb")):
        _write(source / path.relative_to(root), nbformat.writes(exercise_page(nbformat.read(path, as_version=4))))
    for path in sorted(root.glob("exercises/source/*/*.ipynb")):
        page = solution_page(nbformat.read(path, as_version=4), path.stem)
        _write(source / path.relative_to(root), nbformat.writes(page))
    bare = []
    for path in lessons:
        done = executed / path.name
        if not (done.exists() and _sources(done) == _sources(path)):
            bare.append(path)
            done = path
        _write(source / path.relative_to(root), done.read_text(encoding="utf-8"))
    return bare


def exercise_page(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The exercise as the site shows it: hidden tests gone, visible ones folded."""
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("# Hidden tests")]
    for cell in notebook.cells:
        nbgrader = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and nbgrader.get("grade") and not nbgrader.get("solution"):
            cell.metadata["tags"] = ["hide-input"]
    return notebook


def solution_page(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """The solutions of the assignment `name`, from its source."""
    notebook = exercise_page(notebook)
    title = notebook.cells[0].source.splitlines()[0].replace("Exercises", "Solutions")
    notebook.cells[0].source = f"{title}\n\nOne way to solve each of [the exercises](../../release/{name}/{name}.ipynb)."
    for cell in notebook.cells:
        cell.source = SOLUTION_MARKERS.sub("", cell.source)
    return notebook


def fingerprint() -> str:
    """What an answer's outputs depend on beside its own code, as a short name: lrtut, torch and the data."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    parts = [*(file.read_bytes() for file in files), torch.__version__.encode(), os.environ["LRTUT_DATA"].encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
