"""A training loop that records what the optimizer really used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from tqdm.auto import tqdm

from lrtut.checks import check_step, check_whole
from lrtut.data import Digits, batches
from lrtut.forward import backward, device_of, forward, on_device
from lrtut.interrupts import held_back
from lrtut.schedules import check_bound

_EVALUATION_BATCH = 1000


@dataclass
class History:
    """What a training run recorded.

    `loss[i]` is the loss of step i before the step, `lrs[i]` the learning rate of every parameter group as the step
    used it. `val_loss` and `val_accuracy` (0 to 1) hold a value an epoch, where there were validation data.
    """

    loss: list[float] = field(default_factory=list)
    lrs: list[list[float]] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    steps_per_epoch: int = 0
    diverged: bool = False
    """True if the run ended at a loss that was NaN or infinite: the last one recorded, or the last of `val_loss`.

    What the very last step did shows in `val_loss` alone.
    """

    @property
    def lr(self) -> list[float]:
        """The first parameter group's learning rate at each step."""
        return [rates[0] for rates in self.lrs]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a step: `step`, `epoch` (from 1), `loss`, `lr` (list), and at an epoch's end its `val_…`."""
        rows = []
        for step, (loss, rates) in enumerate(zip(self.loss, self.lrs, strict=True)):
            row = {"step": step, "epoch": step // self.steps_per_epoch + 1, "loss": loss, "lr": list(rates)}
            epochs, rest = divmod(step + 1, self.steps_per_epoch)
            if rest == 0 and epochs <= len(self.val_loss):
                row |= {"val_loss": self.val_loss[epochs - 1], "val_accuracy": self.val_accuracy[epochs - 1]}
            rows.append(row)
        return rows


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Digits | Iterable[tuple[Tensor, Tensor]],
    *,
    epochs: int,
    batch_size: int = 128,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    scheduler: Any = None,
    scheduler_step: str = "epoch",
    val: Iterable[tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
    log_interval: int | None = None,
    progress: bool = True,
) -> History:
    """Train `model` and record loss and learning rate at each step.

    Args:
        model: maps inputs `[N, …]` to what `loss_fn` takes. Batches are moved to its device. Each epoch begins with
            `model.train()`, so that a module which you put into eval mode, a frozen BatchNorm for one, trains too.
        optimizer: any `torch.optim.Optimizer` whose `step()` needs no closure (that of LBFGS does).
        data: what `load_mnist()` returns, or any iterable of `(inputs, targets)` with a length, a `DataLoader`
            included; then `val` may be another, and need no length, but must last for all epochs.
        epochs: passes over the training data.
        batch_size: samples a batch; an incomplete last batch is left out. Of no effect where `data` already comes
            in batches.
        loss_fn: `(outputs, targets) -> scalar`.
        scheduler: a scheduler of `torch.optim.lr_scheduler`, or None. ReduceLROnPlateau is given the epoch's
            validation loss.
        scheduler_step: `"epoch"` or `"batch"`: after which of them `scheduler.step()` is called.
        seed: order of the batches; of no effect where `data` already comes in batches.
        log_interval: print a line each so many batches.
        progress: show a bar on anything longer than two seconds.

    Returns:
        The `History`. A loss that turns NaN or infinite ends the run at the end of its epoch, cuts the history
        there, and sets `diverged`; it is no error.

    Raises:
        ValueError: a scheduler tied to another optimizer, a OneCycleLR whose `total_steps` does not match, an
            empty iterable, a rate that is negative or not finite, a ReduceLROnPlateau without validation data; `epochs`
            below 1, an optimizer that needs a closure, a `val` that can be passed over only once; a batch that is no
            pair of tensors or has no sample, a loss of many numbers or without a gradient, targets that are no class,
            a batch of one for BatchNorm.
        TypeError: integer inputs to a model that computes with floats; a loss that is no tensor; data without a length.
        KeyboardInterrupt: raised again once the step in hand is whole, or from the error that ended it (workers of a
            DataLoader hear Ctrl-C too); its attribute `history` holds what was recorded.
    """
    check_whole("epochs", epochs)
    check_step(optimizer, "write the loop by hand for it")
    if isinstance(data, Digits):
        if val is None:
            val = batches(data.x_val, data.y_val, _EVALUATION_BATCH, shuffle=False)
        # A last batch of a few images takes as long a step in a far noisier direction: at a good rate, one such
        # step can undo an epoch. So it is left out.
        whole = len(data.x_train) >= batch_size
        data = batches(data.x_train, data.y_train, batch_size, seed=seed, drop_last=whole)
    steps = _count_steps(data)
    if epochs > 1 and isinstance(val, Iterator):
        raise ValueError(
            f"val is a {type(val).__name__}, used up after the first epoch: give a list, a DataLoader or lrtut.batches()."
        )
    _check_scheduler(scheduler, scheduler_step, optimizer, epochs, steps, val)
    device = device_of(model)

    history = History(steps_per_epoch=steps)
    bar = tqdm(total=epochs * steps, desc="train", unit="step", delay=2, leave=False, disable=not progress)
    with bar, held_back() as interrupted:
        losses: list[Tensor] = []  # on the device until the epoch ends: reading one would wait for it
        try:
            for epoch in range(1, epochs + 1):
                model.train()
                for i, batch in enumerate(data, start=1):
                    inputs, targets = on_device(batch, device)
                    optimizer.zero_grad()
                    _, loss = forward(model, inputs, targets, loss_fn)
                    backward(loss)
                    rates = _read_rates(optimizer)
                    optimizer.step()
                    losses.append(loss.detach())
                    history.lrs.append(rates)
                    if scheduler is not None and scheduler_step == "batch":
                        scheduler.step()
                    if log_interval and i % log_interval == 0:
                        print(_log_line(epoch, i, loss.item(), rates))
                    bar.update()
                    if interrupted():
                        raise KeyboardInterrupt
                if _flush(losses, history):
                    bar.total = bar.n  # divergence is no error: tqdm would leave an unfinished bar standing in red
                    break
                if val is not None:
                    val_loss, val_accuracy = evaluate(model, val, loss_fn)
                    history.val_loss.append(val_loss)
                    history.val_accuracy.append(val_accuracy)
                    history.diverged = epoch == epochs and not math.isfinite(val_loss)
                if scheduler is not None and scheduler_step == "epoch":
                    if isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step(history.val_loss[-1])
                    else:
                        scheduler.step()
                if interrupted():
                    raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            _hand_over(history, losses, stop)
            raise
        except Exception as error:
            if not interrupted():
                raise
            stop = KeyboardInterrupt()
            _hand_over(history, losses, stop)
            raise stop from error
    return history


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float]:
    """Mean loss and accuracy (0 to 1) of `model` over batches of `(inputs, targets)`, in eval mode.

    `loss_fn` must average over its batch. The accuracy is NaN unless targets are class numbers `[N]`. Every module's
    train/eval mode is put back.

    Raises:
        ValueError: no batch in `data`, a batch that is no pair of tensors or has no sample, a loss of many numbers,
            targets that are no class.
        TypeError: integer inputs to a model that computes with floats; a loss that is no tensor.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    loss, right, count = 0.0, 0.0, 0
    model.eval()
    try:
        for batch in data:
            inputs, targets = on_device(batch, device)
            outputs, mean = forward(model, inputs, targets, loss_fn)
            loss = loss + mean * len(inputs)
            classes = targets.ndim == 1 and outputs.ndim == 2 and not targets.is_floating_point()
            right = right + ((outputs.argmax(1) == targets).sum() if classes else math.nan)
            count += len(inputs)
    finally:
        for module, training in modes:
            module.training = training
    if count == 0:
        raise ValueError("evaluate() was given no batch: the iterable is empty.")
    return float(loss) / count, float(right) / count


def _read_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for i, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"learning rate {rate} in parameter group {i}: it must be finite and not negative. "
                "Look at the scheduler, or at what set param_groups by hand."
            )
    return rates


def _flush(losses: list[Tensor], history: History) -> bool:
    """Move the epoch's losses into the history in one transfer; True if one of them is not finite."""
    if losses:
        values = torch.stack(losses).tolist()
        losses.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                history.diverged = True
                values = values[: i + 1]
                break
        history.loss += values
        del history.lrs[len(history.loss) :]
    return history.diverged


def _hand_over(history: History, losses: list[Tensor], stop: KeyboardInterrupt) -> None:
    _flush(losses, history)
    stop.history = history
    stop.add_note(f"{len(history.loss)} steps were recorded: sys.last_value.history")


def _log_line(epoch: int, batch: int, loss: float, rates: list[float]) -> str:
    lrs = ", ".join(f"{rate:g}" for rate in rates)
    return f"Train Epoch: {epoch} batch-{batch}  Loss: {loss:.6f}  Learning Rate: {lrs}"


# --- misuse -----------------------------------------------------------------------------------------------------


def _count_steps(data: Iterable) -> int:
    try:
        steps = len(data)
    except TypeError:
        raise TypeError(f"{type(data).__name__} has no length: give a list, a DataLoader or lrtut.batches().") from None
    if steps == 0:
        raise ValueError("no batch to train on: the iterable is empty (drop_last with fewer samples than a batch?).")
    return steps


def _check_scheduler(scheduler, scheduler_step: str, optimizer, epochs: int, steps: int, val) -> None:
    if scheduler_step not in ("epoch", "batch"):
        raise ValueError(f"scheduler_step={scheduler_step!r}: give 'epoch' or 'batch'.")
    if scheduler is None:
        return
    check_bound(scheduler, optimizer, "the one that you pass to train()")
    if isinstance(scheduler, ReduceLROnPlateau):
        if scheduler_step == "batch":
            raise ValueError("ReduceLROnPlateau looks at the validation loss, so use scheduler_step='epoch'.")
        if val is None:
            raise ValueError("ReduceLROnPlateau looks at the validation loss: give val= batches to validate on.")
    if isinstance(scheduler, OneCycleLR):
        planned = scheduler.total_steps - scheduler.last_epoch
        wanted = epochs * steps if scheduler_step == "batch" else epochs
        if planned != wanted:
            way = f"OneCycleLR(..., total_steps={wanted})"
            if scheduler_step == "epoch" and planned == epochs * steps:
                way = "scheduler_step='batch'"
            raise ValueError(
                f"OneCycleLR has {planned} steps left, but will be stepped {wanted} times, once a {scheduler_step}: use {way}."
            )
