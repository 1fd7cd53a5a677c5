"""A real Jupyter kernel interrupted in the middle of train, lr_range_test and sweep; then its next cell runs."""

import os
import queue
import signal
import subprocess
import sys
import time

import pytest
from jupyter_client.manager import start_new_kernel

SETUP = """
import sys, threading, time, torch
import torch.nn.functional as F
import lrtut

def problem(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x = torch.randn(40, 4)
    data = [(x[i : i + 10], torch.arange(10) % 3) for i in range(0, 40, 10)]
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), data

def bits(model, optimizer):
    state = optimizer.state_dict()
    tensors = [*model.state_dict().values(), *(s["momentum_buffer"] for s in state["state"].values())]
    return [t.tolist() for t in tensors], state["param_groups"]

calls = 0

def slow(outputs, targets):
    global calls
    calls += 1
    if calls == 7:
        print("in the middle", flush=True)
    time.sleep(0.02)
    return F.cross_entropy(outputs, targets)

threads = torch.get_num_threads()
"""


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=120)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


class Kernel:
    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def run(self, code, interrupt_at=None, patience=120):
        """What the cell printed, and the name of its error or None; interrupted once it has printed `interrupt_at`."""
        # After an error a kernel drops the cells that wait; stop_on_error=False, or it might drop our next one.
        message = self.client.execute(code, stop_on_error=False)
        printed, error, deadline = "", None, time.monotonic() + patience
        while True:
            try:
                said = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                assert time.monotonic() < deadline, f"no end of the cell after {patience} s: {printed}"
                continue
            if said["parent_header"].get("msg_id") != message:
                continue
            content = said["content"]
            if said["msg_type"] == "stream" and content["name"] == "stdout":
                printed += content["text"]
                if interrupt_at and interrupt_at in printed:
                    self.manager.interrupt_kernel()
                    interrupt_at, self.interrupted = None, time.monotonic()
            elif said["msg_type"] == "error":
                error = content["ename"]
                self.ended = time.monotonic()
                self.error_text = "\n".join(content["traceback"])
            elif said["msg_type"] == "status" and content["execution_state"] == "idle":
                reply = self.client.get_shell_msg(timeout=10)
                while reply["parent_header"].get("msg_id") != message:
                    reply = self.client.get_shell_msg(timeout=10)
                assert reply["content"]["status"] == ("error" if error else "ok")
                return printed, error

    def show(self, code):
        """What a cell printed that must run well."""
        printed, error = self.run(code)
        assert error is None, self.error_text
        return printed.strip()


@pytest.fixture
def fresh(kernel):
    kernel.show(SETUP)
    return kernel


def test_interrupt_in_the_middle_of_train(fresh):
    _, error = fresh.run(
        "model, optimizer, data = problem()\nlrtut.train(model, optimizer, data * 1000, epochs=1, loss_fn=slow)",
        interrupt_at="in the middle",
    )
    assert error == "KeyboardInterrupt" and fresh.ended - fresh.interrupted < 5
    # What was recorded is kept, and the step in hand is whole: a twin that takes as many steps has the same bits.
    fresh.show("history = sys.last_value.history")
    steps = int(fresh.show("print(len(history.loss))"))
    assert 7 <= steps < 4000
    twin = """
twin, its_optimizer, _ = problem()
its = lrtut.train(twin, its_optimizer, (data * 1000)[:len(history.loss)], epochs=1)
print(history.loss == its.loss, history.lrs == its.lrs, bits(model, optimizer) == bits(twin, its_optimizer))
"""
    assert fresh.show(twin) == "True True True"
    # Training goes on, in the next cell, and Ctrl-C is again what it was.
    assert fresh.show("print(len(lrtut.train(model, optimizer, data, epochs=1).loss))") == "4"
    assert fresh.run("print('again', flush=True)\ntime.sleep(60)", interrupt_at="again")[1] == "KeyboardInterrupt"


def test_interrupt_in_the_middle_of_a_range_test(fresh):
    before = """
model, optimizer, data = problem()
lrtut.train(model, optimizer, data, epochs=2)
model[1].eval()
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
kept, random, grads = bits(model, optimizer), torch.get_rng_state(), [p.grad for p in model.parameters()]
"""
    fresh.show(before)
    _, error = fresh.run(
        "lrtut.lr_range_test(model, optimizer, data, slow, steps=1000, stop_when_diverged=False)",
        interrupt_at="in the middle",
    )
    assert error == "KeyboardInterrupt" and fresh.ended - fresh.interrupted < 5
    after = """
print(bits(model, optimizer) == kept, torch.equal(torch.get_rng_state(), random), model[1].training, model.training)
print(all(p.grad is g for p, g in zip(model.parameters(), grads)), calls < 1000)
"""
    assert fresh.show(after).split() == ["True", "True", "False", "True", "True", "True"]
    again = "print(len(lrtut.lr_range_test(model, optimizer, data, steps=30, stop_when_diverged=False).loss))"
    assert fresh.show(again) == "30"
    assert fresh.show("optimizer.step(); scheduler.step(); print(optimizer.param_groups[0]['lr'])") == "0.05"


def test_interrupt_in_the_middle_of_a_sweep(fresh):
    begin = """
begun, ended = [], []

def run(lr, seed):
    begun.append(lr)
    if len(begun) == 1:
        print("in the middle", flush=True)
    model, optimizer, data = problem_of(seed)
    history = lrtut.train(model, optimizer, data, epochs=20, loss_fn=unhurried, progress=False)
    ended.append(lr)
    return history

def unhurried(outputs, targets):
    time.sleep(0.01)
    return F.cross_entropy(outputs, targets)

def problem_of(seed):
    model = lrtut.mlp(seed, device="cpu")
    x = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    return model, torch.optim.SGD(model.parameters(), lr=0.1), [(x, torch.arange(20) % 10)]
"""
    fresh.show(begin)
    _, error = fresh.run("lrtut.sweep(run, [0.1] * 100)", interrupt_at="in the middle")
    assert error == "KeyboardInterrupt" and fresh.ended - fresh.interrupted < 5
    assert fresh.show("print(torch.get_num_threads() == threads)") == "True"
    # What had begun ends by itself; nothing else begins; the number of threads stays what it was.
    wait = """
for _ in range(600):
    if len(ended) == len(begun) and not any("lrtut-sweep" in t.name for t in threading.enumerate()):
        break
    time.sleep(0.05)
print(len(ended) == len(begun), len(begun) < 50, torch.get_num_threads() == threads)
"""
    assert fresh.show(wait) == "True True True"
    assert fresh.show("print([len(r.result.loss) for r in lrtut.sweep(run, [0.1, 0.2])])") == "[20, 20]"


WORKERS = """
import time, torch, lrtut
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, i):
        time.sleep(0.05)
        return torch.randn(4), i % 3

class Announced(DataLoader):
    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == 3:
                print("in the middle", flush=True)
            yield batch

if __name__ == "__main__":
    model = torch.nn.Linear(4, 3)
    loader = Announced(Slow(), 8, num_workers=1, multiprocessing_context="spawn")
    try:
        lrtut.train(model, torch.optim.SGD(model.parameters(), lr=0.1), loader, epochs=3, progress=False)
    except KeyboardInterrupt as stop:
        print("KeyboardInterrupt", len(stop.history.loss) >= 3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to send Ctrl-C to in this way")
def test_interrupt_that_the_workers_of_a_loader_hear_too(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    # A terminal's Ctrl-C goes to the whole group; SIGINT is Python's own again where the tests run in the background.
    run = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    run += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if line.strip() == "in the middle":
                os.killpg(process.pid, signal.SIGINT)
    assert said == ["in the middle", "KeyboardInterrupt True"]
