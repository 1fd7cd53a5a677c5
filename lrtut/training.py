"""A training loop that records what the optimizer really used."""

from __future__ import annotations

import contextlib
import html
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from lrtut import misuse
from lrtut.data import Digits, batches
from lrtut.evaluation import device_of, evaluate, forward, on_device

_EVALUATION_BATCH = 1000


@dataclass
class History:
    """What a training run recorded.

    >>> history = lrtut.train(model, optimizer, data, epochs=3)
    >>> print(history.loss[-1], history.lr[-1], history.val_accuracy[-1])
    >>> table = pandas.DataFrame(history.to_dicts())

    `loss[i]` is the loss of step i before the step, `lrs[i]` the learning rate of every parameter group as the step
    used it. `epoch_ends` are the numbers of steps after each epoch. `val_loss` and `val_accuracy` (0 to 1; None where
    there are no classes) hold one value per epoch, where there were validation data.
    """

    loss: list[float] = field(default_factory=list)
    lrs: list[list[float]] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float | None] = field(default_factory=list)
    steps_per_epoch: int = 0
    diverged: bool = False
    """True if the run ended at a loss that was NaN or infinite: the last one recorded, or the last of `val_loss`.

    What the very last step did shows in `val_loss` alone.
    """
    epoch_ends: list[int] = field(default_factory=list)

    def __repr__(self) -> str:
        parts = [f"{len(self.loss)} steps in {len(self.epoch_ends)} epochs"]
        parts += [f"{name} {values[0]:.4g} to {values[-1]:.4g}" for name, values in self._curves().items() if values]
        if self.val_accuracy and self.val_accuracy[-1] is not None:
            parts.append(f"val_accuracy {self.val_accuracy[-1]:.1%}")
        return f"History({', '.join(parts)}{', diverged' if self.diverged else ''})"

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th>{name}</th><td>{v[0]:.4g}</td><td>{v[-1]:.4g}</td></tr>"
            for name, v in self._curves().items()
            if v
        ]
        return f"{html.escape(repr(self))}<table><tr><th></th><th>first</th><th>last</th></tr>{''.join(rows)}</table>"

    def _curves(self) -> dict[str, list[float]]:
        return {"loss": self.loss, "lr": self.lr, "val_loss": self.val_loss}

    @property
    def lr(self) -> list[float]:
        """The first parameter group's learning rate at each step."""
        return [rates[0] for rates in self.lrs]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict per step: `step`, `epoch` (from 1), `loss`, `lr` (list), and at an epoch's end its `val_…`."""
        size = self.steps_per_epoch or max(len(self.loss), 1)
        ends = self.epoch_ends or list(range(size, len(self.loss) + 1, size))
        rows, epoch = [], 0
        for step, (loss, rates) in enumerate(zip(self.loss, self.lrs, strict=True)):
            row = {"step": step, "epoch": epoch + 1, "loss": loss, "lr": list(rates)}
            if epoch < len(ends) and step + 1 == ends[epoch]:
                if epoch < len(self.val_loss):
                    row |= {"val_loss": self.val_loss[epoch], "val_accuracy": self.val_accuracy[epoch]}
                epoch += 1
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
    train_step: Callable[[Any], Tensor | float] | None = None,
    seed: int = 0,
    log_interval: int | None = None,
    progress: bool = True,
) -> History:
    """Train `model` and record loss and learning rate at each step.

    >>> model = lrtut.small_cnn()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> history = lrtut.train(model, optimizer, lrtut.load_mnist(), epochs=1)

    Args:
        model: maps inputs `[N, …]` to what `loss_fn` takes. Batches are moved to its device. Each epoch begins with
            `model.train()`, so a module that you put into eval mode, such as a frozen BatchNorm, trains too.
        optimizer: any `torch.optim.Optimizer` whose `step()` needs no closure (that of LBFGS does).
        data: what `load_mnist()` returns, or any iterable of `(inputs, targets)`, such as a `DataLoader`; then `val`
            may be another. Neither needs a length, but both must last for all epochs.
        epochs: passes over the training data.
        batch_size: samples in a batch; an incomplete last batch is left out. Ignored where `data` comes in batches.
        loss_fn: `(outputs, targets) -> scalar`.
        scheduler: a scheduler of `torch.optim.lr_scheduler`, or any object with `step()`; one whose `step` wants a
            number (timm's) is given how many epochs, or batches, are done. ReduceLROnPlateau is given the validation
            loss, or with `mode="max"` the accuracy.
        scheduler_step: call `scheduler.step()` after each `"epoch"` or after each `"batch"`.
        train_step: used in place of the built-in step: takes what `data` yields, does forward, backward and
            `optimizer.step()`, and returns the loss before that step. Gradients are None before each call. For
            clipping, accumulation, mixed precision, batches that are dicts: docs/answers/train_step.md.
        seed: fixes the order of the batches. Ignored where `data` comes in batches.
        log_interval: print a line every so many batches.
        progress: show a bar on anything longer than two seconds.

    Returns:
        The `History`. A loss that turns NaN or infinite is not an error: it ends the run at the end of its epoch, cuts
        the history there, and sets `diverged`.

    Raises:
        ValueError: a scheduler that belongs to another optimizer or that does not fit (`lrtut.misuse.check_scheduler`);
            an empty iterable; a rate that is negative or not finite; `epochs` below 1; an optimizer that needs a
            closure; a `val` that can be passed over only once; a batch that is not a pair of tensors or has no sample;
            a loss of many numbers or without a gradient; targets out of range; a batch of one for BatchNorm; an
            optimizer without a rate, or without the model's parameters; a call within `torch.inference_mode()` or
            `torch.autocast()`.
        TypeError: inputs of another type than the model's weights; a loss that is not a tensor; no scheduler.
        KeyboardInterrupt: raised again once the step in hand is complete, or from the error that ended it (workers of a
            DataLoader get Ctrl-C too). Whatever ends the run, the attribute `history` of the exception holds what was
            recorded.
    """
    misuse.check_whole("epochs", epochs)
    if log_interval is not None:
        misuse.check_whole("log_interval", log_interval)
    data, val = in_batches(data, val, batch_size, seed)
    called = {"loss_fn": loss_fn} if train_step is None else {"loss_fn": loss_fn, "train_step": train_step}
    misuse.check_parts(model, called, data=data, **({} if val is None else {"val": val}))
    misuse.check_context(device_of(model))
    misuse.current_rates(optimizer)
    if train_step is None:
        misuse.check_optimizer(optimizer, "give a train_step that calls it with one")
        misuse.check_trains(model, optimizer)
    steps, sure = misuse.check_length(data)
    misuse.check_length(val, "validate on")
    misuse.check_reusable(epochs, data=data, val=val)
    misuse.check_scheduler(scheduler, scheduler_step, optimizer, epochs=epochs, steps=steps, sure=sure, val=val)
    advance = stepping(scheduler)

    history = History(steps_per_epoch=steps or 0)
    losses: list[Tensor] = []  # on the device until the epoch ends: reading one would wait for it
    total = epochs * steps if steps else None
    bar = tqdm(total=total, desc="train", unit="step", delay=2, leave=False, disable=not progress)
    try:
        with bar, held_back() as stop_if_interrupted:
            for epoch in range(1, epochs + 1):
                i = 0
                for i, (loss, rates) in enumerate(_epoch(model, optimizer, data, loss_fn, train_step), start=1):
                    losses.append(loss)
                    history.lrs.append(rates)
                    if scheduler_step == "batch":
                        advance(len(history.lrs))
                    if log_interval and i % log_interval == 0:
                        lrs = ", ".join(f"{rate:g}" for rate in rates)
                        print(f"Train Epoch: {epoch} batch-{i}  Loss: {loss.item():.6f}  Learning Rate: {lrs}")
                    bar.update()
                    stop_if_interrupted()
                if i == 0:
                    raise misuse.no_batch(epoch)
                _record(losses, history)
                history.steps_per_epoch = history.steps_per_epoch or i
                history.epoch_ends.append(len(history.loss))
                if history.diverged:
                    bar.total = bar.n  # it ends here: tqdm would show an unfinished bar in red
                    break
                if val is not None:
                    val_loss, val_accuracy = evaluate(model, val, loss_fn)
                    history.val_loss.append(val_loss)
                    history.val_accuracy.append(val_accuracy)
                    history.diverged = epoch == epochs and not math.isfinite(val_loss)
                if scheduler_step == "epoch":
                    advance(epoch, history)
                stop_if_interrupted()
    except BaseException as stop:
        _record(losses, history)
        stop.history = history
        if history.loss:
            stop.add_note(f"{len(history.loss)} steps were recorded: sys.last_value.history")
        raise
    return history


def stepping(scheduler: Any) -> Callable[..., None]:
    """How to step `scheduler` after `done` epochs or batches; a plateau looks at the history."""
    if scheduler is None:
        return lambda done, history=None: None
    if plateau := misuse.plateau_of(scheduler):
        metrics = "val_accuracy" if plateau.mode == "max" else "val_loss"
        timed = plateau is not misuse.innermost(scheduler, "scheduler")  # timm's, which also wants the time

        def look(done: int, history: History) -> None:
            metric = getattr(history, metrics)[-1]
            if metric is None:
                raise ValueError(
                    f'{type(scheduler).__name__} of mode "max" looks at the accuracy, and there is none: use "min".'
                )
            scheduler.step(*([done] if timed else []), metric)

        return look
    wanted = misuse.refuses(scheduler.step, [])
    if wanted is None:
        return lambda done, history=None: scheduler.step()
    # It does not count by itself, as timm's.
    if misuse.refuses(scheduler.step, [0]) or "metric" in wanted[0] or "loss" in wanted[0]:
        raise TypeError(
            f"scheduler is {misuse.short(scheduler)}, with step({', '.join(wanted)}): give one whose step() takes "
            "nothing, or only how many epochs or batches are done."
        )
    return lambda done, history=None: scheduler.step(done)


def in_batches(data: Any, val: Any, batch_size: int, seed: int) -> tuple[Iterable, Iterable | None]:
    """The images of `load_mnist()` as batches, for training and validation; data in batches as they are."""
    if not isinstance(data, Digits):
        return data, val
    if val is None:
        val = batches(data.x_val, data.y_val, _EVALUATION_BATCH, shuffle=False)
    # A last batch of a few images is as long a step in a far noisier direction: at a good rate, one such step can undo
    # an epoch. So it is left out.
    whole = len(data.x_train) >= batch_size
    return batches(data.x_train, data.y_train, batch_size, seed=seed, drop_last=whole), val


def _epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterable, loss_fn: Callable, train_step: Callable | None
) -> Iterator[tuple[Tensor, list[float]]]:
    """The loop of lesson 01: one pass over the data, yielding each step's loss and the rates that it used."""
    model.train()
    device = device_of(model)
    for batch in data:
        optimizer.zero_grad()
        rates = misuse.current_rates(optimizer)
        misuse.check_rates(rates, "Look at the scheduler, or at what set param_groups by hand.")
        if train_step is not None:
            model.zero_grad()  # also what the optimizer does not have
            loss = misuse.check_step_loss(train_step(batch))
            yield torch.as_tensor(loss, device=device).detach().reshape(()), rates  # some may be numbers
            continue
        inputs, targets = on_device(batch, device)
        _, loss = forward(model, inputs, targets, loss_fn)
        misuse.check_gradient(loss)
        loss.backward()
        optimizer.step()
        yield loss.detach(), rates


def _record(losses: list[Tensor], history: History) -> None:
    """Move the epoch's losses into the history in one transfer."""
    if losses:
        record_losses(torch.stack(losses).tolist(), history)
        losses.clear()


def record_losses(values: list[float], history: History) -> None:
    """Add an epoch's losses, up to the first that is not finite, and cut the rates to their number."""
    last = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
    history.diverged = last is not None
    history.loss += values if last is None else values[: last + 1]
    del history.lrs[len(history.loss) :]


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the end of the block; yields a function that lets it through earlier, if it came.

    A second Ctrl-C is not held back. Only the main thread gets signals, so other threads are left alone, and so is a
    handler that is not Python's own.
    """
    came = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and previous is signal.default_int_handler

    def note(signum, frame):
        came.set()
        signal.signal(signal.SIGINT, previous)

    def let_through():
        if came.is_set():
            raise KeyboardInterrupt

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield let_through
    except Exception as error:  # workers of a DataLoader get Ctrl-C too, and may end the step by an error
        if came.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, previous)
    let_through()
