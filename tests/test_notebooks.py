"""The notebooks as files. That they run is tested by nbmake, which collects them."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

import lrtut
from lrtut.cli import find_lessons

ROOT = Path(__file__).parents[1]
LESSONS = find_lessons(ROOT)
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
REPOSITORY = URLS["Repository"]
BRANCH = URLS["Notebooks"].removeprefix(f"{REPOSITORY}/tree/").removesuffix("/notebooks")
SLUG = REPOSITORY.removeprefix("https://github.com/")
MOST_LINES = 25
WHOLE_PROGRAM = ("03_exponential_lr", "program-run")  # the one cell that may be longer

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def python(cell):
    """The cell's syntax tree; IPython's own lines (%pip) are left out."""
    return ast.parse("\n".join(re.sub(r"^(\s*)%.*", r"\1pass", line) for line in cell.source.splitlines()))


def test_there_are_lessons_numbered_without_a_gap():
    assert [path.name[:2] for path in LESSONS] == [f"{i:02}" for i in range(1, len(LESSONS) + 1)] and len(LESSONS) >= 2


@each_lesson
def test_valid_with_telling_ids_and_no_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z][a-z0-9-]+", i) for i in ids)
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, cell.id
        most = 40 if (path.stem, cell.id) == WHOLE_PROGRAM else MOST_LINES
        assert len(cell.source.splitlines()) <= most, cell.id


@each_lesson
def test_head(path):
    title, setup, *_ = read(path).cells
    lines = title.source.splitlines()
    assert lines[0].startswith(f"# {path.name[:2]} · ")
    assert "After this lesson you can" in title.source and re.search(r"\*\*Time:\*\* \d+ minutes to read", title.source)
    assert len(re.findall(r"^- ", title.source, re.M)) == 3
    assert setup.id == "setup" and setup.source == code_cells(LESSONS[0])[0].source
    assert f"    %pip install --quiet git+{REPOSITORY}@{BRANCH}\n" in setup.source
    edition = ".".join(lrtut.__version__.split(".")[:2])
    assert f'lrtut.require("{edition}")' in setup.source


@each_lesson
def test_badges_open_this_notebook_of_this_repository(path):
    head = read(path).cells[0].source
    assert f"(https://colab.research.google.com/github/{SLUG}/blob/{BRANCH}/notebooks/{path.name})" in head
    assert f"(https://mybinder.org/v2/gh/{SLUG}/{BRANCH}?urlpath=lab/tree/notebooks/{path.name})" in head
    for owner in re.findall(r"github\.com/([\w.-]+/[\w.-]+)", prose(path)):
        assert owner == SLUG


@each_lesson
def test_tail(path):
    end = read(path).cells[-1].source
    for heading in ("## Remember", "## Exercises", "## Sources"):
        assert heading in end
    assert len(re.findall(r"^- ", end.split("## Exercises")[0], re.M)) == 3
    assert "**Next:**" in end


@each_lesson
def test_links_between_lessons_resolve(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", prose(path)):
        assert (path.parent / target).exists(), target


@each_lesson
def test_checks_say_what_they_check_and_assert_it(path):
    checks = [cell for cell in code_cells(path) if "check" in cell.metadata.get("tags", [])]
    assert len(checks) >= 5
    for cell in checks:
        assert cell.source.startswith("# Check: "), cell.id
        assert any(isinstance(node, ast.Assert) for node in ast.walk(python(cell))), cell.id
    for cell in code_cells(path):
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(python(cell)))
        assert asserts == (cell in checks), f"{cell.id}: an assert stands in a cell tagged check, and only there"


@each_lesson
def test_no_check_looks_at_the_data_set(path):
    for cell in code_cells(path):
        assert not re.search(r"data\.name|DIGITS|LRTUT_DATA|\"MNIST\"|'MNIST'", cell.source), cell.id


@each_lesson
def test_every_name_of_the_package_exists(path):
    for cell in code_cells(path):
        for node in ast.walk(python(cell)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lrtut":
                assert node.attr in lrtut.__all__, node.attr
    for name in re.findall(r"`lrtut\.(\w+)", prose(path)):
        assert name in lrtut.__all__, name


def test_no_helper_is_defined_twice_in_the_course():
    defined = {}
    for path in LESSONS:
        for cell in code_cells(path):
            for node in python(cell).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    defined.setdefault(node.name, []).append(f"{path.stem}:{cell.id}")
    defined.pop("run", None)  # what a sweep calls: each lesson writes its own, since it is the experiment
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}
