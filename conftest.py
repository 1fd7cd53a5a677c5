"""For every test and every notebook: the data are looked for once, kernels compute with one torch thread, and a
warning or anything else on a notebook's stderr fails it."""

import os
import signal
import tempfile
from pathlib import Path

# Two workers on two cores: with two threads each, small networks take up to ten times as long. Before import torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
import nbmake.pytest_items
import pytest
from nbmake.nb_result import NotebookError, NotebookResult
from nbmake.nb_run import NotebookRun


class StrictRun(NotebookRun):
    """nbmake looks at errors alone; this also looks at stderr, alt texts and what tests/lessons/watch.py watches."""

    def execute(self) -> NotebookResult:
        import watch

        with tempfile.TemporaryDirectory() as folder:
            notebook, self.filename = watch.watched(self.filename), Path(folder) / self.filename.name
            nbformat.write(notebook, self.filename)
            return self.execute_strictly()

    def execute_strictly(self) -> NotebookResult:
        import watch

        from lrtut.execution import on_stderr

        # A kernel that finds this variable does not hand on what libraries in C write on stderr.
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        try:
            result = super().execute()
        except RuntimeError as error:
            if "Kernel died before replying" not in str(error):
                raise
            result = super().execute()  # another process took a port between its choice and its use
        if result.error is None:
            said = on_stderr(result.nb)
            problems = [(said[0], f"on stderr: {said[1]}")] if said else watch.problems(result.nb, self.filename.stem)
            if problems:
                cell, text = problems[0]
                trace = "\n".join([result.nb.cells[cell].source, "-" * 75, *(text for _, text in problems)])
                summary = text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"
                return NotebookResult(nb=result.nb, error=NotebookError(summary, trace, cell))
        return result


nbmake.pytest_items.NotebookRun = StrictRun  # nbmake has no hook for it; a test sees that it is used


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # xdist's workers inherit what the first process found
        from lrtut.data import find_data
        from lrtut.execution import kernel_environment

        os.environ.update(kernel_environment(find_data()[0], strict=True))


@pytest.fixture
def ctrl_c():
    """Python's own handling of Ctrl-C, also where the tests were started in the background, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
