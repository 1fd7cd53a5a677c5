"""The exercises as files: source, release and answers. How answers are graded: test_answers.py."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import lrtut
from lrtut.cli import find_lessons, repository

pytest.importorskip("nbgrader")

import make_release
from compose import ANSWERS

ROOT = Path(__file__).parents[2]
LESSONS = {path.stem: path for path in find_lessons(ROOT)}
SOURCES = sorted((ROOT / "exercises" / "source").glob("*/*.ipynb"))
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
REGION = re.compile(r"^( *)### BEGIN (SOLUTION|HIDDEN TESTS)\n.*?^ *### END \2\n?", re.M | re.S)

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def release_of(path):
    return read(ROOT / "exercises" / "release" / path.stem / path.name)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell):
    return ast.parse("\n".join(re.sub(r"^(\s*)%.*", r"\1pass", line) for line in cell.source.splitlines()))


def tasks(notebook):
    return [cell.id.removesuffix("-task") for cell in notebook.cells if cell.id.endswith("-task")]


def visible(source, cell_type):
    """What may be left of a source cell: hidden tests gone, solutions replaced by the stub."""

    def left(region):
        if region[2] == "HIDDEN TESTS":
            return ""
        return "".join(f"{region[1]}{line}\n" for line in STUB.splitlines())

    return REGION.sub(left, source + "\n").rstrip("\n") if cell_type == "code" else source


def test_each_of_the_first_lessons_has_its_exercises():
    assert [path.stem for path in SOURCES] == [stem for stem in LESSONS if stem[:2] <= "05"]
    assert all(path.parent.name == path.stem for path in SOURCES)
    assert set(ANSWERS) == {path.stem for path in SOURCES}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in SOURCES:
        row = next(line for line in readme.splitlines() if line.startswith(f"| {path.name[:2]} |"))
        assert f"(exercises/release/{path.stem}/{path.name})" in row


@each_source
def test_valid_with_telling_ids_short_cells_and_no_outputs(path):
    for notebook in (read(path), release_of(path)):
        nbformat.validate(notebook)
        ids = [cell.id for cell in notebook.cells]
        assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z][a-z0-9-]+", i) for i in ids)
        for cell in code(notebook):
            assert cell.outputs == [] and cell.execution_count is None, cell.id
            assert len(cell.source.splitlines()) <= 25, cell.id
            assert cell.metadata.nbgrader.grade_id == cell.id
    assert [cell.id for cell in release_of(path).cells] == [cell.id for cell in read(path).cells]


@each_source
def test_the_setup_cell_is_the_lessons(path):
    lesson = next(cell for cell in read(LESSONS[path.stem]).cells if cell.id == "setup")
    for notebook in (read(path), release_of(path)):
        assert code(notebook)[0].source == lesson.source


@each_source
def test_badges_open_the_release_and_links_the_lesson(path):
    slug = repository().removeprefix("https://github.com/")
    release = f"exercises/release/{path.stem}/{path.name}"
    for notebook in (read(path), release_of(path)):
        head = notebook.cells[0].source
        assert f"(https://colab.research.google.com/github/{slug}/blob/main/{release})" in head
        assert f"(https://mybinder.org/v2/gh/{slug}/main?urlpath=lab/tree/{release})" in head
        assert f"({repository()}/blob/main/notebooks/{path.name})" in head


@each_source
def test_five_to_seven_tasks_with_the_points_that_they_announce(path):
    notebook = read(path)
    points = dict.fromkeys(tasks(notebook), 0)
    for cell in notebook.cells:
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("grade"):
            assert meta["points"] > 0 and meta["locked"] != meta["solution"]
            points[cell.id.split("-")[0]] += meta["points"]
    assert 5 <= len(points) <= 7
    for number, (task, total) in enumerate(points.items(), start=1):
        head = next(cell.source for cell in notebook.cells if cell.id == f"{task}-task")
        assert re.match(rf"## Task {number}: .+ \({total} points", head), task
        cells = {cell.id: cell for cell in notebook.cells if cell.id.startswith(f"{task}-")}
        by_hand = cells[f"{task}-answer"].cell_type == "markdown"
        assert by_hand == ("graded by hand" in head)
        if not by_hand:
            assert "### BEGIN SOLUTION" in cells[f"{task}-answer"].source
            assert "assert" in "".join(c.source for i, c in cells.items() if i.endswith(("-test", "-given")))
            assert "### BEGIN HIDDEN TESTS" in cells[f"{task}-hidden"].source
            assert len(ANSWERS[path.stem][task]["wrong"]) >= 3 and ANSWERS[path.stem][task]["right"]
        assert by_hand == (task not in ANSWERS[path.stem])
    assert f", {sum(points.values())} points, " in notebook.cells[0].source


@each_source
def test_only_lrtut_torch_and_numpy_are_needed(path):
    for cell in code(read(path)):
        for node in ast.walk(python(cell)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {"lrtut", "torch", "numpy", *sys.stdlib_module_names}, name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lrtut":
                assert node.attr in lrtut.__all__, node.attr


@each_source
def test_the_release_holds_what_may_be_seen_and_nothing_else(path):
    source, release = read(path), release_of(path)
    for cell, handed_out in zip(source.cells, release.cells, strict=True):
        meta = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown" and meta.get("solution"):
            assert handed_out.source == "YOUR ANSWER HERE"
        else:
            assert handed_out.source == visible(cell.source, cell.cell_type), cell.id
        allowed = {"nbgrader", "deletable", "editable"}
        assert set(handed_out.metadata) <= allowed and set(handed_out) <= {*cell, "outputs", "execution_count"}
    text = json.dumps(release, ensure_ascii=False)
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN)", text)
    for cell in source.cells:
        secrets = [m[0] for m in REGION.finditer(cell.source + "\n")] if cell.cell_type == "code" else []
        if cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("solution"):
            secrets = [cell.source]
        for secret in secrets:
            body = "\n".join(line for line in secret.splitlines() if "###" not in line)
            assert body.strip() and json.dumps(body, ensure_ascii=False)[1:-1] not in text, cell.id
            assert json.dumps(body.strip(), ensure_ascii=False)[1:-1] not in json.dumps(
                [c.metadata for c in release.cells] + [release.metadata], ensure_ascii=False
            )


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """make_release on a copy of the exercises."""
    for kind in ("source", "release"):
        shutil.copytree(ROOT / "exercises" / kind, tmp_path / "exercises" / kind)
    monkeypatch.setattr(make_release, "HERE", tmp_path / "exercises")
    return tmp_path / "exercises"


def test_source_and_release_are_in_step():
    assert make_release.main(["--check"]) == 0


@pytest.mark.parametrize("kind", ["source", "release"])
def test_a_change_is_found_and_mended(copied, capsys, kind):
    path = next((copied / kind).glob("02_*/*.ipynb"))
    before = path.read_bytes()
    notebook = read(path)
    cell = next(cell for cell in notebook.cells if cell.id == ("setup" if kind == "source" else "k-test"))
    cell.source += "\n# changed"
    nbformat.write(notebook, path)
    (copied / "release" / "99_stale").mkdir()
    (copied / "release" / "99_stale" / "99_stale.ipynb").write_text("{}", encoding="utf-8")
    assert make_release.main(["--check"]) == 1
    assert f"{kind}/{path.parent.name}/{path.name}" in (said := capsys.readouterr().err) and "99_stale" in said
    assert make_release.main([]) == 0
    assert path.read_bytes() == before and not (copied / "release" / "99_stale").exists()
    assert make_release.main(["--check"]) == 0


def test_a_teachers_variant_changes_source_and_release_elsewhere(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("SEED = 31415\n[02_step_decay]\nINITIAL_LR = 1\nSTEP_SIZE = 4\n", encoding="utf-8")
    assert make_release.main(["--variant", str(mine), "--to", str(tmp_path / "mine")]) == 0
    assert {path.name for path in (tmp_path / "mine" / "release").iterdir()} == set(ANSWERS)
    for path in SOURCES:
        source = (tmp_path / "mine" / "source" / path.stem / path.name).read_text(encoding="utf-8")
        assert source.count("SEED = 31415") == path.read_text(encoding="utf-8").count("SEED = ") >= 4
    handed_out = (tmp_path / "mine" / "release" / "02_step_decay" / "02_step_decay.ipynb").read_text(encoding="utf-8")
    assert "INITIAL_LR = 1.0  # variant" in handed_out and "STEP_SIZE = 4  # variant" in handed_out
    assert "GAMMA = 0.5  # variant" in handed_out and "31415" not in handed_out
    assert make_release.main(["--check"]) == 0


def test_no_rate_of_a_variant_is_so_small_that_any_other_passes_for_it():
    notebooks = make_release.sources()
    make_release.apply_variant(notebooks, {"02_step_decay": {"GAMMA": 0.1}})
    cells = {cell.id: cell.source for cell in notebooks["02_step_decay"].cells}
    names = {"np": np, "torch": torch, "StepLR": torch.optim.lr_scheduler.StepLR}
    for task in ("predict-given", "predict-answer", "predict-test"):
        exec(cells[task], names)
    names["at_37_stepped_after_batches"] = lambda: 1e-9
    with pytest.raises(AssertionError, match="smaller rate"):
        exec(cells["predict-hidden"], names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SEEDS = 1", "no assignment has SEEDS"),
        ("[99_none]\nSEED = 1", "there is no assignment 99_none"),
        ("[01_what_the_learning_rate_does]\nGAMMA = 0.3", "has no GAMMA: it has SEED"),
        ("SEED = 'seven'", "it replaces 101, so give a int"),
        ("SEED = 1.5", "give a int"),
        ("SEED =", "Invalid value"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(tmp_path, capsys, text, said):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert make_release.main(["--variant", str(tmp_path / "mine.toml"), "--to", str(tmp_path / "mine")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "mine").exists()


def test_a_variant_never_overwrites_the_public_exercises(tmp_path):
    (tmp_path / "mine.toml").write_text("SEED = 1", encoding="utf-8")
    for options in (
        ["--variant", "mine.toml"],
        ["--to", "x"],
        ["--variant", "mine.toml", "--to", str(ROOT / "exercises")],
    ):
        with pytest.raises(SystemExit):
            make_release.main(options)
