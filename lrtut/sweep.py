"""The same training at many learning rates and seeds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from lrtut.misuse import short


@dataclass(frozen=True)
class Run:
    """One run of a sweep: `result` is what `run(lr, seed)` returned; if it failed, `error` is what it raised."""

    lr: Any
    seed: Any
    result: Any = None
    error: BaseException | None = None


def sweep(
    run: Callable[[Any, Any], Any],
    lrs: Iterable,
    seeds: Iterable = (0,),
    executor: Executor | None = None,
    *,
    progress: bool = True,
) -> list[Run]:
    """Call `run(lr, seed)` for each pair, several at once.

    >>> def run(lr, seed):
    ...     model = lrtut.small_cnn(seed)
    ...     return lrtut.train(model, torch.optim.SGD(model.parameters(), lr=lr), data, epochs=3, seed=seed)
    >>> ax = lrtut.plot_sweep(lrtut.sweep(run, [0.01, 0.1, 1.0], seeds=(0, 1, 2)))

    Each worker computes with one torch thread: small networks gain more from two runs at once than from two threads
    in one. The results are the same, to the bit, whatever the executor and the number of workers, as long as `run`
    draws no random number from torch's global state (initialise models by `small_cnn(seed)`; dropout does draw).

    Args:
        run: `(lr, seed) -> result`, a `History` or whatever you want to collect.
        lrs: learning rates, or whatever else you compare: names, tuples, dicts.
        seeds: seeds; each rate is run with each.
        executor: None means threads, one for each core. Any `concurrent.futures.Executor` works, and is left open. For
            processes take loky's (`loky.get_reusable_executor()`): it can send a function that was defined in a
            notebook, and it does not fork a process in which OpenMP has started, which hangs.
        progress: show a bar on anything longer than two seconds.

    Returns:
        A `Run` for each pair, the seeds of a rate side by side, in the order given. A run that fails raises a
        RuntimeWarning; the others go on.

    Raises:
        ValueError: no rate or no seed.
        TypeError: `run` is not a function, `lrs` or `seeds` not a list, `executor` not an Executor.
        RuntimeError: every run failed (from the first one's error).

        Whatever ends the sweep, Ctrl-C included, the attribute `runs` of the exception holds the runs that are done.
    """
    _check_run(run, executor)
    lrs, seeds = _listed("lrs", lrs), _listed("seeds", seeds)
    pairs = [(lr, seed) for lr in lrs for seed in seeds]
    if not pairs:
        raise ValueError("nothing to sweep: give at least one learning rate and one seed.")
    threads = torch.get_num_threads()
    futures: dict[Future, int] = {}
    own = None if executor is not None else ThreadPoolExecutor(min(usable_cores(), len(pairs)), "lrtut-sweep")
    runs: list[Run] = [None] * len(pairs)
    drew = False
    try:
        for i, (lr, seed) in enumerate(pairs):
            futures[(own or executor).submit(_call, run, lr, seed)] = i
        waiting = as_completed(futures)
        for future in tqdm(waiting, "sweep", len(pairs), unit="run", delay=2, leave=False, disable=not progress):
            lr, seed = pairs[futures[future]]
            error = CancelledError() if future.cancelled() else future.exception()
            result, touched = (None, False) if error else future.result()
            runs[futures[future]] = Run(lr, seed, result, error)
            drew |= touched
        _report(runs, drew)
    except BaseException as stop:
        stop.runs = [run for run in runs if run is not None]
        stop.add_note(f"{len(stop.runs)} runs are done: sys.last_value.runs")
        raise
    finally:
        for future in futures:  # after an interrupt, no new run begins
            future.cancel()
        if own:
            own.shutdown(wait=False)
        torch.set_num_threads(threads)
    return runs


def _check_run(run: Any, executor: Any) -> None:
    if not callable(run):
        raise TypeError(f"run is {short(run)}: give a function of (lr, seed).")
    if executor is not None and not isinstance(executor, Executor):
        dask = hasattr(executor, "get_executor")  # a Client
        way_out = (
            "client.get_executor()" if dask else "one of concurrent.futures, such as ThreadPoolExecutor(4), or None"
        )
        raise TypeError(f"executor is {short(executor)}: give {way_out}.")


def _listed(name: str, values: Any) -> list:
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {short(values)}: give a list, such as [{short(values)}].")
    return list(values)


def usable_cores() -> int:
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _call(run: Callable[[Any, Any], Any], lr: Any, seed: Any) -> tuple[Any, bool]:
    """The result, and whether torch's global random state changed meanwhile (by this run or a parallel one)."""
    threads = torch.get_num_threads()
    before = _random_states()
    torch.set_num_threads(1)
    try:
        result = run(lr, seed)
    finally:
        torch.set_num_threads(threads)
    return result, not all(map(torch.equal, before, _random_states()))


def _random_states() -> list[torch.Tensor]:
    """Of the CPU, and of the CUDA devices if they are in use. The first run to use them makes the list longer."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _report(runs: list[Run], drew: bool) -> None:
    failed = [r for r in runs if r.error is not None]
    if failed:
        lines = [f"lr={r.lr} seed={r.seed}: {type(r.error).__name__}: {r.error}" for r in failed]
        if len(failed) == len(runs):
            raise RuntimeError(f"all {len(runs)} runs failed; the first: {lines[0]}") from failed[0].error
        warnings.warn(
            f"{len(failed)} of {len(runs)} runs failed:\n  " + "\n  ".join(lines), RuntimeWarning, stacklevel=3
        )
    if drew:
        warnings.warn(
            "run() drew random numbers from torch's global state (dropout, torch.manual_seed, a default "
            "initialisation), which parallel runs share: their results depend on who comes first. Give run() "
            "generators of its own, or an executor of one worker.",
            RuntimeWarning,
            stacklevel=3,
        )
