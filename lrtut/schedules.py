"""Schedules as pure functions of the step, and a preview of any scheduler.

The pure functions return a factor that multiplies the initial rate, so each fits `LambdaLR`:

    LambdaLR(optimizer, functools.partial(cosine_decay, steps=100))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lrtut.misuse import check_owner, check_rates, check_whole


def constant(step: int, *, factor: float = 1.0) -> float:
    """c. Like `ConstantLR` before its `total_iters`."""
    return factor


def time_decay(step: int, *, k: float) -> float:
    """1 / (1 + k t): half after 1/k steps. Not in torch. Bottou (2012), Stochastic Gradient Descent Tricks."""
    return 1 / (1 + k * step)


def step_decay(step: int, *, step_size: int, gamma: float) -> float:
    """γ^⌊t / step_size⌋. Like `StepLR`."""
    check_whole("step_size", step_size)
    return gamma ** (step // step_size)


def exponential_decay(step: int, *, gamma: float) -> float:
    """γ^t. Like `ExponentialLR`."""
    return gamma**step


def polynomial_decay(step: int, *, steps: int, power: float = 1.0) -> float:
    """(1 - t/T)^power up to t = T = `steps`, then 0. Like `PolynomialLR`; power 1 is linear decay to zero."""
    check_whole("steps", steps)
    return (1 - min(step, steps) / steps) ** power


def cosine_decay(step: int, *, steps: int, final: float = 0.0) -> float:
    """f + (1 - f) (1 + cos(π t/T)) / 2 up to t = T = `steps`, then f = `final`.

    Like `CosineAnnealingLR` up to T; that one climbs again afterwards. Loshchilov & Hutter (2016), arXiv 1608.03983.
    """
    check_whole("steps", steps)
    return final + (1 - final) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def linear_warmup(step: int, *, steps: int, start: float = 0.1) -> float:
    """s + (1 - s) t/T up to t = T = `steps`, then 1; s = `start`. Like `LinearLR`.

    With s = 0 the first step would be wasted: its rate is 0.
    """
    check_whole("steps", steps)
    return start + (1 - start) * min(step, steps) / steps


def warmup_stable_decay(
    step: int, *, warmup: int, stable: int, decay: int, start: float = 0.1, final: float = 0.0
) -> float:
    """Linear from `start` to 1 in `warmup` steps, 1 for `stable` more, linear to `final` in `decay` more, then `final`.

    Like a `SequentialLR` of three. Hägele et al. (2024), arXiv 2405.18392.
    """
    check_whole("decay", decay)
    if step < warmup:
        return linear_warmup(step, steps=warmup, start=start)
    return 1 - (1 - final) * min(max(step - warmup - stable, 0), decay) / decay


def preview(
    make_scheduler: Callable[[Optimizer], LRScheduler],
    *,
    lr: float | Sequence[float],
    steps: int,
    metric: Sequence[float] | Callable[[int], float] | None = None,
) -> np.ndarray:
    """The rates that a scheduler will set, without a model and without training.

    >>> plan = lrtut.preview(lambda optimizer: StepLR(optimizer, step_size=10), lr=0.1, steps=30)
    >>> print(plan[[0, 10, 20], 0])  # [0.1, 0.01, 0.001]
    >>> ax = lrtut.plot_lr(plan)

    It steps a scheduler and an optimizer of its own, and leaves the ones that will train alone.

    Args:
        make_scheduler: takes an optimizer (SGD with momentum 0.9 here) and returns a scheduler for it.
        lr: the initial rate; a list gives one parameter group for each.
        steps: how often the scheduler is stepped: epochs or batches, whichever it counts.
        metric: what a ReduceLROnPlateau is given: a sequence of `steps` values, or a function of the step.

    Returns:
        float64 `[steps, groups]`: row t is the rate after t calls of `scheduler.step()`.

    Raises:
        ValueError: `steps` below 1; a rate that is negative or not finite; a scheduler that belongs to another
            optimizer; a ReduceLROnPlateau without a metric or with too few values.
        TypeError: `make_scheduler` does not return a scheduler.
    """
    check_whole("steps", steps)
    rates = [float(rate) for rate in (lr if isinstance(lr, Sequence | np.ndarray) else [lr])]
    check_rates(rates, "Look at lr=.")
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(f"make_scheduler returned {scheduler!r}: it must return the scheduler that it makes.")
    check_owner(scheduler, optimizer, "the optimizer that make_scheduler is given")
    plateau = isinstance(scheduler, ReduceLROnPlateau)
    if plateau and metric is None:
        raise ValueError("ReduceLROnPlateau looks at a metric: give metric=, a sequence or a function of the step.")
    if plateau and not callable(metric) and len(metric) < steps:
        raise ValueError(f"metric has {len(metric)} values for {steps} steps: give one for each step.")
    table = []
    for step in range(steps):
        table.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()  # moves nothing without gradients, but torch warns if the scheduler comes first
        if plateau:
            scheduler.step(metric(step) if callable(metric) else metric[step])
        else:
            scheduler.step()
    return np.array(table)
