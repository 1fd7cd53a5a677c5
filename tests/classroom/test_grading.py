"""Whatever a student hands in ends in a clear verdict, with nbgrader's own marks, and touches no other."""

import csv
import json
import shutil
import socket
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

pytest.importorskip("nbgrader")

from grading import course as courses
from grading.limits import Limits
from grading.run import grade
from nbgrader.api import Gradebook
from pupils import everyone
from sample import NAME, answer, command, hand_in, make_course, released, source_notebook

LIMITS = Limits(cell_seconds=4, seconds=60, processes=20, memory_mb=900)
NAMES = list(everyone(source_notebook(), Path("unused"), 0))


def fill(root):
    """A course in which all pupils have handed in, graded once."""
    make_course(root)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name, pupil in everyone(released(root), root, listener.getsockname()[1]).items():
            hand_in(root, name, pupil.contents, pupil.file)
        (root / "submitted/good" / NAME / "timestamp.txt").write_text("2030-01-02 03:04:05 UTC")
        (root / "submitted/noisy" / NAME / "timestamp.txt").write_text("yesterday, I think")
        link = hand_in(root, "linked", None)
        (link / f"{NAME}.ipynb").symlink_to(root / "submitted/good" / NAME / f"{NAME}.ipynb")
        (link / "marks.db").symlink_to(root / "gradebook.db")
        summary = grade(root, NAME, limits=LIMITS, progress=False)
    return {"results": {s: asdict(r) for s, r in summary.results.items()}, "granted": summary.granted}


@pytest.fixture(scope="session")
def graded(shared):
    return shared("graded", fill)


def points(root, student):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        grades = gradebook.find_submission_notebook(NAME, NAME, student).grades
        return {grade.name: grade.auto_score for grade in grades}


@pytest.mark.parametrize("name", NAMES)
def test_verdict_and_marks(graded, name):
    root, run = graded
    pupil = everyone(released(root), root, 0)[name]
    result = run["results"][name]
    assert result["verdict"] == pupil.verdict, result["remarks"]
    assert pupil.remark in " ".join(result["remarks"])
    if pupil.needs and pupil.needs not in run["granted"]:
        pytest.skip(f"this system does not grant: {pupil.needs}")
    marks = points(root, name)
    assert (marks["decay-test"], marks["group-test"]) == pupil.points
    assert result["score"] == sum(pupil.points) and result["max_score"] == 6


def test_every_test_has_a_mark_and_every_answer_that_is_there_waits_for_a_person(graded):
    root, run = graded
    for student, result in run["results"].items():
        marks = points(root, student)
        assert None not in (marks["decay-test"], marks["group-test"]), (student, result["remarks"])
        unanswered = result["verdict"] in ("unreadable", "missing", "foreign") or student == "untouched"
        assert (marks["why"] is None) == result["manual"] == (not unanswered), student


def test_a_link_is_not_followed(graded):
    root, run = graded
    result = run["results"]["linked"]
    assert result["verdict"] == "unreadable" and result["score"] == 0
    assert "marks.db is a link and was left out" in result["remarks"]
    assert not (root / "autograded/linked" / NAME / "marks.db").exists()


def test_times_of_handing_in(graded):
    root, run = graded
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        assert str(gradebook.find_submission(NAME, "good").timestamp) == "2030-01-02 03:04:05"
        assert gradebook.find_submission(NAME, "noisy").timestamp is None
    assert "counts as handed in on time" in " ".join(run["results"]["noisy"]["remarks"])


def test_nothing_is_left_behind(graded):
    root, run = graded
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [c for c in commands if "98765.4" in c]
    assert not (root / "written").exists() or "read-only" not in run["granted"]
    for name in ("good", "printer", "not_json"):
        assert {p.name for p in (root / "autograded" / name / NAME).iterdir()} <= {f"{NAME}.ipynb", "timestamp.txt"}
    # What students handed in is as it was.
    assert (root / "submitted/not_json" / NAME / f"{NAME}.ipynb").read_text() == '{"cells": ['


def test_the_table_for_people(graded):
    root, run = graded
    with open(root / "verdicts" / f"{NAME}.csv", encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert {s: (r["verdict"], float(r["score"])) for s, r in rows.items()} == {
        s: (r["verdict"], r["score"]) for s, r in run["results"].items()
    }


def test_grading_again_gives_the_same_and_manual_marks_stay(graded, one_server, tmp_path):
    old, run = graded
    root = tmp_path / "course"
    shutil.copytree(old, root, symlinks=True)
    before = {s: points(root, s) for s in run["results"]}
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        gradebook.find_grade("why", NAME, NAME, "good").manual_score = 1
        gradebook.db.commit()
    some = ("good", "colab", "tampered", "loop", "not_json")
    summary = grade(root, NAME, students=some, again=True, limits=LIMITS, progress=False)
    assert set(summary.new) == set(some)
    for student in run["results"]:
        assert points(root, student) == before[student], student
        if student in some and student != "good":
            result = asdict(summary.results[student])
            same = {key: result[key] for key in result if key != "seconds"}
            assert same == {key: run["results"][student][key] for key in same}
    assert summary.results["good"].score == run["results"]["good"]["score"] + 1
    assert grade(root, NAME, progress=False).new == ()

    # What has changed since, or got lost, and nothing else, is graded anew.
    hand_in(root, "wrong", answer(released(root)))
    shutil.rmtree(root / "autograded" / "empty")
    summary = grade(root, NAME, limits=LIMITS, progress=False)
    assert set(summary.new) == {"wrong", "empty"}
    assert summary.results["wrong"].score == 5


def test_feedback_and_export(graded, tmp_path):
    old, run = graded
    root = tmp_path / "course"
    shutil.copytree(old, root, symlinks=True)
    command(root, "generate_feedback", NAME)
    for student in run["results"]:
        assert (root / "feedback" / student / NAME / f"{NAME}.html").stat().st_size > 10_000, student
    page = (root / "feedback/deleted" / NAME / f"{NAME}.html").read_text(encoding="utf-8")
    assert "Remarks of the grader" in page and "decay-test was missing" in page
    assert "it is not JSON" in (root / "feedback/not_json" / NAME / f"{NAME}.html").read_text(encoding="utf-8")
    command(root, "export", "--to", "grades.csv")
    with open(root / "grades.csv", encoding="utf-8", newline="") as file:
        exported = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert exported == {student: result["score"] for student, result in run["results"].items()}


def test_what_a_teacher_gets_wrong_is_said(graded, tmp_path):
    root, _ = graded
    for problem, arguments in {
        "there is no nbgrader_config.py": (tmp_path, NAME),
        "no assignment 'nothing'; run: nbgrader generate_assignment --force nothing": (root, "nothing"),
    }.items():
        with pytest.raises(courses.GradingError, match=problem):
            grade(*arguments, progress=False)
    with pytest.raises(courses.GradingError, match="zoe handed in nothing"):
        grade(root, NAME, students=["zoe"], progress=False)
    with pytest.raises(courses.GradingError, match="at least one worker"):
        grade(root, NAME, workers=0, progress=False)
    with pytest.raises(ValueError, match="memory_mb must be above zero, not -1"):
        Limits(memory_mb=-1)


def test_a_release_of_another_version_is_refused(graded, tmp_path):
    root = tmp_path / "course"
    shutil.copytree(graded[0], root, symlinks=True)
    path = root / "release" / NAME / f"{NAME}.ipynb"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["cells"] = [c for c in document["cells"] if c["id"] != "decay-test"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(courses.GradingError, match="different cells .decay-test."):
        grade(root, NAME, progress=False)
