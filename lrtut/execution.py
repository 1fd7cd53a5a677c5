"""Execute notebooks on fresh kernels: a thin layer over nbclient."""

from __future__ import annotations

import os
import pkgutil
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from tqdm.auto import tqdm

import lrtut
from lrtut.data import DIGITS, find_data

CELL_TIMEOUT_S = 600
MOST_BYTES = 1.3e9  # with PyPI's CUDA build; Binder guarantees 1 GB to the whole session, and allows 2
WIDGET = "application/vnd.jupyter.widget-view+json"
# What tqdm draws in text: a carriage return, then the bar up to its "[elapsed<remaining, rate]", or blanks over it.
BAR = re.compile(r"\r(?:[^\r\n]*?\[\d+:\d\d[^\]\r\n]*\]| *(?=\r|\n|$))")


@dataclass(frozen=True)
class Outcome:
    """How one notebook went: seconds, the kernel's peak memory in bytes, and the failing cell with its error or ""."""

    name: str
    seconds: float
    peak_memory: int
    error: str


def execute_all(notebooks: Sequence[Path], folder: Path, jobs: int = 1, *, strict: bool = False) -> list[Outcome]:
    """Execute notebooks, `jobs` at once, and write each into `folder`.

    The data are looked for (and downloaded) once, here; every kernel computes with one torch thread, because the
    number of threads changes the last bits of a sum. With `strict`, a warning raised in `lrtut` or in a notebook's own
    code is an error, and whatever stands on a notebook's stderr fails it, as does a kernel of more than 1.3 GB.

    Raises:
        DataError: LRTUT_DATA names a folder that cannot be used.
    """
    source, origin = find_data()
    os.environ.update(kernel_environment(source, strict=strict))
    print(f"Data: {data_in_words(source, origin)}.")
    folder.mkdir(parents=True, exist_ok=True)
    documents = [read(path) for path in notebooks]
    cells = sum(cell.cell_type == "code" for document in documents for cell in document.cells)
    running: set[int] = set()  # the kernels' process ids
    interrupted = threading.Event()
    with tqdm(total=cells, unit="cell", desc="lrtut run") as bar:
        pool = ThreadPoolExecutor(jobs)
        try:
            tasks = [
                pool.submit(_execute, path, document, folder, bar, running, interrupted, strict)
                for path, document in zip(notebooks, documents, strict=True)
            ]
            return [task.result() for task in tasks]
        except KeyboardInterrupt:
            interrupted.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for pid in list(running):  # nbclient sees its kernel dead and returns
                if psutil.pid_exists(pid):
                    psutil.Process(pid).kill()
            raise
        finally:
            pool.shutdown()


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook, from its file or from an answer's page in MyST's Markdown."""
    if path.suffix != ".md":
        return nbformat.read(path, as_version=4)
    from myst_nb.core.read import read_myst_markdown_notebook

    notebook = read_myst_markdown_notebook(path.read_text(encoding="utf-8"))
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def data_in_words(source: str, origin: str) -> str:
    """Which data set it is and why, from what `find_data` said."""
    return origin if source == DIGITS else f"MNIST in {origin}"


def kernel_environment(source: str, *, strict: bool = False) -> dict[str, str]:
    """Environment variables for kernels: one thread each, where the data are (as `find_data` said), strict claims.

    With `strict`, a warning raised in `lrtut` or in a notebook's own code is an error there. Warnings of other packages
    are left as they are: some are raised while matplotlib is imported.
    """
    found = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # A kernel's debugger warns on stderr about frozen modules; a lesson needs no debugger.
    found |= {"LRTUT_DATA": source, "PYDEVD_DISABLE_FILE_VALIDATION": "1", "LRTUT_CLAIMS": "strict"}
    if strict:  # PYTHONWARNINGS takes whole module names only; a notebook's cells are __main__
        modules = ["__main__", "lrtut", *(module.name for module in pkgutil.walk_packages(lrtut.__path__, "lrtut."))]
        found["PYTHONWARNINGS"] = ",".join(f"error:::{name}" for name in modules)
    return found


def on_stderr(document: nbformat.NotebookNode) -> tuple[int, str] | None:
    """The first cell that wrote on stderr, and what; None if none did. A progress bar drawn in text does not count."""
    for i, cell in enumerate(document.cells):
        texts = [o.text for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stderr"]
        said = BAR.sub("", "".join(texts)).strip()
        if said:
            return i, said
    return None


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a text table: lesson, seconds, peak memory, ok or the error."""
    width = max([len("lesson"), *(len(o.name) for o in outcomes)])
    lines = [f"{'lesson':<{width}}  seconds  peak MB  result"]
    for o in outcomes:
        lines.append(f"{o.name:<{width}}  {o.seconds:7.1f}  {o.peak_memory / 1e6:7.0f}  {o.error or 'ok'}")
    return "\n".join(lines)


def _execute(
    path: Path,
    document: nbformat.NotebookNode,
    folder: Path,
    bar: tqdm,
    running: set[int],
    interrupted: threading.Event,
    strict: bool,
) -> Outcome:
    peak, pid, current = 0, 0, 0

    def before(cell, cell_index):
        nonlocal pid, current
        current = cell_index
        if not pid:
            pid = client.km.provisioner.pid
            running.add(pid)
        if interrupted.is_set():  # while this kernel was starting, and not yet among those that were killed
            raise _Interrupted

    def after(cell, cell_index, **_):
        nonlocal peak
        peak = max(peak, _peak_memory(pid))
        bar.update()

    client = NotebookClient(
        document,
        timeout=CELL_TIMEOUT_S,
        shutdown_kernel="immediate",  # nothing is left to save, and torch takes seconds to leave politely
        kernel_name="python3",
        # Newer kernels warn on stderr that loopback TCP is not encrypted, in the middle of the bar.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=before,
        on_cell_executed=after,
    )
    start, error = time.perf_counter(), ""
    try:
        client.execute()
    except CellExecutionError as failure:
        error = f"cell {current}: {_first_line(failure.ename, failure.evalue)}"
    except (CellTimeoutError, RuntimeError) as failure:  # a kernel that died, or did not start
        error = f"cell {current}: {_first_line(type(failure).__name__, str(failure))}"
    finally:
        running.discard(pid)
    seconds = time.perf_counter() - start
    if strict and not error and (said := on_stderr(document)):
        error = f"cell {said[0]}: on stderr: {said[1].splitlines()[-1]}"
    if strict and not error and peak > MOST_BYTES:
        error = f"it took {peak / 1e6:.0f} MB of memory, more than {MOST_BYTES / 1e6:.0f}"
    _drop_widgets(document)
    _write(folder / f"{path.stem}.ipynb", nbformat.writes(document))
    return Outcome(path.stem, seconds, peak, error)


class _Interrupted(Exception):
    """Ctrl-C came: nothing of this notebook is run or written any more."""


def _first_line(name: str, message: str) -> str:
    """An error's name, and the first line of what it says, if it says anything."""
    return ": ".join([name, *message.strip().splitlines()[:1]])


def _drop_widgets(document: nbformat.NotebookNode) -> None:
    """Take out progress bars: they closed with their cell, and a page cannot show a closed widget."""
    document.metadata.pop("widgets", None)
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]


def _peak_memory(pid: int) -> int:
    """The process's largest resident set so far in bytes; where the system keeps no such record, its present one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return 0
    return getattr(memory, "peak_wset", memory.rss)


def _write(path: Path, text: str) -> None:
    """Write in one rename, so that an interrupt leaves no half file."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
