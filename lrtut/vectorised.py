"""A sweep in which many networks are trained as one."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from lrtut import misuse
from lrtut.data import Digits
from lrtut.evaluation import on_device
from lrtut.stack import CannotStackError, Stack
from lrtut.sweep import Run, listed, sweep
from lrtut.training import History, in_batches, record_losses, train


def vectorised_sweep(
    make_model: Callable[[Any], nn.Module],
    data: Digits | Iterable[tuple[Tensor, Tensor]],
    lrs: Iterable,
    seeds: Iterable = (0,),
    make_optimizer: Callable[[Iterable, Any], Optimizer] = SGD,
    *,
    epochs: int,
    batch_size: int = 128,
    schedule: Callable[[int], float] | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    val: Iterable[tuple[Tensor, Tensor]] | None = None,
    at_once: int = 256,
    progress: bool = True,
) -> list[Run]:
    """Train `make_model(seed)` at each rate with each seed: many networks at once, as one.

    >>> runs = lrtut.vectorised_sweep(lrtut.small_cnn, data, [0.01, 0.1, 1.0], seeds=range(8), epochs=3)
    >>> ax = lrtut.plot_sweep(runs)

    It is meant for a GPU, which one small network leaves idle. On a CPU it gains little, and with convolutions it loses
    (benchmarks/README.md): use `sweep` there.

    Each run is the one that `train` would give with this seed, but for rounding: losses agree to 1e-9 in float64, and
    to 1e-3 in float32 over a hundred steps, at rates at which training is stable. A network whose loss turns NaN or
    infinite is marked (`diverged`) and leaves the others at the end of its epoch.

    What cannot be trained as one is trained one by one, by `sweep`, and a RuntimeWarning says why: networks that differ
    in more than their values; a forward pass that changes buffers (BatchNorm's running statistics), draws random
    numbers (dropout), depends on values (`if`, `.item()`) or writes in place where torch.func cannot; an optimizer
    other than SGD and Adam, or one that changes another of their options than the rate, SGD's momentum and Adam's
    betas.

    Args:
        make_model: `seed -> model`, all on one device.
        data: what `load_mnist()` returns: each network gets the order of its seed. Or an iterable of `(inputs,
            targets)`, such as a list: all get the same batches.
        lrs: learning rates, or whatever `make_optimizer` takes in their place, such as pairs of rate and momentum.
        seeds: seeds; each rate is run with each.
        make_optimizer: `(parameters, lr) -> optimizer`, such as `torch.optim.Adam`, or
            `lambda parameters, pair: torch.optim.SGD(parameters, lr=pair[0], momentum=pair[1])`.
        epochs: passes over the training data.
        batch_size: samples in a batch, as in `train`.
        schedule: a factor of the rate for each batch, `step -> factor`, such as those in `lrtut.schedules`.
        loss_fn: `(outputs, targets) -> scalar`.
        val: batches to validate on; `load_mnist()` brings its own.
        at_once: networks trained at once: memory grows with it.
        progress: show a bar on anything longer than two seconds.

    Returns:
        A `Run` for each pair, with its `History`, in the order of `sweep`.

    Raises:
        ValueError, TypeError: as `sweep` and `train` do. Whatever ends it, the attribute `runs` of the exception holds
            the runs that are done.
    """
    makers = {"make_model": (make_model, "seed"), "make_optimizer": (make_optimizer, "parameters", "lr")}
    for name, (function, *given) in makers.items():
        misuse.check_kind(name, function, Callable, "give a function")
        misuse.check_takes(name, function, *given)
    misuse.check_kind("schedule", schedule, Callable | None, "give a function of the step, as in lrtut.schedules")
    for name, number in {"epochs": epochs, "batch_size": batch_size, "at_once": at_once}.items():
        misuse.check_whole(name, number)
    own = {} if isinstance(data, Digits) else {"data": data}
    misuse.check_parts(nn.Identity(), {"loss_fn": loss_fn}, **own, **{} if val is None else {"val": val})
    lrs, seeds = listed("lrs", lrs), listed("seeds", seeds)
    pairs = [(lr, seed) for lr in lrs for seed in seeds]
    if not pairs:
        raise ValueError("nothing to sweep: give at least one learning rate and one seed.")

    making = threading.Lock()  # make_model may call torch.manual_seed, which threads share

    def alone(lr: Any, seed: Any) -> History:
        with making:
            model = make_model(seed)
        optimizer = make_optimizer(model.parameters(), lr)
        options = {"epochs": epochs, "batch_size": batch_size, "loss_fn": loss_fn, "val": val, "progress": False}
        if schedule:
            options |= {"scheduler": LambdaLR(optimizer, schedule), "scheduler_step": "batch"}
        return train(model, optimizer, data, seed=seed if isinstance(data, Digits) else 0, **options)

    runs: list[Run] = []
    bar = tqdm(desc="sweep", total=len(pairs) * epochs, unit="epoch", delay=2, leave=False, disable=not progress)
    try:
        with bar:
            for i in range(0, len(pairs), at_once):
                members = pairs[i : i + at_once]
                stack = Stack(make_model, make_optimizer, members, loss_fn)
                batches = _Batches(data, val, batch_size, [seed for _, seed in members])
                histories = _train(stack, batches, schedule, epochs, bar)
                runs += [Run(*pair, history) for pair, history in zip(members, histories, strict=True)]
    except CannotStackError as why:
        message = f"these networks cannot be trained as one, so they are trained one by one: {why}."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return sweep(alone, lrs, seeds, progress=progress)
    except BaseException as stop:
        stop.runs = runs
        if isinstance(stop, torch.OutOfMemoryError):
            stop.add_note(f"at_once={at_once}: give a smaller one.")
        raise
    return runs


class _Batches:
    """Batches for all networks: the same ones, or for images of `load_mnist()` each network's own, by its seed."""

    def __init__(self, data: Any, val: Any, batch_size: int, seeds: list):
        seeds = seeds if isinstance(data, Digits) else [0] * len(seeds)
        orders = [seed for i, seed in enumerate(seeds) if seed not in seeds[:i]]
        self.loaders = [in_batches(data, val, batch_size, seed)[0] for seed in orders]
        self.val = in_batches(data, val, batch_size, 0)[1]
        misuse.check_reusable(2, data=self.loaders[0], val=self.val)
        self.order_of = torch.tensor([orders.index(seed) for seed in seeds])
        self.axis = 0 if len(orders) > 1 else None

    def on(self, device: torch.device, active: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass for the networks `active`; where `axis` is 0, tensors are `[M, N, …]`."""
        which = self.order_of[active].to(device)
        for several in zip(*self.loaders, strict=True):
            pairs = [on_device(batch, device) for batch in several]
            yield (
                pairs[0] if self.axis is None else tuple(torch.stack(part)[which] for part in zip(*pairs, strict=True))
            )


def _train(stack: Stack, batches: _Batches, schedule: Callable | None, epochs: int, bar: tqdm) -> list[History]:
    """What `train` does, for all networks of the stack."""
    rates = stack.numbers[0].tolist()
    histories, active = [History() for _ in rates], list(range(len(rates)))
    for epoch in range(1, epochs + 1):
        bar.update(len(rates))
        if not active:
            continue
        losses, factors = [], []
        for x, y in batches.on(stack.device, active):
            factors.append(_factor(schedule, stack.steps))
            losses.append(stack.step(x, y, factors[-1], batches.axis))
        if not losses:
            raise misuse.no_batch(epoch)
        for i, values in zip(active, torch.stack(losses, 1).tolist(), strict=True):
            histories[i].lrs += [[rates[i] * factor] for factor in factors]
            record_losses(values, histories[i])
            histories[i].steps_per_epoch = histories[i].steps_per_epoch or len(values)
            histories[i].epoch_ends.append(len(histories[i].loss))
        finite = [k for k, i in enumerate(active) if not histories[i].diverged]
        if len(finite) < len(active):
            stack.keep(finite)
            active = [active[k] for k in finite]
        if active and batches.val is not None:
            for i, loss, accuracy in zip(active, *stack.evaluate(batches.val), strict=True):
                histories[i].val_loss.append(loss)
                histories[i].val_accuracy.append(accuracy)
                histories[i].diverged = epoch == epochs and not math.isfinite(loss)
    return histories


def _factor(schedule: Callable | None, step: int) -> float:
    if schedule is None:
        return 1.0
    factor = misuse.numbers(f"schedule({step})", schedule(step), "return one number, the factor of the rate").item()
    misuse.check_rates([factor], "Look at schedule.")
    return factor
