"""The run as a whole: interrupted, killed, going on; a worker that dies; limits one by one."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("nbgrader")

from grading.autograde import GRADED, Result
from grading.execute import ERRORS, LimitedExecute
from grading.kernels import KernelServer
from grading.limits import Limits
from grading.run import Record
from grading.workers import grade_all
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.api import Gradebook
from sample import EXERCISES, NAME, answer, hand_in, released

MARK = f"87654.{os.getpid()}"  # seconds of sleep, by which this run's processes are known


def lines(root):
    path = root / "verdicts" / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def start(root):
    limits = ["--cell-seconds", "900", "--seconds", "900"]
    command = [sys.executable, str(EXERCISES / "grade.py"), NAME, "--course", str(root), "--workers", "2", *limits]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_loses_nothing(root, ctrl_c):
    for student in ("y", "z"):  # with these the run is still busy when it is interrupted
        hand_in(root, student, answer(released(root), decay="import time; time.sleep(9999)"))
    for student, how in {"a": signal.SIGKILL, "b": signal.SIGINT}.items():
        hand_in(root, student, answer(released(root)))
        run = start(root)
        while student not in [line["student"] for line in lines(root)]:
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.02)
        main = psutil.Process(run.pid)
        family = [main, *main.children(recursive=True)]  # kernels included
        run.send_signal(how)
        output, _ = run.communicate(timeout=300)
        if how == signal.SIGINT:
            assert run.returncode == 130 and "the same command goes on" in output
        assert not psutil.wait_procs(family, timeout=300)[1]

    for student in ("y", "z"):
        hand_in(root, student, answer(released(root)))
    with open(root / "verdicts" / f"{NAME}.jsonl", "a", encoding="utf-8") as file:
        file.write('{"student": "s7", "ver')  # half a line, as a full disk would leave it
    run = start(root)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0 and "4  in all, 2 of them graded now" in output, output
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        assert {s.student.id: s.score for s in gradebook.assignment_submissions(NAME)} == dict.fromkeys("abyz", 5)
    record = Record(root / "verdicts", NAME)
    assert {s: r.verdict for s, r in record.results.items()} == dict.fromkeys("abyz", GRADED)


def fragile(student, folder):
    if student == "b":
        os._exit(9)
    return Result(student, GRADED, 1, 1)


def make_fragile():
    return SimpleNamespace(grade=fragile)


def test_a_worker_that_dies_costs_one_verdict():
    folders = {student: Path(student) for student in "abc"}
    results = {r.student: r for r in grade_all(make_fragile, folders, 1)}
    assert {s: r.verdict for s, r in results.items()} == dict.fromkeys("ac", GRADED) | {"b": "failed"}
    assert "exit code 9" in results["b"].remarks[0]


@pytest.fixture(scope="module")
def server():
    """A cold one: it starts at once, and these kernels need no PyTorch."""
    with KernelServer(warm=False) as running:
        yield running


def run_cells(server, folder, *sources, **limits):
    limits = Limits(**{"cell_seconds": 600, "seconds": 900} | limits)  # enough for a busy machine
    step = LimitedExecute(address=server.address, folder=server.folder, limits=limits)
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    step.preprocess(notebook, {"metadata": {"path": str(folder)}})
    return step, notebook


@pytest.fixture
def execute(server, tmp_path):
    return partial(run_cells, server, tmp_path)


def names(cell):
    return [output.get("ename") or output.get("name") or output.output_type for output in cell.outputs]


@pytest.mark.parametrize(
    "source, limits, kind",
    [
        ("import os, time; x = b'x' * 150_000_000\nif os.fork() == 0: y = bytearray(x)\ntime.sleep(999)", {"memory_mb": 300}, "memory"),
        ("import subprocess, time\nfor _ in range(9): subprocess.Popen(['sleep', '999'])\ntime.sleep(999)", {"processes": 5}, "processes"),
        ("from IPython.display import display, HTML\nwhile True: display(HTML('x' * 100_000))", {"output_mb": 0.01}, "output"),
    ],
    ids=["memory of a child", "processes", "output"],
)  # fmt: skip
def test_each_limit(execute, source, limits, kind):
    step, notebook = execute("1 + 1", source, "2 + 2", **limits)
    assert step.stop.kind == kind and step.stop.cell == 1
    assert names(notebook.cells[0]) == ["execute_result"]
    assert names(notebook.cells[1])[-1] == ERRORS[kind] and len(notebook.cells[1].outputs) <= 21
    assert names(notebook.cells[2]) == ["NotRun"]


def test_the_limit_of_time(execute):
    step, notebook = execute("import time; time.sleep(999)", "2 + 2", seconds=1)
    assert step.stop.kind == "time" and [names(cell) for cell in notebook.cells] == [["TimeLimit"], ["NotRun"]]


def test_an_error_of_the_grader_itself_is_no_fault_of_the_submission(execute, monkeypatch):
    monkeypatch.setattr(LimitedExecute, "on_cell_executed", lambda *_, **__: {}["a fault of ours"])
    with pytest.raises(KeyError, match="a fault of ours"):
        execute("1 + 1")


def test_memory_that_a_child_shares_with_its_parent_counts_once(execute):
    source = "import os, time; x = b'x' * 150_000_000\nif (child := os.fork()) == 0:\n    time.sleep(1)\n    os._exit(0)\nos.waitpid(child, 0)"
    step, notebook = execute(source, "len(x)", memory_mb=300)
    assert step.stop is None and names(notebook.cells[1]) == ["execute_result"]


def test_without_namespaces_a_child_that_hides_is_still_found(tmp_path, monkeypatch):
    server = (
        "import sys; from grading import sandbox, server; sandbox.separate_processes = lambda: False\n"
        "sandbox._cut_network = sandbox._own_mounts = sandbox._drop_privileges = lambda: open('/dev/null/none')\n"
        "server.serve(sys.argv[2], False)"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(
        "grading.kernels.subprocess.Popen", lambda c, **options: popen([c[0], "-c", server, *c[2:]], **options)
    )
    hides = (
        "import os\nif (child := os.fork()) == 0:\n    os.setsid()\n"
        f"    if os.fork() == 0: os.execvp('sleep', ['sleep', '{MARK}'])\n    os._exit(0)\nos.waitpid(child, 0)[0] > 0"
    )
    with KernelServer(warm=False) as plain:
        assert plain.protections() == []
        step, notebook = run_cells(plain, tmp_path, hides, "1")
        assert step.stop is None and names(notebook.cells[1]) == ["execute_result"]
        assert not [p for p in psutil.process_iter(["cmdline"]) if MARK in " ".join(p.info["cmdline"] or [])]


def test_data_beside_the_notebook_is_a_copy(execute, tmp_path):
    (tmp_path / "rates.txt").write_text("0.1")
    step, notebook = execute("open('rates.txt').read()", "open('rates.txt', 'w').write('9')")
    assert "0.1" in notebook.cells[0].outputs[0]["data"]["text/plain"]
    assert (tmp_path / "rates.txt").read_text() == "0.1"
