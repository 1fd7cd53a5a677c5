"""Grade an assignment: what is not graded yet, in parallel, with progress; go on after an interruption."""

from __future__ import annotations

import csv
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SAWarning
from tqdm.auto import tqdm

from grading import course as courses
from grading import submission
from grading.autograde import FAILED, GRADED, VERDICTS, Grader, Result
from grading.kernels import GradingError, KernelServer
from grading.limits import Limits
from grading.sandbox import PROTECTIONS
from grading.workers import grade_all

FOLDER = "verdicts"


@dataclass(frozen=True)
class Summary:
    """All verdicts of an assignment by student, which of them this run gave, and the `sandbox.PROTECTIONS` it had."""

    results: dict[str, Result]
    new: tuple[str, ...]
    granted: tuple[str, ...]


def grade(
    root: Path,
    name: str,
    *,
    students: Sequence[str] = (),
    workers: int = 2,
    limits: Limits | None = None,
    again: bool = False,
    warm: bool = True,
    progress: bool = True,
) -> Summary:
    """Grade the submissions of assignment `name` in the course at `root`.

    A submission is left alone if it has a verdict other than "failed", its files and the assignment's tests are what
    they were then, and its marks and its graded notebook are there. Each verdict is on the disk before the next one
    is begun, and after its marks.

    Args:
        students: only these; all who have handed in, if empty.
        workers: submissions graded at the same time.
        limits: what each may use.
        again: grade those too that have been graded.
        warm: without it every kernel imports PyTorch anew.
        progress: at the start which data judge, a bar on stderr, and a line for each submission that was not simply graded.

    Raises:
        GradingError: says what is missing and what to do.
    """
    course, config = courses.load(root)
    assignment = courses.assignment(course, name)
    folders = courses.submissions(course, name)
    if unknown := sorted(set(students) - set(folders)):
        raise GradingError(
            f"{', '.join(unknown)} handed in nothing for {name}; there are {', '.join(folders) or 'none'}"
        )
    if workers < 1:
        raise GradingError(f"at least one worker is needed, not {workers}")
    record = Record(Path(course.root, FOLDER), name)
    todo = {
        student: folder
        for student, folder in folders.items()
        if (not students or student in students) and (again or not _done(record, course, assignment, student, folder))
    }
    granted = []
    if todo:
        with KernelServer(warm) as server:
            hide = courses.to_hide(course, [server.folder, os.environ.get("LRTUT_DATA", "/")])
            if server.data and progress:
                tqdm.write(f"Data: {server.data}.")
            granted = server.protections(hide)
            missing = [sentence for key, sentence in PROTECTIONS.items() if key not in granted]
            if missing and progress:
                tqdm.write(f"This system does not grant: {'; '.join(missing)}. See exercises/README.md.")
            hide.append(server.folder)
            make = partial(_grader, root, name, server.address, server.folder, limits or Limits(), hide)
            results = grade_twice(make, todo, workers)
            with closing(results), tqdm(total=len(todo), unit="student", disable=not progress) as bar:
                for result in results:
                    record.add(result)
                    bar.update()
                    if result.verdict != GRADED and progress:
                        bar.write(line(result))
    record.write_table(folders)
    return Summary({s: record.results[s] for s in folders if s in record.results}, tuple(todo), tuple(granted))


def grade_twice(make_grader: Callable[[], Grader], folders: Mapping[str, Path], workers: int) -> Iterator[Result]:
    """As `workers.grade_all`; but where the grader itself failed, it tries once more when the others are done."""
    again = {}
    with closing(grade_all(make_grader, folders, workers)) as results:
        for result in results:
            if result.verdict == FAILED:
                again[result.student] = folders[result.student]
            else:
                yield result
    with closing(grade_all(make_grader, again, workers)) as results:
        yield from results


def _grader(root: Path, name: str, address: str, folder: str, limits: Limits, hide: Sequence[str]) -> Grader:
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", SAWarning)  # nbgrader's relations, in SQLAlchemy's newer versions
    course, config = courses.load(root)
    return Grader(course, config, courses.assignment(course, name), address, folder, limits, hide)


def _done(record: Record, course, assignment: courses.Assignment, student: str, folder: Path) -> bool:
    last = record.results.get(student)
    if last is None or last.verdict == FAILED:
        return False
    graded = Path(course.format_path(course.autograded_directory, student, assignment.name))
    if not all((graded / f"{notebook}.ipynb").is_file() for notebook in assignment.released):
        return False
    try:
        marks = courses.marks(course, assignment.name, student)
    except courses.MissingEntry:
        return False
    return not marks.unmarked and last.digest == f"{submission.digest(folder)}-{assignment.digest}"


def line(result: Result) -> str:
    """One result as a line of text."""
    marks = "" if result.score is None else f" {result.score:g} of {result.max_score:g}"
    waiting = " (answers wait for a person)" if result.manual else ""
    remarks = "".join(f"\n    {remark}" for remark in result.remarks)
    return f"{result.student}: {result.verdict}{marks}{waiting}{remarks}"


def table(summary: Summary) -> str:
    """How many submissions have which verdict, with what it means."""
    counts = Counter(result.verdict for result in summary.results.values())
    width = max(map(len, VERDICTS))
    lines = [f"{counts[v]:5}  {v:<{width}}  {meaning}" for v, meaning in VERDICTS.items() if counts[v]]
    manual = sum(result.manual for result in summary.results.values())
    end = [f"{manual} with answers that wait for a person (in the Formgrader)"] if manual else []
    return "\n".join([*lines, f"{len(summary.results):5}  in all, {len(summary.new)} of them graded now", *end])


class Record:
    """The verdicts on the disk: a line of JSON each, the last one of a student counts; a table for people beside it."""

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.jsonl"
        self.results: dict[str, Result] = {}
        folder.mkdir(exist_ok=True)
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for text_line in text.splitlines():
            try:
                result = Result(**json.loads(text_line))
            except (ValueError, TypeError):
                continue  # half a line, from the moment of an interruption: that one is graded again
            self.results[result.student] = result
        if text and not text.endswith("\n"):
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, result: Result) -> None:
        self.results[result.student] = result
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_table(self, students: Sequence[str]) -> None:
        """All verdicts as CSV, whole or not at all."""
        part = self.path.with_suffix(".csv.part")
        with open(part, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["student", "verdict", "score", "max_score", "answers wait for a person", "remarks"])
            for student in students:
                if r := self.results.get(student):
                    rows.writerow([student, r.verdict, r.score, r.max_score, "yes" * r.manual, " | ".join(r.remarks)])
        part.replace(self.path.with_suffix(".csv"))
