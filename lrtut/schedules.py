"""Schedules as pure functions of the step, a preview of any scheduler, and the catalogue of torch's own.

The pure functions return a factor that multiplies the initial rate, 1.0 for "as it was", so each fits
`torch.optim.lr_scheduler.LambdaLR`:

    LambdaLR(optimizer, functools.partial(cosine_decay, steps=100))
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import SWALR

from lrtut.checks import check_whole


def constant(step: int, *, factor: float = 1.0) -> float:
    """c. Like `ConstantLR` before its `total_iters`."""
    return factor


def time_decay(step: int, *, k: float) -> float:
    """1 / (1 + k t). Half after 1/k steps; no torch class of its own. Bottou (2012), Stochastic Gradient Descent Tricks."""
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

    Like `CosineAnnealingLR` up to T; that one climbs again after it. Loshchilov & Hutter (2016), arXiv 1608.03983.
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
    """Linear from `start` to 1 in `warmup` steps, 1 for `stable` more, linear to `final` in `decay` more.

    It stays at `final`. Like a `SequentialLR` of three. Source: Hägele et al. (2024),
    arXiv 2405.18392.
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

    Steps a scheduler and an optimizer of its own, so that the ones that will train are left alone. Warnings are
    handed on.

    Args:
        make_scheduler: takes an optimizer (SGD with momentum 0.9 here) and returns a scheduler for it.
        lr: the initial rate; a list gives a parameter group for each.
        steps: how often the scheduler is stepped, in whatever it counts.
        metric: what a ReduceLROnPlateau is given: a sequence of `steps` values, or a function of the step.

    Returns:
        float64 `[steps, groups]`: row t is the rate after t calls of `scheduler.step()`.

    Raises:
        ValueError: `steps` below 1, a rate that is negative or not finite, a scheduler bound to another optimizer,
            a ReduceLROnPlateau without a metric or with too few values.
        TypeError: `make_scheduler` returns no scheduler.
    """
    check_whole("steps", steps)
    rates = [float(rate) for rate in (lr if isinstance(lr, Sequence | np.ndarray) else [lr])]
    for rate in rates:
        if not 0 <= rate < math.inf:
            raise ValueError(f"lr={rate}: a learning rate is finite and not negative.")
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(f"make_scheduler returned {scheduler!r}: it must return the scheduler that it makes.")
    check_bound(scheduler, optimizer, "the optimizer that make_scheduler is given")
    plateau = isinstance(scheduler, ReduceLROnPlateau)
    if plateau and metric is None:
        raise ValueError("ReduceLROnPlateau looks at a metric: give metric=, a sequence or a function of the step.")
    if plateau and not callable(metric) and len(metric) < steps:
        raise ValueError(f"metric has {len(metric)} values for {steps} steps: give one a step.")
    table = []
    for step in range(steps):
        table.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()  # no gradients, nothing moves; but torch warns of a scheduler that comes first
        if plateau:
            scheduler.step(metric(step) if callable(metric) else metric[step])
        else:
            scheduler.step()
    return np.array(table)


def check_bound(scheduler: LRScheduler, optimizer: Optimizer, expected: str) -> None:
    """Raise ValueError unless `scheduler` was constructed with `optimizer` (`expected`: that one, in words)."""
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        name = type(scheduler).__name__
        raise ValueError(f"this {name} belongs to another optimizer: construct it with {expected}.")


# --- the catalogue ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A scheduler of torch: how to construct one, what it computes, and when to use it.

    `make` takes an optimizer; its numbers suit a preview of `STEPS` steps. In `formula`, η is the initial rate of the
    group, t the number of calls of `scheduler.step()`. `metric` is what to feed it, None for all but ReduceLROnPlateau.
    """

    name: str
    make: Callable[[Optimizer], LRScheduler]
    formula: str
    use: str
    metric: Callable[[int], float] | None = None


STEPS = 60


def _stalling_loss(step: int) -> float:
    """A loss that falls for ten steps, and then stands still."""
    return max(1.0 - 0.05 * step, 0.5)


def _sequence(optimizer: Optimizer) -> LRScheduler:
    parts = [
        torch_schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=10),
        torch_schedulers.ConstantLR(optimizer, factor=1.0),
        torch_schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=20),
    ]
    return torch_schedulers.SequentialLR(optimizer, parts, milestones=[10, 40])


def _chain(optimizer: Optimizer) -> LRScheduler:
    return torch_schedulers.ChainedScheduler(
        [
            torch_schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=10),
            torch_schedulers.StepLR(optimizer, step_size=20, gamma=0.5),
        ]
    )


def _make(cls: type[LRScheduler], **kwargs) -> Callable[[Optimizer], LRScheduler]:
    return functools.partial(cls, **kwargs)


_LIST = [
    Entry(
        "LambdaLR",
        _make(
            torch_schedulers.LambdaLR,
            lr_lambda=functools.partial(warmup_stable_decay, warmup=10, stable=30, decay=20),
        ),
        "η · f(t)",
        "Any schedule that you can write as a function of the step. A plain function is not saved with its state.",
    ),
    Entry(
        "MultiplicativeLR",
        _make(torch_schedulers.MultiplicativeLR, lr_lambda=lambda t: (0.9, 1.0, 0.8)[t // 20 % 3]),
        "η · f(1) · f(2) ⋯ f(t)",
        "When the factor from one step to the next is what you know.",
    ),
    Entry(
        "StepLR",
        _make(torch_schedulers.StepLR, step_size=15, gamma=0.3),
        "η · γ^⌊t/step_size⌋",
        "Cuts at even distances: the plainest decay.",
    ),
    Entry(
        "MultiStepLR",
        _make(torch_schedulers.MultiStepLR, milestones=[20, 35, 50], gamma=0.3),
        "η · γ^(number of milestones ≤ t)",
        "Cuts where you say, for instance where the loss of an earlier run had stopped falling.",
    ),
    Entry(
        "ConstantLR",
        _make(torch_schedulers.ConstantLR, factor=0.3, total_iters=20),
        "η · factor for t < total_iters, then η",
        "A reduced rate for the first steps. Mind its default factor of 1/3.",
    ),
    Entry(
        "LinearLR",
        _make(torch_schedulers.LinearLR, start_factor=0.1, total_iters=20),
        "η · (s + (e - s) · t/T) for t < T = total_iters, then η · e; s = start_factor, e = end_factor",
        "A linear warm-up. Mind its default start factor of 1/3.",
    ),
    Entry(
        "ExponentialLR",
        _make(torch_schedulers.ExponentialLR, gamma=0.93),
        "η · γ^t",
        "A smooth decay without an end; choose γ from where you want to end.",
    ),
    Entry(
        "PolynomialLR",
        _make(torch_schedulers.PolynomialLR, total_iters=45, power=2.0),
        "η · (1 - t/T)^power for t < T = total_iters, then 0",
        "Decay to zero in a known number of steps; power 1 is linear decay.",
    ),
    Entry(
        "CosineAnnealingLR",
        _make(torch_schedulers.CosineAnnealingLR, T_max=25),
        "η_min + (η - η_min) · (1 + cos(π t/T_max)) / 2",
        "Decay to (nearly) zero in T_max steps; train no longer, for it climbs again.",
    ),
    Entry(
        "CosineAnnealingWarmRestarts",
        _make(torch_schedulers.CosineAnnealingWarmRestarts, T_0=10, T_mult=2),
        "a cosine decay that starts again after T_0, then after T_mult times as long, and so on",
        "When you want a good model at the end of each cycle.",
    ),
    Entry(
        "CyclicLR",
        _make(torch_schedulers.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=8, step_size_down=12),
        "up from base_lr to max_lr and down again, linearly, for ever",
        "Cycles, counted in batches. It overwrites the optimizer's own rate, and its momentum.",
    ),
    Entry(
        "OneCycleLR",
        _make(torch_schedulers.OneCycleLR, max_lr=0.1, total_steps=STEPS, three_phase=True),
        "up from max_lr/25 to max_lr, then down to max_lr/250,000 (with three_phase by way of max_lr/25)",
        "Fast training in a known number of batches. It overwrites the optimizer's own rate, and its momentum.",
    ),
    Entry(
        "ReduceLROnPlateau",
        _make(ReduceLROnPlateau, factor=0.3, patience=9),
        "η · factor^(number of times the metric stood still for more than `patience` steps)",
        "When you cannot plan: it looks at the validation loss, and cuts when that has stopped falling.",
        _stalling_loss,
    ),
    Entry(
        "SequentialLR",
        _sequence,
        "one scheduler after the other, changed at the milestones",
        "Warm-up, then something else.",
    ),
    Entry(
        "ChainedScheduler",
        _chain,
        "the product of several schedulers that all run at once",
        "Schedules on top of each other, as long as each of them multiplies.",
    ),
    Entry(
        "SWALR",
        _make(SWALR, swa_lr=0.02, anneal_epochs=20),
        "from η to swa_lr in anneal_epochs steps along a cosine, then swa_lr",
        "The constant rate of stochastic weight averaging (torch.optim.swa_utils).",
    ),
]

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _LIST}
"""Every scheduler of `torch.optim.lr_scheduler`, and `SWALR`, by its name."""
