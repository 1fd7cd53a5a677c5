"""The exercises as files: the release is made from the source, and nothing of a class or a solution gets out."""

import shutil
import subprocess

import nbformat
import pytest

pytest.importorskip("nbgrader")

import make_release
from sample import EXERCISES

SOURCES = sorted(EXERCISES.glob("source/*/*.ipynb"))


def answers(notebook):
    return {cell.id: cell.source for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_release_shows_no_solution_and_no_hidden_test(path):
    release = nbformat.read(EXERCISES / "release" / path.stem / path.name, 4)
    stubs = {"YOUR ANSWER HERE", "# YOUR CODE HERE\nraise NotImplementedError()"}
    for name, left in answers(release).items():
        assert left in stubs or left.endswith("    # YOUR CODE HERE\n    raise NotImplementedError()"), name
    shown = {cell.id: cell.source for cell in release.cells}
    for cell in nbformat.read(path, 4).cells:
        visible, *hidden = cell.source.split("\n### BEGIN HIDDEN TESTS\n")
        if hidden:  # what is left is a learner's test, and it says how it went
            assert shown[cell.id] == visible and "print(" in visible, cell.id


def test_source_and_release_are_in_step():
    notebooks = make_release.sources()
    for kind, made in {"source": notebooks, "release": make_release.released(notebooks)}.items():
        for path in EXERCISES.glob(f"{kind}/*/*.ipynb"):
            wanted = nbformat.writes(made.pop(path.stem)) + "\n"
            assert path.read_text(encoding="utf-8") == wanted, f"call python exercises/make_release.py for {path}"
        assert not made


@pytest.mark.parametrize("kind", ["source", "release"])
def test_a_change_is_repaired(tmp_path, monkeypatch, kind):
    for folder in ("source", "release"):
        shutil.copytree(EXERCISES / folder, tmp_path / folder)
    monkeypatch.setattr(make_release, "HERE", tmp_path)
    path = next((tmp_path / kind).glob("02_*/*.ipynb"))
    before = path.read_bytes()
    notebook = nbformat.read(path, 4)
    cell = next(cell for cell in notebook.cells if cell.id == ("setup" if kind == "source" else "k-test"))
    cell.source += "\n# changed"
    nbformat.write(notebook, path)
    assert make_release.main([]) == 0
    assert path.read_bytes() == before


def test_a_teachers_variant_changes_source_and_release_elsewhere(tmp_path):
    (tmp_path / "mine.toml").write_text("SEED = 31415\n[02_step_decay]\nINITIAL_LR = 1\n", encoding="utf-8")
    assert make_release.main(["--variant", str(tmp_path / "mine.toml"), str(tmp_path / "mine")]) == 0
    for path in SOURCES:
        source, release = (
            (tmp_path / "mine" / kind / path.stem / path.name).read_text(encoding="utf-8")
            for kind in ("source", "release")
        )
        assert source.count("SEED = 31415") == path.read_text(encoding="utf-8").count("SEED = ") >= 4
        assert "31415" not in release and ("INITIAL_LR = 1.0  # variant" in release) == (path.stem == "02_step_decay")


@pytest.mark.parametrize(
    "text", ["SEEDS = 1", "[99_none]\nSEED = 1", "[02_step_decay]\nNO = 1", "SEED = 1.5", "SEED ="]
)
def test_a_variant_that_does_not_fit_is_refused(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert make_release.main(["--variant", str(tmp_path / "mine.toml"), str(tmp_path / "mine")]) == 2
    assert not (tmp_path / "mine").exists()


def test_a_variant_never_overwrites_the_public_exercises(tmp_path):
    (tmp_path / "mine.toml").write_text("SEED = 1", encoding="utf-8")
    with pytest.raises(SystemExit):
        make_release.main(["--variant", str(tmp_path / "mine.toml"), str(EXERCISES)])


def test_git_ignores_what_belongs_to_a_class():
    folders = ("submitted", "autograded", "feedback", "downloaded", "verdicts")
    paths = [
        *(f"exercises/{folder}/a" for folder in folders),
        "exercises/gradebook.db",
        "exercises/grades.csv",
        "exercises/roster.csv",
    ]
    said = subprocess.run(["git", "check-ignore", *paths], cwd=EXERCISES.parent, capture_output=True, text=True)
    assert said.stdout.splitlines() == paths
