"""Learning-rate finders against the truth: `uv run nox -s benchmarks -- finders`.

The truth of a task is a grid of constant rates, three a decade, each trained with three seeds: the validation loss
after `Task.steps` steps, averaged over the seeds. Each finder is run at its defaults with three seeds; each rate that
it suggests is trained with the grid's seeds, none of which a finder has seen, and gets a regret:

    (its loss - the best loss of the grid) / (loss of guessing - the best loss of the grid), held between 0 and 1

0 means trained as well as at the best rate, 1 learned nothing. A finder that raises or returns no finite positive rate
has failed, and gets 1. To add a finder, write a function of (task, seed) under `@finder("its name")`.

Results go to results/finders.jsonl after each task, and a call goes on where the last one stopped (--fresh begins anew,
--again "its name" for one finder). --tuning works on the tuning tasks instead, with lrtut's rule alone, and shows what
other constants would do. LRTUT_DATA names the folder that holds MNIST.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import math
import os
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context

import numpy as np
import torch
from finder_tasks import FOLKLORE, REPORT, TUNING, Task
from report import load, save
from torch.utils.data import DataLoader

import lrtut
from lrtut.finder.rules import middle, smooth, usable

SEEDS = (0, 1, 2)
GRID = [float(f"{10 ** (k / 3):.4g}") for k in range(-21, 4)]  # 1e-7 to 10
PACKAGES = ("torch", "torch-lr-finder", "lightning", "pytorch-ignite", "fastai")

FINDERS: dict[str, Callable[[Task, int], float]] = {}


def finder(name: str):
    def register(function):
        FINDERS[name] = function
        return function

    return register


# --- the finders, each at its defaults ------------------------------------------------------------------------------


def start(task: Task, seed: int, lr: float):
    """A fresh model, an optimizer at `lr`, and batches in an order of the seed's."""
    model = task.make_model(seed)
    return model, task.make_optimizer(model.parameters(), lr), task.batches(seed)


def as_loader(batches) -> DataLoader:
    """The batches of one pass as a DataLoader, for those who take nothing else; shuffled as they are."""
    return DataLoader(list(batches), batch_size=None, shuffle=False)


@finder("lrtut, the default rule")
def by_lrtut(task: Task, seed: int) -> float:
    model, optimizer, batches = start(task, seed, 1e-3)
    return lrtut.lr_range_test(model, optimizer, batches, task.loss_fn, progress=False).suggestion()


@finder("fastai valley")
def by_fastai_valley(task: Task, seed: int) -> float:
    from fastai.callback.schedule import valley

    return by_fastai(task, seed, valley)


@finder("fastai minimum / 10")
def by_fastai_minimum(task: Task, seed: int) -> float:
    from fastai.callback.schedule import minimum

    return by_fastai(task, seed, minimum)


def by_fastai(task: Task, seed: int, rule) -> float:
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    model, optimizer, batches = start(task, seed, 1e-3)
    loader = as_loader(batches)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            DataLoaders(loader, loader, device="cpu"),
            model,
            loss_func=task.loss_fn,
            opt_func=lambda parameters, **_: OptimWrapper(opt=optimizer),
            path=folder,
        )
        return learner.lr_find(show_plot=False, suggest_funcs=rule)[0]


@finder("Lightning")
def by_lightning(task: Task, seed: int) -> float:
    import lightning
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.lr = task.make_model(seed), 1e-3

        def training_step(self, batch, _):
            return task.loss_fn(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return task.make_optimizer(self.net.parameters(), self.lr)

    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=10**6, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        return Tuner(trainer).lr_find(Module(), as_loader(task.batches(seed))).suggestion()


@finder("torch-lr-finder")
def by_torch_lr_finder(task: Task, seed: int) -> float:
    import matplotlib.pyplot as plt
    from torch_lr_finder import LRFinder

    model, optimizer, batches = start(task, seed, 1e-7)  # it starts at the optimizer's rate; 1e-7 as in its README
    found = LRFinder(model, optimizer, task.loss_fn, device="cpu")
    found.range_test(as_loader(batches), num_iter=100)
    figure, ax = plt.subplots()
    try:
        return found.plot(ax=ax)[1]
    finally:
        plt.close(figure)


@finder("ignite")
def by_ignite(task: Task, seed: int) -> float:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    model, optimizer, batches = start(task, seed, 1e-6)  # it starts at the optimizer's rate
    trainer, found = create_supervised_trainer(model, optimizer, task.loss_fn), FastaiLRFinder()
    # Its default is one epoch, a mere 19 steps on the digits: 100 is the kinder choice.
    with found.attach(trainer, {"model": model, "optimizer": optimizer}, num_iter=100) as finding:
        finding.run(as_loader(batches), max_epochs=math.ceil(100 / len(batches)))
    return found.lr_suggestion()


@finder("no finder: 0.1 / 0.01 / 0.001")
def by_folklore(task: Task, seed: int) -> float:
    return FOLKLORE[task.optimizer]


# --- the truth ------------------------------------------------------------------------------------------------------


def final_loss(task: Task, lr: float, seed: int, schedule: Callable | None = None) -> float:
    """Validation loss (mean cross-entropy, whatever the task trains on) after training at a constant rate.

    Or with the scheduler that `schedule(optimizer)` makes, stepped after each batch.
    """
    model, optimizer, batches = start(task, seed + 100, lr)  # not the initialisation that a finder has seen
    scheduler = schedule and schedule(optimizer)
    done = 0
    while done < task.steps:
        for x, y in batches:
            optimizer.zero_grad()
            loss = task.loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            done += 1
            if done % 50 == 0 and not math.isfinite(loss.item()):
                return math.inf
            if done == task.steps:
                break
    _, _, x, y = task.split()
    model.eval()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(x), y).item()
    return loss if math.isfinite(loss) else math.inf


@functools.cache
def train_at(task: Task, lr: float) -> list[float]:
    return [final_loss(task, lr, seed) for seed in SEEDS]


def measure(task: Task, record: dict, names: list[str]) -> dict:
    """Fill in what the record of a task lacks: its grid, and a list of three suggestions for each finder."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    grid = record.setdefault("grid", {})
    for lr in GRID:
        if str(lr) not in grid:
            grid[str(lr)] = train_at(task, lr)
    for name in names:
        if name not in record.setdefault("finders", {}):
            record["finders"][name] = [suggest(task, name, seed) for seed in SEEDS]
    return record


def suggest(task: Task, name: str, seed: int) -> dict:
    torch.manual_seed(seed)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            lr = FINDERS[name](task, seed)
        lr = float(lr)
        if not 0 < lr < math.inf:
            raise ValueError(f"suggests {lr}")
    except Exception as error:  # a finder may fail in any way; that is a result
        return {"lr": None, "error": f"{type(error).__name__}: {error}"[:300]}
    return {"lr": lr, "losses": train_at(task, lr)}


# --- regret and tables ----------------------------------------------------------------------------------------------


def guessing(task: Task) -> float:
    return math.log(task.classes)


def mean_loss(losses: list[float], worst: float) -> float:
    """Over the seeds; a run that is worse than guessing counts as guessing."""
    return statistics.fmean(min(loss, worst) for loss in losses)


def regret(task: Task, record: dict, suggestion: dict) -> float:
    worst = guessing(task)
    best = min(mean_loss(losses, worst) for losses in record["grid"].values())
    if suggestion["lr"] is None:
        return 1.0
    return min(max((mean_loss(suggestion["losses"], worst) - best) / (worst - best), 0.0), 1.0)


def ranking(tasks: list[Task], records: dict) -> str:
    lines = [
        "| finder | mean regret | median | worst | failures | spread over seeds |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for name in FINDERS:
        found = {task: records[task.name]["finders"][name] for task in tasks}
        means = [statistics.fmean(regret(task, records[task.name], one) for one in found[task]) for task in tasks]
        failures = sum(one["lr"] is None for three in found.values() for one in three)
        rates = [[one["lr"] for one in three if one["lr"]] for three in found.values()]
        spreads = [math.log10(max(lrs) / min(lrs)) for lrs in rates if len(lrs) > 1]
        spread = f"{statistics.median(spreads):.2f}" if spreads else ""
        rows.append((statistics.fmean(means), max(means), statistics.median(means), failures, spread, name))
    for mean, worst, median, failures, spread, name in sorted(rows):
        lines.append(
            f"| {name} | {mean:.3f} | {median:.3f} | {worst:.2f} | {failures} of {3 * len(tasks)} | {spread} |"
        )
    return "\n".join(lines)


def table() -> str:
    """The two tables for README.md."""
    records, parts = load("finders")[1], []
    for title, standard in (("Standard tasks", True), ("Off-scale tasks", False)):
        tasks = [task for task in REPORT if (task.scale == "standard") == standard]
        parts.append(f"### {title} ({len(tasks)})\n\n{ranking(tasks, records)}")
    return "\n\n".join(parts)


# --- tuning ---------------------------------------------------------------------------------------------------------

WIDTHS, DIVISORS = (0.1, 0.2, 0.3), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 12)


def measure_middle(task: Task, record: dict, names: list[str]) -> dict:
    """Fill in what the record of a tuning task lacks: its grid, and for each width and seed the middle of the valley."""
    torch.set_num_threads(1)
    grid = record.setdefault("grid", {})
    if not grid:
        grid |= {str(lr): train_at(task, lr) for lr in GRID}
    if "middle" not in record:
        record["middle"] = {str(width): [] for width in WIDTHS}
        for seed in SEEDS:
            model, optimizer, batches = start(task, seed, 1e-3)
            test = lrtut.lr_range_test(model, optimizer, batches, task.loss_fn, progress=False)
            lrs, losses = usable(test.lr, test.loss)
            for width in WIDTHS:
                record["middle"][str(width)].append(middle(lrs, np.log(smooth(lrs, losses, width=width))))
    return record


def read_off(task: Task, record: dict, lr: float) -> float:
    """The regret of a rate, read off the grid of the truth: linear between its points, over the rate's logarithm."""
    worst = guessing(task)
    lrs = sorted(map(float, record["grid"]))
    losses = [mean_loss(record["grid"][str(rate)], worst) for rate in lrs]
    loss = np.interp(math.log(lr), np.log(lrs), losses)
    return float((loss - min(losses)) / (worst - min(losses)))


def mean_regret(task: Task, record: dict, width: str, divisor: float) -> float:
    return statistics.fmean(read_off(task, record, lr / divisor) for lr in record["middle"][width])


def show_tuning(records: dict) -> None:
    """What each width and divisor comes to, and between which divisors each task loses less than 3 %."""
    for title, plain in (("SGD", True), ("momentum, Adam", False)):
        tasks = [task for task in TUNING if (task.optimizer == "SGD") == plain]
        print(f"\n{title}: {len(tasks)} tasks\nwidth  divisor   mean  worst  (BatchNorm mean)")
        for width in map(str, WIDTHS):
            for divisor in DIVISORS:
                means = {t: mean_regret(t, records[t.name], width, divisor) for t in tasks}
                normed = statistics.fmean(value for t, value in means.items() if "BatchNorm" in t.model)
                worst = max(means, key=means.get)
                mean = statistics.fmean(means.values())
                print(f"{width:6} {divisor:<8} {mean:.3f}   {means[worst]:.2f}   ({normed:.3f})  {worst.name}")
        for task in tasks:
            fine = np.geomspace(0.1, 1000, 401)
            lost = [mean_regret(task, records[task.name], "0.2", divisor) for divisor in fine]
            good = fine[np.array(lost) < min(lost) + 0.03]
            print(f"{task.name:45} least {min(lost):.3f}; within 3 % of it from {good[0]:.2g} to {good[-1]:.2g}")


# --- command --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuning", action="store_true", help="the tuning tasks and lrtut's rule alone")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    parser.add_argument("--again", metavar="FINDER", choices=FINDERS, help="measure this one anew, keep the others")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    name, tasks = ("finders_tuning", TUNING) if arguments.tuning else ("finders", REPORT)
    records = {} if arguments.fresh else load(name)[1]
    for record in records.values():
        record.get("finders", {}).pop(arguments.again, None)
    made_on = {
        "python": platform.python_version(), "machine": platform.machine(), "grid": GRID, "seeds": SEEDS,
        **({} if arguments.tuning else {package: version(package) for package in PACKAGES}),
    }  # fmt: skip
    work = measure_middle if arguments.tuning else measure
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(work, task, records.get(task.name, {}), list(FINDERS)): task for task in tasks}
        for done, future in enumerate(as_completed(futures), start=1):
            records[futures[future].name] = future.result()
            save(name, made_on, records)
            print(f"{done}/{len(tasks)} {futures[future].name}", flush=True)
    if arguments.tuning:
        show_tuning(records)
    else:
        print(table())


if __name__ == "__main__":
    main()
