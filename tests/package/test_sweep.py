import dataclasses
import os
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest
import torch

from lrtut import mlp, sweep, train
from lrtut.data import load_mnist
from lrtut.sweep import _call, usable_cores


def square(lr, seed):
    return lr * 10 + seed


def test_results_come_in_order_whoever_finishes_first():
    def slow_first(lr, seed):
        time.sleep(0.05 if (lr, seed) == (1.0, 0) else 0)
        return (lr, seed)

    runs = sweep(slow_first, (lr for lr in (1.0, 0.1)), seeds=(s for s in (0, 1, 2)))
    pairs = [(1.0, 0), (1.0, 1), (1.0, 2), (0.1, 0), (0.1, 1), (0.1, 2)]
    assert [(r.lr, r.seed) for r in runs] == pairs == [r.result for r in runs]
    assert [r.seed for r in sweep(square, [1.0])] == [0]


def test_a_failed_run_is_named_and_loses_no_other():
    def fails_once(lr, seed):
        if (lr, seed) == (0.1, 1):
            raise ArithmeticError("too steep")
        return lr

    with pytest.warns(RuntimeWarning, match=r"1 of 4 runs failed:\n  lr=0.1 seed=1: ArithmeticError: too steep"):
        runs = sweep(fails_once, [0.1, 1.0], seeds=(0, 1))
    assert [r.result for r in runs] == [0.1, None, 1.0, 1.0]
    assert isinstance(runs[1].error, ArithmeticError) and runs[0].error is None


def test_all_failed_raises_the_first():
    def fails(lr, seed):
        raise KeyError(lr)

    with pytest.raises(RuntimeError, match="all 3 runs failed; the first: lr=0.1 seed=0: KeyError: 0.1") as failure:
        sweep(fails, [0.1, 1.0, 2.0])
    assert isinstance(failure.value.__cause__, KeyError) and failure.value.__cause__.args == (0.1,)


def test_nothing_to_sweep():
    for lrs, seeds in (([], (0,)), ([0.1], ())):
        with pytest.raises(ValueError, match="at least one learning rate and one seed"):
            sweep(square, lrs, seeds)


def test_one_torch_thread_in_every_worker_and_the_callers_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for executor in (None, ThreadPoolExecutor(2)):
            runs = sweep(lambda lr, seed: torch.get_num_threads(), [0.1, 0.2, 0.3], seeds=(0, 1), executor=executor)
            assert {r.result for r in runs} == {1}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_given_executor_is_left_open():
    with ThreadPoolExecutor(1) as executor:
        sweep(square, [0.1], executor=executor)
        assert executor.submit(square, 1, 2).result() == 12


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(1), lambda: torch.manual_seed(3), lambda: torch.nn.Dropout()(torch.ones(9))]
)
def test_global_random_numbers_are_noticed(draw):
    with pytest.warns(RuntimeWarning, match="drew random numbers from torch's global state"):
        sweep(lambda lr, seed: draw(), [0.1])


def make_run():
    data = load_mnist("digits", train_size=256, device="cpu")

    def run(lr, seed):
        model = mlp(seed, device="cpu")
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        history = train(model, optimizer, data, epochs=1, batch_size=32, seed=seed, progress=False)
        return history.loss, history.val_loss, torch.get_num_threads()

    return run


def test_same_to_the_bit_whatever_the_executor():
    import loky

    run = make_run()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it draws nothing from the global state
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(4) as four:
            results = [[r.result for r in sweep(run, [0.01, 0.1], (0, 1), executor=e)] for e in (one, four, None)]
        processes = loky.get_reusable_executor(2)  # sends the closure, which the standard one cannot
        try:
            results.append([r.result for r in sweep(run, [0.01, 0.1], (0, 1), executor=processes)])
        finally:
            processes.shutdown()
    assert all(result == results[0] for result in results)
    assert {threads for _, _, threads in results[-1]} == {1}


def test_interrupt_is_raised_and_starts_nothing_more(ctrl_c):
    started = []

    def run(lr, seed):
        started.append(lr)
        if len(started) == 1:
            time.sleep(0.3)  # until all are waiting for the one worker
            os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it, as it does Ctrl-C
        time.sleep(0.1)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        sweep(run, [float(i) for i in range(20)], executor=executor)
    assert len(started) <= 3 and torch.get_num_threads() == threads


def test_cores_are_counted_also_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", {0: {3, 5, 7}}.get, raising=False)  # 0: this process
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_the_bar_is_wiped_and_can_be_left_out(monkeypatch):
    bars = []
    module = sys.modules["lrtut.sweep"]
    monkeypatch.setattr(module, "tqdm", lambda runs, *args, **kwargs: bars.append((args, kwargs)) or runs)
    sweep(square, [0.1, 0.2])
    sweep(square, [0.1], progress=False)
    kept = {"unit": "run", "delay": 2, "leave": False}
    assert bars == [(("sweep", 2), kept | {"disable": False}), (("sweep", 1), kept | {"disable": True})]


def test_a_failed_run_alone_is_no_reason_to_speak_of_random_numbers():
    def fails_once(lr, seed):
        if seed:
            raise ArithmeticError
        return lr

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sweep(fails_once, [0.1], seeds=(0, 1))
    assert [w.filename for w in said] == [__file__]  # one warning, at the caller's line
    assert str(said[0].message).startswith("1 of 2 runs failed")


def test_the_warning_of_random_numbers_points_at_the_caller():
    with pytest.warns(RuntimeWarning, match="drew random") as said:
        sweep(lambda lr, seed: torch.rand(1), [0.1])
    assert said[0].filename == __file__


def test_a_run_is_a_record_that_stays_as_it_is():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sweep(square, [0.1])[0].result = 3


class Inline(Executor):
    """Runs what it is given at once, in the caller's thread; then changes the number of threads, as a worker might."""

    def submit(self, fn, *args):
        future = Future()
        future.set_result(fn(*args))
        torch.set_num_threads(2)
        return future


def test_the_callers_torch_threads_are_put_back_whatever_the_workers_did():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert [r.result for r in sweep(lambda lr, seed: torch.get_num_threads(), [0.1], executor=Inline())] == [1]
        assert torch.get_num_threads() == 3
        _call(square, 0.1, 0)  # a worker's own are put back as well: an executor that is left open has other work
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_after_an_interrupt_nothing_is_waited_for(ctrl_c):
    release = threading.Event()

    def run(lr, seed):
        if lr == 0.0:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        release.wait(20)

    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep(run, [float(i) for i in range(20)])
        assert time.monotonic() - began < 10
    finally:
        release.set()


def test_threads_end_with_the_sweep():
    sweep(square, [0.1, 0.2])
    end = time.monotonic() + 10
    while any(thread.name.startswith("lrtut-sweep") for thread in threading.enumerate()):
        assert time.monotonic() < end, "a worker is still waiting for work"
        time.sleep(0.01)


def test_as_many_threads_as_cores_but_no_more_than_runs(monkeypatch):
    module = sys.modules["lrtut.sweep"]
    made = []

    class Spy(ThreadPoolExecutor):
        def __init__(self, workers, *args):
            made.append(workers)
            super().__init__(workers, *args)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Spy)
    monkeypatch.setattr(module, "usable_cores", lambda: 3)
    sweep(square, [0.1, 0.2])
    sweep(square, [0.1, 0.2], seeds=(0, 1))
    assert made == [2, 3]
