"""The notebooks as files. That they run is tested by nbmake, which collects them."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

import lrtut
from lrtut.cli import find_lessons

ROOT = Path(__file__).parents[2]
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


TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
    *(ROOT / "tests").glob("*.md"),
]
each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@each_text
def test_links_between_files_resolve(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


def test_each_lesson_links_to_the_next():
    for path, following in zip(LESSONS, LESSONS[1:], strict=False):
        title = read(following).cells[0].source.splitlines()[0].removeprefix("# ")
        assert f"**Next:** [{title}]({following.name})" in read(path).cells[-1].source
    assert "(../README.md)" in read(LESSONS[-1]).cells[-1].source


def test_links_into_this_repository_resolve():
    for path in LESSONS:
        for target in re.findall(rf"{re.escape(REPOSITORY)}/blob/main/([^)\s#]+)", prose(path)):
            assert (ROOT / target).exists(), f"{path.stem}: {target}"


@each_lesson
def test_files_that_the_prose_names_exist(path):
    for target in re.findall(r"`((?:benchmarks|docs|lrtut|notebooks|tests|images)/[\w./-]+)`", prose(path)):
        assert (ROOT / target).exists(), target


@each_lesson
def test_lessons_that_the_prose_names_by_number_exist(path):
    for number in re.findall(r"\blessons? (\d\d)\b", prose(path)):
        assert int(number) <= len(LESSONS), number


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
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lrtut":
                for name in node.names:
                    assert hasattr(importlib.import_module(node.module), name.name), f"{node.module}.{name.name}"
    assert_names_exist(prose(path))


@each_text
def test_every_name_of_the_package_exists_in_the_texts(path):
    assert_names_exist(path.read_text(encoding="utf-8"))


def assert_names_exist(text):
    """Every `lrtut.…` in a text is public or a module, and every keyword that it gives to such a function is one."""
    for name, member in re.findall(r"\blrtut\.([a-z_A-Z]\w*)(?:\.(\w+))?", text):
        if name in lrtut.__all__:
            assert not member or hasattr(getattr(lrtut, name), member) or name == "RangeTest", f"lrtut.{name}.{member}"
        else:
            module = importlib.import_module(f"lrtut.{name}")
            assert not member or hasattr(module, member), f"lrtut.{name}.{member}"
    for name, arguments in re.findall(r"\blrtut\.(\w+)\(([^()]*)\)", text):
        accepted = inspect.signature(getattr(lrtut, name)).parameters
        for keyword in re.findall(r"\b(\w+)=(?!=)", arguments):
            assert keyword in accepted, f"lrtut.{name}({keyword}=…)"


def test_no_helper_is_defined_twice_in_the_course():
    defined = {}
    for path in LESSONS:
        for cell in code_cells(path):
            for node in python(cell).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    defined.setdefault(node.name, []).append(f"{path.stem}:{cell.id}")
    defined.pop("run", None)  # what a sweep calls: each lesson writes its own, since it is the experiment
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


def test_spelling():
    places = ["lrtut", "tests", "notebooks", "benchmarks", "images", "docs", *(str(p) for p in ROOT.glob("*.md"))]
    done = subprocess.run([sys.executable, "-m", "codespell_lib", *places], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
