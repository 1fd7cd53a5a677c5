"""The run as a whole: interrupted, killed, going on; a worker that dies; limits one by one."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from lrtut.data import find_data
from lrtut.execution import data_in_words

pytest.importorskip("nbgrader")

from grading import course as courses
from grading import submission
from grading.autograde import FAILED, GRADED, Result
from grading.execute import LimitedExecute
from grading.kernels import GradingError, KernelServer, scratch_folder
from grading.limits import Limits
from grading.run import Record, grade_twice
from grading.workers import grade_all
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.api import Gradebook
from sample import EXERCISES, NAME, STEP_DECAY, answer, hand_in, released

MARK = f"87654.{os.getpid()}"  # seconds of sleep, by which this run's processes are known
STUDENTS = [f"s{number}" for number in range(6)]


def lines(root):
    path = root / "verdicts" / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def start(root):
    command = [sys.executable, str(EXERCISES / "grade.py"), NAME, "--course", str(root), "--workers", "2"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_lines(root, number, process):
    deadline = time.monotonic() + 120
    while len(lines(root)) < number:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def below(process):
    """The process and all that it has started, kernels included."""
    return [process, *process.children(recursive=True)]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_loses_nothing(root, ctrl_c):
    for student in STUDENTS:
        hand_in(root, student, answer(released(root), decay=f"import time; time.sleep(0.4)\n{STEP_DECAY}"))
    for how in (signal.SIGKILL, signal.SIGINT):
        before = len(lines(root))
        run = start(root)
        wait_for_lines(root, before + 1, run)
        family = below(psutil.Process(run.pid))
        assert len(family) > 3  # two workers, the server, guards and kernels
        run.send_signal(how)
        output, _ = run.communicate(timeout=60)
        if how == signal.SIGINT:
            assert run.returncode == 130 and "the same command goes on" in output
        assert before < len(lines(root)) < len(STUDENTS)
        _, left = psutil.wait_procs(family, timeout=20)
        assert not left

    done = len(lines(root))
    with open(root / "verdicts" / f"{NAME}.jsonl", "a", encoding="utf-8") as file:
        file.write('{"student": "s7", "ver')  # half a line, as a full disk would leave it
    run = start(root)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    source, origin = find_data()
    assert output.startswith(f"Data: {data_in_words(source, origin)}.\n")
    assert f"{len(STUDENTS)}  in all, {len(STUDENTS) - done} of them graded now" in output
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        assert {s.student.id: s.score for s in gradebook.assignment_submissions(NAME)} == dict.fromkeys(STUDENTS, 5)
    record = Record(root / "verdicts", NAME)
    assert {s: r.verdict for s, r in record.results.items()} == dict.fromkeys(STUDENTS, GRADED)


def fragile(student, folder):
    if student == "b":
        os._exit(9)
    return Result(student, GRADED, 1, 1)


def make_fragile():
    return SimpleNamespace(grade=fragile)


def test_a_worker_that_dies_costs_one_verdict():
    folders = {student: Path(student) for student in "abcde"}
    results = {r.student: r for r in grade_all(make_fragile, folders, 2)}
    assert {s: r.verdict for s, r in results.items()} == dict.fromkeys("acde", GRADED) | {"b": "failed"}
    assert "exit code 9" in results["b"].remarks[0]


def test_where_the_grader_failed_it_tries_once_more(monkeypatch):
    begun = Counter()

    def unlucky(_, folders, workers):
        for student in folders:
            begun[student] += 1
            fails = student == "c" or (student == "b" and begun["b"] == 1)
            yield Result(student, FAILED if fails else GRADED)

    monkeypatch.setattr("grading.run.grade_all", unlucky)
    results = list(grade_twice(None, dict.fromkeys("abc"), 1))
    assert [(r.student, r.verdict) for r in results] == [("a", GRADED), ("b", GRADED), ("c", FAILED)]
    assert begun == {"a": 1, "b": 2, "c": 2}


@pytest.fixture(scope="module")
def server():
    """A cold one: it starts at once, and these kernels need no PyTorch."""
    with KernelServer(warm=False) as running:
        assert running.data == ""  # its kernels look for data themselves
        yield running


@pytest.fixture
def execute(server, tmp_path):
    def run(*sources, hide=(), **limits):
        step = LimitedExecute(address=server.address, folder=server.folder, limits=Limits(**limits), hide=hide)
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
        step.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
        return step, notebook

    return run


def names(cell):
    return [output.get("ename") or output.get("name") or output.output_type for output in cell.outputs]


@pytest.mark.parametrize(
    "source, limits, kind, name",
    [
        ("import time; time.sleep(60)", {"seconds": 2}, "time", "TimeLimit"),
        ("x = b'x' * 400_000_000\nimport time; time.sleep(9)", {"memory_mb": 200}, "memory", "MemoryLimit"),
        ("import os; x = b'x' * 150_000_000\nif os.fork() == 0: y = bytearray(x)\nimport time; time.sleep(9)", {"memory_mb": 300}, "memory", "MemoryLimit"),
        ("import subprocess, time\nfor _ in range(9): subprocess.Popen(['sleep', '50'])\ntime.sleep(50)", {"processes": 5}, "processes", "ProcessLimit"),
        ("from IPython.display import display, HTML\nwhile True: display(HTML('x' * 100_000))", {"output_mb": 0.01}, "output", "OutputLimit"),
        ("import os; os._exit(3)", {}, "died", "KernelDied"),
        ("import ctypes; ctypes.string_at(0)", {}, "died", "KernelDied"),
    ],
    ids=["time", "memory", "memory of a child", "processes", "output", "exit", "segfault"],
)  # fmt: skip
def test_each_limit(execute, source, limits, kind, name):
    step, notebook = execute("1 + 1", source, "2 + 2", **limits)
    assert step.stop.kind == kind and step.stop.cell == 1
    assert names(notebook.cells[0]) == ["execute_result"]
    assert names(notebook.cells[1])[-1] == name and len(notebook.cells[1].outputs) <= 21
    assert names(notebook.cells[2]) == ["NotRun"]
    assert step.stop.reason in notebook.cells[2].outputs[0].evalue


def test_whatever_the_grader_meets_when_a_kernel_ends_the_reason_is_the_kernels_end(execute, monkeypatch):
    monkeypatch.setattr("nbclient.client.DeadKernelError", type("Unknown", (Exception,), {}))
    step, notebook = execute("import os; os._exit(3)", "1")
    assert step.stop.kind == "died" and names(notebook.cells[1]) == ["NotRun"]


def test_an_error_of_the_grader_itself_is_no_fault_of_the_submission(execute, monkeypatch):
    monkeypatch.setattr(LimitedExecute, "on_cell_executed", lambda *_, **__: {}["a fault of ours"])
    with pytest.raises(KeyError, match="a fault of ours"):
        execute("1 + 1")


def as_somebody_else(step):
    """Call `step(folder)` in a process that is not root's, to whom no file is locked; in a folder of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            with scratch_folder("/tmp") as path:
                step(Path(path))
            os._exit(3 if os.path.exists(path) else 0)
        except BaseException:
            traceback.print_exc()
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # of Python 3.12 on


@forks
def test_folders_that_a_submission_has_locked_go_away():
    def lock(folder):
        for name in ("outer", "outer/inner"):
            (folder / name).mkdir()
        (folder / "outer/inner/file").touch()
        (folder / "outer/link").symlink_to("/")
        for name in ("outer/inner", "outer", "."):
            (folder / name).chmod(0)

    as_somebody_else(lock)


def test_a_folder_that_a_submission_has_removed_is_no_error(tmp_path):
    with scratch_folder(str(tmp_path)) as path:
        os.rmdir(path)
    assert not os.path.exists(path)


@forks
def test_a_folder_that_the_teacher_may_not_read_is_a_verdict():
    def look(root):
        for student in ("ada", "bob"):
            (root / "submitted" / student / NAME).mkdir(parents=True)
        (root / "submitted/bob" / NAME / "data.txt").write_text("1")
        (root / "submitted/bob" / NAME / "data.txt").chmod(0)
        (root / "submitted/bob" / NAME / "listed").mkdir()
        (root / "submitted/bob" / NAME / "listed/inner.txt").touch()
        (root / "submitted/bob" / NAME / "listed").chmod(0o400)
        (root / "submitted/ada").chmod(0)
        (root / "nbgrader_config.py").write_text("c = get_config()")
        found = courses.submissions(courses.load(root)[0], NAME)
        assert list(found) == ["ada", "bob"]
        read = submission.read(found["ada"], NAME)
        assert read.problem == submission.UNREADABLE and "Permission denied" in read.remarks[0]
        assert submission.digest(found["ada"]) and submission.copy_other_files(found["ada"], root / "to") == []
        assert submission.copy_other_files(found["bob"], root / "to") == [
            f"{name} cannot be read and was left out: Permission denied" for name in ("data.txt", "inner.txt")
        ]

    as_somebody_else(look)


def test_memory_that_a_child_shares_with_its_parent_counts_once(execute):
    source = "import os, time; x = b'x' * 150_000_000\nif (child := os.fork()) == 0:\n    time.sleep(1)\n    os._exit(0)\nos.waitpid(child, 0)"
    step, notebook = execute(source, "len(x)", memory_mb=300)
    assert step.stop is None and names(notebook.cells[1]) == ["execute_result"]


def test_an_interrupted_cell_and_the_ones_after_it(execute):
    step, notebook = execute("x = 1", "while True: pass", "x", cell_seconds=1)
    assert step.stop is None and step.interrupted
    assert "CellTimeoutError" in names(notebook.cells[1]) and names(notebook.cells[2]) == ["execute_result"]


def test_a_process_in_a_session_of_its_own_ends_with_the_kernel(execute):
    step, _ = execute(f"import subprocess; subprocess.Popen(['sleep', '{MARK}'], start_new_session=True)")
    assert step.stop is None
    assert not [p for p in psutil.process_iter(["cmdline"]) if MARK in " ".join(p.info["cmdline"] or [])]


def test_without_namespaces_the_limits_still_hold(server, tmp_path, monkeypatch):
    # In a container that forbids namespaces, a child that hides is still found, because the guard adopts orphans.
    double = (
        "import os, time\n"
        f"if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execvp('sleep', ['sleep', '{MARK}'])\n    os._exit(0)\n"
        "time.sleep(0.5)"
    )
    code = (
        "import sys; from grading import sandbox, server\n"
        "sandbox.separate_processes = lambda: False\n"
        "sandbox._cut_network = sandbox._own_mounts = sandbox._drop_privileges = lambda: (_ for _ in ()).throw(PermissionError())\n"
        "server.serve(sys.argv[1], False)"
    )
    address = str(Path(server.folder, "plain"))
    from grading.kernels import kernel_variables

    plain = subprocess.Popen(
        [sys.executable, "-c", code, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kernel_variables()
    )
    try:
        assert plain.stdout.readline().strip() == b"ready"
        stub = SimpleNamespace(address=address, folder=server.folder)
        assert KernelServer.protections(stub) == []
        step = LimitedExecute(address=address, folder=server.folder, limits=Limits())
        notebook = new_notebook(cells=[new_code_cell(double), new_code_cell("1")])
        step.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
        assert step.stop is None and names(notebook.cells[1]) == ["execute_result"]
        assert not [p for p in psutil.process_iter(["cmdline"]) if MARK in " ".join(p.info["cmdline"] or [])]
    finally:
        plain.stdin.close()
        plain.wait(10)
        plain.stdout.close()


def test_a_server_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr("grading.kernels.kernel_variables", lambda: {"PATH": os.environ["PATH"]})
    with pytest.raises(GradingError, match="did not start.*No module named 'grading'"), KernelServer():
        pass


def test_data_beside_the_notebook_is_a_copy(execute, tmp_path):
    (tmp_path / "rates.txt").write_text("0.1")
    step, notebook = execute("open('rates.txt').read()", "open('rates.txt', 'w').write('9')")
    assert "0.1" in notebook.cells[0].outputs[0]["data"]["text/plain"]
    assert (tmp_path / "rates.txt").read_text() == "0.1"


def test_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    one = submission.digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    two = submission.digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({one, two, submission.digest(tmp_path)}) == 3


def test_a_file_that_cannot_be_read_has_a_digest_and_a_verdict(tmp_path, monkeypatch):
    """Root reads everything, so the refusal is planted."""
    (tmp_path / "a.ipynb").write_text("1")
    whole = submission.digest(tmp_path)

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(submission, "open", refuse, raising=False)
        refused = submission.digest(tmp_path)
        assert refused == submission.digest(tmp_path) != whole
    monkeypatch.setattr(Path, "read_bytes", refuse)
    found = submission.read(tmp_path, "a")
    assert found.problem == submission.UNREADABLE and "Permission denied" in found.remarks[0]


def test_an_old_notebook_format_is_read(tmp_path):
    old = nbformat.convert(new_notebook(cells=[new_code_cell("x = 1")]), 3)
    (tmp_path / "old.ipynb").write_text(json.dumps(old))
    assert [cell.source for cell in submission.read_cells(tmp_path / "old.ipynb")] == ["x = 1"]
