"""Range tests where people say that they fail, against two truths: `uv run nox -s benchmarks -- modern`.

Each task of modern_tasks.py is trained on a grid of rates, three a decade, in two ways: at that rate throughout, and
with that rate as the peak of a warm-up over the first tenth and a linear decay to zero. A truth is the validation loss
at the end, the mean of two seeds. From the usual rate the grid goes up and down until half of what there is to learn
is lost, and to 2e-5 where the optimizer is of Adam's kind. Three range tests of each task, with other seeds, are
recorded; every rule reads the same curves. The regret of a rate is that of finders.py, read off the grid (linear in the
logarithm of the rate; at the ends, that of the end). Optimizers that want no rate chosen are trained in each task in
place of its own: Schedule-Free AdamW at its package's rate without a schedule, Prodigy at 1 both ways.

Results go to results/modern.jsonl after each training, and a call goes on where the last one stopped. LRTUT_DATA names
the folder that holds MNIST.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import warnings
from collections.abc import Callable

import numpy as np
import torch
from modern_tasks import CHOOSE, FOLKLORE, JUDGE, TEXTS, Task, loss_on
from report import load, save

import lrtut

GRID = [float(f"{10 ** (k / 3):.4g}") for k in range(-18, 4)]  # 1e-6 to 10
SEEDS, TESTS = (100, 101), (0, 1, 2)
WAYS = ("constant", "peak")
SMALL = 2.154e-05
LAGGING = ("MNIST ResNet AdamW 32 scratch", "MNIST ResNet momentum 8 scratch")  # at a constant rate


def schedule_free(parameters, lr: float) -> torch.optim.Optimizer:
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree(parameters, lr=lr, warmup_steps=Task.steps // 10)


def prodigy(parameters, lr: float) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    return Prodigy(parameters, lr=lr, safeguard_warmup=True)


NO_RATE = {"Schedule-Free AdamW at 0.0025": (schedule_free, 0.0025), "Prodigy at 1": (prodigy, 1.0)}


def fitted(task: Task, lr: float, seed: int, way: str, make: Callable | None = None) -> torch.nn.Module | None:
    """The model after training; None where it diverges."""
    torch.manual_seed(seed)
    model = task.make_model(seed)
    optimizer = task.make_optimizer(model.parameters(), lr, make)
    if make is schedule_free:
        optimizer.train()
    warm, steps, scheduler = task.steps // 10, task.steps, None
    if way == "peak":
        shape = lambda step: min((step + 1) / warm, (steps - step) / (steps - warm))  # noqa: E731
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    done = 0
    while done < steps:
        for x, y in task.batches(seed):
            optimizer.zero_grad()
            loss = task.loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            done += 1
            if done % 50 == 0 and not loss.item() < 10 * task.guessing:
                return None
            if done == steps:
                break
    if make is schedule_free:
        optimizer.eval()  # puts the averaged weights in place
    return model


def trained(task: Task, lr: float, seed: int, way: str, make: Callable | None = None) -> list[float]:
    """The loss after training and, of a fine-tuned network of texts, that on the text it was pretrained on."""
    model = fitted(task, lr, seed, way, make)
    if model is None:
        return [math.inf, math.inf]
    _, _, x, y = task.split()
    losses = [loss_on(model, x, y)]
    if task.tuned and task.data in TEXTS:
        losses.append(loss_on(model, *task.split(old=True)[2:]))
    return [loss if math.isfinite(loss) else math.inf for loss in losses]


def mean(seeds: list[list[float]], guessing: float) -> float:
    """Over the seeds; a run that is worse than guessing counts as guessing."""
    return statistics.fmean(min(losses[0], guessing) for losses in seeds)


def tested(task: Task, seed: int, end_lr: float = 10.0, steps: int = 200) -> dict:
    """The losses of a range test. Where it asks for a larger end_lr or more steps, it gets them, as by a user."""
    torch.manual_seed(seed)
    model = task.make_model(seed)
    optimizer = task.make_optimizer(model.parameters(), 1e-3)
    data = task.batches(seed)
    test = lrtut.lr_range_test(model, optimizer, data, task.loss_fn, end_lr=end_lr, steps=steps, progress=False)
    try:
        test.suggestion()
    except lrtut.NoSuggestion as refusal:
        if "larger end_lr" in str(refusal) and end_lr == 10.0:
            return tested(task, seed, 1000.0, steps)
        if "more steps" in str(refusal) and steps == 200:
            return tested(task, seed, end_lr, 800)
    return {"end_lr": end_lr, "steps": steps, "loss": test.loss.tolist()}


def measure(task: Task, record: dict, keep: Callable[[], None]) -> None:
    """Fill in what the record of a task lacks; `keep()` after each rate."""
    if "tests" not in record:
        record |= {"guessing": task.guessing, "tests": [tested(task, seed) for seed in TESTS]}
        keep()
    for name, (make, lr) in NO_RATE.items():
        for way in WAYS[: 1 if make is schedule_free else 2]:
            runs = record.setdefault(f"{name}, {way}", [])
            for seed in SEEDS[len(runs) :]:
                runs.append(trained(task, lr, seed, way, make))
                keep()
    usual = GRID.index(FOLKLORE[task.optimizer])
    for way in WAYS:
        grid = record.setdefault(way, {})

        def at(lr, grid=grid, way=way):
            runs = grid.setdefault(str(lr), [])
            for seed in SEEDS[len(runs) :]:
                runs.append(trained(task, lr, seed, way))
                keep()
            return mean(runs, task.guessing)

        best = at(GRID[usual])
        for rates in (GRID[usual + 1 :], GRID[usual - 1 :: -1]):
            for lr in rates:
                loss = at(lr)
                best = min(best, loss)
                if loss > (best + task.guessing) / 2:
                    break
        if FOLKLORE[task.optimizer] == 0.001:
            at(SMALL)
    record["complete"] = True
    keep()


@torch.no_grad()
def settle() -> None:
    """Print what BatchNorm's running statistics do to the loss: at the end, and after sixty batches without a step."""
    for task in (task for task in JUDGE if task.name in LAGGING):
        for lr in (0.01, 0.04642):
            for seed in SEEDS:
                with torch.enable_grad():
                    model = fitted(task, lr, seed, "constant")
                _, _, x_val, y_val = task.split()
                losses = [loss_on(model, x_val, y_val)]
                model.train()
                for x, _ in itertools.islice(task.batches(seed), 60):
                    model(x)
                losses.append(loss_on(model, x_val, y_val))
                print(f"{task.name}, rate {lr}, seed {seed}: loss {losses[0]:.2f}, then {losses[1]:.2f}")


# --- regret and table ----------------------------------------------------------------------------------------------


def regret(truth: dict[str, list], guessing: float, lr: float | None) -> float:
    """Of a rate, read off the grid of a truth; of a refusal (None), 1."""
    if lr is None:
        return 1.0
    lrs = sorted(map(float, truth))
    losses = [mean(truth[str(rate)], guessing) for rate in lrs]
    return float((np.interp(math.log(lr), np.log(lrs), losses) - min(losses)) / (guessing - min(losses)))


def range_test(record: dict) -> lrtut.RangeTest:
    lrs = np.geomspace(1e-6, record["end_lr"], record["steps"])[: len(record["loss"]), None]
    return lrtut.RangeTest(lrs, np.array(record["loss"]))


def suggested(record: dict, rule: str, way: str) -> list[float | None]:
    """What a rule reads from each test. Others name no peak of their own: theirs is the same rate."""
    lrs = []
    for test in map(range_test, record["tests"]):
        try:
            lrs.append(test.max_lr() if (rule, way) == ("minimum", "peak") else test.suggestion(rule))
        except lrtut.NoSuggestion:
            lrs.append(None)
    return lrs


def middle(lrs: list[float | None]) -> list[float | None]:
    """The median of the tests that suggest a rate."""
    found = [lr for lr in lrs if lr is not None]
    return [statistics.median(found) if found else None]


ROWS: dict[str, Callable[[Task, dict, str], list[float | None]]] = {
    "lrtut, the default rule": lambda task, record, way: suggested(record, "minimum", way),
    "lrtut, the median of three tests": lambda task, record, way: middle(suggested(record, "minimum", way)),
    "valley": lambda task, record, way: suggested(record, "valley", way),
    "minimum / 10": lambda task, record, way: suggested(record, "minimum/10", way),
    "steepest": lambda task, record, way: suggested(record, "steepest", way),
    "no test: 0.1 for SGD, 0.01 with momentum, else 0.001": lambda task, record, way: [FOLKLORE[task.optimizer]],
    "no test: 2e-5": lambda task, record, way: [SMALL],
}


def without_a_rate(record: dict, name: str, way: str) -> float:
    """The regret of an optimizer that wants no rate: below zero where it beats the grid's best."""
    runs = record.get(f"{name}, {way}") or record[f"{name}, {WAYS[0]}"]
    best = min(mean(seeds, record["guessing"]) for seeds in record[way].values())
    return (mean(runs, record["guessing"]) - best) / (record["guessing"] - best)


def in_hindsight(tasks: list[Task], records: dict, way: str) -> list[float]:
    """The regrets of the best constants: one rate for SGD, one for momentum, one for all other optimizers."""
    found = []
    for usual in {FOLKLORE[task.optimizer] for task in tasks}:
        same = [records[task.name] for task in tasks if FOLKLORE[task.optimizer] == usual]
        regrets = [[regret(record[way], record["guessing"], lr) for record in same] for lr in GRID]
        found += min(regrets, key=statistics.fmean)
    return found


def cell(regrets: list[float]) -> str:
    return f"{statistics.fmean(regrets):.3f}, {max(regrets):.2f}" if regrets else ""


def ranking(tasks: list[Task], records: dict) -> str:
    """A row for each rule; a column for each truth, from scratch and of pretrained networks."""
    columns = [([task for task in tasks if task.tuned == tuned], way) for tuned in (False, True) for way in WAYS]
    names = [f"{start}, {way}" for start in ("from scratch", "fine-tuning") for way in WAYS]
    lines = [f"| mean regret, worst | {' | '.join(names)} | refused |", "|---" * (len(columns) + 2) + "|"]
    for name, read in ROWS.items():
        cells, refused, asked = [], 0, 0
        for those, way in columns:
            regrets = []
            for task in those:
                record = records[task.name]
                lrs = read(task, record, way)
                refused, asked = refused + lrs.count(None), asked + len(lrs)
                regrets.append(statistics.fmean(regret(record[way], record["guessing"], lr) for lr in lrs))
            cells.append(cell(regrets))
        lines.append(f"| {name} | {' | '.join(cells)} | {refused // 2} of {asked // 2} |")
    known = [cell(in_hindsight(those, records, way)) for those, way in columns]
    lines.append(f"| in hindsight: the best constants for SGD, with momentum, else | {' | '.join(known)} | |")
    for name in NO_RATE:
        cells = [cell([without_a_rate(records[task.name], name, way) for task in those]) for those, way in columns]
        lines.append(f"| no rate to choose: {name} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def table() -> str:
    """The tables for README.md, of the tasks that are measured."""
    records, parts = load("modern")[1], []
    for title, tasks in (("Chosen on", CHOOSE), ("Judged", JUDGE)):
        done = [task for task in tasks if records.get(task.name, {}).get("complete")]
        parts.append(f"### {title} ({len(done)} of {len(tasks)} tasks measured)\n\n{ranking(done, records)}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="forget what was measured")
    parser.add_argument("--settle", action="store_true", help="only look at BatchNorm's running statistics")
    arguments = parser.parse_args()
    records = {} if arguments.fresh else load("modern")[1]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.settle:
        return settle()
    for task in CHOOSE + JUDGE:
        record = records.setdefault(task.name, {})
        measure(task, record, lambda: save("modern", {"torch": torch.__version__}, records))
        print(task.name, flush=True)
    print(table())


if __name__ == "__main__":
    main()
