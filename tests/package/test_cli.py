import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import lrtut
from lrtut import cli, execution
from lrtut.version import __version__


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of three small lessons, and the working folder in it."""
    (tmp_path / "lrtut").mkdir()
    (tmp_path / "lrtut" / "cli.py").touch()
    (tmp_path / "notebooks").mkdir()
    good = [new_code_cell("import torch, os\nprint(torch.get_num_threads(), os.environ['LRTUT_DATA'])")]
    bad = [new_code_cell("1 + 1"), new_code_cell("raise ValueError('too steep')"), new_code_cell("print('never')")]
    head = "# 0{n} · Lesson {n}\n\nAfter this lesson you can\n\n- do {n}.\n\n**Time:** {n} minutes."
    for n, cells in ((1, good), (2, bad), (3, [new_code_cell("x = 1")])):
        notebook = new_notebook(cells=[new_markdown_cell(head.format(n=n)), *cells])
        nbformat.write(notebook, tmp_path / "notebooks" / f"0{n}_lesson.ipynb")
    (tmp_path / "notebooks" / "scratch.ipynb").write_text("not a lesson")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("LRTUT_DATA", "digits")
    return tmp_path


def test_list(checkout, capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "01  Lesson 1  (1 minutes)" in out and "- do 3." in out and "scratch" not in out


def test_list_says_of_each_lesson_its_title_minutes_and_what_one_learns(monkeypatch, capsys):
    root = Path(cli.__file__).parents[1]
    monkeypatch.chdir(root)
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    heads = re.findall(r"^(\d\d)  \S.+  \(\d+ minutes to read, .*minute.* to run\)\n((?:      - .+\n)+)", out, re.M)
    assert [number for number, _ in heads] == [path.name[:2] for path in cli.find_lessons(root)]
    assert all(learn.count("\n") == 3 for _, learn in heads)


@pytest.mark.skipif(os.name == "nt", reason="Windows reports a closed pipe in another way")
def test_a_reader_of_the_output_that_goes_away_is_no_error(checkout):
    listing = subprocess.Popen(
        [sys.executable, "-m", "lrtut.cli", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    listing.stdout.close()
    assert listing.stderr.read() == b"" and listing.wait() == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0 and capsys.readouterr().out == f"lrtut {__version__}\n"


def test_each_kernel_has_one_thread_and_the_data_that_were_found(checkout, capsys):
    paths = cli.find_lessons(checkout)[:2]
    good, bad = execution.execute_all(paths, checkout / "build", jobs=2)
    assert good.error == "" and bad.error == "cell 2: ValueError: too steep"
    assert good.peak_memory > 100e6  # torch was imported
    assert "Data: scikit-learn, as LRTUT_DATA=digits asks" in capsys.readouterr().out
    done = nbformat.read(checkout / "build" / paths[0].name, as_version=4)
    assert done.cells[1].outputs[0].text == "1 digits\n"
    failed = nbformat.read(checkout / "build" / paths[1].name, as_version=4)
    assert failed.cells[2].outputs[0].ename == "ValueError" and failed.cells[3].outputs == []


def test_run_of_what_is_not_there(checkout, capsys):
    assert cli.main(["run", "07", "01"]) == 2
    assert "no lesson 07: there are 01, 02, 03." in capsys.readouterr().err
    assert cli.main(["run", "--jobs", "0"]) == 2
    assert "--jobs 0" in capsys.readouterr().err


def test_run_with_data_that_are_not_there(checkout, monkeypatch, capsys):
    monkeypatch.setenv("LRTUT_DATA", "/no/such/folder")
    assert cli.main(["run", "01"]) == 2
    assert "LRTUT_DATA='/no/such/folder'" in capsys.readouterr().err


def test_outside_a_checkout_it_says_where_the_notebooks_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "lrtut" / "cli.py"))
    for command in ("list", "run", "lab"):
        assert cli.main([command]) == 2
        assert "git clone https://github.com/lrtut/lrtut" in capsys.readouterr().err


def test_lab_as_root_and_in_a_container_says_what_it_does(monkeypatch, capsys):
    monkeypatch.setattr(cli.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(cli, "in_container", lambda: False)
    assert cli.lab_options() == ["--allow-root"]
    assert "you are root" in capsys.readouterr().out
    monkeypatch.setattr(cli.os, "geteuid", lambda: 1000, raising=False)
    assert cli.lab_options() == [] and capsys.readouterr().out == ""
    monkeypatch.setattr(cli, "in_container", lambda: True)
    assert cli.lab_options() == ["--no-browser", "--ip=0.0.0.0"]
    assert "publish its port" in capsys.readouterr().out


def test_lab_hands_options_on(checkout, monkeypatch):
    calls = []
    monkeypatch.setattr(cli.subprocess, "Popen", lambda command: calls.append(command) or SimpleNamespace(wait=int))
    monkeypatch.setattr(cli, "lab_options", lambda: ["--allow-root"])
    assert cli.main(["lab", "--port", "9999"]) == 0
    ours = [f"--ServerApp.root_dir={checkout}", "--LabApp.default_url=/lab/tree/notebooks/01_lesson.ipynb"]
    assert calls[0][1:] == ["-m", "jupyterlab", *ours, "--allow-root", "--port", "9999"]
    monkeypatch.setattr(cli, "lab_options", lambda: ["--no-browser", "--ip=0.0.0.0"])
    assert cli.main(["lab", "--ip=127.0.0.1", "--no-browser"]) == 0  # twice the same option would be refused
    assert calls[1][5:] == ["--ip=127.0.0.1", "--no-browser"]


def test_dead_kernel_is_a_row_in_the_table(checkout):
    path = checkout / "notebooks" / "03_lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("import os\nos._exit(1)")]), path)
    (outcome,) = execution.execute_all([path], checkout / "build")
    assert "cell 0: DeadKernelError" in outcome.error


def test_a_word_too_many_is_named(checkout, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["run", "01", "--fast"])
    assert done.value.code == 2 and "unrecognized arguments: --fast" in capsys.readouterr().err


@pytest.mark.parametrize("command, missing", [("list", "nbformat"), ("run", "nbclient"), ("lab", "jupyterlab")])
def test_without_the_notebook_side_it_says_what_to_install(checkout, monkeypatch, capsys, command, missing):
    monkeypatch.setattr(cli, "lab_options", lambda: [])
    monkeypatch.setattr(cli.subprocess, "Popen", lambda command: pytest.fail("it was started all the same"))
    for name in ("lrtut.execution", missing):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(lrtut, "execution", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)  # its import fails
    assert cli.main([command]) == 2
    said = capsys.readouterr().err
    assert "missing; install the notebook side: uv sync" in said and missing in said


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for JupyterLab is a shell script")
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_jupyterlab_ends_by_itself_on_ctrl_c_and_on_a_polite_end(checkout, monkeypatch, ctrl_c, name):
    up, ended = checkout / "up", checkout / "ended"
    lab = checkout / "lab.sh"
    # The interpreter's stand-in takes two seconds to shut down, as JupyterLab does for its kernels.
    lab.write_text(
        f"#!/bin/sh\ntrap 'sleep 2; echo {name} > {ended}; exit 0' {name}\necho $$ > {up}.part\n"
        f"mv {up}.part {up}\ni=0\nwhile [ $i -lt 150 ]; do sleep 0.1; i=$((i + 1)); done\nexit 9\n"
    )
    lab.chmod(0o755)
    monkeypatch.setattr(cli, "lab_options", lambda: [])
    monkeypatch.setattr(cli.sys, "executable", str(lab))

    def press():
        while not up.exists():
            time.sleep(0.05)
        if name == "INT":  # a terminal sends it to both, and people press it twice
            os.kill(int(up.read_text()), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.4)
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))

    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append("TERM"))
    try:
        presses = threading.Thread(target=press, daemon=True)
        presses.start()
        assert cli.main(["lab"]) == 0
        assert ended.read_text() == f"{name}\n" and received == []
        presses.join()
        os.kill(os.getpid(), signal.SIGTERM)  # afterwards it is handled as before
        assert received == ["TERM"]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_ctrl_c_is_one_line_and_no_traceback(checkout, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "execute_all", interrupted)
    assert cli.main(["run", "01"]) == 130
    assert capsys.readouterr().err == "\nlrtut run: interrupted.\n"


def test_a_container_is_known_by_the_file_that_docker_or_podman_leaves(monkeypatch):
    there = set()
    monkeypatch.setattr(cli.Path, "exists", lambda path: str(path) in there)
    assert not cli.in_container()
    for mark in ("/.dockerenv", "/run/.containerenv"):
        there = {mark}
        assert cli.in_container()


def test_ctrl_c_ends_the_kernels_too(checkout, ctrl_c):
    mark = checkout / "started"
    code = f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    path = checkout / "notebooks" / "03_lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), path)

    def press():
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it

    threading.Thread(target=press, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execution.execute_all([path], checkout / "build")
    assert time.monotonic() - began < 300  # it did not wait for the cell
    pid = int(mark.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_while_a_kernel_starts_runs_no_cell(checkout, ctrl_c, monkeypatch):
    mark, path = checkout / "ran", checkout / "notebooks" / "03_lesson.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(f"open({str(mark)!r}, 'w').close()")]), path)
    execute, pids = execution.NotebookClient.execute, []

    def press_and_execute(client):
        started = client.async_start_new_kernel_client

        async def slowly():
            result = await started()
            pids.append(client.km.provisioner.pid)
            os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it
            await asyncio.sleep(1)
            return result

        client.async_start_new_kernel_client = slowly
        return execute(client)

    monkeypatch.setattr(execution.NotebookClient, "execute", press_and_execute)
    with pytest.raises(KeyboardInterrupt):
        execution.execute_all([path], checkout / "build")
    assert not mark.exists() and list((checkout / "build").iterdir()) == []
    assert not psutil.pid_exists(pids[0]) or psutil.Process(pids[0]).status() == psutil.STATUS_ZOMBIE


def test_error_without_words_is_a_row_in_the_table(checkout, monkeypatch):
    def fail(client):
        raise RuntimeError

    monkeypatch.setattr(execution.NotebookClient, "execute", fail)
    (outcome,) = execution.execute_all([checkout / "notebooks" / "03_lesson.ipynb"], checkout / "build")
    assert outcome.error == "cell 0: RuntimeError"


def test_peak_memory_where_the_system_keeps_no_record_of_it(monkeypatch):
    recorded = execution._peak_memory(os.getpid())
    monkeypatch.setattr(execution, "Path", lambda path: Path("no such file"))
    now = execution._peak_memory(os.getpid())
    assert 0 < now and now == pytest.approx(recorded, rel=0.9)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert execution._peak_memory(gone.pid) == 0
