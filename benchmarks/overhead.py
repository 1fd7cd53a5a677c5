"""What a learning-rate finder costs beside the training that it does: `uv run nox -s benchmarks -- overhead`.

CPU time per step of `lrtut.lr_range_test` and of four other finders, over that of a bare training step (zero_grad,
forward, cross_entropy, backward, step), for three models of growing cost, SGD, batch 64, one torch thread.

All read the same list of batches in memory, at rates so small that none stops early: the steps are counted. Each
finder is given the cheapest thing that it accepts (plain lists, no logger, no bar where it can be turned off), and
none is asked for a suggestion. A finder's time is that of its whole call, with its snapshot or checkpoint and the
putting back; the model, the optimizer and the Trainer, Engine or Learner that the user owns are made beforehand. A
call of 200 steps gives `ratio`; a call of 400 less one of 200 gives `marginal`, what is left of it without the fixed
costs.

Every repetition measures each finder in turn, in rotating order, each right after a bare loop of as many steps; the
ratio of such a pair is what counts, so that another job on the machine disturbs little. The row `bare` is the bare
loop against itself: how well the measurement is to be trusted. The figures go to results/overhead.jsonl.

It takes about seven minutes of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import torch
import torch.nn.functional as F
from report import load, machine, measured_on, save
from torch import nn

import lrtut

PACKAGES = {
    "bare": "torch",
    "lrtut": "lrtut",
    "torch-lr-finder": "torch-lr-finder",
    "lightning": "lightning",
    "ignite": "pytorch-ignite",
    "fastai": "fastai",
}
STEPS = 200
WARM = 20  # untimed bare steps before each timed call
BATCH = 64
RATES = (1e-6, 1e-3)

Batches = list[tuple[torch.Tensor, torch.Tensor]]
Call = Callable[[], object]


class Loader:
    """A list as a loader, for lightning, which takes a list for several loaders."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


MODELS = {
    "linear": linear,
    "mlp": partial(lrtut.mlp, device="cpu"),
    "small_cnn": partial(lrtut.small_cnn, device="cpu"),
}


# --- one call of each ---------------------------------------------------------------------------------------------
# Each function makes what the user has anyway, and returns the call to be timed.


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATES[0])


def bare(model: nn.Module, batches: Batches, folder: str) -> Call:
    optimizer = sgd(model)

    def call() -> None:
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    return call


def with_lrtut(model: nn.Module, batches: Batches, folder: str) -> Call:
    optimizer = sgd(model)
    start, end = RATES
    return lambda: lrtut.lr_range_test(model, optimizer, batches, start_lr=start, end_lr=end, steps=len(batches))


def with_torch_lr_finder(model: nn.Module, batches: Batches, folder: str) -> Call:
    from torch_lr_finder import LRFinder, TrainDataLoaderIter

    optimizer = sgd(model)
    start, end = RATES

    def call() -> None:
        finder = LRFinder(model, optimizer, F.cross_entropy)
        finder.range_test(TrainDataLoaderIter(batches), start_lr=start, end_lr=end, num_iter=len(batches))
        finder.reset()

    return call


def with_lightning(model: nn.Module, batches: Batches, folder: str) -> Call:
    import lightning
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            x, y = batch
            return F.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return sgd(self.model)

    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **dict.fromkeys(off, False))
    module, tuner, loader = Module(), Tuner(trainer), Loader(batches)
    start, end = RATES
    options = {"min_lr": start, "max_lr": end, "num_training": len(batches), "update_attr": False}
    return lambda: tuner.lr_find(module, train_dataloaders=loader, **options)


def with_ignite(model: nn.Module, batches: Batches, folder: str) -> Call:
    from ignite.engine import Engine
    from ignite.handlers import FastaiLRFinder

    optimizer = sgd(model)

    def update(engine, batch):
        x, y = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer, finder = Engine(update), FastaiLRFinder()
    start, end = RATES
    saved = {"model": model, "optimizer": optimizer}

    def call() -> None:
        model.train()
        with finder.attach(trainer, to_save=saved, num_iter=len(batches), start_lr=start, end_lr=end) as attached:
            attached.run(batches)

    return call


def with_fastai(model: nn.Module, batches: Batches, folder: str) -> Call:
    from fastai.callback.schedule import Learner  # with lr_find
    from fastai.data.core import DataLoaders
    from fastai.optimizer import OptimWrapper

    optimizer = partial(OptimWrapper, opt=torch.optim.SGD)
    learner = Learner(DataLoaders(batches, batches), model, F.cross_entropy, optimizer, path=folder)
    start, end = RATES
    options = {"start_lr": start, "end_lr": end, "num_it": len(batches), "show_plot": False, "suggest_funcs": None}
    return lambda: learner.lr_find(**options)


FINDERS = {
    "bare": bare,
    "lrtut": with_lrtut,
    "torch-lr-finder": with_torch_lr_finder,
    "lightning": with_lightning,
    "ignite": with_ignite,
    "fastai": with_fastai,
}


# --- measuring ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silence():
    """Bars, logs and warnings go nowhere; that they are made is part of a call."""
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def count_steps(finder: Callable, make_model: Callable, batches: Batches, folder: str) -> int:
    """Forward passes in one call, which is the warm-up, too."""
    model, count = make_model(0), 0

    def note(*_):
        nonlocal count
        count += 1

    model.register_forward_pre_hook(note)
    finder(model, batches, folder)()
    return count


def cpu_seconds(finder: Callable, make_model: Callable, batches: Batches, folder: str) -> float:
    call = finder(make_model(0), batches, folder)
    gc.collect()
    bare(make_model(0), batches[:WARM], folder)()  # the caches are as warm for whoever comes first
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(make_model: Callable, batches: Batches, repeats: int) -> dict[str, dict]:
    """For each finder: steps in a call; the ratio and the marginal ratio to a bare step, over all repetitions."""
    once, twice = batches[:STEPS], batches[: 2 * STEPS]
    names = list(FINDERS)
    found = {name: {"ratio": [], "marginal": [], "bare_us": []} for name in names}
    with tempfile.TemporaryDirectory() as folder, silence():
        steps = {n: [count_steps(FINDERS[n], make_model, part, folder) for part in (once, twice)] for n in names}
        gc.collect()
        gc.freeze()  # what the packages have made so far is not looked through at each collection
        for i in range(repeats):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                seconds = {}
                for part, count in zip((once, twice), steps[name], strict=True):
                    before = cpu_seconds(bare, make_model, part, folder) / len(part)
                    seconds[count] = cpu_seconds(FINDERS[name], make_model, part, folder), before
                (first, bare_first), (second, bare_second) = seconds.values()
                more = (second - first) / (steps[name][1] - steps[name][0])
                found[name]["ratio"].append(first / steps[name][0] / bare_first)
                found[name]["marginal"].append(more / ((bare_first + bare_second) / 2))
                found[name]["bare_us"].append(1e6 * bare_first)
        gc.unfreeze()
    return {name: {"steps": steps[name]} | {k: quartiles(v) for k, v in found[name].items()} for name in names}


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}


def table() -> str:
    """A table: a finder a line; for each model the median and the quartiles of the ratio, and the marginal ratio."""
    made_on, models = load("overhead")
    head = [f"{name} | {name}, marginal" for name in models]
    lines = [f"| finder | {' | '.join(head)} |", "|---" * (1 + 2 * len(models)) + "|"]
    for name in FINDERS:
        label = "bare loop again" if name == "bare" else f"{PACKAGES[name]} {made_on['versions'][PACKAGES[name]]}"
        cells = []
        for found in models.values():
            ratio, marginal = found[name]["ratio"], found[name]["marginal"]
            cells += ["{:.3f} ({:.3f} to {:.3f})".format(ratio["median"], *ratio["quartiles"])]
            cells += [f"{marginal['median']:.3f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    bare_us = ", ".join(f"{name} {found['bare']['bare_us']['median']:.0f} µs" for name, found in models.items())
    lines += [
        "",
        f"CPU time per step over that of a bare step ({bare_us}): medians of {made_on['repeats']} repetitions, "
        f"quartiles in brackets. {STEPS} steps of batch {BATCH}, fixed costs of a call included; marginal: "
        f"{2 * STEPS} steps less {STEPS}.",
        "",
        measured_on(made_on["machine"]),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="repetitions (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats must be at least 2: quartiles are reported.")

    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric", "ignite"):
        logging.getLogger(name).setLevel(logging.ERROR)
    data = lrtut.load_mnist(device="cpu")
    batches: Batches = []
    while len(batches) < 2 * STEPS:  # several passes if the small digits have to do
        batches += lrtut.batches(data.x_train, data.y_train, BATCH, seed=0, drop_last=True)

    made_on = {
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES.values()},
        "settings": {"steps": STEPS, "batch": BATCH, "rates": RATES, "optimizer": "SGD", "threads": 1},
        "repeats": arguments.repeats,
    }
    models = {}
    for name, make_model in MODELS.items():
        found = models[name] = measure(make_model, batches[: 2 * STEPS], arguments.repeats)
        print(name, {finder: (f["steps"], f["ratio"]["median"]) for finder, f in found.items()}, flush=True)
    save("overhead", made_on, models)
    print(table())


if __name__ == "__main__":
    main()
