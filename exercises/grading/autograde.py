"""Grade one submission: read, repair, run in limits, and let nbgrader give and store the marks."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from grading import course as courses
from grading import submission
from grading.execute import LimitedExecute
from grading.limits import Limits
from grading.repair import repair

GRADED, REPAIRED, STOPPED, FOREIGN, FAILED = "graded", "repaired", "stopped", "foreign", "failed"
# From the best to the worst, with what each means; a verdict is the worst that applies.
VERDICTS = {
    GRADED: "ran to its end, all cells as handed out",
    REPAIRED: "ran to its end after cells were put back or recognised; the remarks say which",
    STOPPED: "it, or one of its cells, was stopped by a limit or ended itself; what ran to its end has its marks",
    FOREIGN: "none of the assignment's cells was found; no marks",
    submission.UNREADABLE: "the file is no notebook; no marks",
    submission.MISSING: "no notebook was handed in; no marks",
    FAILED: "the grader itself failed; grade this one by hand or run it again",
}


@dataclass(frozen=True)
class Result:
    """What became of one submission. `score` and `max_score` are nbgrader's points; `digest` is of what was graded."""

    student: str
    verdict: str
    score: float | None = None
    max_score: float | None = None
    manual: bool = False
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    digest: str = ""


class Grader:
    """Grades submissions of one assignment, one after the other; several processes may do so at the same time.

    Args:
        course, config: as `course.load` gives them.
        assignment: as `course.assignment` gives it.
        address, folder: the kernel server's socket and temporary folder.
        limits: for each submission.
        hide: paths that student code shall not see.
    """

    def __init__(
        self,
        course: CourseDirectory,
        config: Config,
        assignment: courses.Assignment,
        address: str,
        folder: str,
        limits: Limits,
        hide: Sequence[str],
    ):
        self.course, self.config, self.assignment = course, config, assignment
        self.folder = folder
        self.execute = LimitedExecute(
            address=address, folder=folder, limits=limits, hide=hide, around=self._unlocked, config=config
        )
        self._lock = open(Path(course.root, ".gradebook.lock"), "a")

    def grade(self, student: str, folder: Path) -> Result:
        """Grade what lies in `folder`. Whatever it is, and whatever happens, there is a result."""
        start = time.monotonic()
        handed_in = submission.digest(folder)
        try:
            result = self._grade(student, folder)
        except Exception as error:
            logging.getLogger("grading").debug("while grading %s", student, exc_info=True)
            result = Result(student, FAILED, remarks=[f"{type(error).__name__}: {error}"])
        elapsed = round(time.monotonic() - start, 2)
        return Result(**{**vars(result), "seconds": elapsed, "digest": f"{handed_in}-{self.assignment.digest}"})

    def _grade(self, student: str, folder: Path) -> Result:
        staged = Path(self.folder, "staged", student, self.assignment.name)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        try:
            verdicts, remarks = [GRADED], submission.copy_other_files(folder, staged)
            for name, released in self.assignment.released.items():
                verdict, said = self._stage(submission.read(folder, name), released, staged / f"{name}.ipynb")
                verdicts.append(verdict)
                remarks += said
            bad = [v for v in verdicts if v in (submission.UNREADABLE, submission.MISSING)]
            self.execute.refusal = "; ".join(remarks) if bad else ""
            self._convert(student)
        finally:
            shutil.rmtree(staged.parent, ignore_errors=True)
        remarks += self.execute.notes
        if self.execute.interrupted:
            verdicts.append(STOPPED)
        if self.execute.stop:
            verdicts.append(STOPPED)
            remarks.append(f"stopped: {self.execute.stop.reason}")
        with self._locked():
            marks = courses.marks(self.course, self.assignment.name, student)
        if marks.unmarked:
            verdicts.append(FAILED)
            remarks.append(f"nbgrader gave no mark for {', '.join(marks.unmarked)}")
        worst = max(verdicts, key=list(VERDICTS).index)
        return Result(student, worst, marks.score, marks.max_score, marks.manual, remarks)

    def _stage(self, found: submission.Submission, released, path: Path) -> tuple[str, list[str]]:
        """Write the notebook that nbgrader is to grade, with the remarks as its first cell for the student to read."""
        if found.cells is None:
            notebook, remarks, verdict = nbformat.from_dict(released), found.remarks, found.problem
        else:
            notebook, repairs = repair(found.cells, released)
            remarks = [*found.remarks, *map(str, repairs)]
            foreign = any(remark.kind == "foreign" for remark in repairs)
            verdict = FOREIGN if foreign else REPAIRED if remarks else GRADED
        if remarks:
            text = "**Remarks of the grader**\n\n" + "\n".join(f"- {_plain(remark)}" for remark in remarks)
            first = new_markdown_cell(text, id="remarks")
            notebook = nbformat.from_dict({**notebook, "cells": [first, *notebook.cells]})
        nbformat.write(notebook, path)
        return verdict, remarks

    def _convert(self, student: str) -> None:
        """nbgrader's own Autograde, on what was staged, with our Execute in the place of its."""
        config = deepcopy(self.config)
        config.CourseDirectory.submitted_directory = str(Path(self.folder, "staged"))
        course = CourseDirectory(config=config)
        course.assignment_id, course.student_id = self.assignment.name, _no_pattern(student)
        converter = Autograde(coursedir=course, config=config, force=True)
        converter.autograde_preprocessors = [
            self.execute if getattr(step, "__name__", "") == "Execute" else step
            for step in converter.autograde_preprocessors
        ]
        log, said = converter.log, _Lines()
        log.addHandler(said)
        try:
            with self._locked():
                converter.start()
        except NbGraderException as error:
            raise RuntimeError(said.last or str(error)) from error
        finally:
            log.removeHandler(said)

    @contextlib.contextmanager
    def _locked(self):
        """One process at a time writes into the gradebook: SQLite would give up after five seconds."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _unlocked(self):
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_EX)


class _Lines(logging.Handler):
    """Keeps the last line of the last traceback that nbgrader logs."""

    last = ""

    def emit(self, record):
        lines = record.getMessage().strip().splitlines()
        if lines and lines[0].startswith("Traceback"):
            self.last = lines[-1]


def _plain(text: str) -> str:
    """Text for a Markdown list in which nothing is markup: file names come from students."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!$&" else c for c in " ".join(text.split()))


def _no_pattern(name: str) -> str:
    """nbgrader takes a student's name as a file pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
