"""The learning-rate range test: one short run in which the rate grows, and the rate that it suggests.

Smith (2015), arXiv 1506.01186. How good the suggestion is, against other finders and the truth: benchmarks/README.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from lrtut.checks import check_step, check_whole
from lrtut.finder.group_rates import rate_setter, sweep_rates
from lrtut.finder.plot import plot_range_test
from lrtut.finder.rules import (
    FIRST,
    LEAST,
    ONE_CYCLE,
    OTHER,
    PLAIN,
    RULES,
    NoSuggestion,
    ceiling,
    minimum,
    smooth,
    usable,
)
from lrtut.finder.snapshot import restored
from lrtut.forward import backward, device_of, forward, on_device

_BROKEN_FOR = 0.2  # decades above the ceiling that end the test


@dataclass(frozen=True, eq=False)
class RangeTest:
    """What a range test recorded. `lrs[i]` are the rates that step i used, `loss[i]` is the loss before it.

    `lrs` is float64 `[steps, groups]`, ascending; `loss` float64 `[steps]`, and may end in a value that is not finite.
    `divisor` is what the default rule divides the rate at the minimum by: 3 for SGD without momentum, else 6.
    """

    lrs: np.ndarray
    loss: np.ndarray
    divisor: float = OTHER

    @property
    def lr(self) -> np.ndarray:
        """The first parameter group's rates `[steps]`."""
        return self.lrs[:, 0]

    @cached_property
    def smoothed(self) -> np.ndarray:
        """The loss `[steps]` as the default rule sees it: clipped, smoothed, and NaN from the first loss that is not finite."""
        lrs, losses = usable(self.lr, self.loss)
        padded = np.full(len(self.loss), math.nan)
        if len(losses):
            padded[: len(losses)] = smooth(lrs, losses)
        return padded

    def suggestion(self, rule: str = "minimum") -> float:
        """A learning rate for the first parameter group; the others keep their ratio to it.

        Args:
            rule: `"minimum"` takes the rate at the minimum of the smoothed loss, divided by `divisor`. `"minimum/10"`,
                `"steepest"` and `"valley"` are what others use, for comparison (`lrtut.finder.rules`).

        Raises:
            NoSuggestion: (a ValueError) the curve supports none; the message says what was seen, and what to try.
            ValueError: an unknown rule.
        """
        if rule not in RULES:
            raise ValueError(f"rule={rule!r}: give one of {', '.join(map(repr, RULES))}.")
        if len(self.loss) and not math.isfinite(self.loss[0]):
            raise NoSuggestion(
                f"the loss was {self.loss[0]} at the first step, before any rate could do harm: look for it in the "
                "inputs, the weights and the loss function."
            )
        lrs, losses = usable(self.lr, self.loss)
        if len(lrs) < LEAST:
            raise NoSuggestion(
                f"{len(lrs)} usable points, {LEAST} are needed: the loss was not finite from {self.lr[len(lrs)]:.3g} on. "
                "Try a smaller start_lr, or more steps."
                if len(lrs) < len(self.loss)
                else f"{len(lrs)} usable points, {LEAST} are needed: try a smaller start_lr, or more steps."
            )
        if rule != "minimum":
            return RULES[rule](lrs, losses)
        return minimum(lrs, losses, broke=len(lrs) < len(self.loss)) / self.divisor

    def max_lr(self) -> float:
        """A `max_lr` for OneCycleLR: 3.3 × the suggestion (`lrtut.finder.rules.ONE_CYCLE`). Raises NoSuggestion, as `suggestion` does."""
        return ONE_CYCLE * self.suggestion()

    def plot(self, ax=None):
        """Draw the curve, the suggestion, the region that it comes from, and why, in words; returns the Axes."""
        return plot_range_test(self, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, fit for JSON but for a NaN; `RangeTest.from_dict` reads them back."""
        return {"lrs": self.lrs.tolist(), "loss": self.loss.tolist(), "divisor": self.divisor}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> RangeTest:
        """What `to_dict` wrote."""
        return cls(np.array(record["lrs"], float), np.array(record["loss"], float), record["divisor"])


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Any],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    *,
    start_lr: float = 1e-6,
    end_lr: float = 10.0,
    steps: int = 200,
    scale: str = "exponential",
    stop_when_diverged: bool = True,
    train_step: Callable[[Any], Tensor | float] | None = None,
    progress: bool = True,
) -> RangeTest:
    """Train for a few steps while the rate grows from `start_lr` to `end_lr`, then put everything back.

    Afterwards, and after an exception or an interrupt too, model, optimizer and random states are to the bit what they
    were, and a scheduler that is attached goes on as if nothing had happened (`lrtut.finder.snapshot.restored`).

    Args:
        model: trained in train mode: as it is, if it is in train mode, else after `model.train()`. (`train` calls that
            in any case, so there a module in eval mode within a model in train mode trains, and here it does not.)
        optimizer: of any kind whose `step()` needs no closure (that of LBFGS does: `train_step`). Its groups keep the ratios of their rates; `start_lr` and
            `end_lr` are the first group's.
        batches: an iterable of `(inputs, targets)`, begun anew when it ends: a list, a DataLoader, `lrtut.batches`.
            They are moved to the model's device.
        loss_fn: `(outputs, targets) -> scalar`.
        start_lr: rate of the first step.
        end_lr: rate of the last step.
        steps: number of steps, at least 20.
        scale: `"exponential"`, the same number of steps in each decade, or `"linear"`.
        stop_when_diverged: end at a loss that is not finite, and when the losses of a fifth of a decade all lie above
            four times the first losses' median.
        train_step: used in place of the built-in step: takes what `batches` yields, does forward, backward and
            `optimizer.step()`, and returns the loss before that step. Gradients are None before each call. For batches
            that are dicts, several inputs, mixed precision, gradient accumulation, the validation loss:
            docs/range_test.md.
        progress: show a bar on anything longer than two seconds.

    Raises:
        ValueError: a bad argument, named; an optimizer that needs a closure; groups of different rates, the first at
            zero; a lazy parameter without a value; no batch; batches that end and cannot be begun anew; a batch that
            is no pair of tensors or has no sample, a loss of many numbers or without a gradient, targets that are no
            class, a batch of one for BatchNorm.
        TypeError: integer inputs to a model that computes with floats; a loss that is no tensor.
    """
    _check_arguments(start_lr, end_lr, steps, scale)
    if train_step is None:
        check_step(optimizer, "give a train_step that calls it with one")
    rates = sweep_rates(optimizer, start_lr, end_lr, steps, scale)
    losses: list[float] = []
    bar, bar_from = None, time.monotonic() + 2 if progress else math.inf
    with restored(model, optimizer, batches):
        if not model.training:
            model.train()
        set_rates = rate_setter(optimizer)
        diverged = _Watch().diverged if stop_when_diverged else lambda lr, loss: False
        device = device_of(model)
        try:
            for row, batch in zip(rates.tolist(), _endless(batches), strict=False):
                set_rates(row)
                optimizer.zero_grad()
                if train_step is not None:
                    model.zero_grad()  # also what the optimizer does not have
                    loss = _as_float(train_step(batch))
                else:
                    inputs, targets = on_device(batch, device, ", or give a train_step that takes it")
                    _, loss = forward(model, inputs, targets, loss_fn)
                    backward(loss)
                    optimizer.step()
                    loss = _as_float(loss)
                losses.append(loss)
                if bar is not None:
                    bar.update()
                elif time.monotonic() > bar_from:  # made only where it is wanted: it costs as much as a small step
                    bar = tqdm(total=steps, initial=len(losses), desc="range test", unit="step", leave=False)
                if diverged(row[0], loss):
                    if bar is not None:
                        bar.total = bar.n  # as meant: tqdm would leave an unfinished bar standing in red
                    break
        finally:
            if bar is not None:
                bar.close()
    recorded = rates[: len(losses)]
    recorded.setflags(write=False)
    return RangeTest(recorded, np.array(losses), divisor=_divisor(optimizer))


def _as_float(loss: Tensor | float) -> float:
    try:
        return loss.item() if isinstance(loss, Tensor) else float(loss)
    except (TypeError, ValueError, RuntimeError):
        if isinstance(loss, Tensor) and loss.numel() == 1:
            raise  # the device's own error
        what = f"of shape {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(f"the loss is {what}: a range test needs one number a step (a mean, a sum).") from None


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches over and over."""
    count = 0
    while True:
        before = count
        for batch in batches:
            count += 1
            yield batch
        if count == 0:
            raise ValueError("batches is empty: there is no batch to train on.")
        if count == before:
            raise ValueError(
                f"batches ended after {count} and cannot be begun anew: give a list, a DataLoader or "
                "lrtut.batches(), or fewer steps."
            )


def _divisor(optimizer: torch.optim.Optimizer) -> float:
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner  # a wrapper's, as accelerate has
    plain = isinstance(optimizer, torch.optim.SGD) and not any(g.get("momentum") for g in optimizer.param_groups)
    return PLAIN if plain else OTHER


class _Watch:
    """Says when a run is past help: a loss that is not finite, or `_BROKEN_FOR` decades above the ceiling."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.ceiling = math.inf
        self.broken_since = math.inf

    def diverged(self, lr: float, loss: float) -> bool:
        if len(self.first) < FIRST:
            self.first.append(loss)
            if len(self.first) == FIRST:
                self.ceiling = ceiling(self.first)
            return not math.isfinite(loss)
        if -math.inf < loss <= self.ceiling:
            self.broken_since = math.inf
            return False
        self.broken_since = min(self.broken_since, lr)
        return not math.isfinite(loss) or lr >= self.broken_since * 10**_BROKEN_FOR


def _check_arguments(start_lr: float, end_lr: float, steps: int, scale: str) -> None:
    for name, value in {"start_lr": start_lr, "end_lr": end_lr}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r}: give a rate above zero.")
    if start_lr >= end_lr:
        raise ValueError(f"start_lr={start_lr!r} is not below end_lr={end_lr!r}: the rate must grow.")
    check_whole("steps", steps, LEAST)
    if scale not in ("exponential", "linear"):
        raise ValueError(f"scale={scale!r}: give 'exponential' or 'linear'.")
