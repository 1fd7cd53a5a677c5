"""The exercises as files: the release is made from the source, and nothing of a class or a solution gets out."""

import shutil
import subprocess

import make_release
import nbformat
import pytest
from sample import EXERCISES

SOURCES = sorted(EXERCISES.glob("source/*/*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_release_shows_no_solution_and_no_hidden_test(path):
    release = nbformat.read(EXERCISES / "release" / path.stem / path.name, 4)
    shown = {cell.id: cell.source for cell in release.cells}
    for cell in nbformat.read(path, 4).cells:
        visible, *hidden = cell.source.split("\n### BEGIN HIDDEN TESTS\n")
        if hidden:  # what is left is a learner's test, and it says how it went
            assert shown[cell.id] == visible and "print(" in visible, cell.id
        if cell.id.endswith("-answer"):
            assert shown[cell.id].endswith(("YOUR ANSWER HERE", "# YOUR CODE HERE\n    raise NotImplementedError()"))


def test_source_and_release_are_in_step_with_each_other_and_the_setup_cell(tmp_path, monkeypatch):
    shutil.copytree(EXERCISES / "source", tmp_path / "source")
    path = next((tmp_path / "source").glob("02_*/*.ipynb"))
    path.write_text(path.read_text(encoding="utf-8").replace("import lrtut", "import lrtut ", 1), encoding="utf-8")
    monkeypatch.setattr(make_release, "HERE", tmp_path)
    make_release.main([])
    for path in EXERCISES.glob("[rs]*e/*/*.ipynb"):
        again = tmp_path / path.relative_to(EXERCISES)
        assert path.read_bytes() == again.read_bytes(), f"call python exercises/make_release.py for {path}"


def test_a_teachers_variant_changes_source_and_release_elsewhere(tmp_path):
    (tmp_path / "mine.toml").write_text("SEED = 31415\n[02_step_decay]\nINITIAL_LR = 1\n", encoding="utf-8")
    make_release.main(["--variant", str(tmp_path / "mine.toml"), str(tmp_path / "mine")])
    for path in SOURCES:
        source = (tmp_path / "mine" / "source" / path.stem / path.name).read_text(encoding="utf-8")
        release = (tmp_path / "mine" / "release" / path.stem / path.name).read_text(encoding="utf-8")
        assert source.count("SEED = 31415") == path.read_text(encoding="utf-8").count("SEED = ") >= 4
        assert "31415" not in release and ("INITIAL_LR = 1.0  # variant" in release) == (path.stem == "02_step_decay")


@pytest.mark.parametrize("text", ["S = 1", "[99_none]\nSEED = 1", "[02_step_decay]\nNO = 1", "SEED = 1.5", "SEED ="])
def test_a_variant_that_does_not_fit_is_refused(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="mine.toml"):
        make_release.main(["--variant", str(tmp_path / "mine.toml"), str(tmp_path / "mine")])
    with pytest.raises(SystemExit):  # the public exercises are never overwritten
        make_release.main(["--variant", str(tmp_path / "mine.toml"), str(EXERCISES)])
    assert not (tmp_path / "mine").exists()


def test_git_ignores_what_belongs_to_a_class():
    paths = "submitted/a autograded/a feedback/a downloaded/a verdicts/a gradebook.db grades.csv roster.csv".split()
    said = subprocess.run(["git", "check-ignore", *paths], cwd=EXERCISES, capture_output=True, text=True)
    assert said.stdout.splitlines() == paths
