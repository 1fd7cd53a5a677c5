"""Mistakes that people make, planted in the lessons one at a time: does a check turn red each time?

    uv run python tests/lessons/planted.py [02 03 …]      on the digits

planted/<lesson>.yaml lists them: in `cell`, `old` becomes `new`. `old` must occur there exactly once.

A lesson runs once. At the cell of a mistake the process forks: the child goes on with the mistake up to the first red
check, the parent without it. An error outside the checks catches nothing, with one exception: lrtut itself refuses the
changed cell. A learner would see that error at once.
"""

import contextlib
import io
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import yaml
from lessons import LESSONS, ROOT, code_cells, is_check, python, read


def mistakes(path):
    """The mistakes of a lesson: dicts of `name`, `cell`, `old` and `new`."""
    file = Path(__file__).parent / "planted" / f"{path.stem}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def plant(mistake, source):
    """The source of a cell with the mistake in it."""
    if (count := source.count(mistake["old"])) != 1:
        raise ValueError(f"{mistake['cell']}: {mistake['old']!r} occurs {count} times, not once")
    return source.replace(mistake["old"], mistake["new"])


def run_lesson(path):
    """For each mistake of a lesson, in the order of the cells: `(mistake, what caught it)`; "" if nothing did."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    results, namespace, cells = [], {"__name__": "__main__"}, code_cells(read(path))
    for i, cell in enumerate(cells):
        for mistake in (m for m in mistakes(path) if m["cell"] == cell.id):
            changed = type(cell)(cell | {"source": plant(mistake, cell.source)})
            work = (first_red, [changed, *cells[i + 1 :]], namespace)
            results.append((mistake, in_a_child(*work) or in_a_child(*work)))  # again: one copy in 450 gave no answer
        run_cell(cell, namespace)
    return results


def in_a_child(function, *arguments):
    """`function(*arguments)`, called in a copy of this process; "" if the copy dies."""
    fork = multiprocessing.get_context("fork")
    answer, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: sender.send(function(*arguments)))
    child.start()
    sender.close()
    with contextlib.suppress(EOFError):
        return answer.recv()
    return ""


def first_red(cells, namespace):
    """What catches the mistake in the first of `cells`."""
    for cell in cells:
        try:
            run_cell(cell, namespace)
        except Exception as error:
            if is_check(cell):
                return cell.id
            raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            refused = cell is cells[0] and raised_in.is_relative_to(ROOT / "lrtut")
            return f"refused: {error}" if refused else ""
    return ""


def run_cell(cell, namespace):
    from matplotlib import pyplot as plt

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(python(cell.source), cell.id, "exec"), namespace)
    plt.close("all")


def main():
    from lrtut.execution import kernel_environment

    os.environ |= kernel_environment("digits") | {"MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
    chosen = [path for path in LESSONS if path.name[:2] in (sys.argv[1:] or path.name)]
    missed = 0
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for path, results in zip(chosen, pool.map(run_lesson, chosen), strict=True):
            for mistake, caught in results:
                print(
                    f"{path.name[:2]}  {mistake['name']:42} {mistake['cell']:15} {caught or 'NOT CAUGHT'}", flush=True
                )
                missed += not caught
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
