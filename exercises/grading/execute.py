"""nbgrader's Execute step on a limited kernel; what did not run gets an error, never an empty output.

An empty output means full marks to nbgrader, so a kernel that dies must not leave cells behind without one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import Execute
from nbgrader.utils import is_grade
from traitlets import Any

from grading.kernels import limited_kernel, scratch_folder
from grading.limits import CUT, Limits

NOT_RUN = "NotRun"
ERRORS = {
    "died": "KernelDied",
    "memory": "MemoryLimit",
    "processes": "ProcessLimit",
    "time": "TimeLimit",
    "output": "OutputLimit",
    "silent": "NoAnswer",
}
ENDINGS = {
    "died": "the kernel ended by itself (exit code {value}): `exit()`, `os._exit()` or a crash",
    "memory": "the submission used {value} MB of memory; {limit} MB are allowed",
    "processes": "the submission had {value} processes; {limit} are allowed",
    "time": "the notebook ran longer than {limit} seconds",
    "output": "the notebook displayed more than {limit} MB",
    "silent": "a cell did not stop when it was interrupted after {limit} seconds",
}


@dataclass(frozen=True)
class Stop:
    """Why a notebook did not run to its end: a key of ENDINGS, the sentence, and the index of the cell."""

    kind: str
    reason: str
    cell: int


class LimitedExecute(Execute):
    """Execute with limits.

    Configure by attributes before use: `address` of the server, `folder` for scratch folders, `limits`, `hide`, and
    `around`, a context in which student code runs. After each notebook `stop` is a `Stop` or None, and `notes` are
    sentences about cells that were interrupted (`interrupted`: there is one) or printed too much. With `refusal` set
    nothing runs: each test gets it as its error.
    """

    address = Any()
    folder = Any()
    limits = Any(Limits())
    hide: Sequence[str] = Any(())
    around: Callable[[], AbstractContextManager] = Any(nullcontext)
    refusal = Any("")
    stop = Any(None)
    interrupted = Any(False)
    notes = Any(())

    def preprocess(self, nb: NotebookNode, resources, km=None):
        self.stop, self.interrupted, self.notes = None, False, ()
        if self.refusal:
            for cell in filter(is_grade, nb.cells):
                _mark(cell, "NotGraded", self.refusal)
            return nb, resources
        self.timeout = self.limits.cell_seconds
        self.startup_timeout = 60
        self._current, self._displayed, self._flooded = 0, 0, False
        source = Path(resources["metadata"]["path"])
        with self.around(), scratch_folder(self.folder) as scratch:
            _copy_data(source, Path(scratch))
            report = Path(self.folder, Path(scratch).name + ".ended")
            complete, error = False, None
            with limited_kernel(self.address, scratch, report, self.limits, self.hide) as manager:
                try:
                    super().preprocess(nb, {**resources, "metadata": {"path": scratch}}, km=manager)
                    complete = True
                except Exception as caught:  # a kernel that ends leaves many kinds behind
                    error = caught
                finally:
                    if self.kc is not None:
                        self.kc.stop_channels()
                        self.kc = None
            if not complete:
                self.stop = self._explain(report)
                if self.stop.kind == "silent" and not isinstance(error, (RuntimeError, CellTimeoutError)):
                    raise error  # no limit was met: the grader itself went wrong
                late = nb.cells[self.stop.cell :]
                late[0].outputs = late[0].outputs[:20] if self.stop.kind == "output" else late[0].outputs
                _mark(late[0], ERRORS[self.stop.kind], self.stop.reason)
                for cell in late[1:]:
                    _mark(cell, NOT_RUN, f"this cell did not run, because in an earlier one {self.stop.reason}")
            report.unlink(missing_ok=True)
        self._take_notes(nb)
        self.resources = resources
        return nb, resources

    def preprocess_cell(self, cell, resources, index):
        self._current = index
        return super().preprocess_cell(cell, resources, index)

    def process_message(self, msg, cell, cell_index):
        # Printed text is cut off in the kernel, where it costs least; this holds for all else that it may send.
        self._displayed += len(repr(msg["content"]))
        if self._displayed > 100 * self.limits.output_mb * 10**6:
            self._flooded = True
            self.km.provisioner.process.kill()  # nbclient sees the kernel dead; an exception here would reach nobody
            return None
        return super().process_message(msg, cell, cell_index)

    def _take_notes(self, nb: NotebookNode) -> None:
        notes = []
        for number, cell in enumerate(nb.cells, 1):
            name = cell.metadata.get("nbgrader", {}).get("grade_id") or f"number {number}"
            outputs = cell.get("outputs", [])
            if any(output.get("ename") == "CellTimeoutError" for output in outputs):
                self.interrupted = True
                notes.append(f"the cell {name} was interrupted after {self.limits.cell_seconds} seconds")
            if any(CUT in output.get("text", "") for output in outputs):
                notes.append(f"the cell {name} printed more than {self.limits.output_mb:g} MB; the rest was dropped")
        self.notes = tuple(notes)

    def _explain(self, report: Path) -> Stop:
        if self._flooded:
            kind, value, limit = "output", None, 100 * self.limits.output_mb
        else:
            kind, value, limit = json.loads(report.read_text(encoding="utf-8")) if report.exists() else [""] * 3
            if kind not in ENDINGS:
                kind, limit = "silent", self.limits.cell_seconds
        return Stop(kind, ENDINGS[kind].format(value=value, limit=limit), self._current)


def _mark(cell: NotebookNode, name: str, message: str) -> None:
    """Give a code cell an error output."""
    if cell.cell_type == "code":
        text = f"\x1b[0;31m{name}\x1b[0m: {message}"
        cell.outputs = [*cell.outputs, new_output("error", ename=name, evalue=message, traceback=[text])]


def _copy_data(source: Path, scratch: Path) -> None:
    """The files that lie beside the notebook, as copies: nothing that student code does there stays."""
    for path in source.iterdir():
        if path.is_symlink() or path.suffix == ".ipynb":
            continue
        if path.is_dir():
            shutil.copytree(path, scratch / path.name, symlinks=True)
        else:
            shutil.copy(path, scratch / path.name)
