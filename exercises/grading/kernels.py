"""The grader's side of the warm server: start it, and make kernel managers whose kernels run in the sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

from grading.limits import Limits

START_SECONDS = 120  # importing torch from a cold disk takes most of a minute
KERNEL = "limited"
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "USER", "LOGNAME", "HOME", "LRTUT_DATA")


class GradingError(Exception):
    """What a teacher can mend: the message says how."""


def kernel_variables() -> dict[str, str]:
    """The environment of the server and of every kernel: nothing of the teacher's but what Python needs to run."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    # One thread from the first import on: a library that starts threads could not be forked. Where there is no
    # network, pip shall say so at once instead of trying for a minute; and marks shall not depend
    # on which machine has a GPU.
    fixed = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    fixed |= {"PIP_NO_INDEX": "1", "PIP_NO_INPUT": "1", "CUDA_VISIBLE_DEVICES": "", "NBGRADER_EXECUTION": "autograde"}
    fixed["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    fixed["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    return kept | fixed


class KernelServer:
    """A context: within it, a process stands by that has imported PyTorch and forks kernels.

    Args:
        warm: without it nothing is imported beforehand, and each kernel takes its own seconds for that.

    Attributes:
        folder: a short temporary folder (a socket's path has 107 bytes at most); no kernel sees it.
        address: the server's socket.
        data: which data set the kernels read and why, in words; "" for a server that is not warm.

    Raises:
        GradingError: this is not Linux, or the server does not start.
    """

    def __init__(self, warm: bool = True):
        if sys.platform != "linux":
            raise GradingError("limited grading needs Linux: a JupyterHub, a container, or WSL on Windows.")
        self.warm = warm

    def __enter__(self) -> KernelServer:
        self.folder = tempfile.mkdtemp(prefix="grade-")
        self.address = str(Path(self.folder, "server"))
        self._log = open(Path(self.folder, "server.log"), "w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "grading.server", self.address, "warm" if self.warm else "cold"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=kernel_variables(),
            start_new_session=True,  # Ctrl-C is for the grader, which then lets go of its kernels one by one
        )
        ready, _, self.data = self._process.stdout.readline().decode().strip().partition(" ")
        if ready != "ready":
            self._log.seek(0)
            said = self._log.read().strip()
            self.__exit__()
            raise GradingError(f"the kernel server did not start: {said or 'it said nothing'}")
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def protections(self, hide: Sequence[str] = ()) -> list[str]:
        """Which of `sandbox.PROTECTIONS` this system grants to a kernel."""
        with scratch_folder(self.folder) as scratch:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self.address)
                request = _request(scratch, Path(self.folder, "probe"), Limits(), hide) | {"protections": True}
                connection.sendall(json.dumps(request).encode() + b"\n")
                connection.settimeout(START_SECONDS)
                connection.recv(1)
            return json.loads(Path(scratch, "protections.json").read_text(encoding="utf-8"))


@contextlib.contextmanager
def scratch_folder(above: str):
    """A new folder below `above` as a string; it and all in it are gone afterwards, whatever the modes left behind."""
    path = tempfile.mkdtemp(dir=above)
    try:
        yield path
    finally:
        _unlock(path)
        for folder, names, _ in os.walk(path):  # from above, so that what lies below can be listed
            for name in names:
                _unlock(os.path.join(folder, name))
        shutil.rmtree(path, ignore_errors=True)


def _unlock(folder: str) -> None:
    if not os.path.islink(folder):
        with contextlib.suppress(OSError):  # gone, or another's
            os.chmod(folder, 0o700)


def _request(scratch: str, report: Path, limits: Limits, hide: Sequence[str]) -> dict:
    return {"scratch": scratch, "report": str(report), "limits": asdict(limits), "hide": list(hide)}


@contextlib.contextmanager
def limited_kernel(address: str, scratch: str, report: Path, limits: Limits, hide: Sequence[str]):
    """A kernel manager for one limited kernel; at the end the kernel and all below it are gone, and `report` says why.

    Yields:
        the `AsyncKernelManager`, its kernel not yet started.
    """
    specs = Path(scratch, ".specs")
    (specs / KERNEL).mkdir(parents=True)
    attach = [sys.executable, "-I", "-S", str(Path(__file__).with_name("attach.py"))]
    argv = [*attach, address, json.dumps(_request(scratch, report, limits, hide)), "{connection_file}"]
    spec = {"argv": argv, "display_name": "limited", "language": "python"}
    (specs / KERNEL / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    manager = AsyncKernelManager(
        kernel_name=KERNEL,
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False),
        transport="ipc",  # sockets that are files reach into a network namespace
        connection_file=str(Path(scratch, "kernel.json")),
    )
    try:
        yield manager
    finally:
        _let_go(manager, report)


def _let_go(manager: AsyncKernelManager, report: Path) -> None:
    if manager.has_kernel:
        process = manager.provisioner.process
        run_sync(manager.shutdown_kernel)(now=True)
        if process is not None:
            process.wait()
        deadline = time.monotonic() + 60
        while not report.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
