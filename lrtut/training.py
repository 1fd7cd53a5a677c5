"""A training loop that records what the optimizer really used."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm.auto import tqdm

from lrtut import misuse
from lrtut.data import Digits, batches

_EVALUATION_BATCH = 1000


@dataclass
class History:
    """What a training run recorded.

    >>> history = lrtut.train(model, optimizer, data, epochs=3)
    >>> print(history.loss[-1], history.lr[-1], history.val_accuracy[-1])
    >>> table = pandas.DataFrame(history.to_dicts())

    `loss[i]` is the loss of step i before the step, `lrs[i]` the learning rate of every parameter group as the step
    used it. `val_loss` and `val_accuracy` (0 to 1) hold one value per epoch, where there were validation data.
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
        """One dict per step: `step`, `epoch` (from 1), `loss`, `lr` (list), and at an epoch's end its `val_…`."""
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

    >>> model = lrtut.small_cnn()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> history = lrtut.train(model, optimizer, lrtut.load_mnist(), epochs=1)

    Args:
        model: maps inputs `[N, …]` to what `loss_fn` takes. Batches are moved to its device. Each epoch begins with
            `model.train()`, so a module that you put into eval mode, such as a frozen BatchNorm, trains too.
        optimizer: any `torch.optim.Optimizer` whose `step()` needs no closure (that of LBFGS does).
        data: what `load_mnist()` returns, or any iterable of `(inputs, targets)` with a length, such as a `DataLoader`;
            then `val` may be another. It needs no length, but must last for all epochs.
        epochs: passes over the training data.
        batch_size: samples in a batch; an incomplete last batch is left out. Ignored where `data` comes in batches.
        loss_fn: `(outputs, targets) -> scalar`.
        scheduler: a scheduler of `torch.optim.lr_scheduler`, or None. ReduceLROnPlateau is given the validation loss.
        scheduler_step: call `scheduler.step()` after each `"epoch"` or after each `"batch"`.
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
            a loss of many numbers or without a gradient; targets out of range; a batch of one for BatchNorm.
        TypeError: integer inputs to a model that computes with floats; a loss that is not a tensor; data without a
            length.
        KeyboardInterrupt: raised again once the step in hand is complete, or from the error that ended it (workers of a
            DataLoader get Ctrl-C too); its attribute `history` holds what was recorded.
    """
    misuse.check_whole("epochs", epochs)
    misuse.check_optimizer(optimizer, "write the loop by hand for it")
    data, val = _in_batches(data, val, batch_size, seed)
    steps = misuse.check_length(data)
    misuse.check_reusable(val, epochs)
    misuse.check_scheduler(scheduler, scheduler_step, optimizer, epochs=epochs, steps=steps, val=val)

    history = History(steps_per_epoch=steps)
    losses: list[Tensor] = []  # on the device until the epoch ends: reading one would wait for it
    bar = tqdm(total=epochs * steps, desc="train", unit="step", delay=2, leave=False, disable=not progress)
    try:
        with bar, held_back() as stop_if_interrupted:
            for epoch in range(1, epochs + 1):
                for i, (loss, rates) in enumerate(_epoch(model, optimizer, data, loss_fn), start=1):
                    losses.append(loss)
                    history.lrs.append(rates)
                    if scheduler is not None and scheduler_step == "batch":
                        scheduler.step()
                    if log_interval and i % log_interval == 0:
                        lrs = ", ".join(f"{rate:g}" for rate in rates)
                        print(f"Train Epoch: {epoch} batch-{i}  Loss: {loss.item():.6f}  Learning Rate: {lrs}")
                    bar.update()
                    stop_if_interrupted()
                _record(losses, history)
                if history.diverged:
                    bar.total = bar.n  # it ends here: tqdm would show an unfinished bar in red
                    break
                if val is not None:
                    val_loss, val_accuracy = evaluate(model, val, loss_fn)
                    history.val_loss.append(val_loss)
                    history.val_accuracy.append(val_accuracy)
                    history.diverged = epoch == epochs and not math.isfinite(val_loss)
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(history.val_loss[-1])
                elif scheduler is not None and scheduler_step == "epoch":
                    scheduler.step()
                stop_if_interrupted()
    except KeyboardInterrupt as stop:
        _record(losses, history)
        stop.history = history
        stop.add_note(f"{len(history.loss)} steps were recorded: sys.last_value.history")
        raise
    return history


def _in_batches(data: Any, val: Any, batch_size: int, seed: int) -> tuple[Iterable, Iterable | None]:
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
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterable, loss_fn: Callable
) -> Iterator[tuple[Tensor, list[float]]]:
    """The loop of lesson 01: one pass over the data, yielding each step's loss and the rates that it used."""
    model.train()
    device = device_of(model)
    for batch in data:
        inputs, targets = on_device(batch, device)
        optimizer.zero_grad()
        _, loss = forward(model, inputs, targets, loss_fn)
        misuse.check_gradient(loss)
        loss.backward()
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        misuse.check_rates(rates, "Look at the scheduler, or at what set param_groups by hand.")
        optimizer.step()
        yield loss.detach(), rates


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float]:
    """Mean loss and accuracy (0 to 1) of `model` over batches of `(inputs, targets)`, in eval mode.

    >>> test = lrtut.batches(data.x_test, data.y_test, 1000, shuffle=False)
    >>> loss, accuracy = lrtut.evaluate(model, test)
    >>> print(f"{accuracy:.1%}")

    `loss_fn` must average over its batch. The accuracy is NaN unless targets are class numbers `[N]`. Every module's
    train/eval mode is put back.

    Raises:
        ValueError: no batch in `data`; a batch that is not a pair of tensors or has no sample; a loss of many numbers;
            targets out of range.
        TypeError: integer inputs to a model that computes with floats; a loss that is not a tensor.
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


def _record(losses: list[Tensor], history: History) -> None:
    """Move the epoch's losses into the history in one transfer, up to the first that is not finite."""
    if losses:
        values = torch.stack(losses).tolist()
        losses.clear()
        last = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        history.diverged = last is not None
        history.loss += values if last is None else values[: last + 1]
        del history.lrs[len(history.loss) :]


# --- a batch's way through the model and back; lr_range_test goes it too ------------------------------------------


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is, or its first buffer; the CPU for a model without either."""
    return next((t.device for t in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))


def on_device(
    batch: Any, device: torch.device, way_out: str = "make it one, for instance in a DataLoader's collate_fn"
) -> tuple[Tensor, Tensor]:
    """The `(inputs, targets)` of a batch, moved to `device`; ValueError if the batch is not a pair of tensors."""
    try:
        inputs, targets = batch
        if not (
            device.type == "cpu" and inputs.is_cpu and targets.is_cpu
        ):  # .to() costs time even where it does nothing
            inputs, targets = inputs.to(device), targets.to(device)
    except (AttributeError, TypeError, ValueError) as error:
        misuse.explain_batch(batch, error, way_out)
    return inputs, targets


def forward(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The outputs of `model` for a batch, and their loss as a tensor of no dimension. NaN passes."""
    if inputs.numel() == 0:
        raise ValueError(f"a batch holds no sample: its inputs have the shape {list(inputs.shape)}. Leave it out.")
    try:
        outputs = model(inputs)
    except (RuntimeError, ValueError) as error:
        misuse.explain_inputs(model, inputs, error)
        raise
    try:
        loss = loss_fn(outputs, targets)
    except IndexError as error:
        misuse.explain_targets(outputs, targets, loss_fn, error)
        raise
    misuse.check_loss(loss)
    return outputs, loss if loss.ndim == 0 else loss.reshape(())


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
