"""Run a submission's kernel in bubblewrap, within limits. Linux; what it protects from: exercises/README.md."""

import contextlib
import errno
import json
import os
import platform
import shutil
import site
import struct
import subprocess
import sys
import tempfile
import threading
import time
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_output
from nbgrader.preprocessors import Execute
from nbgrader.utils import has_failed, is_grade, is_locked
from traitlets import Bool, Float, Integer, List, Unicode

PYTHON = os.path.abspath(sys.executable)
# All that a kernel sees of the system. The rest, the teacher's files and sockets included, is not there.
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys/devices/system/cpu"]
SYSTEM += [f"/etc/{name}" for name in ("alternatives", "fonts", "group", "ld.so.cache", "localtime", "passwd", "ssl")]
BWRAP = "--unshare-all --unshare-user --disable-userns --cap-drop ALL --die-with-parent --new-session --proc /proc "
BWRAP += "--dev /dev --unsetenv JPY_PARENT_PID --unsetenv XDG_RUNTIME_DIR --unsetenv DBUS_SESSION_BUS_ADDRESS"
# systemd-run needs the last two.
KEPT = "PATH LANG LD_LIBRARY_PATH HOME XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS".split()
# memfd_create, memfd_secret, shmget: memory of no process. add_key, request_key, keyctl: the teacher's keys.
REFUSED_CALLS = {
    "x86_64": (0xC000003E, 319, 447, 29, 248, 249, 250),
    "aarch64": (0xC00000B7, 279, 447, 194, 217, 218, 219),
}
MOST_SHOWN = 10_000_000  # bytes of all that a notebook prints and displays
TRICKS = ("__eq__", "mock.ANY")  # what an answer has no use for
CANARIES = [  # tests that hold nowhere: in an honest kernel, all fail
    "assert 1 == 2 or abs(1 - 2) < 0.5 or isinstance(1, str) or all([False]) or any([False]) or max(1, 2) < 2",
    "assert math.isclose(1, 2)",
    "assert np.isclose(1, 2) or np.allclose([1], [2]) or np.array_equal([1], [2])",
    "np.testing.assert_allclose(1, 2)",
    "one, two = torch.ones(1), torch.full((1,), 2.0)\n"
    "assert torch.equal(one, two) or torch.allclose(one, two) or torch.isclose(one, two) or one == two",
    "torch.testing.assert_close(torch.ones(1), torch.zeros(1))",
]


class Watch(threading.Thread):
    """Kills a process and all below it when they go beyond the `limits`; `reason` then says which."""

    def __init__(self, process, limits):
        super().__init__(daemon=True)
        self.reason, self._limits, self._over = "", limits, threading.Event()
        self._process, self._end = psutil.Process(process.pid), time.monotonic() + limits.seconds
        self.start()

    def run(self) -> None:
        most, most_mb = self._limits.processes, self._limits.memory_mb
        while not self._over.wait(0.1):
            with contextlib.suppress(psutil.NoSuchProcess):
                below = self._process.children(recursive=True)
                if len(below) > most:  # first: their number may double while their memory is added up
                    self.kill(f"the submission had {len(below)} processes; {most} are allowed")
                elif (used := _megabytes(below, most_mb)) > most_mb:
                    self.kill(f"the submission used {used:.0f} MB of memory; {most_mb} are allowed")
                elif time.monotonic() > self._end:
                    self.kill(f"the notebook ran longer than {self._limits.seconds:g} seconds")

    def kill(self, reason: str = "") -> None:
        """In bubblewrap all processes end with the first; elsewhere those that are found."""
        self.reason = self.reason or reason
        self._over.set()
        with contextlib.suppress(psutil.NoSuchProcess):
            below = self._process.children(recursive=True)
            for process in [self._process, *below]:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(below, timeout=10)


def _megabytes(processes: list[psutil.Process], enough: float) -> float:
    """Memory that processes share is counted once where they seem to have more than `enough`: that takes longer."""
    used = sum(process.memory_info().rss for process in processes)
    if used > enough * 10**6:
        with contextlib.suppress(psutil.AccessDenied):  # a process may forbid it
            used = sum(process.memory_full_info().pss for process in processes)
    return used / 10**6


class BoxedExecute(Execute):
    """nbgrader's Execute, with a kernel that sees nothing of `course` and no network, and has limits.

    What did not run gets an error: to nbgrader no output is a pass. A notebook with a `refusal` is not run at all.
    Afterwards `remarks` say what happened; a cell was `stopped`; a canary passed, or the code has a trick: `doubtful`.
    """

    course, data, folder = Unicode(), Unicode(help="for LRTUT_DATA"), Unicode(help="for scratch")
    trusted, refusal, remarks, stopped, doubtful = Bool(), Unicode(), List(), Bool(), Bool()
    seconds = Float(300, help="wall-clock seconds of a notebook").tag(config=True)
    memory_mb = Integer(2000, help="megabytes of all its processes; what they share counts once").tag(config=True)
    processes = Integer(64, help="how many it may have at once").tag(config=True)

    def lacks(self) -> str:
        """Why this system cannot isolate a kernel; empty if it can."""
        if not self._bwrap:
            return "bubblewrap is not installed (on Debian and Ubuntu: apt install bubblewrap)"
        with _refused_calls() as filter, tempfile.TemporaryDirectory(dir="/tmp") as scratch:
            command = [*self._command(scratch, scratch, filter), PYTHON, "-c", ""]
            done = subprocess.run(command, pass_fds=[filter.fileno()], capture_output=True, text=True, errors="replace")
        return done.returncode and f"bubblewrap is refused what it needs: {done.stderr.strip()}" or ""

    @cached_property
    def _bwrap(self) -> str | None:
        return shutil.which("bwrap", path=f"{os.path.dirname(PYTHON)}:{os.environ['PATH']}")

    @cached_property
    def _scope(self) -> list[str]:
        """The start of a command whose memory and processes the system itself bounds, where it grants that."""
        bounds = [f"-pMemoryMax={self.memory_mb}M", "-pMemorySwapMax=0", f"-pTasksMax={10 * self.processes}"]
        scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect", *bounds]
        granted = shutil.which(scope[0]) and not subprocess.run([*scope, "true"], capture_output=True).returncode
        return scope if granted else []

    def _command(self, scratch: str, work: str, filter) -> list[str]:
        """What to put before a command so that it runs isolated in `work`; `scratch` is all that it shares."""
        needed = [sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), site.getusersitepackages()]
        needed += [str(Path(find_spec("lrtut").origin).parent), f"{self.data}/MNIST"]
        mounts = {path: ["--ro-bind-try", path] for path in SYSTEM}
        mounts |= {path: ["--size", "64000000", "--tmpfs"] for path in ("/tmp", "/run", "/dev/shm", str(Path.home()))}
        mounts |= {path: ["--ro-bind-try", path] for path in map(os.path.abspath, needed)}
        mounts |= {self.course: ["--size", "4096", "--tmpfs"], scratch: ["--bind", scratch]}
        command = [*self._scope, self._bwrap, *BWRAP.split(), "--seccomp", str(filter.fileno())]
        for path in sorted(mounts, key=lambda path: path.count("/")):  # a folder first, then what lies in it
            command += [*mounts[path], path]
        for path in (self.course, "/dev", "/proc", "/"):  # a teacher who is root could write in /proc/sys
            command += ["--remount-ro", path]
        return [*command, "--chdir", work]

    @contextlib.contextmanager
    def _kernel(self, scratch: str):
        """A running kernel in `scratch`/work: manager, process and `Watch`; afterwards all that it started is gone."""
        specs = KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)  # this Python's, not one of the user's
        manager = AsyncKernelManager(kernel_spec_manager=specs, connection_file=f"{scratch}/kernel.json")
        manager.transport = "ipc"  # sockets that are files reach into a network namespace
        # One thread, and no GPU: marks shall not depend on the machine. pip shall say at once that it has no network.
        fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PIP_NO_INDEX": "1", "LRTUT_DATA": self.data}
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        fixed |= {"IPYTHONDIR": f"{scratch}/ipython", "NBGRADER_EXECUTION": "autograde"}
        options = {"cwd": f"{scratch}/work", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options |= {"env": kept | fixed, "extra_arguments": ["--HistoryManager.hist_file=:memory:"]}
        with _refused_calls() as filter:
            if not self.trusted:
                manager.kernel_spec.argv[:1] = [*self._command(scratch, f"{scratch}/work", filter), PYTHON]
                manager.kernel_spec.interrupt_mode = "message"  # a signal would reach bubblewrap alone
            run_sync(manager.start_kernel)(pass_fds=[filter.fileno()], **options)
        process = manager.provisioner.process
        watch = Watch(process, self)
        try:
            yield manager, process, watch
        finally:
            watch.kill()
            process.wait()
            if self.kc is not None:
                self.kc.stop_channels()
            run_sync(manager.cleanup_resources)()

    def preprocess(self, nb: NotebookNode, resources, km=None):
        cells, self._now, self._shown, ended = nb.cells, 0, 0, ""
        if self.refusal:
            _mark(filter(is_grade, cells), "NotGraded", self.refusal)
            return nb, resources
        tests = [cell.source for cell in cells if is_grade(cell) and is_locked(cell) and cell.cell_type == "code"]
        canaries = [new_code_cell(source) for source in [*(f"assert 1 == 2\n{test}" for test in tests), *CANARIES]]
        nb.cells = [*cells, *canaries]
        scratch = tempfile.mkdtemp(dir=self.folder)
        leave = shutil.ignore_patterns("*.ipynb")
        shutil.copytree(resources["metadata"]["path"], f"{scratch}/work", ignore=leave)  # nothing done there stays
        try:
            with self._kernel(scratch) as (manager, process, self._watch):
                try:
                    super().preprocess(nb, resources, km=manager)
                except Exception as error:  # a kernel that ends, or that sends nonsense, leaves many kinds behind
                    ended = self._watch.reason or _why(error, process.poll())
        finally:
            for remove in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):  # they follow no link, and know no depth
                subprocess.run([*remove, scratch], stderr=subprocess.DEVNULL)
        nb.cells = cells
        doubts = [] if ended or all(map(has_failed, canaries)) else ["a test that must fail passed"]
        own = "\n".join(cell.source for cell in cells if cell.cell_type == "code" and not is_locked(cell))
        doubts += [f"its code has {trick} in it" for trick in TRICKS if trick in own]
        self.doubtful = bool(doubts)
        self.remarks += [f"{why}: does it change how tests work?" for why in doubts]
        self._judge(cells, ended)
        return nb, resources

    def _judge(self, cells: list[NotebookNode], ended: str) -> None:
        if ended:
            self.stopped = True
            self.remarks.append(f"stopped: {ended}")
            _mark(cells[self._now : self._now + 1], "Stopped", ended)
            _mark(cells[self._now + 1 :], "NotRun", f"this cell did not run, because in an earlier one {ended}")
        for cell in filter(lambda cell: cell.cell_type == "code", cells):
            # Half of a surrogate pair can be printed, but not stored.
            outputs = json.dumps(cell.outputs, ensure_ascii=False).encode("utf-8", "replace")
            cell.outputs = from_dict(json.loads(outputs))
            if any(output.get("ename") == "CellTimeoutError" for output in cell.outputs):
                self.stopped = True
                name = cell.metadata.get("nbgrader", {}).get("grade_id") or "of the student's own"
                self.remarks.append(f"the cell {name} was interrupted after {self.timeout} seconds")

    def preprocess_cell(self, cell, resources, index):
        self._now = index
        return super().preprocess_cell(cell, resources, index)

    def process_message(self, msg, cell, cell_index):
        self._shown += len(repr(msg["content"]))
        if self._shown > MOST_SHOWN:
            self._watch.kill(f"the notebook printed and displayed more than {MOST_SHOWN // 10**6} MB")
        return super().process_message(msg, cell, cell_index)


def _why(error: Exception, code: int | None) -> str:
    if code is not None:
        return f"the kernel ended by itself (exit code {code}): `exit()`, `os._exit()`, a crash or too little memory"
    if isinstance(error, CellTimeoutError):
        return "a cell did not stop when it was interrupted"
    return f"the kernel sent what nobody understands ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


def _mark(cells, name: str, message: str) -> None:
    """Give code cells an error output."""
    for cell in cells:
        if cell.cell_type == "code":
            text = f"\x1b[0;31m{name}\x1b[0m: {message}"
            cell.outputs = [*cell.outputs[:20], new_output("error", ename=name, evalue=message, traceback=[text])]


def _refused_calls():
    """A file with a seccomp filter, as bubblewrap reads it: REFUSED_CALLS do not exist."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # as in <linux/filter.h>
    architecture, *calls = REFUSED_CALLS.get(platform.machine(), (0,))  # elsewhere, all are refused
    last = len(calls) + 5
    steps = [(load, 0, 0, 4), (equal, 0, last - 2, architecture), (load, 0, 0, 0), (at_least, last - 4, 0, 0x40000000)]
    steps += [(equal, last - 5 - i, 0, call) for i, call in enumerate(calls)]
    steps += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x50000 + errno.ENOSYS)]
    file = tempfile.TemporaryFile()
    file.write(b"".join(struct.pack("HBBI", *step) for step in steps))
    file.seek(0)
    return file
