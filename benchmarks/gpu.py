"""What a GPU changes: `uv run nox -s benchmarks -- gpu`, on a machine with a CUDA device.

In one run, interleaved, each the median of the repeats:
  epoch  `lrtut.train` with `lrtut.small_cnn`, batch 128, an epoch of MNIST: on the CPU, with the tensors on the GPU,
         and as a bare loop on the GPU
  test   200 steps of `lrtut.lr_range_test` with `lrtut.mlp`, batch 64, on the GPU, beside 200 bare steps whose loss
         is read

The course's networks are small: what limits them on a GPU is the launch of kernels, not arithmetic. The results go to
results/gpu.jsonl. LRTUT_DATA names the folder that holds MNIST. It takes less than a minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice

from report import load, machine, save

LABELS = {
    "epoch_cpu": "an epoch, `lrtut.train`, on the CPU",
    "epoch_gpu": "an epoch, `lrtut.train`, on the GPU",
    "epoch_bare": "an epoch, bare loop, on the GPU",
    "range_test": "`lr_range_test`, 200 steps, on the GPU",
    "range_bare": "200 bare steps, on the GPU",
}


def measure(repeats: int) -> tuple[dict, dict]:
    import torch
    import torch.nn.functional as F

    import lrtut

    def seconds(step) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def training(device):
        data = lrtut.load_mnist(device=device)
        model = lrtut.small_cnn(device=device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        return model, optimizer, lrtut.batches(data.x_train, data.y_train, 128, seed=0, drop_last=True)

    def lrtuts(model, optimizer, batches):
        return lambda: lrtut.train(model, optimizer, batches, epochs=1, progress=False)

    def bare(model, optimizer, batches, read=False, most=None):
        def run():
            model.train()
            losses = []
            for x, y in islice(batches, most):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item() if read else loss.detach())

        return run

    data = lrtut.load_mnist(device="cuda")
    small = lrtut.batches(data.x_train, data.y_train, 64, seed=0, drop_last=True)
    net = lrtut.mlp()
    sgd = torch.optim.SGD(net.parameters(), lr=0.01)
    steps = {
        "epoch_cpu": lrtuts(*training("cpu")),
        "epoch_gpu": lrtuts(*training("cuda")),
        "epoch_bare": bare(*training("cuda")),
        "range_test": lambda: lrtut.lr_range_test(net, sgd, small, steps=200, stop_when_diverged=False, progress=False),
        "range_bare": bare(net, sgd, small, read=True, most=200),
    }
    for name in steps:
        if name != "epoch_cpu":
            seconds(steps[name])  # warm
    times = {name: [] for name in steps}
    for repeat in range(repeats):
        for name, step in steps.items():
            if name != "epoch_cpu" or repeat < 3:
                times[name].append(round(seconds(step), 4))
    found = {"gpu": torch.cuda.get_device_name(), "cpu_threads": torch.get_num_threads(), "repeats": repeats}
    return machine() | found, {name: {"seconds": seconds} for name, seconds in times.items()}


def table() -> str:
    """The table for README.md."""
    made_on, records = load("gpu")
    median = {name: statistics.median(record["seconds"]) for name, record in records.items()}
    lines = ["| what | seconds | beside |", "|---|---|---|"]
    ratios = {
        "epoch_gpu": f"{median['epoch_gpu'] / median['epoch_bare']:.3f} × the bare loop",
        "epoch_cpu": f"{median['epoch_cpu'] / median['epoch_gpu']:.2f} × the GPU",
        "range_test": f"{median['range_test'] / median['range_bare']:.3f} × the bare steps",
    }
    lines += [f"| {LABELS[name]} | {median[name]:.3f} | {ratios.get(name, '')} |" for name in LABELS]
    return "\n".join(
        [
            f"{made_on['gpu']}; {made_on['cpu']}, {made_on['cpu_threads']} threads; torch {made_on['torch']}; "
            f"{made_on['date']}. Medians of up to {made_on['repeats']} interleaved repeats.",
            "",
            *lines,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    import torch

    if not torch.cuda.is_available():
        parser.error("this needs a CUDA device")
    save("gpu", *measure(parser.parse_args().repeats))
    print(table())


if __name__ == "__main__":
    main()
