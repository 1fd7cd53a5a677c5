"""How long it takes to grade a class: `uv run nox -s benchmarks -- grading`.

Simulated students hand in one assignment (--assignment; 40 of them, --students): the solutions, as they are, saved by
Colab, or with one of them left out. All are graded in each of these ways, in one run:
  plain   `nbgrader autograde`: one at a time, without isolation
  one     exercises/grade.py: each kernel in bubblewrap; one at a time
  two     the same, two at a time: what a teacher gets
It measures wall-clock seconds, start included, and compares every mark with plain's. (CPU seconds cannot be had: Linux
adds up none for a killed PID namespace.) The figures go to results/grading.jsonl. It takes about fifteen minutes on two
idle cores. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook
from report import ONE_THREAD, load, machine, measured_on, save

HERE = Path(__file__).resolve().parent
EXERCISES = HERE.parent / "exercises"
WAYS = {
    "plain": "`nbgrader autograde`",
    "one": "`grade.py`, one at a time",
    "two": "`grade.py`, two at a time",
}


def make_course(root: Path, name: str, students: int) -> None:
    """A course with one assignment, and what `students` simulated students hand in."""
    shutil.copytree(EXERCISES / "source" / name, root / "source" / name)
    shutil.copytree(EXERCISES / "templates", root / "templates")
    shutil.copy(EXERCISES / "nbgrader_config.py", root)
    nbgrader(root, "generate_assignment", name)
    released = nbformat.read(root / "release" / name / f"{name}.ipynb", as_version=4)
    source = nbformat.read(root / "source" / name / f"{name}.ipynb", as_version=4)
    for number in range(students):
        folder = root / "submitted" / f"student{number:03}" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.ipynb").write_text(json.dumps(submission(source, released, number)), encoding="utf-8")


def submission(source, released, number: int) -> dict:
    """The solutions in the released notebook; from every five students one by Colab, two with a gap."""
    solved = {cell.id: re.sub(r"(?m)^.*### (BEGIN|END) SOLUTION.*\n?", "", cell.source) for cell in source.cells}
    document = json.loads(nbformat.writes(released))
    answers = [c for c in document["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    gap = answers[number % len(answers)]["id"] if number % 5 in (1, 2) else None
    for cell in answers:
        if cell["id"] != gap:
            cell["source"] = solved[cell["id"]]
    if number % 5 == 3:
        document |= {
            "nbformat_minor": 0,
            "metadata": {"colab": {}, "kernelspec": {"name": "python3", "display_name": "Colab"}},
        }
        for cell in document["cells"]:
            cell["metadata"]["id"] = cell.pop("id")
    return document


def nbgrader(root: Path, *arguments: str, check: bool = True) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    subprocess.run(command, cwd=root, env=os.environ | {"PATH": path}, check=check, stdout=sys.stderr)


def grade(root: Path, name: str, way: str) -> None:
    """One way to grade, in this process."""
    if way == "plain":
        nbgrader(root, "autograde", name, "--log-level", "ERROR", check=False)  # what it cannot grade has no marks
        return
    command = [sys.executable, str(EXERCISES / "grade.py"), name, "--course", str(root)]
    subprocess.run([*command, "--workers", "1" if way == "one" else "2"], check=True, stdout=sys.stderr)


def measure(root: Path, name: str, way: str) -> dict:
    """Grade a copy of the course in a process of its own: seconds, and the marks."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "course")
        shutil.copytree(root, copy)
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--way", way, "--course", copy, "--assignment", name], check=True)
        seconds = time.perf_counter() - start
        with Gradebook(f"sqlite:///{copy}/gradebook.db") as gradebook:
            marks = {
                s.student.id: {grade.name: grade.auto_score for notebook in s.notebooks for grade in notebook.grades}
                for s in gradebook.assignment_submissions(name)
            }
    return {"seconds": seconds, "marks": marks}


def table() -> str:
    """The table for README.md."""
    made_on, ways = load("grading")
    if not made_on:
        return "Not measured yet."
    n = made_on["students"]
    lines = [f"| | minutes for {n} | s a submission | plain / it | marks as plain's |"]
    lines.append("|---|---|---|---|---|")
    for way, title in WAYS.items():
        figures = ways[way]
        lines.append(
            f"| {title} | {figures['seconds'] / 60:.1f} | {figures['seconds'] / n:.2f} | "
            f"{ways['plain']['seconds'] / figures['seconds']:.1f} | "
            f"{figures['same_marks']} of {n} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"{n} submissions of `{made_on['assignment']}`, the start of the grader included.",
            "",
            f"{measured_on(made_on['machine'])[:-1]}, {made_on['cores']} cores, data {made_on['data']}, "
            f"load average before the start {made_on['load']:.0f}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assignment", default="02_step_decay", help="default 02_step_decay")
    parser.add_argument("--students", type=int, default=40, help="default 40")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--course", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        grade(arguments.course, arguments.assignment, arguments.way)
        return
    if platform.system() != "Linux":
        parser.error("exercises/grade.py needs Linux")
    if not os.environ.get("LRTUT_DATA"):
        parser.error("LRTUT_DATA must name the folder that holds MNIST/raw/, or be digits")
    # Plain kernels get one thread each as well: otherwise they would share the two cores in another way.
    os.environ |= ONE_THREAD
    digits = os.environ["LRTUT_DATA"] == "digits"
    made_on = {"assignment": arguments.assignment, "students": arguments.students, "machine": machine()}
    made_on |= {"cores": len(os.sched_getaffinity(0)), "data": "digits" if digits else "MNIST"}
    made_on |= {"load": os.getloadavg()[1]}  # before the start: what else the machine does
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "course")
        root.mkdir()
        make_course(root, arguments.assignment, arguments.students)
        measured = {way: measure(root, arguments.assignment, way) for way in WAYS}
    expected = measured["plain"]["marks"]
    for way, figures in measured.items():
        marks = figures.pop("marks")
        figures["same_marks"] = sum(marks.get(student) == expected[student] for student in expected)
        print(way, figures)
    save("grading", made_on, measured)
    print(table())


if __name__ == "__main__":
    main()
