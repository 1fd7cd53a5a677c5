"""The learning-rate range test: one short run in which the rate grows, and the rate that it suggests.

Smith (2015), arXiv 1506.01186. How good the suggestion is, against other finders and the truth: benchmarks/README.md.
"""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from lrtut import misuse
from lrtut.evaluation import device_of, forward, on_device
from lrtut.finder.plot import plot_range_test
from lrtut.finder.rules import DIVISOR, FIRST, LEAST, RULES, NoSuggestion, ceiling, smooth, stretches, usable
from lrtut.finder.snapshot import restored

_WAY_OUT = "make it one, or give a train_step that takes it"
_LARGEST = sys.float_info.max
_BROKEN_FOR = 0.2  # decades above the ceiling that end the test


@dataclass(frozen=True, eq=False, repr=False)
class RangeTest:
    """What a range test recorded. `lrs[i]` are the rates that step i used, `loss[i]` is the loss before it.

    >>> test = lrtut.lr_range_test(model, optimizer, batches)
    >>> print(test.suggestion(), test.max_lr())
    >>> ax = test.plot()

    `lrs` is float64 `[steps, groups]`, ascending; `loss` float64 `[steps]`, and may end in a value that is not finite.
    """

    lrs: np.ndarray
    loss: np.ndarray

    @property
    def lr(self) -> np.ndarray:
        """The first parameter group's rates `[steps]`."""
        return self.lrs[:, 0]

    @cached_property
    def smoothed(self) -> np.ndarray:
        """The loss `[steps]` as the default rule sees it: clipped, smoothed, NaN from the first that is not finite."""
        lrs, losses = usable(self.lr, self.loss)
        padded = np.full(len(self.loss), math.nan)
        if len(losses):
            padded[: len(losses)] = smooth(lrs, losses)
        return padded

    def suggestion(self, rule: str = "minimum") -> float:
        """A learning rate for the first parameter group; the others keep their ratio to it.

        Args:
            rule: `"minimum"` takes a third of the middle of the valley, the rates around the minimum of the smoothed
                loss. `"minimum/10"`, `"steepest"` and `"valley"` are what others use (`lrtut.finder.rules`).

        Raises:
            NoSuggestion: (a ValueError) the curve supports no rate; the message says what was seen, and what to try.
            ValueError: an unknown rule.
        """
        misuse.check_choice("rule", rule, RULES)
        return self.max_lr() / DIVISOR if rule == "minimum" else RULES[rule](*self._usable())

    def max_lr(self) -> float:
        """The peak of OneCycleLR, or of a warm-up and a decay: the middle of the valley, three times the suggestion.

        Raises NoSuggestion, as `suggestion` does.
        """
        lrs, losses = self._usable()
        return RULES["minimum"](lrs, losses, broke=len(lrs) < len(self.loss))

    def valley(self) -> tuple[float, float]:
        """The lowest and the highest rate of the valley: there less than a tenth of the loss's fall is lost again.

        >>> low, high = test.valley()

        The curve hardly tells these rates apart as a peak, nor a third of them as a constant rate. Raises NoSuggestion,
        as `suggestion` does.
        """
        self.max_lr()  # refuses where there is no valley
        return stretches(self.lr, self.smoothed)["valley"]

    def _usable(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates and losses that a rule can read."""
        if len(self.loss) and not math.isfinite(self.loss[0]):
            raise NoSuggestion(
                f"the loss was {self.loss[0]} at the first step, before any rate could do harm: look for it in the "
                "inputs, the weights and the loss function."
            )
        lrs, losses = usable(self.lr, self.loss)
        if len(lrs) < LEAST:
            broke = f" The loss was not finite from {self.lr[len(lrs)]:.3g} on." if len(lrs) < len(self.loss) else ""
            raise NoSuggestion(
                f"{len(lrs)} usable points, {LEAST} are needed:{broke} Try a smaller start_lr, or more steps."
            )
        return lrs, losses

    def _facts(self) -> dict[str, str]:
        """What one wants to know of it, by name."""
        facts = {"steps": f"{len(self.loss)}"}
        if len(self.loss):
            groups = f", in {self.lrs.shape[1]} groups" if self.lrs.shape[1] > 1 else ""
            facts["lr"] = f"{self.lr[0]:.3g} to {self.lr[-1]:.3g}{groups}"
            facts["loss"] = f"{self.loss[0]:.4g} at first, {np.fmin.reduce(self.loss):.4g} at least"
        try:
            facts["suggestion"] = f"{self.suggestion():.2g}"
            facts["valley"] = "{:.2g} to {:.2g}".format(*self.valley())
        except NoSuggestion as refusal:
            facts["suggestion"] = f"none: {refusal}"
        return facts

    def __repr__(self) -> str:
        return f"RangeTest({'; '.join(f'{name} {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self._facts().items()
        )
        return f"<table>{rows}</table>"

    def plot(self, *, readings=None, title=None, ax=None):
        """Draw the curve with its stretches, the suggestion, and why, in words; returns the Axes.

            rules = ("minimum", "steepest", "valley")
            ax = test.plot(readings={rule: test.suggestion(rule) for rule in rules})

        Args:
            readings: rates by name, for instance what several rules read: each is a row below the curve.
            title: what is seen, if None.

        Raises:
            ValueError: a reading is not a rate above zero.
        """
        return plot_range_test(self, readings=readings, title=title, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON (except for NaN); `RangeTest.from_dict` reads them."""
        return {"lrs": self.lrs.tolist(), "loss": self.loss.tolist()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> RangeTest:
        """What `to_dict` wrote. Raises ValueError for anything else."""
        try:
            lrs, loss = (np.array(record[name], float) for name in ("lrs", "loss"))
        except (KeyError, TypeError, ValueError):
            lrs = loss = np.empty(0)
        if lrs.ndim != 2 or loss.shape != lrs.shape[:1]:
            raise ValueError(f"record is {misuse.short(record)}: give what to_dict() returned.")
        return cls(lrs, loss)


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
    restore: Iterable[Any] = (),
    progress: bool = True,
) -> RangeTest:
    """Train for a few steps while the rate grows from `start_lr` to `end_lr`, then put everything back.

    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> test = lrtut.lr_range_test(model, optimizer, batches)
    >>> optimizer.param_groups[0]["lr"] = test.suggestion()

    Afterwards, also after an exception or an interrupt, model, optimizer and random states are to the bit what they
    were, and a scheduler that is attached goes on as if nothing had happened (`lrtut.finder.snapshot.restored`).

    Under DistributedDataParallel, call it in every process, each with its share of the batches, as in training: the
    loss is the mean over the processes, so that each gets the same rates, those for the joint batch.

    Args:
        model: trained as it is if it is in train mode, else after `model.train()`. (`train` always calls that, so there
            a module in eval mode within a model in train mode trains, and here it does not.)
        optimizer: any optimizer whose `step()` needs no closure (for one that does, LBFGS, give a `train_step`). Its
            groups keep the ratios of their rates (of `initial_lr`, where a scheduler holds a rate below it);
            `start_lr` and `end_lr` are the first group's.
        batches: an iterable of `(inputs, targets)`, started again when it ends: a list, a DataLoader, `lrtut.batches`.
            They are moved to the model's device. A dict, a bare tensor or a single sample needs a `train_step`.
        loss_fn: `(outputs, targets) -> scalar`.
        start_lr: rate of the first step.
        end_lr: rate of the last step.
        steps: number of steps, at least 20.
        scale: `"exponential"`, the same number of steps in each decade, or `"linear"`.
        stop_when_diverged: end at a loss that is not finite, and when the losses of a fifth of a decade are all above
            four times the median of the first ones.
        train_step: used in place of the built-in step: takes what `batches` yields, does forward, backward and
            `optimizer.step()`, and returns the loss before that step. Gradients are None before each call. For batches
            that are dicts, several inputs, mixed precision, gradient accumulation, the validation loss:
            docs/answers/train_step.md.
        restore: what else to put back, such as an average of the weights that your code keeps, a GradScaler, or what
            a `train_step` changes: a list of objects (`lrtut.finder.snapshot.restored`, which also says what needs it).
        progress: show a bar on anything longer than two seconds.

    Raises:
        ValueError: a bad argument, named; an optimizer that needs a closure, or holds none of the model's parameters; a
            group without a rate; groups of different rates, the first at zero; a call within `torch.inference_mode()`
            or `torch.autocast()`; a lazy parameter without a value; no batch; batches that end and cannot be started
            again; a batch that is not a pair of tensors or has no sample; a loss of many numbers or without a gradient;
            targets out of range; a batch of one for BatchNorm.
        TypeError: integer inputs to a model that computes with floats; a loss that is not a tensor.
    """
    misuse.check_range(start_lr, end_lr, steps, scale, LEAST)
    called = {"loss_fn": loss_fn} if train_step is None else {"train_step": train_step}
    misuse.check_parts(model, called, batches=batches)
    rates = _rates(optimizer, start_lr, end_lr, steps, scale)
    device = device_of(model)
    misuse.check_context(device)
    if train_step is None:
        misuse.check_optimizer(optimizer, "give a train_step that calls it with one")
        misuse.check_trains(model, optimizer)
    processes = _processes(model)
    losses: list[float] = []
    bar = tqdm(total=steps, desc="range test", unit="step", delay=2, leave=False, disable=not progress)
    kept = restored(model, optimizer, batches, loss_fn=loss_fn, restore=restore)
    with torch.enable_grad(), kept, bar:
        if not model.training:
            model.train()
        lrs, top = rates[:, 0], _LARGEST
        for row, batch in zip(_as_set(optimizer, rates), _endless(batches), strict=False):
            for group, rate in zip(optimizer.param_groups, row, strict=True):
                group["lr"] = rate
            optimizer.zero_grad()
            if train_step is not None:
                model.zero_grad()  # also what the optimizer does not have
                loss = misuse.check_step_loss(train_step(batch))
                loss = loss.item() if isinstance(loss, Tensor) else float(loss)
            else:
                inputs, targets = on_device(batch, device, _WAY_OUT)
                _, loss = forward(model, inputs, targets, loss_fn)
                try:
                    loss.backward()
                except RuntimeError:
                    misuse.check_gradient(loss)
                    raise
                optimizer.step()
                loss = loss.item()
            if processes:
                loss = _mean_over(processes, loss, device)
            losses.append(loss)
            bar.update()
            if len(losses) == FIRST:
                top = min(ceiling(losses), _LARGEST)
            # Asked here and not in the function alone: this loop is to cost little beside the smallest network's step.
            if stop_when_diverged and not -_LARGEST <= loss <= top and _past_help(lrs, losses, top):
                bar.total = bar.n  # it ends here: tqdm would show an unfinished bar in red
                break
    recorded = rates[: len(losses)]
    recorded.setflags(write=False)
    return RangeTest(recorded, np.array(losses))


# --- rates --------------------------------------------------------------------------------------------------------


def _rates(optimizer: torch.optim.Optimizer, start_lr: float, end_lr: float, steps: int, scale: str) -> np.ndarray:
    """float64 `[steps, groups]`: the first group's from `start_lr` to `end_lr`, the others' in their ratio to it."""
    share = np.arange(steps) / (steps - 1)
    grid = start_lr * (end_lr / start_lr) ** share if scale == "exponential" else start_lr + (end_lr - start_lr) * share
    grid[-1] = end_lr  # not a rounding error beside it
    own = misuse.own_rates(optimizer)
    rates = grid[:, None] * (np.array(own) / own[0] if any(rate != own[0] for rate in own) else np.ones(len(own)))
    for i, group in enumerate(optimizer.param_groups):
        if isinstance(group["lr"], Tensor):  # as the step will see it, rounded
            rates[:, i] = torch.from_numpy(rates[:, i]).to(group["lr"].dtype).double().numpy()
    return rates


def _as_set(optimizer: torch.optim.Optimizer, rates: np.ndarray) -> Iterator[tuple[Tensor | float, ...]]:
    """Row by row, as the groups take them: where the rate is a tensor, a new one, since others may share the old."""
    old = [group["lr"] for group in optimizer.param_groups]
    columns = [
        [torch.full_like(lr, rate) for rate in column] if isinstance(lr, Tensor) else column
        for lr, column in zip(old, rates.T.tolist(), strict=True)
    ]
    return zip(*columns, strict=True)


# --- batches and losses -------------------------------------------------------------------------------------------


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


def _processes(model: nn.Module) -> Any:
    """The process group of a DistributedDataParallel (or FSDP) model of several processes; None for any other."""
    group = getattr(model, "process_group", None)
    there = dist.is_available() and isinstance(group, dist.ProcessGroup)
    return group if there and dist.get_world_size(group) > 1 else None


def _mean_over(processes: Any, loss: float, device: torch.device) -> float:
    """The mean of a loss over the processes: the one whose gradient their averaged gradients are."""
    total = torch.tensor(loss, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=processes)
    return total.item() / dist.get_world_size(processes)


def _past_help(lrs: np.ndarray, losses: list[float], top: float) -> bool:
    """True if the last loss is not finite, or the losses of the last fifth of a decade are all above `top`."""
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) <= FIRST or losses[-1] <= top:
        return False
    since = len(losses) - 1
    while since > FIRST and losses[since - 1] > top:
        since -= 1
    return lrs[len(losses) - 1] >= lrs[since] * 10**_BROKEN_FOR
