"""The notebooks as files: they open, they are clean, and their links lead somewhere."""

import ast
import importlib
import re
import tomllib

import nbformat
import pytest
from lessons import LESSONS, ROOT, code_cells, each_lesson, is_check, prose, python, read

import lrtut

URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
REPOSITORY = URLS["Repository"]
SLUG = REPOSITORY.removeprefix("https://github.com/")
BRANCH = URLS["Notebooks"].removeprefix(f"{REPOSITORY}/tree/").removesuffix("/notebooks")
EXERCISES = sorted(ROOT.glob("exercises/*/*/*.ipynb"))
TEXTS = [path for folder in ("", "docs", "benchmarks", "tests") for path in (ROOT / folder).glob("*.md")]


@each_lesson
def test_clean_and_short(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None, cell.id
        assert len(cell.source.splitlines()) <= 25, cell.id


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_an_exercise_has_short_cells(path):
    assert [cell.id for cell in code_cells(read(path)) if len(cell.source.splitlines()) > 25] == []


@each_lesson
def test_the_setup_cell_at_the_head_is_the_same_everywhere(path):
    setup = code_cells(read(path))[0].source
    assert setup == code_cells(read(LESSONS[0]))[0].source
    assert f" {REPOSITORY}/archive/{BRANCH}.zip\n" in setup
    assert f'lrtut.require("{lrtut.__version__.rpartition(".")[0]}")' in setup


@each_lesson
def test_badges_open_this_notebook_of_this_repository(path):
    head = read(path).cells[0].source
    assert f"(https://colab.research.google.com/github/{SLUG}/blob/{BRANCH}/notebooks/{path.name})" in head
    assert f"(https://mybinder.org/v2/gh/{SLUG}/{BRANCH}?urlpath=lab/tree/notebooks/{path.name})" in head


@pytest.mark.parametrize("path", [*LESSONS, *EXERCISES, *TEXTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve_and_names_of_the_package_are_public(path):
    text = prose(read(path)) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(rf"{re.escape(REPOSITORY)}/(?:blob|tree)/{BRANCH}/([^)#\s]+)", text):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"\blrtut\.([a-zA-Z]\w*)", text):
        assert name in lrtut.__all__ or importlib.import_module(f"lrtut.{name}"), name


def test_each_lesson_links_to_the_next():
    for path, following in zip(LESSONS, LESSONS[1:], strict=False):
        assert f"]({following.name})" in read(path).cells[-1].source


@each_lesson
def test_an_assertion_is_in_a_check_which_is_folded_and_says_what_it_checks(path):
    for cell in code_cells(read(path)):
        folded = (cell.metadata.get("cellView"), cell.metadata.get("jupyter")) == ("form", {"source_hidden": True})
        assert folded == is_check(cell), cell.id  # in Colab, and in JupyterLab
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(python(cell.source))))
        assert asserts == is_check(cell) == bool(re.match(r"# (@title )?Check: ", cell.source)), cell.id


def test_nothing_is_defined_twice_in_the_course():
    defined = {}
    for path in LESSONS:
        for cell in code_cells(read(path)):
            for node in ast.parse(python(cell.source)).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    defined.setdefault(node.name, []).append(f"{path.stem}:{cell.id}")
    defined.pop("run", None)  # what a sweep calls: each lesson writes its own, since it is the experiment
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}
