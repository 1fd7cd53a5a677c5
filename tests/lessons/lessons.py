"""Run a lesson in this process, and look at each assertion of its checks on its own.

A check's assertions are recorded instead of raised; see turned.py.

    python tests/lessons.py notebooks/01_….ipynb turn        prints what happened, as JSON
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
from turned import RECORD, Recorder, Replacer, Watcher, helpers, opposite

ROOT = Path(__file__).parents[2]


def source(cell):
    """A code cell's Python; IPython's own lines (%pip) become `pass`, so that lines keep their numbers."""
    return re.sub(r"^(\s*)%.*", r"\1pass", cell.source, flags=re.M)


def is_check(cell):
    return "check" in cell.metadata.get("tags", [])


def environment(data="digits", capability=None):
    """Environment variables of a run: one thread, no GPU, no window, and a CPU capability if one is asked for."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    fixed = {"LRTUT_DATA": data, "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
    kind = {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": ISA[capability]} if capability else {}
    return os.environ | threads | fixed | kind


ISA = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}  # what oneDNN calls torch's capabilities


def run_apart(path, turn=True, **options):
    """`Lesson(path).run(turn)` in a process of its own; `options` go to `environment`."""
    return in_a_process(__file__, str(path), *["turn"] * turn, **options)


def in_a_process(*arguments, **options):
    """Run Python on `arguments`; what its last line says, read as JSON."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment(**options), capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{arguments} did not run:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class Lesson:
    """A notebook's code cells in one namespace, one after the other."""

    def __init__(self, path):
        self.name = Path(path).stem
        self.cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        self.namespace = {"__name__": "__main__"}
        self.recorder = Recorder()
        self.namespace[RECORD] = self.recorder

    def run(self, turn=True, until_red=False):
        """Run every cell.

        Args:
            turn: turn each comparison of the checks round, one at a time.
            until_red: stop at the first check that fails.

        Returns:
            A dict that JSON can hold: `checks` (for each check cell its assertions, which held, and what became of each
            comparison turned round), `figures` (the key figures), `alt` (for each cell the alt texts of its figures),
            `error` (of a cell that is no check, which ends the run; else None).
        """
        found = {"checks": [], "figures": {}, "alt": {}, "error": None}
        snapshots = []
        for cell in self.cells:
            if is_check(cell):
                snapshots.append((cell, dict(self.namespace)))
            try:
                self.run_cell(cell, found, turn)
            except Exception as error:
                found["error"] = f"{cell.id}: {type(error).__name__}: {error}"
                break
            if until_red and any(check["red"] for check in found["checks"][-1:]):
                break
        if turn and found["error"] is None:  # last: running a check again may change what later cells would use
            for check, (cell, snapshot) in zip(found["checks"], snapshots, strict=True):
                check["helpers"] = self.turn_helpers(cell, snapshot)
        return found

    def run_cell(self, cell, found, turn):
        if is_check(cell):
            found["checks"].append(self.check(cell, turn))
        else:
            exec(compile(source(cell), f"{self.name}:{cell.id}", "exec"), self.namespace)
        for name, figure in cell.metadata.get("figures", {}).items():
            found["figures"][name] = plain(eval(figure["is"], self.namespace))
        if texts := alt_texts():
            found["alt"][cell.id] = texts

    def check(self, cell, turn):
        tree = ast.parse(source(cell))
        lines = self.watch(tree, turn)
        error = self.execute(tree, cell)
        asserts = [
            {"line": line, "held": self.recorder.held.get(line), "turned": self.recorder.turned.get(line, {})}
            for line in lines
        ]
        red = [a["line"] for a in asserts if not a["held"]]  # an assertion that was never reached holds nothing
        return {"cell": cell.id, "asserts": asserts, "red": red, "error": error or self.recorder.error}

    def watch(self, tree, turn):
        """Replace the assertions in `tree` by calls of the recorder; their line numbers."""
        self.recorder.clear()
        watcher = Watcher(turn)
        watcher.visit(tree)
        ast.fix_missing_locations(tree)
        return watcher.lines

    def execute(self, tree, cell):
        try:
            exec(compile(tree, f"{self.name}:{cell.id}", "exec"), self.namespace)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def turn_helpers(self, cell, snapshot):
        """Comparisons of a check outside its assertions, turned round one at a time: which assertions fail then?"""
        found = []
        count = len(helpers(ast.parse(source(cell))))
        for i in [None, *range(count)] if count else []:
            self.namespace.clear()
            self.namespace.update(snapshot)
            tree = ast.parse(source(cell))
            what, line = "as it is", 0
            if i is not None:
                node = helpers(tree)[i]
                what, line = ast.unparse(node), node.lineno
                tree = Replacer(node, opposite(node)).visit(tree)
            lines = self.watch(tree, turn=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # turned round, a check may divide by nothing
                self.execute(tree, cell)
            red = [at for at in lines if not self.recorder.held.get(at)]
            found.append({"what": what, "line": line, "red": red})
        return found


def alt_texts():
    """The alt text of each open figure; closes them."""
    from matplotlib import pyplot as plt

    from lrtut import alt_text

    texts = [alt_text(plt.figure(number)) for number in plt.get_fignums()]
    plt.close("all")
    return texts


def cpu_model():
    """Maker, family and model: two CPUs of one capability may still round differently, since MKL and oneDNN look closer."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = dict(map(str.strip, line.partition(":")[::2]) for line in lines if ":" in line)
    return " ".join(found.get(key, "") for key in ("vendor_id", "cpu family", "model")).strip() or platform.processor()


def made_on():
    """The kind of this run: with the same five, every number agrees to the bit."""
    import torch

    from lrtut.data import DIGITS, find_data

    return {
        "data": "digits" if find_data()[0] == DIGITS else "MNIST",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "model": cpu_model(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def plain(value):
    """A number, or numbers, as JSON holds them without loss."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, int | str) else float(value)


@contextlib.contextmanager
def deterministic():
    """torch as every run has it; what the cells print is dropped."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def main():
    with deterministic():
        found = Lesson(sys.argv[1]).run(turn="turn" in sys.argv)
    print(json.dumps(found | {"made_on": made_on()}))


if __name__ == "__main__":
    main()
