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

# Time limits that no machine is too busy for, but for those two who do not stop.
LIMITS = Limits(cell_seconds=600, seconds=900, processes=20, memory_mb=900)
SHORT = Limits(cell_seconds=5, seconds=900, processes=20, memory_mb=900)
ENDLESS = ("loop", "stubborn")
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
        grade(root, NAME, students=ENDLESS, limits=SHORT, progress=False)
        summary = grade(root, NAME, limits=LIMITS, progress=False)
    return {"results": {s: asdict(r) for s, r in summary.results.items()}, "granted": summary.granted}


@pytest.fixture
def graded(shared, request):
    def make(root):
        request.getfixturevalue("one_server")  # only where it is needed: pytest has several processes
        return fill(root)

    return shared("graded", make)


@pytest.fixture
def again(graded, tmp_path):
    """The graded course of this test's own."""
    return Path(shutil.copytree(graded[0], tmp_path / "course", symlinks=True))


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
    assert not (root / "autograded/linked" / NAME / "marks.db").exists()


def test_times_of_handing_in(graded):
    with Gradebook(f"sqlite:///{graded[0]}/gradebook.db") as gradebook:
        assert str(gradebook.find_submission(NAME, "good").timestamp) == "2030-01-02 03:04:05"
        assert gradebook.find_submission(NAME, "noisy").timestamp is None


def test_nothing_is_left_behind(graded):
    root, run = graded
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [c for c in commands if "98765.4" in c]
    assert not (root / "written").exists() or "read-only" not in run["granted"]
    # What students handed in is as it was.
    assert (root / "submitted/not_json" / NAME / f"{NAME}.ipynb").read_text() == '{"cells": ['


def test_grading_again_gives_the_same_and_manual_marks_stay(graded, again, one_server):
    before = {student: points(again, student) for student in graded[1]["results"]}
    with Gradebook(f"sqlite:///{again}/gradebook.db") as gradebook:
        gradebook.find_grade("why", NAME, NAME, "good").manual_score = 1
        gradebook.db.commit()
    some = ("good", "colab", "tampered", "not_json")
    summary = grade(again, NAME, students=some, again=True, limits=LIMITS, progress=False)
    assert set(summary.new) == set(some)
    assert {student: points(again, student) for student in before} == before
    assert summary.results["good"].score == graded[1]["results"]["good"]["score"] + 1

    # What has changed since, or got lost, and nothing else, is graded anew.
    hand_in(again, "wrong", answer(released(again)))
    shutil.rmtree(again / "autograded" / "binary")
    summary = grade(again, NAME, limits=LIMITS, progress=False)
    assert set(summary.new) == {"wrong", "binary"}
    assert summary.results["wrong"].score == 5
    assert grade(again, NAME, progress=False).new == ()


@pytest.mark.slow
def test_feedback_and_export(graded, again):
    results = graded[1]["results"]
    command(again, "generate_feedback", NAME)
    pages = {s: (again / "feedback" / s / NAME / f"{NAME}.html").read_text(encoding="utf-8") for s in results}
    assert "decay-test was missing" in pages["deleted"] and "it is not JSON" in pages["not_json"]
    command(again, "export", "--to", "grades.csv")
    for path in (again / "grades.csv", again / "verdicts" / f"{NAME}.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            scores = {row.get("student_id") or row["student"]: float(row["score"]) for row in csv.DictReader(file)}
        assert scores == {student: result["score"] for student, result in results.items()}


def test_what_a_teacher_gets_wrong_is_said(graded, again, tmp_path):
    for problem, root, name, options in [
        ("there is no nbgrader_config.py", tmp_path, NAME, {}),
        ("run: nbgrader generate_assignment --force nothing", again, "nothing", {}),
        ("zoe handed in nothing", again, NAME, {"students": ["zoe"]}),
        ("at least one worker", again, NAME, {"workers": 0}),
    ]:
        with pytest.raises(courses.GradingError, match=problem):
            grade(root, name, progress=False, **options)
    with pytest.raises(ValueError, match="memory_mb must be above zero, not -1"):
        Limits(memory_mb=-1)
    path = again / "release" / NAME / f"{NAME}.ipynb"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["cells"] = [c for c in document["cells"] if c["id"] != "decay-test"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(courses.GradingError, match="different cells .decay-test."):
        grade(again, NAME, progress=False)
