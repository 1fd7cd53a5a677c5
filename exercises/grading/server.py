"""The warm server: imports PyTorch once and forks, for each submission, a guard and under it a real Jupyter kernel.

It must never start a thread before it forks, so it runs no torch operation and opens no ZeroMQ socket. Started by
`kernels.KernelServer`; ends when its standard input closes, that is, when the grader ends in whatever way.

    python -m grading.server SOCKET warm|cold
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from grading import sandbox

FEW = 4  # processes: a notebook that calls a program has two or three
POLL_SECONDS = 0.1  # memory is written at 2 GB/s at most, so this overshoots by 200 MB
# What notebooks of the course import; torch._dynamo alone, which the first optimizer pulls in, takes 3 s.
WARM_MODULES = (
    "grading.outstream",
    "ipykernel.kernelapp",
    "numpy",
    "torch",
    "torch._dynamo",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "lrtut",
    "tqdm.auto",
)


def serve(address: str, warm: bool) -> None:
    """Accept one connection a kernel until standard input closes."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace") as answer:
        os.dup2(2, 1)  # whatever an import or a kernel prints belongs into the log
        _serve(address, warm, answer)


def _serve(address: str, warm: bool, answer) -> None:
    if not Path("/proc/thread-self/children").exists():
        raise RuntimeError("this system does not list a process's children (CONFIG_PROC_CHILDREN)")
    data = _preload() if warm else ""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", data, file=answer, flush=True)
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [], 1.0)
            if sys.stdin in readable:
                return
            if listener in readable:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    os.close(0)
                    _leave(_guard, connection)
                connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _preload() -> str:
    """Import what notebooks import, and find the data; which these are, in words."""
    from importlib import import_module

    for name in WARM_MODULES:
        import_module(name)
    import torch

    from lrtut.data import DIGITS, find_data
    from lrtut.execution import data_in_words, kernel_environment

    source, origin = find_data()
    os.environ.update(kernel_environment(source))  # kernels have no network to look for data
    if os.environ["LRTUT_DATA"] == DIGITS:
        import_module("sklearn.datasets")

    torch.set_num_threads(1)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"an import has started {threads - 1} threads; what is forked now could hang")
    return data_in_words(source, origin)


def _leave(step, *args) -> None:
    """Run a forked child's part; never come back into the server's loop."""
    try:
        step(*args)
    except BaseException:  # a traceback on stderr, which the grader keeps, is all that can be done here
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _guard(connection: socket.socket) -> None:
    """Start the kernel below this process, watch it, and kill all of it at a limit or when the grader lets go."""
    request = json.loads(_line(connection))
    limits = request["limits"]
    os.setsid()
    with contextlib.suppress(PermissionError):  # root's guard goes first: a fork bomb leaves others no turn
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    sandbox.adopt_orphans()
    alone = sandbox.separate_processes()
    ready, not_yet = os.pipe()
    kernel = os.fork()
    if kernel == 0:
        connection.close()
        os.close(ready)
        _leave(_kernel, request, alone, not_yet)
    os.close(not_yet)
    ended = ""
    try:
        ended = _watch(connection, ready, kernel, limits)
    finally:
        _kill_below()
        if ended:
            part = Path(request["report"] + ".part")
            part.write_text(json.dumps(ended), encoding="utf-8")
            part.replace(request["report"])
        connection.close()


def _line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the grader went away before it said what to run")
        data += part
    return data


def _watch(connection: socket.socket, ready: int, kernel: int, limits: dict) -> list:
    """The clock runs from the moment at which `ready` is closed: a busy machine starts kernels slowly. Until something ends: [what, the value reached, the limit], with what one of `execute.ENDINGS`, or "closed"."""
    start, watched = math.inf, [connection, ready]
    while True:
        readable, _, _ = select.select(watched, [], [], POLL_SECONDS)
        if ready in readable:
            start, watched = time.monotonic(), [connection]
        if connection in readable:
            if not connection.recv(4096):
                return ["closed", None, None]
            os.kill(kernel, signal.SIGINT)
        pid, status = os.waitpid(kernel, os.WNOHANG)
        if pid:
            return ["died", os.waitstatus_to_exitcode(status), None]
        below = list(islice(_below(), limits["processes"] + 1))
        if len(below) > limits["processes"]:  # first of all: their number may double while the memory is added up
            return ["processes", len(below), limits["processes"]]
        if (memory := _memory(below, limits["memory_mb"])) > limits["memory_mb"]:
            return ["memory", memory, limits["memory_mb"]]
        if time.monotonic() - start > limits["seconds"]:
            return ["time", limits["seconds"], limits["seconds"]]


def _below() -> Iterator[int]:
    """The ids of the processes below this one, parents first.

    They are found one by one, because a fork bomb may outrun a list of them all.
    """
    waiting = [os.getpid()]
    for pid in waiting:
        with contextlib.suppress(OSError):  # it has gone
            for task in os.listdir(f"/proc/{pid}/task"):
                children = [*map(int, Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split())]
                yield from children
                waiting += children


def _memory(processes: list[int], most_mb: int) -> int:
    """Resident megabytes of the processes together.

    Pages of files are left out: these are the libraries, which all kernels share. A child just forked has all its
    parent's pages: where few processes seem to hold more than `most_mb`, those that they share are counted once. That
    takes longer, and with many processes there is no time: each may have forked again meanwhile.
    """
    kilobytes = sum(_kilobytes(pid, "status", ("RssAnon:", "RssShmem:")) for pid in processes)
    if kilobytes * 1024 > most_mb * 10**6 and len(processes) <= FEW:
        kilobytes = sum(
            _kilobytes(pid, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))
            or _kilobytes(pid, "status", ("RssAnon:", "RssShmem:"))  # the system may refuse the other
            for pid in processes
        )
    return kilobytes * 1024 // 10**6


def _kilobytes(pid: int, file: str, names: tuple[str, ...]) -> int:
    """The sum of the lines with these names of /proc/`pid`/`file`; 0 if the process has gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(names))
    return 0


def _kill_below() -> None:
    """Kill children until there are none: each round may lay bare those that had hidden behind another."""
    for _ in range(1000):
        for pid in _below():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _kernel(request: dict, alone: bool, not_yet: int) -> None:
    """Become the kernel, in the sandbox, and close `not_yet` when it is ready. Returns when the kernel ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scratch = request["scratch"]
    os.chdir(scratch)
    for name in ("HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        os.environ[name] = scratch
    os.environ.pop("PYTHONPATH", None)
    exercises = str(Path(__file__).resolve().parents[1])
    sys.path[:] = ["", *(path for path in sys.path if path not in ("", exercises))]
    # Imported before the sandbox hides this folder.
    from grading.outstream import LimitedOutStream

    achieved = sandbox.enter(scratch, request["hide"], request["limits"]["file_mb"], alone)
    os.chdir(scratch)
    os.chmod(scratch, 0o700)
    if request.get("protections"):
        Path(scratch, "protections.json").write_text(json.dumps(sorted(achieved)), encoding="utf-8")
        return

    from ipykernel.kernelapp import IPKernelApp

    LimitedOutStream.most = int(request["limits"]["output_mb"] * 10**6)
    app = IPKernelApp.instance(outstream_class="grading.outstream.LimitedOutStream", log_level="ERROR")
    app.initialize(["-f", request["connection_file"], "--HistoryManager.hist_file=:memory:"])
    app.shell.events.register("pre_run_cell", LimitedOutStream.new_cell)
    os.close(not_yet)
    app.start()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2] == "warm")
