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

from lrtut import keeping
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
    keep: str | os.PathLike | None = None,
    key: Any = None,
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
            notebook, and it does not fork a process in which OpenMP has started, which hangs. For a cluster take
            Dask's (`client.get_executor()`): `run`, with the data that it uses, is sent to each worker once:
            docs/sweep_on_a_cluster.md.
        keep: a folder in which each run's result is kept (pickled) as soon as it ends. A sweep that finds a run there
            does not run it again, after a crash or a restart either. Runs that failed are not kept. A file `….part` is
            what a crash cut off: delete it.
        key: what makes two runs the same, beside rate and seed: numbers, text, lists or dicts, such as
            `{"model": "small_cnn", "epochs": 3, "version": 2}`. Change it when you change the code or the data: nothing
            else is looked at.
        progress: show a bar on anything longer than two seconds.

    Returns:
        A `Run` for each pair, the seeds of a rate side by side, in the order given. A run that fails raises a
        RuntimeWarning; the others go on.

    Raises:
        ValueError: no rate or no seed; `keep` without `key`, or the other way round.
        TypeError: `run` is not a function, `lrs` or `seeds` not a list, `executor` not an Executor; with `keep`, a key,
            rate or seed that is more than numbers, text, lists and dicts.
        OSError: the folder `keep` cannot be made or read. One that cannot be written to (a full disk) later on raises
            a RuntimeWarning, and so does a file that is damaged: its run is run again.
        RuntimeError: every run failed (from the first one's error).

        Whatever ends the sweep, Ctrl-C included, the attribute `runs` of the exception holds the runs that are done.
    """
    _check_run(run, executor)
    lrs, seeds = listed("lrs", lrs), listed("seeds", seeds)
    pairs = [(lr, seed) for lr in lrs for seed in seeds]
    if not pairs:
        raise ValueError("nothing to sweep: give at least one learning rate and one seed.")
    files = keeping.files(keep, key, pairs)
    runs: list[Run | None] = [keeping.read(file) if file else None for file in files]
    threads = torch.get_num_threads()
    futures: dict[Future, int] = {}
    here = torch.get_default_device()  # threads do not inherit it; None is faster than the CPU by name
    own = None
    if executor is None:
        device = (None if here.type == "cpu" else here,)
        own = ThreadPoolExecutor(min(usable_cores(), len(pairs)), "lrtut-sweep", torch.set_default_device, device)
    drew = False
    try:
        sent = _sent_once(run, executor)
        for i, (lr, seed) in enumerate(pairs):
            if runs[i] is None:
                futures[(own or executor).submit(_call, sent, lr, seed)] = i
        bar = {"total": len(pairs), "initial": len(pairs) - len(futures), "unit": "run", "disable": not progress}
        for future in tqdm(as_completed(futures), "sweep", delay=2, leave=False, **bar):
            i = futures[future]
            error = CancelledError() if future.cancelled() else future.exception()
            result, touched = (None, False) if error else future.result()
            runs[i] = Run(*pairs[i], result, error)
            drew |= touched
            if files[i] and not error:
                keeping.write(files[i], runs[i])
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


def listed(name: str, values: Any) -> list:
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


def _sent_once(run: Callable, executor: Executor | None) -> Any:
    """`run`; on Dask, a task that unpacks it: each worker fetches its outcome once, a late or restarted one too."""
    client = getattr(executor, "_client", None)  # ClientExecutor has no public way to its client
    if not hasattr(client, "scatter"):
        return run
    import cloudpickle  # Dask brings both
    import dask

    packed = cloudpickle.dumps(run)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": 2 * len(packed) + 10**7}):
        return client.submit(cloudpickle.loads, packed, pure=False)


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
