"""Grade an assignment with nbgrader, students' code isolated by bubblewrap. How and why: exercises/README.md.

uv run --group classroom python exercises/grade.py 01_what_the_learning_rate_does
"""

import argparse
import contextlib
import csv
import hashlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections import Counter
from copy import deepcopy
from multiprocessing.connection import wait
from pathlib import Path

import nbformat
from isolation import BoxedExecute
from nbformat.v4 import new_markdown_cell
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from repair import FOREIGN, MISSING, MOST_MB, UNREADABLE, NothingToGrade, beside, copy_other_files, read, repair
from sqlalchemy.exc import SAWarning
from traitlets.config.loader import PyFileConfigLoader

CONFIG = "nbgrader_config.py"
# From the best to the worst; a verdict is the worst that applies.
VERDICTS = ["graded", "repaired", "doubtful", "stopped", FOREIGN, UNREADABLE, MISSING, "failed"]
COLUMNS = ["student", "verdict", "score", "max_score", "answers wait for a person", "remarks", "graded from"]


class Assignment:
    """An assignment of the course at `root`, as nbgrader knows it. Ends the program where something is missing."""

    def __init__(self, root: Path, name: str):
        self.root, self.name = root.resolve(), name
        if not (root / CONFIG).is_file():
            sys.exit(f"There is no {CONFIG} in {root}. Name the course's folder with --course.")
        self.config = PyFileConfigLoader(CONFIG, path=str(root)).load_config()
        self.config.CourseDirectory.root = str(self.root)
        # Those who write at the same time wait for each other: SQLite would give up after five seconds.
        self.config.CourseDirectory.setdefault("db_url", f"sqlite:///{self.root}/gradebook.db?timeout=600")
        self.course = CourseDirectory(config=self.config)
        tests, cells = {}, []
        with Gradebook(self.course.db_url) as gradebook, contextlib.suppress(MissingEntry, FileNotFoundError):
            tests = {cell.name: cell.checksum for cell in gradebook.find_notebook(name, name).source_cells}
            self.marked = {submission.student.id for submission in gradebook.assignment_submissions(name)}
            self.released = nbformat.read(self.notebook(self.course.release_directory, "."), as_version=4)
            cells = self.released.cells
        if not tests or tests.keys() != {c.metadata.nbgrader.grade_id for c in cells if "nbgrader" in c.metadata}:
            sys.exit(f"Gradebook and release/ do not agree on {name}. Run: nbgrader generate_assignment --force {name}")
        self.tests = repr(sorted(tests.items())).encode()

    def notebook(self, kind: str, student: str) -> Path:
        return Path(self.course.format_path(kind, student, self.name), f"{self.name}.ipynb")

    def folders(self) -> dict[str, Path]:
        """The students who have handed in something, with their folders."""
        above = self.notebook(self.course.submitted_directory, "x").parents[2]
        found = [path for path in sorted(above.glob("*")) if path.is_dir() and not path.name.startswith(".")]
        # What may not be looked into shall get a verdict that says so.
        return {p.name: p / self.name for p in found if not os.access(p, os.X_OK) or (p / self.name).is_dir()}

    def roster(self) -> set[str]:
        """The students in roster.csv, who are entered in the gradebook; nobody, if there is no such file."""
        path = self.root / "roster.csv"
        text = path.read_text(encoding="utf-8-sig") if path.exists() else ""  # Excel writes a byte order mark
        rows = list(csv.DictReader(text.splitlines()))
        if not all(row.get("id") for row in rows):
            sys.exit(f"{path}: its first line must name a column `id`, and each line must have one.")
        with Gradebook(self.course.db_url) as gradebook:
            for row in rows:
                known = {k: row[k] for k in ("first_name", "last_name", "email", "lms_user_id") if row.get(k)}
                gradebook.update_or_create_student(row["id"], **known)
        return {row["id"] for row in rows}

    def state(self, folder: Path) -> str:
        """A hash of a submission's files, names included, and of the assignment's tests."""
        total = hashlib.sha256(self.tests)
        for path in beside(folder):
            total.update(os.fsencode(path.name))
            with contextlib.suppress(OSError):
                graded = path.is_file() and not path.is_symlink() and path.stat().st_size <= MOST_MB * 10**6
                total.update(path.read_bytes() if graded else b"not graded")
        return total.hexdigest()

    def is_done(self, row: dict | None, student: str, folder: Path) -> bool:
        there = student in self.marked and self.notebook(self.course.autograded_directory, student).is_file()
        return there and row is not None and row["verdict"] != "failed" and row["graded from"] == self.state(folder)


def grade_one(assignment: Assignment, options: dict, student: str, folder: Path) -> dict:
    """Grade one submission; its row of the table."""
    execute = BoxedExecute(config=assignment.config, log=logging.getLogger("kernel"), **options)
    staged = Path(execute.folder, "submitted", student, assignment.name)
    staged.mkdir(parents=True)
    remarks = copy_other_files(folder, staged)
    try:
        cells, said = read(folder, assignment.name, assignment.released)
        notebook, repairs = repair(cells, assignment.released)
        said, verdict = said + repairs, "repaired" if said or repairs else "graded"
    except NothingToGrade as nothing:
        verdict, execute.refusal = nothing.args
        notebook, said = deepcopy(assignment.released), [execute.refusal]
    remarks += said
    if remarks:
        text = "\n".join(["**Remarks of the grader**", "```", *(f"- {shown(remark)}" for remark in remarks), "```"])
        notebook.cells.insert(0, new_markdown_cell(text, id="remarks"))
    nbformat.write(notebook, staged / f"{assignment.name}.ipynb")
    _autograde(assignment, student, execute)
    verdicts = [verdict, *["stopped"] * execute.stopped, *["doubtful"] * execute.doubtful]
    with Gradebook(assignment.course.db_url) as gradebook:
        found = gradebook.find_submission(assignment.name, student)
        for grade in found.notebooks[0].grades:
            grade.needs_manual_grade |= execute.doubtful
            if grade.auto_score is None and not grade.needs_manual_grade and grade.manual_score is None:
                raise RuntimeError(f"nbgrader gave no mark for {grade.name}")
        gradebook.db.commit()
        worst, waits = max(verdicts, key=VERDICTS.index), "yes" * found.needs_manual_grade
        said = " | ".join(map(shown, remarks + execute.remarks))
        row = student, worst, found.score, found.max_score, waits, said, assignment.state(folder)
        return dict(zip(COLUMNS, row, strict=True))


def _autograde(assignment: Assignment, student: str, execute: BoxedExecute) -> None:
    """nbgrader's own Autograde, on what was staged, with our Execute in the place of its. It logs what goes wrong."""
    config = deepcopy(assignment.config)
    config.CourseDirectory.submitted_directory = str(Path(execute.folder, "submitted"))
    course = CourseDirectory(config=config)
    course.assignment_id, course.student_id = assignment.name, student
    converter = Autograde(coursedir=course, config=config, force=True)
    steps = converter.autograde_preprocessors
    converter.autograde_preprocessors = [execute if step.__name__ == "Execute" else step for step in steps]
    converter.start()


def shown(name: str) -> str:
    """A name as it can be printed and stored, whatever its bytes are."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def wrong_name(student: str, roster: set[str]) -> str:
    """What is wrong with the name of a folder in submitted/; empty if nothing is."""
    if not student.isprintable() or re.search(r'^[ =+@-]|[][*?<>&"\\|{}]| $', student):
        why = 'it begins with = + - @ or a space, ends in a space, or has one of []*?<>&"\\|{} or what is unprintable'
        return f"rename the folder: {why}"
    alike = [name for name in roster if name.casefold() == student.casefold()]
    return f"roster.csv has {alike[0]}: rename the folder" if alike and student not in roster else ""


def grade_all(assignment: Assignment, options: dict, todo: dict[str, Path], workers: int):
    """Rows in the order in which they come; each submission has a process of its own, whose end costs no other one."""
    context, waiting, running = multiprocessing.get_context("fork"), list(todo.items()), {}
    stopped = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())  # raised anywhere, as in a fork's hooks, it is lost
    with tempfile.TemporaryDirectory(prefix="grade-", dir="/tmp") as temporary:  # a socket's path has 107 bytes at most
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    here, there = context.Pipe(duplex=False)
                    student, folder = waiting.pop(0)
                    arguments = assignment, options | {"folder": temporary}, student, folder
                    process = context.Process(target=_work, args=(there, *arguments))
                    process.start()
                    there.close()
                    running[here] = process, student
                if stopped.is_set():
                    raise KeyboardInterrupt
                for connection in wait(list(running), timeout=0.2):
                    process, student = running.pop(connection)
                    row = {"student": student, "verdict": "failed", "remarks": "the grading process ended"}
                    with contextlib.suppress(EOFError):
                        row |= connection.recv()
                    process.join()
                    yield row
        finally:
            signal.signal(signal.SIGINT, before)
            for process, _ in running.values():
                process.kill()
                process.join()


def _work(connection, *arguments) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's business
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        connection.send(grade_one(*arguments))
    except Exception as error:
        connection.send({"remarks": shown(f"{type(error).__name__}: {error}")})


def read_table(path: Path) -> dict[str, dict]:
    """The rows of a table of verdicts by student."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["student"]: row for row in csv.DictReader(lines)}


def write_table(path: Path, rows: dict[str, dict]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with open(part := path.with_suffix(".part"), "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows[student] for student in sorted(rows))
    part.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if every submission has a verdict, 1 if the grader failed on one or could do nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assignment", help="its folder's name in submitted/STUDENT/")
    parser.add_argument("--student", action="append", default=[], help="only this one (may be given several times)")
    parser.add_argument("--workers", type=int, default=2, help="submissions at the same time (default 2)")
    parser.add_argument("--again", action="store_true", help="grade those too that have been graded")
    parser.add_argument("--course", type=Path, default=Path(__file__).parent, help="the folder of nbgrader_config.py")
    parser.add_argument("--trust-students", action="store_true", help="run their code without isolation")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error("--workers must be above zero")
    warnings.simplefilter("ignore", SAWarning)  # nbgrader's relations, in SQLAlchemy's newer versions
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # what nbgrader has to say,
    logging.getLogger("kernel").disabled = True  # but not what is in the verdict
    assignment = Assignment(options.course, options.assignment)
    folders, roster = assignment.folders(), assignment.roster()
    table = assignment.root / "verdicts" / f"{assignment.name}.csv"
    rows = {student: row for student, row in read_table(table).items() if student in folders}
    if unknown := sorted(set(options.student) - set(folders)):
        sys.exit(f"{', '.join(unknown)} handed in nothing for {assignment.name}.")
    todo = {}
    for student in options.student or folders:
        if wrong := wrong_name(student, roster):
            rows[shown(student)] = {"student": shown(student), "verdict": UNREADABLE, "remarks": wrong}
            print(line(rows[shown(student)]))
        elif options.again or not assignment.is_done(rows.get(student), student, folders[student]):
            todo[student] = folders[student]
    isolation = {"course": str(assignment.root), "data": _data(), "trusted": options.trust_students}
    if todo and not options.trust_students and (why := BoxedExecute(**isolation).lacks()):
        sys.exit(f"Students' code cannot be isolated: {why}\nSee README.md; --trust-students grades without isolation.")
    done = grade_all(assignment, isolation, todo, options.workers)
    try:
        for number, row in enumerate(done, 1):
            if roster and row["student"] not in roster:
                row["remarks"] = " | ".join(filter(None, ["not in roster.csv", row["remarks"]]))
            rows[row["student"]] = row
            write_table(table, rows)
            print(f"[{number}/{len(todo)}]", line(row), flush=True)
    except KeyboardInterrupt:
        done.close()
        print("\nInterrupted. What was graded is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    write_table(table, rows)
    counts = Counter(row["verdict"] for row in rows.values())
    print(*(f"{counts[v]} {v}" for v in VERDICTS if counts[v]), f"{len(todo)} of them graded now", table, sep="; ")
    return int(counts["failed"] > 0)


def _data() -> str:
    """What `LRTUT_DATA` shall be for all kernels; it says which data that is."""
    from lrtut.data import DataError, find_data  # it takes seconds
    from lrtut.execution import data_in_words

    try:
        found, why = find_data()
    except DataError as error:
        sys.exit(str(error))
    print(f"Data: {data_in_words(found, why)}.")
    return os.path.abspath(found) if os.path.isdir(found) else found


def line(row: dict) -> str:
    """A row of the table as a line of text, its remarks below it."""
    marks = f" {row['score']:g} of {row['max_score']:g}" if row.get("max_score") else ""
    remarks = "".join(f"\n    {remark}" for remark in row["remarks"].split(" | ") if remark)
    return f"{row['student']}: {row['verdict']}{marks}{remarks}"


if __name__ == "__main__":
    sys.exit(main())
