"""The course folder works with nbgrader's own commands, and nothing of a class is tracked by git."""

import csv
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("nbgrader")

from nbgrader.api import Gradebook
from pupils import tagged
from sample import EXERCISES, NAME, answer, command, hand_in, released

PAGE = (EXERCISES / "README.md").read_text(encoding="utf-8")


def test_generate_assignment_writes_the_release_as_it_is(tmp_path):
    shutil.copytree(EXERCISES / "source", tmp_path / "source")
    shutil.copy(EXERCISES / "nbgrader_config.py", tmp_path)
    command(tmp_path, "generate_assignment", "--force", "*")
    names = sorted(path.name for path in (EXERCISES / "source").iterdir())
    assert names and names == sorted(path.name for path in (tmp_path / "release").iterdir())
    for name in names:
        made, kept = (root / "release" / name / f"{name}.ipynb" for root in (tmp_path, EXERCISES))
        assert made.read_bytes().replace(b"\r\n", b"\n") == kept.read_bytes().replace(b"\r\n", b"\n"), name
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as gradebook:
        assert sorted(assignment.name for assignment in gradebook.assignments) == names


@pytest.mark.parametrize(
    "path",
    ["submitted/a", "autograded/a", "feedback/a", "downloaded/a", "verdicts/a", "gradebook.db", "grades.csv"],
)
def test_what_belongs_to_a_class_is_ignored(path):
    assert subprocess.run(["git", "check-ignore", "-q", f"exercises/{path}"], cwd=EXERCISES.parent).returncode == 0


def test_nbgraders_own_autograde_works_with_this_configuration(root):
    noisy = answer(
        released(root), decay="import warnings; warnings.warn('look')\nreturn base * 0.1 ** (epoch // every)"
    )
    hand_in(root, "noisy", noisy)
    hand_in(root, "skipped", tagged(answer(released(root), decay="return 7"), "decay-test", "skip-execution"))
    command(root, "autograde", NAME)
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        grades = gradebook.find_submission_notebook(NAME, NAME, "noisy").grades
        assert {g.name: g.auto_score for g in grades} == {"decay-test": 2, "group-test": 3, "why": None}
        grades = gradebook.find_submission_notebook(NAME, NAME, "skipped").grades
        assert {g.name: g.auto_score for g in grades} == {"decay-test": 0, "group-test": 3, "why": None}


@pytest.mark.skipif(sys.platform != "linux", reason="grade.py needs Linux")
def test_the_page_names_every_limit_and_verdict_as_they_are():
    from dataclasses import fields

    from grading.autograde import VERDICTS
    from grading.limits import Limits

    table = PAGE[PAGE.index("| limit |") : PAGE.index("Where Linux permits")]
    defaults = [float(number) for number in re.findall(r"\| (\d+(?:\.\d+)?)(?: MB)? \|", table)]
    limits = {field.name: field.default for field in fields(Limits)}
    wanted = [limits[n] for n in ("cell_seconds", "seconds", "memory_mb", "processes", "output_mb")]
    assert defaults == [*wanted, 100 * limits["output_mb"], limits["file_mb"]]
    table = PAGE[PAGE.index("| verdict |") : PAGE.index("Remarks about the file")]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(VERDICTS)


def test_a_student_of_the_roster_who_handed_in_nothing_has_zero(root):
    columns = re.findall(
        r"`(\w+)`", PAGE[PAGE.index("names its columns:") : PAGE.index("## Hand out")].replace("submitted/", "")
    )
    with (root / "roster.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, [f"{column}-of-ada" for column in columns]])
    (line,) = re.findall(r"`nbgrader (db student import .+?)`", PAGE)
    command(root, *line.split())
    command(root, "export", "--to", "grades.csv")
    (row,) = csv.DictReader((root / "grades.csv").read_text(encoding="utf-8").splitlines())
    assert row["student_id"] == "id-of-ada" and row["email"] == "email-of-ada" and float(row["score"]) == 0


def test_the_pages_variant_is_hidden_from_students(tmp_path):
    from grading import course as courses

    ((variant, to),) = re.findall(r"make_release\.py --variant (\S+) --to (\S+)", PAGE)
    assert re.findall(r"grade\.py \S+ --course (\S+)", PAGE) == [to]
    course, file = tmp_path / "exercises" / to, tmp_path / "exercises" / variant
    (tmp_path / "exercises").mkdir()
    course.mkdir()
    shutil.copy(EXERCISES / "nbgrader_config.py", course)
    file.write_text("SEED = 1", encoding="utf-8")
    assert str(file.resolve()) in courses.to_hide(courses.load(course)[0], [])


def test_the_graders_modules_are_small_and_import_one_way():
    order = [
        "limits",
        "outstream",
        "sandbox",
        "attach",
        "server",
        "kernels",
        "execute",
        "repair",
        "submission",
        "course",
    ]
    order += ["autograde", "workers", "run"]
    for i, name in enumerate(order):
        source = (EXERCISES / "grading" / f"{name}.py").read_text(encoding="utf-8")
        names = re.findall(r"from grading\.(\w+) import", source)
        for several in re.findall(r"from grading import ([\w, ]+)", source):
            names += [part.split(" as ")[0].strip() for part in several.split(",")]
        assert set(names) <= set(order[:i]), (name, names)
        assert len(source.splitlines()) <= 300, name
    assert {path.stem for path in (EXERCISES / "grading").glob("*.py")} == {*order, "__init__"}


def test_every_command_on_the_page_exists():
    listed = subprocess.run(
        [sys.executable, "-m", "nbgrader", "--help"], capture_output=True, text=True, check=True
    ).stdout
    used = set(re.findall(r"nbgrader ([a-z_]+)(?= )", PAGE)) - {"grades", "gives", "counts", "calls"}
    assert {"generate_assignment", "generate_feedback", "export", "collect", "zip_collect"} <= used
    assert used <= set(re.findall(r"(?m)^ *([a-z_]+)$", listed)), used
    for script in re.findall(r"python (\w+\.py)", PAGE):
        assert (EXERCISES / script).exists()
