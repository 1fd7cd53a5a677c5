"""The command `lrtut`: what it prints, its exit status, and what it says of a call that it cannot carry out."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from toy import press_ctrl_c

import lrtut
from lrtut import cli

LESSONS = {
    1: ["import os, torch, warnings", "warnings.warn('steep')",
        "print(torch.get_num_threads(), os.environ['LRTUT_DATA'])"],
    2: ["1 + 1", "raise ValueError('too steep')", "print('never')"],
    3: ["import os\nos._exit(1)"],
    4: ["import time", "open('../started', 'w').close()\ntime.sleep(15)\nopen('../ended', 'w').close()"],
}  # fmt: skip
HEAD = "# 0{n} · Lesson {n}\n\nAfter this lesson you can\n\n- do {n}.\n\n**Time:** {n} minutes."


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of four small lessons, and the working folder in it."""
    (tmp_path / "lrtut").mkdir()
    (tmp_path / "lrtut" / "cli.py").touch()
    (tmp_path / "notebooks").mkdir()
    for n, sources in LESSONS.items():
        cells = [new_markdown_cell(HEAD.format(n=n)), *map(new_code_cell, sources)]
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"0{n}_lesson.ipynb")
    (tmp_path / "notebooks" / "scratch.ipynb").write_text("not a lesson")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("LRTUT_DATA", "digits")
    monkeypatch.setenv("PYTHONWARNINGS", "")
    return tmp_path


def test_list(checkout, capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line for n in (1, 2, 3, 4) for line in (f"0{n}  Lesson {n}  ({n} minutes)", f"      - do {n}.")]


def test_list_of_the_course_says_of_each_lesson_its_minutes_and_what_one_learns(monkeypatch, capsys):
    root = Path(cli.__file__).parents[1]
    monkeypatch.chdir(root)
    assert cli.main(["list"]) == 0
    heads = re.findall(r"^(\d\d)  \S.+  \(\d+ minutes.*\)\n(?:      - .+\n)+", capsys.readouterr().out, re.M)
    assert heads == [path.name[:2] for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


def test_run_executes_the_lessons_asked_for_builds_the_site_and_reports(checkout, monkeypatch, capsys):
    built = []  # tests/launch builds the real one
    monkeypatch.setattr("lrtut.site.build", lambda *asked: built.append(asked) or [])
    assert cli.main(["run", "3", "01", "2", "--jobs", "2"]) == 1  # a failed lesson
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("0")}
    assert list(rows) == ["01_lesson", "02_lesson", "03_lesson"] and rows["01_lesson"].endswith("  ok")
    assert "cell 2: ValueError: too steep" in rows["02_lesson"] and "cell 1: DeadKernelError" in rows["03_lesson"]
    assert int(rows["01_lesson"].split()[2]) > 100  # MB: torch was imported
    folder, page = checkout / "build" / "lessons", checkout / "build" / "site" / "index.html"
    assert "Data: scikit-learn, as LRTUT_DATA=digits asks" in out
    assert out.splitlines()[-1] == f"Open in a browser: {page.as_uri()}"
    assert built == [(checkout, sorted((checkout / "notebooks").glob("0*.ipynb")), folder)]
    done = nbformat.read(folder / "01_lesson.ipynb", as_version=4)
    assert done.cells[3].outputs[0].text == "1 digits\n"  # one torch thread, and the data that the parent found
    failed = nbformat.read(folder / "02_lesson.ipynb", as_version=4)
    assert failed.cells[2].outputs[0].ename == "ValueError" and failed.cells[3].outputs == []


def test_a_strict_run_fails_a_lesson_that_warns(checkout, monkeypatch, capsys):
    monkeypatch.setattr("lrtut.site.build", lambda *_: [])
    assert cli.main(["run", "1", "--strict"]) == 1
    assert "cell 2: UserWarning: steep" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows reports a closed pipe in another way")
def test_a_reader_of_the_output_that_goes_away_is_no_error(checkout):
    pipe = subprocess.PIPE
    listing = subprocess.Popen([sys.executable, "-m", "lrtut.cli", "list"], stdout=pipe, stderr=pipe)
    listing.stdout.close()
    assert listing.stderr.read() == b"" and listing.wait() == 141


@pytest.mark.parametrize("output", [None, io.TextIOWrapper(io.BytesIO(), encoding="ascii")], ids=["closed", "ascii"])
def test_the_list_is_no_error_whatever_the_output(output, checkout, monkeypatch):
    lesson = next(checkout.glob("notebooks/01*"))
    lesson.write_text(lesson.read_text(encoding="utf-8").replace("# ", "# γ ", 1), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["list"]) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_full_disk_is_one_line_and_status_2(checkout):
    with open("/dev/full", "w") as full:
        listing = subprocess.run([sys.executable, "-m", "lrtut.cli", "list"], stdout=full, stderr=subprocess.PIPE)
    assert listing.returncode == 2 and listing.stderr.startswith(b"lrtut: ") and listing.stderr.count(b"\n") == 1


CANNOT = {
    "no such lesson": (["07", "01"], "no lesson 07: there are 01, 02, 03, 04."),
    "no job": (["--jobs", "0"], "--jobs 0"),
    "no such data": (["01"], "LRTUT_DATA='/no/such/folder'"),
}


@pytest.mark.parametrize("call, words", CANNOT.values(), ids=CANNOT)
def test_a_call_that_cannot_be_carried_out_is_one_line_and_status_2(call, words, checkout, monkeypatch, capsys):
    monkeypatch.setenv("LRTUT_DATA", "/no/such/folder")
    assert cli.main(["run", *call]) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("lrtut run: ") and said.count("\n") == 1


def test_a_word_too_many_is_named(checkout, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["run", "01", "--fast"])
    assert done.value.code == 2 and "unrecognized arguments: --fast" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "run", "lab"])
def test_outside_a_checkout_it_says_where_the_notebooks_are(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "lrtut" / "cli.py"))
    assert cli.main([command]) == 2
    assert "git clone https://github.com/lrtut/lrtut" in capsys.readouterr().err


@pytest.mark.parametrize("command, missing", [("list", "nbformat"), ("run", "nbclient"), ("lab", "jupyterlab")])
def test_without_the_notebook_side_it_says_what_to_install(command, missing, checkout, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == missing or name == "lrtut.execution"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(lrtut, "execution", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)  # its import fails
    assert cli.main([command]) == 2
    said = capsys.readouterr().err
    assert f"{missing} is missing; install the notebook side: uv sync" in said.replace(".exceptions", "")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C in another way")
@pytest.mark.parametrize("when", ["starting", "running"])
def test_ctrl_c_ends_the_kernels_and_is_one_line(when, checkout, ctrl_c, capsys):
    others, kernels = set(psutil.Process().children(recursive=True)), []

    def press():
        while not kernels or (when == "running" and not (checkout / "started").exists()):
            kernels[:] = set(psutil.Process().children(recursive=True)) - others
            time.sleep(0.01)
        press_ctrl_c(within="_base.py:result")

    threading.Thread(target=press, daemon=True).start()
    assert cli.main(["run", "04"]) == 130
    assert capsys.readouterr().err.endswith("\nlrtut run: interrupted.\n")
    assert not (checkout / "ended").exists()  # it did not wait for the cell
    assert not [kernel for kernel in kernels if kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE]


# --- lrtut lab ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(checkout, monkeypatch):
    """A stand-in for the interpreter that runs JupyterLab: writes down its arguments, then what a test adds."""

    def make(then="exit 7", *, root=False, container=None):
        script = checkout / "lab.sh"
        script.write_text(f'#!/bin/sh\necho "$@" > {checkout}/arguments\n{then}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000, raising=False)
        exists = Path.exists
        marks = ("/.dockerenv", "/run/.containerenv")
        monkeypatch.setattr(Path, "exists", lambda p: str(p) == container if str(p) in marks else exists(p))

    return make


posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in for JupyterLab is a shell script")
IN_CONTAINER = "--no-browser --ip=0.0.0.0"


@posix
@pytest.mark.parametrize(
    "where, given, options, said",
    [
        ({}, ["--port", "9999"], "--port 9999", ""),
        ({"root": True}, [], "--allow-root", "you are root"),
        ({"container": "/.dockerenv"}, [], IN_CONTAINER, "publish its port"),
        ({"container": "/run/.containerenv"}, ["--port=1"], f"{IN_CONTAINER} --port=1", "publish its port"),
        # JupyterLab refuses the same option twice.
        ({"container": "/.dockerenv"}, ["--ip=127.0.0.1", "--no-browser"], "--ip=127.0.0.1 --no-browser", ""),
    ],
)
def test_lab_is_started_with_what_it_needs_and_what_it_is_given(where, given, options, said, lab, checkout, capsys):
    lab(**where)
    assert cli.main(["lab", *given]) == 7  # its own
    arguments = (checkout / "arguments").read_text().split()
    ours = [f"--ServerApp.root_dir={checkout}", "--LabApp.default_url=/lab/tree/notebooks/01_lesson.ipynb"]
    assert arguments == ["-m", "jupyterlab", *ours, *options.split()]
    out = capsys.readouterr().out
    assert said in out and bool(out) == bool(where)


@posix
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_lab_ends_by_itself_on_ctrl_c_and_on_a_polite_end(name, lab, checkout, ctrl_c):
    up, pressed, ended = checkout / "up", checkout / "pressed", checkout / "ended"
    # As JupyterLab, which takes its time to shut its kernels down.
    lab(
        f"trap 'while [ ! -e {pressed} ]; do sleep 0.1; done; echo {name} > {ended}; exit 0' {name}\n"
        f"echo $$ > {up}.part\nmv {up}.part {up}\nwhile true; do sleep 0.1; done"
    )

    def press():
        while not up.exists():
            time.sleep(0.05)
        if name == "INT":  # a terminal sends it to both
            os.kill(int(up.read_text()), signal.SIGINT)
        press_ctrl_c(getattr(signal, f"SIG{name}"), within="subprocess.py:wait")
        time.sleep(0.5)
        pressed.touch()

    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append("TERM"))
    try:
        threading.Thread(target=press, daemon=True).start()
        assert cli.main(["lab"]) == 0
        assert ended.read_text() == f"{name}\n" and received == []
        signal.raise_signal(signal.SIGTERM)  # afterwards it is handled as before
        assert received == ["TERM"]
    finally:
        signal.signal(signal.SIGTERM, previous)
