"""How high a peak for OneCycleLR: `uv run nox -s benchmarks -- one_cycle`.

On the standard tasks of finders.py, each trained with three seeds at multiples of lrtut's suggestion (the geometric
mean of its three tests, from results/finders.jsonl): at that rate throughout, and by `OneCycleLR` with that rate as
its peak. The regret of a multiple is as in finders.py, against the best of everything that is trained here.

Results go to results/one_cycle.jsonl after each task, and a call goes on where the last one stopped. LRTUT_DATA names
the folder that holds MNIST.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch
from finder_tasks import REPORT, Task
from finders import SEEDS, final_loss, guessing, mean_loss
from report import load, save

MULTIPLES = (1.0, 2.0, 3.0, 4.5)
WAYS = ("constant", "one cycle")
TASKS = [task for task in REPORT if task.scale == "standard"]


def one_cycle(optimizer: torch.optim.Optimizer, *, peak: float, steps: int):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps, cycle_momentum=False)


def measure(task: Task, suggestion: float) -> dict[str, dict[str, list[float]]]:
    """Final losses of the seeds, by way and multiple."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    losses: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for multiple in MULTIPLES:
        peak = multiple * suggestion
        schedule = functools.partial(one_cycle, peak=peak, steps=task.steps)
        losses["constant"][str(multiple)] = [final_loss(task, peak, seed) for seed in SEEDS]
        losses["one cycle"][str(multiple)] = [final_loss(task, peak, seed, schedule) for seed in SEEDS]
    return losses


def regrets(task: Task, losses: dict, way: str) -> dict[str, float]:
    """The regret of each multiple."""
    worst = guessing(task)
    means = {w: {m: mean_loss(three, worst) for m, three in losses[w].items()} for w in WAYS}
    best = min(min(of_way.values()) for of_way in means.values())
    return {multiple: (loss - best) / (worst - best) for multiple, loss in means[way].items()}


def table() -> str:
    """The table for README.md."""
    records = load("one_cycle")[1]
    lines = [
        "| multiple of the suggestion | constant: mean regret | worst | one cycle: mean regret | worst |",
        "|---|---|---|---|---|",
    ]
    for multiple in map(str, MULTIPLES):
        cells = []
        for way in WAYS:
            values = [regrets(task, records[task.name], way)[multiple] for task in TASKS]
            cells.append(f"{statistics.fmean(values):.3f} | {max(values):.2f}")
        lines.append(f"| {multiple} | {' | '.join(cells)} |")
    return "\n".join(lines)


def suggestion_for(record: dict) -> float:
    return statistics.geometric_mean(one["lr"] for one in record["finders"]["lrtut, the default rule"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    known = load("finders")[1]
    records = {} if arguments.fresh else load("one_cycle")[1]
    missing = [task for task in TASKS if task.name not in records]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, task, suggestion_for(known[task.name])): task for task in missing}
        for done, future in enumerate(as_completed(futures), start=1):
            records[futures[future].name] = future.result()
            save("one_cycle", {"torch": torch.__version__}, records)
            print(f"{done}/{len(missing)} {futures[future].name}", flush=True)
    print(table())


if __name__ == "__main__":
    main()
