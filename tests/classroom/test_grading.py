"""Whatever a student hands in ends in a clear verdict, with nbgrader's own marks, and touches nobody else."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grade
import psutil
import pytest
from isolation import BoxedExecute
from nbgrader.api import Gradebook
from pupils import everyone, hostile
from sample import EXERCISES, NAME, STEP_DECAY, answer, command, hand_in, make_course, released, source_notebook

LACKS = BoxedExecute(course=str(EXERCISES), data="digits").lacks()
TRUST = ["--trust-students"] if LACKS else []
ENDLESS = ("loop", "stubborn")
HOSTILE = hostile(source_notebook(), Path("unused"), Path("unused"), 0)
PUPILS = everyone(source_notebook(), Path("unused")) | HOSTILE
ODD = ["a[b", "tab\t", "line\nbreak", "space ", "=1+1", "<b>", os.fsdecode(b"Ren\xe9"), "ADA"]  # the roster has ada


def run(root, *options):
    """Grade; returns the exit status, and the rows of the table."""
    status = grade.main([NAME, f"--course={root}", *TRUST, *options])
    return status, grade.read_table(root / "verdicts" / f"{NAME}.csv")


def cell_seconds(root, seconds):
    config = (EXERCISES / "nbgrader_config.py").read_text(encoding="utf-8")
    config += f"c.Execute.timeout = {seconds}\nc.BoxedExecute.seconds = 900\nc.BoxedExecute.memory_mb = 900\n"
    (root / "nbgrader_config.py").write_text(config, encoding="utf-8")


def fill(root):
    """A course in which all pupils have handed in, graded for the first time: no folder of marks exists yet."""
    make_course(root)
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "key").write_text("secret")
    tmux = ["tmux", "-f", "/dev/null", "-S", str(outside / "tmux")]
    server = shutil.which("tmux") and subprocess.run([*tmux, "new-session", "-d", "sleep", "900"])
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(outside / "listening"))
        local.listen()
        pupils = everyone(released(root), root)
        pupils |= {} if LACKS else hostile(released(root), root, outside, listener.getsockname()[1])
        for name, pupil in pupils.items():
            for file, contents in {**pupil.beside, pupil.file: pupil.contents}.items():
                hand_in(root, name, contents, file)
        (root / "roster.csv").write_bytes("\ufeffid,first_name\nada,Ada\ngood,Gö\n".encode())  # as Excel writes it
        cell_seconds(root, 600)
        run(root, *(f"--student={name}" for name in pupils if name not in ENDLESS))
        cell_seconds(root, 5)
        for name in ODD:
            hand_in(root, name, answer(released(root)))
        status, rows = run(root)
    if server:
        subprocess.run([*tmux, "kill-server"])
    return {"status": status, "rows": rows, "points": points(root), "written": (outside / "written").exists()}


def points(root):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        found = gradebook.assignment_submissions(NAME)
        return {s.student.id: {grade.name: grade.auto_score for grade in s.notebooks[0].grades} for s in found}


@pytest.mark.parametrize("name", PUPILS)
def test_verdict_and_marks(shared, name):
    if name in HOSTILE and LACKS:
        pytest.skip(LACKS)
    _, result = shared("graded", fill)
    pupil, row, marks = PUPILS[name], result["rows"][name], result["points"][name]
    assert (row["verdict"], marks["decay-test"], marks["group-test"]) == (pupil.verdict, *pupil.points), row["remarks"]
    assert pupil.remark in row["remarks"]
    assert ("not in roster.csv" in row["remarks"]) == (name != "good")
    assert float(row["score"]) == sum(pupil.points) and float(row["max_score"]) == 6
    unanswered = pupil.verdict in ("unreadable", "missing", "foreign") or name == "untouched"
    assert (marks["why"] is None) == (not unanswered)
    assert (row["answers wait for a person"] == "yes") == (not unanswered or pupil.verdict == "doubtful")


def test_the_class_as_a_whole(shared):
    root, result = shared("graded", fill)
    for name in ODD:
        row = result["rows"][grade.shown(name)]
        assert row["verdict"] == "unreadable" and "rename the folder" in row["remarks"]
        assert name not in result["points"]
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        assert {s.id: s.first_name for s in gradebook.students if s.first_name} == {"ada": "Ada", "good": "Gö"}
        assert str(gradebook.find_submission(NAME, "good").timestamp) == "2030-01-02 03:04:05"
        assert gradebook.find_submission(NAME, "noisy").timestamp is None
    assert result["status"] == 0 and not result["written"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if "98765.4" in (p.info["cmdline"] or [])]
    assert (root / "submitted/not_json" / NAME / f"{NAME}.ipynb").read_text() == '{"cells": ['
    assert not (root / "written").exists() and not (root / "autograded/linked" / NAME / "timestamp.txt").exists()


def test_what_changed_is_graded_again_and_what_a_person_gave_stays(shared, tmp_path, capsys):
    again = Path(shutil.copytree(shared("graded", fill)[0], tmp_path / "course", symlinks=True))
    before, database = points(again), f"sqlite:///{again}/gradebook.db"
    capsys.readouterr()
    with Gradebook(database) as gradebook:
        gradebook.find_grade("why", NAME, NAME, "good").manual_score = 1
        gradebook.find_comment("why", NAME, NAME, "good").manual_comment = "Well said."
        gradebook.db.commit()
    hand_in(again, "exits", answer(released(again)))
    shutil.rmtree(again / "autograded" / "binary")
    status, rows = run(again)
    assert status == 0 and rows["exits"]["score"] == "5.0" and "2 of them graded now" in capsys.readouterr().out
    status, rows = run(again, "--again", "--student=good")
    assert rows["good"]["score"] == "6.0" and "1 of them graded now" in capsys.readouterr().out
    assert points(again) == before | {"exits": before["good"]}

    # The commands of the teacher's page: new marks are in the feedback, also where one was before.
    command(again, "generate_feedback", "--force", NAME, "--student=exits")
    with Gradebook(database) as gradebook:
        gradebook.find_comment("why", NAME, NAME, "exits").manual_comment = "Seen by me."
        gradebook.db.commit()
    command(again, "generate_feedback", "--force", NAME)
    shown = {p.parts[-3]: p.read_text(encoding="utf-8") for p in (again / "feedback").glob("*/*/*.html")}
    for text in ("Because it is so", "Seen by me.", "Task 1: step decay</a>"):
        assert text in shown["exits"]
    assert "Well said." in shown["good"] and "decay-test was missing" in shown["deleted"]
    assert "it is not JSON" in shown["not_json"]
    command(again, "export", "--to", "grades.csv")
    with open(again / "grades.csv", encoding="utf-8", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {"ada": 0} | {s: float(row["score"]) for s, row in rows.items() if row["score"]}


def test_an_interrupted_run_leaves_nothing_and_goes_on(root, capsys):
    hand_in(root, "a", answer(released(root)))
    for student in "xy":  # with these the run is still busy when it is interrupted
        hand_in(root, student, answer(released(root), decay="import time; time.sleep(9999)"))
    cell_seconds(root, 600)
    line = [sys.executable, EXERCISES / "grade.py", NAME, "--course", root, *TRUST]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    for how in (signal.SIGKILL, signal.SIGINT):
        process, table = subprocess.Popen(line, **streams), root / "verdicts" / f"{NAME}.csv"
        this = psutil.Process(process.pid)
        while "a" not in grade.read_table(table) or len(family := [this, *this.children(recursive=True)]) < 5:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(how)
        said, _ = process.communicate(timeout=300)
        assert not psutil.wait_procs(family, timeout=300)[1]  # kernels included
    assert process.returncode == 130 and "the same command goes on" in said
    for student in "xy":
        hand_in(root, student, answer(released(root)))
    status, rows = run(root)
    assert status == 0 and {row["score"] for row in rows.values()} == {"5.0"}
    assert "2 of them graded now" in capsys.readouterr().out


def test_a_grading_process_that_dies_costs_one_verdict(tmp_path, monkeypatch):
    def fragile(assignment, options, student, folder):
        return {"student": student, "verdict": "graded"} if student != "b" else os._exit(9)

    monkeypatch.setattr(grade, "grade_one", fragile)
    rows = {row["student"]: row for row in grade.grade_all(None, {}, dict.fromkeys("abc"), 1)}
    assert [rows[s]["verdict"] for s in "abc"] == ["graded", "failed", "graded"]
    assert "process ended" in rows["b"]["remarks"]


def solve(root):
    """The course itself, made with the command of the teacher's page; one student hands in its sources."""
    shutil.copytree(EXERCISES / "source", root / "source")
    shutil.copytree(EXERCISES / "source", root / "submitted" / "ada")
    shutil.copy(EXERCISES / "nbgrader_config.py", root)
    command(root, "generate_assignment", "--force", "*")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in EXERCISES.glob("source/*/*.ipynb")))
def test_the_sources_solutions_get_all_points(shared, name):
    root, _ = shared("solved", solve)
    assert grade.main([name, f"--course={root}", *TRUST]) == 0
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        grades = gradebook.find_submission_notebook(name, name, "ada").grades
        assert grades and all(g.needs_manual_grade or g.auto_score == g.max_score > 0 for g in grades)


def replace(program, script, folder, monkeypatch):
    """Let a shell script be found in the place of a program."""
    (folder / program).write_text(f"#!/bin/sh\n{script}\n")
    (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_where_isolation_is_refused_only_trust_grades(root, tmp_path, monkeypatch):
    hand_in(root, "a", answer(released(root)))
    refusal = "echo bwrap: No permissions to create a new namespace >&2; exit 1"
    replace("bwrap", refusal, tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="No permissions to create a new namespace"):
        grade.main([NAME, f"--course={root}"])
    assert not (root / "autograded").exists()
    assert grade.main([NAME, f"--course={root}", "--trust-students"]) == 0
    assert points(root)["a"]["decay-test"] == 2


@pytest.mark.skipif(bool(LACKS), reason=LACKS)
def test_systemd_bounds_the_memory_where_it_grants_that(root, tmp_path, monkeypatch):
    look = "import os\nif 'XDG_RUNTIME_DIR' in os.environ: return 7"
    hand_in(root, "a", answer(released(root), decay=f"{look}\n{STEP_DECAY}"))
    skip = 'while [ "${1#-}" != "$1" ]; do shift; done'
    script = f'echo "$@" >> {tmp_path}/log\n[ "$XDG_RUNTIME_DIR" ] || exit 1\n{skip}\nexec "$@"'
    replace("systemd-run", script, tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert grade.main([NAME, f"--course={root}"]) == 0 and points(root)["a"]["decay-test"] == 2
    assert "-pMemoryMax=2000M" in (last := (tmp_path / "log").read_text().splitlines()[-1]) and "bwrap" in last


WRONG = {"--course=/usr": "no nbgrader_config.py", "--student=zoe": "zoe handed in nothing", "--workers=0": "--workers"}


@pytest.mark.parametrize("option", WRONG)
def test_what_a_teacher_gets_wrong_is_said(root, capsys, option):
    with pytest.raises(SystemExit) as stopped:
        grade.main([f"--course={root}", NAME, option])
    assert WRONG[option] in f"{stopped.value} {capsys.readouterr().err}"
    with pytest.raises(SystemExit, match="generate_assignment --force nothing"):
        grade.main([f"--course={root}", "nothing"])
