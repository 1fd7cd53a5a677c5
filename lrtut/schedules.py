"""Schedules as pure functions of the step, and a preview of any scheduler.

The pure functions return a factor that multiplies the initial rate, so each fits `LambdaLR`:

    LambdaLR(optimizer, functools.partial(cosine_decay, steps=100))
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from lrtut.misuse import (
    check_owner,
    check_rates,
    check_steps,
    check_takes,
    check_whole,
    current_rates,
    numbers,
    plateau_of,
    short,
)
from lrtut.training import History, stepping


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
    make_scheduler: Callable[[Optimizer], Any],
    *,
    lr: float | Sequence[float] | Optimizer,
    steps: int,
    metric: Sequence[float] | Callable[[int], float] | None = None,
) -> np.ndarray:
    """The rates that a scheduler will set, without a model and without training.

    >>> plan = lrtut.preview(lambda optimizer: StepLR(optimizer, step_size=10), lr=0.1, steps=30)
    >>> print(plan[[0, 10, 20], 0])  # [0.1, 0.01, 0.001]
    >>> ax = lrtut.plot_lr(plan)

    It steps a scheduler and an optimizer of its own, and leaves the ones that will train alone.

    Args:
        make_scheduler: takes an optimizer (SGD) and returns a scheduler for it: one of torch's, or any object with
            `step()`. One whose `step` wants a number (timm's) is given how many steps are done.
        lr: the initial rate; a list gives one parameter group for each. Or your optimizer: its groups, with their rates
            and other options, and its defaults are copied.
        steps: how often the scheduler is stepped: epochs or batches, whichever it counts.
        metric: what a ReduceLROnPlateau is given: a sequence of `steps` values, or a function of the step.

    Returns:
        float64 `[steps, groups]`: row t is the rate after t calls of `scheduler.step()`.

    Raises:
        ValueError: `steps` below 1; a rate that is not a number, negative or not finite; a scheduler that belongs to
            another optimizer; a ReduceLROnPlateau without a metric, or with too few values or one that is no number.
        TypeError: `make_scheduler` is not a function of an optimizer, or does not return a scheduler.
    """
    check_whole("steps", steps)
    optimizer = _stand_in(lr)
    try:
        inspect.signature(make_scheduler).bind(optimizer)
    except (TypeError, ValueError) as error:
        way_out = "give a function of the optimizer alone, such as lambda optimizer: StepLR(optimizer, 10)"
        raise TypeError(f"make_scheduler is {short(make_scheduler)}: {way_out}.") from error
    scheduler = make_scheduler(optimizer)
    check_steps("make_scheduler returned", scheduler)
    check_owner(scheduler, optimizer, "the optimizer that make_scheduler is given")
    metrics = _metrics(metric, steps) if plateau_of(scheduler) else [math.nan] * steps
    advance, table = stepping(scheduler), []
    for step, value in enumerate(metrics, start=1):
        table.append(current_rates(optimizer))
        optimizer.step()  # moves nothing without gradients, but torch warns if the scheduler comes first
        advance(step, History(val_loss=[value], val_accuracy=[value]))
    return np.array(table)


def _stand_in(lr: Any) -> Optimizer:
    """An SGD with the rates `lr`, or with what the groups of the optimizer `lr` hold beside parameters."""
    if hasattr(lr, "param_groups") and not isinstance(lr, type):
        check_rates(current_rates(lr), "Look at the optimizer's param_groups.")
        options = [{name: value for name, value in group.items() if name != "params"} for group in lr.param_groups]
    else:
        rates = np.atleast_1d(
            numbers("lr", lr, way_out := "give a rate, a list of one for each group, or your optimizer")
        )
        if rates.ndim > 1 or not len(rates):
            raise ValueError(f"lr is {short(lr)}: {way_out}.")
        check_rates(rates.tolist(), "Look at lr=.")
        options = [{"lr": rate} for rate in rates.tolist()]
    groups = [{"params": [torch.zeros(1, requires_grad=True)], **copy.deepcopy(option)} for option in options]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    optimizer.defaults = copy.deepcopy(getattr(lr, "defaults", optimizer.defaults))
    return optimizer


def _metrics(metric: Any, steps: int) -> list[float]:
    """What a ReduceLROnPlateau is given at each step."""
    if metric is None:
        raise ValueError("ReduceLROnPlateau looks at a metric: give metric=, a sequence or a function of the step.")
    if callable(metric) and not isinstance(metric, type):
        check_takes("metric", metric, "step")
        metric = [metric(step) for step in range(steps)]
    way_out = "give one number for each step, or a function of the step"
    values = np.atleast_1d(numbers("metric", metric, way_out))
    if len(values) < steps:
        raise ValueError(f"metric has {len(values)} values for {steps} steps: {way_out}.")
    if values.ndim > 1 or np.isnan(values[:steps]).any():
        raise ValueError(f"metric is {short(metric)}: {way_out}.")
    return values[:steps].tolist()
