"""What a sweep costs beside its runs, and what it gains from training networks as one.

`uv run nox -s benchmarks -- sweeps` measures, on this machine:
  overhead    `lrtut.sweep` of runs that do nothing, on threads and on Dask (two worker processes): time a run, bytes over
              the loopback device a run (the lowest of three repeats: other programs use it, too)
  run         one `lrtut.train` of `lrtut.small_cnn`, an epoch of 2,560 images, one torch thread; the size of its History
  sleeping    10,000 runs that sleep for a second, on Dask with 100 worker threads: two minutes
  vectorised  `lrtut.vectorised_sweep` of the same training for more and more networks, beside that time one by one; on a
              CUDA device if there is one, else at small sizes on the CPU
With --picture FILE it draws the valley of 200 rates and 8 seeds instead, by `vectorised_sweep`: for a GPU.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time

import psutil
import torch
from report import load, machine, measured_on, save

import lrtut
from lrtut.sweep import usable_cores

IMAGES = 2560
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = (8, 32, 128, 256, 512) if DEVICE == "cuda" else (8, 32)


def nothing(lr, seed):
    return None


def sleeping(lr, seed):
    time.sleep(1)


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def dask(processes: int, threads: int):
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=processes, threads_per_worker=threads, host="127.0.0.1", dashboard_address=None)
    return Client(cluster), cluster


def overhead(runs: int = 1000) -> dict:
    def sent() -> int:
        return sum(count.bytes_sent for name, count in psutil.net_io_counters(pernic=True).items() if name[:2] == "lo")

    def on(executor) -> float:
        return seconds(lambda: lrtut.sweep(nothing, range(runs), executor=executor, progress=False)) / runs

    client, cluster = dask(2, 1)
    with cluster, client:
        executor = client.get_executor()
        on(executor)  # warm
        dasks, bytes_sent = [], []
        for _ in range(3):
            before = sent()
            dasks.append(on(executor))
            bytes_sent.append((sent() - before) / runs)
    return {"threads": [on(None) for _ in range(3)], "dask": dasks, "bytes": min(bytes_sent)}


def run(data) -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def once():
        model = lrtut.small_cnn(device=DEVICE)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        return lrtut.train(model, optimizer, data, epochs=1, progress=False)

    size = len(pickle.dumps(once()))
    times = [seconds(once) for _ in range(5)]
    torch.set_num_threads(threads)
    return {"images": len(data.x_train), "seconds": times, "history_bytes": size, "data_bytes": len(pickle.dumps(data))}


def asleep(runs: int = 10_000, threads: int = 100) -> dict:
    client, cluster = dask(2, threads // 2)
    with cluster, client:
        taken = seconds(lambda: lrtut.sweep(sleeping, range(runs), executor=client.get_executor(), progress=False))
    return {"runs": runs, "threads": threads, "seconds": taken}


def vectorised(data, networks: int) -> dict:
    rates = [0.001 * 500 ** (i / networks) for i in range(networks // 4)]

    def together():
        lrtut.vectorised_sweep(lrtut.small_cnn, data, rates, range(4), epochs=1, at_once=networks, progress=False)

    if DEVICE == "cuda":
        together()  # warm
        torch.cuda.reset_peak_memory_stats()
    taken = seconds(together)
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else psutil.Process().memory_info().rss
    return {"networks": networks, "seconds": taken, "memory": peak}


def picture(data, file: str, rates: int = 200, seeds: int = 8) -> None:
    lrs = [1e-3 * 3000 ** (i / (rates - 1)) for i in range(rates)]
    ax = lrtut.plot_sweep(lrtut.vectorised_sweep(lrtut.small_cnn, data, lrs, range(seeds), epochs=1))
    ax.set_title(f"{rates} rates × {seeds} seeds")
    ax.set_ylim(top=10)  # beyond the cliff a loss may be anything
    ax.figure.savefig(file, dpi=150)


def table() -> str:
    made_on, records = load("sweeps")
    if not records:
        return "Not measured yet."
    cost, alone, slept = records["overhead"], records["run"], records["sleeping"]
    one = statistics.median(alone["seconds"])
    ideal = slept["runs"] / slept["threads"]
    card = made_on["gpu"] or "No GPU was at hand: these are a CPU's, where training as one is not meant to pay"
    lines = [
        "| what | |",
        "|---|---|",
        f"| overhead a run, threads | {1e3 * statistics.median(cost['threads']):.2f} ms |",
        f"| overhead a run, Dask | {1e3 * statistics.median(cost['dask']):.2f} ms |",
        f"| sent a run, Dask, all ways together | {cost['bytes'] / 1e3:.1f} kB, and the result |",
        f"| one run: an epoch of {alone['images']:,} images | {one:.2f} s; its `History` {alone['history_bytes'] / 1e3:.1f} kB |",
        f"| sent once to each worker: the data | {alone['data_bytes'] / 1e6:.1f} MB |",
        f"| {slept['runs']:,} runs that sleep 1 s, on {slept['threads']} worker threads of Dask "
        f"| {slept['seconds']:.1f} s, {slept['seconds'] / ideal:.2f} × the ideal |",
        "",
        f"{card}. One by one: {one:.2f} s each.",
        "",
        "| networks as one | seconds | one by one / it | memory, MB |",
        "|---|---|---|---|",
    ]
    for record in (record for name, record in records.items() if name.startswith("vectorised")):
        gain = one * record["networks"] / record["seconds"]
        lines.append(f"| {record['networks']} | {record['seconds']:.2f} | {gain:.2f} | {record['memory'] / 1e6:.0f} |")
    return "\n".join([*lines, "", measured_on({k: v for k, v in made_on.items() if k != "gpu"})])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", metavar="FILE", help="only draw the valley")
    file = parser.parse_args().picture
    data = lrtut.load_mnist(train_size=IMAGES, device=DEVICE)
    if file:
        picture(data, file)
        return
    gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else None
    made_on = machine() | {"cores": usable_cores(), "data": data.name, "gpu": gpu}
    parts = {"run": lambda: run(data)}
    parts |= {f"vectorised {n}": lambda n=n: vectorised(data, n) for n in SIZES}
    records = {}
    for name, measure in (parts | {"overhead": overhead, "sleeping": asleep}).items():
        records[name] = measure()
        print(name, records[name], flush=True)
    save("sweeps", made_on, records)
    print(table())


if __name__ == "__main__":
    main()
