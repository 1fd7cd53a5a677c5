"""The catalogue of torch's own schedulers: how to make one, its formula, and when to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from lrtut.schedules import warmup_stable_decay


@dataclass(frozen=True)
class Entry:
    """A scheduler of torch: how to make one, what it computes, and when to use it.

    `make` takes an optimizer; its numbers suit a preview of `STEPS` steps. In `formula`, η is the initial rate of the
    group, t the number of calls of `scheduler.step()`. `metric` is what to feed it: None for all but ReduceLROnPlateau.
    """

    name: str
    make: Callable[[Optimizer], LRScheduler]
    formula: str
    use: str
    metric: Callable[[int], float] | None = None


STEPS = 60


def _stalling_loss(step: int) -> float:
    """A loss that falls for ten steps, then stays where it is."""
    return max(1.0 - 0.05 * step, 0.5)


def _sequence(optimizer: Optimizer) -> LRScheduler:
    parts = [
        lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10),
        lr_scheduler.ConstantLR(optimizer, factor=1.0),
        lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=20),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[10, 40])


def _chain(optimizer: Optimizer) -> LRScheduler:
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    return lr_scheduler.ChainedScheduler([warmup, lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.5)])


_TABLE = {
    "LambdaLR": (
        partial(lr_scheduler.LambdaLR, lr_lambda=partial(warmup_stable_decay, warmup=10, stable=30, decay=20)),
        "η · f(t)",
        "Any schedule that you can write as a function of the step. A plain function is not saved with its state.",
    ),
    "MultiplicativeLR": (
        partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda t: (0.9, 1.0, 0.8)[t // 20 % 3]),
        "η · f(1) · f(2) ⋯ f(t)",
        "When the factor from one step to the next is what you know.",
    ),
    "StepLR": (
        partial(lr_scheduler.StepLR, step_size=15, gamma=0.3),
        "η · γ^⌊t/step_size⌋",
        "Cuts at even distances: the plainest decay.",
    ),
    "MultiStepLR": (
        partial(lr_scheduler.MultiStepLR, milestones=[20, 35, 50], gamma=0.3),
        "η · γ^(number of milestones ≤ t)",
        "Cuts where you say, for instance where the loss of an earlier run had stopped falling.",
    ),
    "ConstantLR": (
        partial(lr_scheduler.ConstantLR, factor=0.3, total_iters=20),
        "η · factor for t < total_iters, then η",
        "A reduced rate for the first steps. Mind its default factor of 1/3.",
    ),
    "LinearLR": (
        partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=20),
        "η · (s + (e - s) · t/T) for t < T = total_iters, then η · e; s = start_factor, e = end_factor",
        "A linear warm-up. Mind its default start factor of 1/3.",
    ),
    "ExponentialLR": (
        partial(lr_scheduler.ExponentialLR, gamma=0.93),
        "η · γ^t",
        "A smooth decay without an end; choose γ from where you want to end.",
    ),
    "PolynomialLR": (
        partial(lr_scheduler.PolynomialLR, total_iters=45, power=2.0),
        "η · (1 - t/T)^power for t < T = total_iters, then 0",
        "Decay to zero in a known number of steps; power 1 is linear decay.",
    ),
    "CosineAnnealingLR": (
        partial(lr_scheduler.CosineAnnealingLR, T_max=25),
        "η_min + (η - η_min) · (1 + cos(π t/T_max)) / 2",
        "Decay to (nearly) zero in T_max steps; train no longer, for it climbs again.",
    ),
    "CosineAnnealingWarmRestarts": (
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=10, T_mult=2),
        "a cosine decay that starts again after T_0, then after T_mult times as long, and so on",
        "When you want a good model at the end of each cycle.",
    ),
    "CyclicLR": (
        partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=8, step_size_down=12),
        "up from base_lr to max_lr and down again, linearly, for ever",
        "Cycles, counted in batches. It overwrites the optimizer's own rate, and its momentum.",
    ),
    "OneCycleLR": (
        partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS, three_phase=True),
        "up from max_lr/25 to max_lr, then down to max_lr/250,000 (with three_phase by way of max_lr/25)",
        "Fast training in a known number of batches. It overwrites the optimizer's own rate, and its momentum.",
    ),
    "ReduceLROnPlateau": (
        partial(lr_scheduler.ReduceLROnPlateau, factor=0.3, patience=9),
        "η · factor^(number of times the metric stood still for more than `patience` steps)",
        "When you cannot plan: it looks at the validation loss, and cuts when that has stopped falling.",
        _stalling_loss,
    ),
    "SequentialLR": (
        _sequence,
        "one scheduler after the other, changed at the milestones",
        "Warm-up, then something else.",
    ),
    "ChainedScheduler": (
        _chain,
        "the product of several schedulers that all run at once",
        "Schedules on top of each other, as long as each of them multiplies.",
    ),
    "SWALR": (
        partial(SWALR, swa_lr=0.02, anneal_epochs=20),
        "from η to swa_lr in anneal_epochs steps along a cosine, then swa_lr",
        "The constant rate of stochastic weight averaging (torch.optim.swa_utils).",
    ),
}

CATALOGUE: dict[str, Entry] = {name: Entry(name, *what) for name, what in _TABLE.items()}
"""Every scheduler of `torch.optim.lr_scheduler`, and `SWALR`, by its name."""
