"""How fast `lrtut.train` is beside the usual way to train on MNIST: `uv run nox -s benchmarks -- training`.

On one core, in one run:
  a  DataLoader + ToTensor + Normalize over torchvision's MNIST, the usual tutorial CNN, Adam 1e-3, batch 64
  b  the same loader (batch 128) with `lrtut.small_cnn`
  c  a bare loop over tensors with `lrtut.small_cnn`
  d  `lrtut.train` with `lrtut.small_cnn`
It measures seconds an epoch of 60,000 images, seconds to 99 % test accuracy for a and d, and each one's peak memory;
then, on all cores, how much `lrtut.sweep` gains over one worker, and what `import lrtut` costs beside torch and pyplot.

Each measurement is a process of its own and is kept at once in results/training.jsonl; a call goes on where the last
one stopped (--fresh begins anew). LRTUT_DATA names the folder that holds MNIST. All of it takes about an hour and a
half on a slow core: a needs nearly all of that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

from report import ONE_THREAD, load, machine, measured_on, save

SEEDS = (0, 1, 2)
TARGET = 0.99
VARIANTS = {
    "a": "DataLoader, usual CNN, Adam 1e-3, batch 64",
    "b": "DataLoader, `small_cnn`, batch 128",
    "c": "bare loop on tensors, `small_cnn`, batch 128",
    "d": "`lrtut.train`, `small_cnn`, batch 128",
}


# --- in the measuring process -------------------------------------------------------------------------------------


def usual_loader(batch_size: int, train: bool = True):
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = datasets.MNIST(os.environ["LRTUT_DATA"], train=train, transform=transform)
    return DataLoader(images, batch_size=batch_size, shuffle=train)


def usual_cnn():
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )


def everything():
    """All 60,000 training images, and the test images."""
    import torch

    import lrtut

    data = lrtut.load_mnist(device="cpu")
    return torch.cat([data.x_train, data.x_val]), torch.cat([data.y_train, data.y_val]), data


def sgd(model, lr: float = 0.05):
    import torch

    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)


def loop(model, optimizer, batches) -> None:
    """The loop that everybody writes."""
    import torch.nn.functional as F

    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def bare_epoch(model, optimizer, x, y, seed: int = 0) -> None:
    """c: no package, no recording."""
    import torch
    import torch.nn.functional as F

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    model.train()
    for i in range(0, len(x), 128):
        chosen = order[i : i + 128]
        inputs = x[chosen].float().div_(255).sub_(0.1307).div_(0.3081)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), y[chosen])
        loss.backward()
        optimizer.step()


def one_epoch(variant: str) -> dict:
    """Seconds of one epoch of 60,000 images; the process's peak memory."""
    import torch

    import lrtut

    if variant in "ab":
        model = usual_cnn() if variant == "a" else lrtut.small_cnn()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3) if variant == "a" else sgd(model)
        loader = usual_loader(64 if variant == "a" else 128)
        start = time.perf_counter()
        loop(model, optimizer, loader)
    else:
        x, y, _ = everything()
        model = lrtut.small_cnn()
        optimizer = sgd(model)
        start = time.perf_counter()
        if variant == "c":
            bare_epoch(model, optimizer, x, y)
        else:
            lrtut.train(model, optimizer, lrtut.batches(x, y, 128), epochs=1, progress=False)
    return {"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}


def c_against_d(rounds: int = 40) -> dict:
    """CPU seconds of c and d in one process, 100 steps of each in turn: the ratio d/c of each pair."""
    import lrtut

    x, y, _ = everything()
    x, y = x[:12800], y[:12800]
    models = {variant: lrtut.small_cnn() for variant in "cd"}
    optimizers = {variant: sgd(model) for variant, model in models.items()}
    ratios = []
    for i in range(rounds):
        seconds = {}
        for variant in "cd" if i % 2 else "dc":
            model, optimizer = models[variant], optimizers[variant]
            start = time.process_time()
            if variant == "c":
                bare_epoch(model, optimizer, x, y, i)
            else:
                lrtut.train(model, optimizer, lrtut.batches(x, y, 128, seed=i), epochs=1, progress=False)
            seconds[variant] = time.process_time() - start
        ratios.append(seconds["d"] / seconds["c"])
    return {"ratios": ratios}


def to_target_a(seed: int, most: int = 12) -> dict:
    """Seconds of training until the first epoch end at or above 99 % test accuracy (evaluation not counted)."""
    import torch

    import lrtut

    torch.manual_seed(seed)
    model = usual_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train_loader, test_loader = usual_loader(64), usual_loader(1000, train=False)
    spent, accuracies = 0.0, []
    while len(accuracies) < most:
        start = time.perf_counter()
        loop(model, optimizer, train_loader)
        spent += time.perf_counter() - start
        accuracies.append(lrtut.evaluate(model, test_loader)[1])
        if accuracies[-1] >= TARGET:
            break
    return {"seconds": spent, "accuracies": accuracies, "peak_mb": peak_mb()}


def to_target_d(seed: int, epochs: int = 6) -> dict:
    """The same for `lrtut.train` with OneCycleLR; what is evaluated counts, since it is part of `train`."""
    from torch.optim.lr_scheduler import OneCycleLR

    import lrtut

    x, y, data = everything()
    model = lrtut.small_cnn(seed)
    optimizer = sgd(model)
    train_batches = lrtut.batches(x, y, 128, seed=seed, drop_last=True)
    test = Timed(lrtut.batches(data.x_test, data.y_test, 1000, shuffle=False))
    scheduler = OneCycleLR(optimizer, max_lr=0.2, total_steps=epochs * len(train_batches))
    start = time.perf_counter()
    history = lrtut.train(
        model,
        optimizer,
        train_batches,
        epochs=epochs,
        scheduler=scheduler,
        scheduler_step="batch",
        val=test,
        progress=False,
    )
    reached = next((i for i, a in enumerate(history.val_accuracy) if a >= TARGET), None)
    seconds = test.starts[reached] - start if reached is not None else None
    return {"seconds": seconds, "accuracies": history.val_accuracy, "peak_mb": peak_mb()}


class Timed:
    """Batches that note when each pass over them began."""

    def __init__(self, batches):
        self.batches, self.starts = batches, []

    def __iter__(self):
        self.starts.append(time.perf_counter())
        return iter(self.batches)


def sweep_gain(rounds: int = 3) -> dict:
    """Wall seconds of the same sweep with one worker and with one a core, in turn: the ratio of each pair."""
    from concurrent.futures import ThreadPoolExecutor

    import lrtut
    from lrtut.sweep import usable_cores

    data = lrtut.load_mnist(train_size=5120, device="cpu")

    def run(lr, seed):
        model = lrtut.small_cnn(seed, device="cpu")
        return lrtut.train(model, sgd(model, lr), data, epochs=1, seed=seed, progress=False)

    ratios = []
    for _ in range(rounds):
        seconds = {}
        for workers in (1, usable_cores()):
            with ThreadPoolExecutor(workers) as executor:
                start = time.perf_counter()
                lrtut.sweep(run, [0.01, 0.02, 0.05, 0.1], seeds=(0, 1), executor=executor, progress=False)
                seconds[workers] = time.perf_counter() - start
        ratios.append(seconds[1] / seconds[usable_cores()])
    return {"cores": usable_cores(), "ratios": ratios}


def import_cost(rounds: int = 5) -> dict:
    """CPU seconds of `import lrtut` against `import torch, matplotlib.pyplot`, each in fresh interpreters, in turn."""

    def cpu(statement: str) -> float:
        code = f"import time\n{statement}\nprint(time.process_time())"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    cpu("import lrtut")  # writes the bytecode, if nobody has
    return {"ratios": [cpu("import lrtut") / cpu("import torch, matplotlib.pyplot") for _ in range(rounds)]}


def peak_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


# --- in the calling process ---------------------------------------------------------------------------------------


def parts() -> list[str]:
    """The measurements, cheap ones first, the variants in turn."""
    names = ["import_cost()", "sweep_gain()", "c_against_d()"]
    names += [f"to_target_d({seed})" for seed in SEEDS]
    names += [f"one_epoch({variant!r})#{i}" for i in range(3) for variant in "abcd"]
    return names + [f"to_target_a({seed})" for seed in SEEDS]


def measure(part: str) -> dict:
    """Run one measurement in a process of its own, on one core unless it is about several."""
    call = part.split("#")[0]
    command = [sys.executable, __file__, "--part", call]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed (exit status {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def table() -> str:
    """The table for README.md."""
    made_on, results = load("training")

    def median(values) -> float:
        return statistics.median(values)

    epochs = {v: [results[f"one_epoch({v!r})#{i}"] for i in range(3)] for v in VARIANTS}
    seconds = {v: median([r["seconds"] for r in epochs[v]]) for v in VARIANTS}
    target = {v: [results[f"to_target_{v}({s})"] for s in SEEDS] for v in "ad"}
    reached = {v: median([r["seconds"] or float("inf") for r in target[v]]) for v in "ad"}
    lines = ["| | what | s an epoch | a / it | s to 99 % test accuracy | peak MB |", "|---|---|---|---|---|---|"]
    for v, what in VARIANTS.items():
        goal = f"{reached[v]:.0f}" if v in reached else ""
        memory = median([r["peak_mb"] for r in epochs[v]])
        lines.append(f"| {v} | {what} | {seconds[v]:.1f} | {seconds['a'] / seconds[v]:.1f} | {goal} | {memory:.0f} |")
    ratio = {name: median(results[name]["ratios"]) for name in ("c_against_d()", "sweep_gain()", "import_cost()")}
    epochs_to = {v: ", ".join(str(len(r["accuracies"])) for r in target[v]) for v in "a"}
    ends = ", ".join(f"{r['accuracies'][-1]:.2%}" for r in target["d"])
    lines += [
        "",
        f"- d / c, CPU seconds, median of {len(results['c_against_d()']['ratios'])} pairs of 100 steps each, in turn: "
        f"{ratio['c_against_d()']:.3f}",
        f"- 99 % test accuracy: d takes 1/{reached['a'] / reached['d']:.0f} of a's time. a needed {epochs_to['a']} "
        f"epochs (three seeds); d ended its six OneCycle epochs at {ends}.",
        f"- `sweep` on {results['sweep_gain()']['cores']} cores against one worker: "
        f"{ratio['sweep_gain()']:.2f} × as fast",
        f"- `import lrtut` against `import torch, matplotlib.pyplot`, CPU seconds: {ratio['import_cost()']:.3f}",
        "",
        measured_on(made_on),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        if not arguments.part.startswith("sweep_gain"):
            one_core()
        name, argument = re.fullmatch(r"(\w+)\((.*)\)", arguments.part).groups()
        given = [json.loads(argument.replace("'", '"'))] if argument else []
        print(json.dumps(globals()[name](*given)))
        return
    if not os.environ.get("LRTUT_DATA") or os.environ["LRTUT_DATA"] == "digits":
        parser.error("LRTUT_DATA must name the folder that holds MNIST/raw/")
    results = {} if arguments.fresh else load("training")[1]
    for part in parts():
        if part not in results:
            results[part] = measure(part)
            print(part, results[part], flush=True)
            save("training", machine(), results)
    print(table())


if __name__ == "__main__":
    main()
