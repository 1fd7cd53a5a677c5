"""A sweep on Dask gives what threads give, and outlives its workers: a scheduler and two processes on this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from lrtut import mlp, sweep, train
from lrtut.data import load_mnist

distributed, cloudpickle, dask = map(pytest.importorskip, ("distributed", "cloudpickle", "dask"))
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PAGE = Path(__file__).parents[2] / "docs" / "sweep_on_a_cluster.md"
LRS = [float(i) for i in range(12)]


def cluster(workers):
    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    # Every two seconds, the manager drops copies that no waiting run needs: a slow machine would fetch them again.
    with dask.config.set({"distributed.scheduler.active-memory-manager.start": False}):
        return distributed.LocalCluster(n_workers=workers, **options)


@pytest.fixture(scope="module")
def client():
    with cluster(2) as two, distributed.Client(two) as client:
        yield client


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Data:
    """Leaves a file whenever it arrives in a process."""

    def __init__(self, folder):
        self.folder, self.digits = folder, load_mnist("digits", train_size=256, device="cpu")

    def __setstate__(self, state):
        self.__dict__.update(state)
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()


def test_same_to_the_bit_as_threads_and_the_data_are_sent_once(client, tmp_path):
    data = Data(tmp_path)

    def run(lr, seed):
        model = mlp(seed, device="cpu")
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        history = train(model, optimizer, data.digits, epochs=1, batch_size=32, seed=seed, progress=False)
        return history.loss, history.val_loss

    there = sweep(run, [0.01, 0.1], range(3), client.get_executor())
    assert there == sweep(run, [0.01, 0.1], range(3))
    arrivals = [file.name.split("-")[0] for file in tmp_path.iterdir()]
    assert len(arrivals) == len(set(arrivals)) <= 2 and str(os.getpid()) not in arrivals


def test_a_worker_that_is_killed_loses_no_run(client, tmp_path):
    def run(lr, seed):
        if lr == 5.0 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return lr, os.getpid()

    runs = sweep(run, LRS, executor=client.get_executor(), keep=tmp_path / "kept", key=0)
    assert (tmp_path / "killed").exists() and [r.result[0] for r in runs] == LRS
    assert len(list((tmp_path / "kept").iterdir())) == len(LRS)


def test_a_worker_that_joins_late_takes_its_share(tmp_path):
    def run(lr, seed):
        (tmp_path / str(os.getpid())).touch()
        if lr > 0:
            wait_for(lambda: len(list(tmp_path.iterdir())) > 1)
        return os.getpid()

    with cluster(1) as growing, distributed.Client(growing) as client:

        def grow():
            wait_for(lambda: list(tmp_path.iterdir()))
            growing.scale(2)

        thread = threading.Thread(target=grow)
        thread.start()
        runs = sweep(run, LRS[:4], executor=client.get_executor())
        thread.join()
    assert [r.error for r in runs] == [None] * 4 and len({r.result for r in runs}) == 2


def test_results_come_and_are_kept_while_others_run(client, tmp_path):
    def run(lr, seed):
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:  # it is not the first
            wait_for(lambda: any(tmp_path.glob("*.pickle")))
        return lr

    assert [r.result for r in sweep(run, LRS, executor=client.get_executor(), keep=tmp_path, key=0)] == LRS


def test_the_program_of_the_page_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8").split("\n## ")[1], re.S)
    (tmp_path / "rates.py").write_text(program, encoding="utf-8")
    environment = os.environ | {"LRTUT_DATA": "digits"}
    done = subprocess.run([sys.executable, "rates.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "best rate" in done.stdout, done.stderr
