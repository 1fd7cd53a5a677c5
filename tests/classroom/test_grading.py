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

import psutil
import pytest

pytest.importorskip("nbgrader")

import grade
from isolation import BoxedExecute
from nbgrader.api import Gradebook
from pupils import everyone, hostile
from sample import EXERCISES, NAME, STEP_DECAY, answer, command, hand_in, make_course, released, source_notebook

LACKS = BoxedExecute(course=str(EXERCISES), data="digits").lacks()
ENDLESS = ("loop", "stubborn")
HOSTILE = list(hostile(source_notebook(), Path("unused"), Path("unused"), 0))
NAMES = [*everyone(source_notebook(), Path("unused")), *HOSTILE]
ODD = ["a[b", "tab\t", "line\nbreak", "space ", "=1+1", "<b>", os.fsdecode(b"Ren\xe9"), "ADA"]  # the roster has ada


def start(root, *options, **environment):
    """Begin to grade as a teacher does, with times for which no machine is too busy."""
    trust = ["--trust-students"] if LACKS else []
    line = [sys.executable, EXERCISES / "grade.py", NAME, "--course", root, *trust, *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(line, env=os.environ | environment, **streams)


def run(root, *options, **environment):
    """Grade; returns the exit status, what was said, and the rows of the table."""
    process = start(root, *options, **environment)
    said, _ = process.communicate(timeout=540)
    return process.returncode, said, grade.read_table(root / "verdicts" / f"{NAME}.csv")


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
        cell_seconds(root, 5)
        run(root, *(f"--student={name}" for name in ENDLESS))
        cell_seconds(root, 600)
        for name in ODD:
            hand_in(root, name, answer(released(root)))
        (root / "roster.csv").write_bytes("\ufeffid,first_name\nada,Ada\ngood,Gö\n".encode())  # as Excel writes it
        status, said, rows = run(root)
    if server:
        subprocess.run([*tmux, "kill-server"])
    return {"status": status, "said": said, "rows": rows, "written": (outside / "written").exists()}


@pytest.fixture
def graded(shared):
    return shared("graded", fill)


@pytest.fixture
def again(graded, tmp_path):
    """The graded course of this test's own."""
    return Path(shutil.copytree(graded[0], tmp_path / "course", symlinks=True))


def points(root, student):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        return {g.name: g.auto_score for g in gradebook.find_submission_notebook(NAME, NAME, student).grades}


@pytest.mark.parametrize("name", NAMES)
def test_verdict_and_marks(graded, name):
    root, result = graded
    if name in HOSTILE and LACKS:
        pytest.skip(LACKS)
    pupil = (everyone(released(root), root) | hostile(released(root), root, root, 0))[name]
    row, marks = result["rows"][name], points(root, name)
    assert (row["verdict"], marks["decay-test"], marks["group-test"]) == (pupil.verdict, *pupil.points), row["remarks"]
    assert pupil.remark in row["remarks"]
    assert ("not in roster.csv" in row["remarks"]) == (name not in ("good", *ENDLESS))
    assert float(row["score"]) == sum(pupil.points) and float(row["max_score"]) == 6
    unanswered = pupil.verdict in ("unreadable", "missing", "foreign") or name == "untouched"
    assert (marks["why"] is None) == (not unanswered)
    assert (row["answers wait for a person"] == "yes") == (not unanswered or pupil.verdict == "doubtful")


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_cannot_be_used_is_said_and_stops_nobody(graded, name):
    row = graded[1]["rows"][grade.shown(name)]
    assert row["verdict"] == "unreadable" and "rename the folder" in row["remarks"]
    with Gradebook(f"sqlite:///{graded[0]}/gradebook.db") as gradebook:
        assert name not in {student.id for student in gradebook.students}


def test_the_roster_is_in_the_gradebook(graded):
    with Gradebook(f"sqlite:///{graded[0]}/gradebook.db") as gradebook:
        assert {s.id: s.first_name for s in gradebook.students if s.first_name} == {"ada": "Ada", "good": "Gö"}
        assert str(gradebook.find_submission(NAME, "good").timestamp) == "2030-01-02 03:04:05"
        assert gradebook.find_submission(NAME, "noisy").timestamp is None


def test_nothing_is_left_behind(graded):
    root, result = graded
    assert result["status"] == 0 and not result["written"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if "98765.4" in (p.info["cmdline"] or [])]
    assert (root / "submitted/not_json" / NAME / f"{NAME}.ipynb").read_text() == '{"cells": ['
    assert not (root / "written").exists() and not (root / "autograded/linked" / NAME / "timestamp.txt").exists()


def test_what_changed_is_graded_again_and_what_a_person_gave_stays(graded, again):
    before = {student: points(again, student) for student in ("good", "colab", "wrong", "binary")}
    with Gradebook(f"sqlite:///{again}/gradebook.db") as gradebook:
        gradebook.find_grade("why", NAME, NAME, "good").manual_score = 1
        gradebook.find_comment("why", NAME, NAME, "good").manual_comment = "Well said."
        gradebook.db.commit()
    hand_in(again, "wrong", answer(released(again)))
    shutil.rmtree(again / "autograded" / "binary")
    status, said, rows = run(again)
    assert status == 0 and "2 of them graded now" in said and rows["wrong"]["score"] == "5.0"
    status, said, rows = run(again, "--again", "--student=good", "--student=colab")
    assert rows["good"]["score"] == "6.0" and "2 of them graded now" in said
    assert {s: points(again, s) for s in before} == before | {"wrong": points(again, "good")}
    with Gradebook(f"sqlite:///{again}/gradebook.db") as gradebook:
        assert gradebook.find_comment("why", NAME, NAME, "good").comment == "Well said."

    # The commands of the teacher's page: new marks and submissions are in the feedback, also where one was before.
    pages = again / "feedback"
    command(again, "generate_feedback", "--force", NAME)
    assert "Because it is so" in (pages / "wrong" / NAME / f"{NAME}.html").read_text(encoding="utf-8")
    with Gradebook(f"sqlite:///{again}/gradebook.db") as gradebook:
        gradebook.find_comment("why", NAME, NAME, "wrong").manual_comment = "Seen by me."
        gradebook.db.commit()
    command(again, "generate_feedback", "--force", NAME)
    shown = {path.parts[-3]: path.read_text(encoding="utf-8") for path in pages.glob("*/*/*.html")}
    assert "Seen by me." in shown["wrong"] and "Task 1: step decay</a>" in shown["wrong"]
    assert "decay-test was missing" in shown["deleted"] and "it is not JSON" in shown["not_json"]
    command(again, "export", "--to", "grades.csv")
    with open(again / "grades.csv", encoding="utf-8", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {"ada": 0} | {s: float(row["score"]) for s, row in rows.items() if row["score"]}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing_and_goes_on(root, how):
    hand_in(root, "a", answer(released(root)))
    for student in "xy":  # with these the run is still busy when it is interrupted
        hand_in(root, student, answer(released(root), decay="import time; time.sleep(9999)"))
    cell_seconds(root, 600)
    process, table = start(root), root / "verdicts" / f"{NAME}.csv"
    while "a" not in grade.read_table(table) or len(psutil.Process(process.pid).children(recursive=True)) < 4:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]  # kernels included
    process.send_signal(how)
    said, _ = process.communicate(timeout=300)
    assert how == signal.SIGKILL or process.returncode == 130 and "the same command goes on" in said
    assert not psutil.wait_procs(family, timeout=300)[1]
    for student in "xy":
        hand_in(root, student, answer(released(root)))
    status, said, rows = run(root)
    assert status == 0 and "2 of them graded now" in said and {row["score"] for row in rows.values()} == {"5.0"}


def test_a_grading_process_that_dies_costs_one_verdict(tmp_path, monkeypatch):
    def fragile(assignment, options, student, folder):
        return {"student": student, "verdict": "graded"} if student != "b" else os._exit(9)

    monkeypatch.setattr(grade, "grade_one", fragile)
    rows = {row["student"]: row for row in grade.grade_all(None, {}, dict.fromkeys("abc"), 1)}
    assert [rows[s]["verdict"] for s in "abc"] == ["graded", "failed", "graded"]
    assert "process ended" in rows["b"]["remarks"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script of this name before all others."""

    def put(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def test_where_isolation_is_refused_only_trust_grades(root, program):
    hand_in(root, "a", answer(released(root)))
    program("bwrap", "echo bwrap: No permissions to create a new namespace >&2; exit 1")
    line = [sys.executable, EXERCISES / "grade.py", NAME, "--course", root]
    refused = subprocess.run(line, capture_output=True, text=True)
    assert refused.returncode == 1 and "No permissions to create a new namespace" in refused.stderr
    assert not (root / "autograded").exists()
    trusted = subprocess.run([*line, "--trust-students"], capture_output=True, text=True)
    assert trusted.returncode == 0 and "a: graded 5 of 6" in trusted.stdout


@pytest.mark.skipif(bool(LACKS), reason=LACKS)
def test_systemd_bounds_the_memory_where_it_grants_that(root, program, tmp_path):
    look = "import os\nif 'XDG_RUNTIME_DIR' in os.environ: return 7"
    hand_in(root, "a", answer(released(root), decay=f"{look}\n{STEP_DECAY}"))
    skip = 'while [ "${1#-}" != "$1" ]; do shift; done'
    program("systemd-run", f'echo "$@" >> {tmp_path}/log\n[ "$XDG_RUNTIME_DIR" ] || exit 1\n{skip}\nexec "$@"')
    status, said, rows = run(root, XDG_RUNTIME_DIR="/run/user/1")
    assert rows["a"]["score"] == "5.0", said
    assert "-pMemoryMax=2000M" in (last := (tmp_path / "log").read_text().splitlines()[-1]) and "bwrap" in last


@pytest.mark.parametrize(
    "said, options",
    [
        ("There is no nbgrader_config.py", ["--course=/usr"]),
        ("generate_assignment --force nothing", ["nothing"]),
        ("zoe handed in nothing", ["--student=zoe"]),
        ("must be above zero", ["--workers=0"]),
    ],
)
def test_what_a_teacher_gets_wrong_is_said(root, capsys, said, options):
    name = [] if "nothing" in options else [NAME]
    with pytest.raises(SystemExit) as stopped:
        grade.main([f"--course={root}", *name, *options])
    assert said in f"{stopped.value} {capsys.readouterr().err}"
