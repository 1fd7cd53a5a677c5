"""A sweep gives the same results whoever computes them, and loses no run to another's failure."""

import os
import threading
import warnings
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from toy import press_ctrl_c

from lrtut import mlp, sweep, train
from lrtut.data import load_mnist


def square(lr, seed):
    return lr * 10 + seed


def test_results_come_in_order_whoever_finishes_first():
    others = threading.Event()

    def first_comes_last(lr, seed):
        assert others.wait(60) if (lr, seed) == (1.0, 0) else others.set() is None
        return lr, seed

    with ThreadPoolExecutor(2) as executor:
        runs = sweep(first_comes_last, (lr for lr in (1.0, 0.1)), (s for s in (0, 1, 2)), executor)
        assert executor.submit(square, 1, 2).result() == 12  # it is left open
    pairs = [(1.0, 0), (1.0, 1), (1.0, 2), (0.1, 0), (0.1, 1), (0.1, 2)]
    assert [(r.lr, r.seed) for r in runs] == pairs == [r.result for r in runs]
    assert [r.seed for r in sweep(square, [1.0])] == [0]


def test_threads_have_the_callers_default_device():
    with torch.device("meta"):
        runs = sweep(lambda lr, seed: torch.zeros(1).device.type, [0.1, 1.0])
    assert [run.result for run in runs] == ["meta", "meta"]


def test_a_failed_run_is_named_and_loses_no_other():
    def fails_once(lr, seed):
        if (lr, seed) == (0.1, 1):
            raise ArithmeticError("too steep")
        return lr

    with pytest.warns(RuntimeWarning) as said:
        runs = sweep(fails_once, [0.1, 1.0], seeds=(0, 1))
    assert [r.result for r in runs] == [0.1, None, 1.0, 1.0]
    assert isinstance(runs[1].error, ArithmeticError) and runs[0].error is None
    (warning,) = said  # none of random numbers; at the caller's line
    assert "1 of 4 runs failed" in str(warning.message) and warning.filename == __file__
    assert "lr=0.1 seed=1: ArithmeticError: too steep" in str(warning.message)


def test_all_failed_raises_from_the_first():
    def fails(lr, seed):
        raise KeyError(lr)

    with pytest.raises(RuntimeError, match="all 3 runs failed; the first: lr=0.1 seed=0: KeyError: 0.1") as failure:
        sweep(fails, [0.1, 1.0, 2.0])
    assert failure.value.__cause__ is failure.value.runs[0].error and len(failure.value.runs) == 3


@pytest.mark.parametrize("lrs, seeds", [([], (0,)), ([0.1], ())])
def test_nothing_to_sweep(lrs, seeds):
    with pytest.raises(ValueError, match="at least one learning rate and one seed"):
        sweep(square, lrs, seeds)


@pytest.mark.parametrize("keys", [[(0.1, 8), (0.2, 8)], [{"lr": 1}, {"lr": 2}]], ids=["tuples", "dicts"])
def test_anything_is_swept_and_what_is_done_is_kept_whatever_ends_it(keys):
    def run(key, seed):
        return 1 / (key != keys[1] or seed)

    with pytest.warns(RuntimeWarning, match="1 of 4 runs failed"):
        runs = sweep(run, keys, seeds=(0, 1))
    assert [r.lr for r in runs] == [keys[0]] * 2 + [keys[1]] * 2 and [r.result for r in runs] == [1, 1, None, 1]
    with warnings.catch_warnings(), pytest.raises(RuntimeWarning) as stop:
        warnings.simplefilter("error")
        sweep(run, keys, seeds=(0, 1))
    assert [r.result for r in stop.value.runs] == [1, 1, None, 1]


def test_a_client_of_dask_is_told_how_to_become_an_executor():
    with pytest.raises(TypeError, match=r"executor is .*: give client\.get_executor\(\)"):
        sweep(square, [0.1], executor=SimpleNamespace(submit=None, get_executor=None))


class Inline(Executor):
    """Runs what it is given at once, in the caller's thread; then changes the number of threads, as a worker might."""

    def submit(self, fn, *args):
        future, before = Future(), torch.get_num_threads()
        future.set_result(fn(*args))
        assert torch.get_num_threads() == before  # a worker may have other work
        torch.set_num_threads(2)
        return future


@pytest.mark.parametrize(
    "make", [lambda: None, lambda: ThreadPoolExecutor(2), Inline], ids=["own", "threads", "inline"]
)
def test_one_torch_thread_in_every_worker_and_the_callers_put_back(make):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        runs = sweep(lambda lr, seed: torch.get_num_threads(), [0.1, 0.2, 0.3], executor=make())
        assert {r.result for r in runs} == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_global_random_numbers_are_noticed():
    with pytest.warns(RuntimeWarning, match="drew random numbers from torch's global state") as said:
        sweep(lambda lr, seed: torch.nn.Dropout()(torch.ones(9)), [0.1])
    assert said[0].filename == __file__


def test_same_to_the_bit_whatever_the_executor():
    import loky

    data = load_mnist("digits", train_size=256, device="cpu")

    def run(lr, seed):
        model = mlp(seed, device="cpu")
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        history = train(model, optimizer, data, epochs=1, batch_size=32, seed=seed, progress=False)
        return history.loss, history.val_loss, torch.get_num_threads()

    with warnings.catch_warnings(), ThreadPoolExecutor(1) as one, ThreadPoolExecutor(4) as four:
        warnings.simplefilter("error", RuntimeWarning)  # it draws nothing from the global state
        process = loky.get_reusable_executor(1)  # sends the closure, which the standard one cannot
        try:
            results = [[r.result for r in sweep(run, [0.01, 0.1], (0, 1), e)] for e in (one, four, None, process)]
        finally:
            process.shutdown()
    assert all(result == results[0] for result in results)
    assert {threads for _, _, threads in results[-1]} == {1}


@pytest.mark.parametrize("make", [lambda: None, lambda: ThreadPoolExecutor(1)], ids=["own", "given"])
def test_interrupt_is_raised_at_once_and_starts_nothing_more(make, ctrl_c):
    executor, release, started, waited_for = make(), threading.Event(), [], []
    threads = torch.get_num_threads()

    def run(lr, seed):
        started.append(lr)
        if lr == 0.0:
            press_ctrl_c(within="_base.py:as_completed")  # all have been submitted
        if not release.wait(20):
            waited_for.append(lr)

    with pytest.raises(KeyboardInterrupt):
        sweep(run, [float(i) for i in range(40)], executor=executor)
    release.set()
    assert waited_for == [] and torch.get_num_threads() == threads
    if executor:
        executor.shutdown()  # what had begun ends by itself
        assert started == [0.0]


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_as_many_runs_at_once_as_there_are_cores():
    at_once = threading.Barrier(cores())

    def run(lr, seed):
        at_once.wait(60)
        return threading.current_thread()

    assert len({r.result for r in sweep(run, [0.1], seeds=range(2 * cores()))}) == cores()
