"""Every check of an argument, and every error that is explained: each names the value and the way out.

`check_…` raises before anything is changed. `explain_…` takes an error of torch's, looks at the values that led to it,
and raises a clearer error from it if it knows one; otherwise torch's own error is raised again.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import Dataset, IterableDataset

_IGNORED = -100  # the target that torch's losses leave out by default


# --- arguments ----------------------------------------------------------------------------------------------------


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: give a whole number of at least {least}.")


def check_rate(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number above zero."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: give a learning rate above zero.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}: give one of {', '.join(map(repr, choices))}.")


def check_rates(rates: Sequence[float], way_out: str) -> None:
    """Raise ValueError unless every group's rate is finite and not negative."""
    for i, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"learning rate {rate} in parameter group {i}: it must be finite and not negative. {way_out}"
            )


def check_range(start_lr: float, end_lr: float, steps: int, scale: str, least: int) -> None:
    """Raise ValueError unless a range test can go from `start_lr` to `end_lr` in `steps` steps."""
    for name, value in {"start_lr": start_lr, "end_lr": end_lr}.items():
        check_rate(name, value)
    if start_lr >= end_lr:
        raise ValueError(f"start_lr={start_lr!r} is not below end_lr={end_lr!r}: the rate must grow.")
    check_whole("steps", steps, least)
    check_choice("scale", scale, ("exponential", "linear"))


def own_rates(optimizer: Optimizer) -> list[float]:
    """Each group's rate, or `initial_lr` where a scheduler holds it lower.

    Raises ValueError where a group has no rate, or the groups' rates differ and have no ratio to the first.
    """
    rates = []
    for i, group in enumerate(optimizer.param_groups):
        try:
            rate = float(group["lr"])
            rates.append(max(rate, float(group.get("initial_lr", rate))))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"optimizer has lr={group.get('lr')!r} in parameter group {i}: there is no rate to change. Give it one "
                "(lr=…; for transformers' Adafactor, relative_step=False too)."
            ) from error
    if any(rate != rates[0] for rate in rates) and not (rates[0] > 0 and all(0 <= rate < math.inf for rate in rates)):
        raise ValueError(
            f"the groups' rates are {rates}: their ratios to the first are kept, so it must be above zero. "
            "Set param_groups[i]['lr'] to what you mean to train with."
        )
    return rates


# --- optimizers, schedulers, models -------------------------------------------------------------------------------


def check_optimizer(optimizer: Optimizer, way_out: str) -> None:
    """Raise ValueError if `optimizer.step()` needs a closure, as that of LBFGS does."""
    # The class's: a scheduler wraps the instance's.
    step = getattr(type(optimizer), "step", None)  # a wrapper may have none, and pass on its optimizer's
    if step is None:
        return
    try:
        inspect.signature(step).bind(optimizer)
    except TypeError:
        name = type(optimizer).__name__
        raise ValueError(f"{name}.step() needs a closure, and gets none here: {way_out}.") from None


def check_model(model: nn.Module) -> None:
    """Raise ValueError if a parameter or a buffer has no value yet, as in a lazy module."""
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if is_lazy(tensor):
                raise ValueError(f"{kind} {name} has no value yet: pass one batch through the model first.")
            if tensor.requires_grad and tensor.is_inference():
                raise ValueError(
                    f"{kind} {name} was made in torch.inference_mode(), and cannot be trained: make the model outside."
                )


def check_restore(restore: Any) -> None:
    """Raise ValueError unless `restore` is a list, a tuple or a set of objects."""
    if not isinstance(restore, list | tuple | set):
        raise ValueError(f"restore={restore!r}: give a list of the objects to put back.")


def check_state(value: Any, kept: tuple[type, ...]) -> None:
    """Raise ValueError unless `value` is one of the kinds `kept`, or has attributes to put back."""
    if not isinstance(value, kept) and not hasattr(value, "__dict__"):
        raise ValueError(
            f"restore holds {value!r}, which has nothing to put back: give objects with state_dict() and "
            "load_state_dict(), or with attributes."
        )


def check_parts(model: Any, optimizer: Any, batches: Any, functions: dict[str, Any]) -> None:
    """Raise ValueError where an argument of a range test is not of its kind, or one does not fit the others."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is of type {type(model).__name__}: give a torch.nn.Module.")
    if not hasattr(optimizer, "param_groups") or isinstance(optimizer, type):
        raise ValueError(f"optimizer is of type {type(optimizer).__name__}: give a torch.optim.Optimizer.")
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__") or isinstance(batches, str | dict):
        raise ValueError(f"batches is of type {type(batches).__name__}: give a list, a DataLoader or lrtut.batches().")
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        name = type(batches).__name__
        raise ValueError(f"batches is a {name}, which yields single samples: give DataLoader(dataset, batch_size=…).")
    for name, function in functions.items():
        if not callable(function) or isinstance(function, type):
            raise ValueError(f"{name}={function!r}: give a function (of a loss class, make an object of it).")


def check_trains(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise ValueError if the optimizer holds none of the parameters that are to be trained."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained and not any(id(p) in own for p in trained):
        raise ValueError(
            "optimizer holds none of model's parameters that require a gradient: make it from this model's "
            "parameters(), after the last change to its layers; or, if it holds copies of them, give a train_step."
        )


def check_context(device: torch.device) -> None:
    """Raise ValueError within torch.inference_mode() or torch.autocast()."""
    if torch.is_inference_mode_enabled():
        raise ValueError("called within torch.inference_mode(), where nothing can be trained: call it outside.")
    if torch.is_autocast_enabled(device.type):
        raise ValueError(
            "called within torch.autocast(), which keeps copies of the weights until it is left: call it outside, and "
            "for mixed precision give a train_step that enters autocast for the forward pass."
        )


def check_batch(batch: Any, way_out: str) -> None:
    """Raise ValueError where a batch unpacks as a pair but is not one: a tensor, a dict, one sample of a dataset."""
    if isinstance(batch, Tensor | dict):
        explain_batch(batch, TypeError(f"{type(batch).__name__}"), way_out)
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor) and batch[1].ndim == 0:
        raise ValueError(
            "a batch's targets are a single number, as of one sample: give batches (DataLoader(…, batch_size=…)), or "
            f"{way_out}."
        )


def check_owner(scheduler: LRScheduler, optimizer: Optimizer, expected: str) -> None:
    """Raise ValueError unless `scheduler` was made for `optimizer` (`expected`: that one, in words)."""
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(f"this {type(scheduler).__name__} belongs to another optimizer: make it with {expected}.")


def check_scheduler(scheduler: Any, unit: str, optimizer: Optimizer, *, epochs: int, steps: int, val: Any) -> None:
    """Raise ValueError unless `scheduler`, stepped once per `unit` ("epoch" or "batch"), fits the training."""
    check_choice("scheduler_step", unit, ("epoch", "batch"))
    if scheduler is None:
        return
    check_owner(scheduler, optimizer, "the one that you pass to train()")
    if isinstance(scheduler, ReduceLROnPlateau):
        if unit == "batch":
            raise ValueError("ReduceLROnPlateau looks at the validation loss: use scheduler_step='epoch'.")
        if val is None:
            raise ValueError("ReduceLROnPlateau looks at the validation loss: give val=, batches to validate on.")
    if isinstance(scheduler, OneCycleLR):
        left = scheduler.total_steps - scheduler.last_epoch
        wanted = epochs * steps if unit == "batch" else epochs
        if left != wanted:
            forgotten = unit == "epoch" and left == epochs * steps
            way_out = "scheduler_step='batch'" if forgotten else f"OneCycleLR(..., total_steps={wanted})"
            raise ValueError(
                f"OneCycleLR has {left} steps left, but will be stepped {wanted} times, once a {unit}: use {way_out}."
            )


# --- data ---------------------------------------------------------------------------------------------------------


def check_length(data: Iterable) -> int:
    """The number of batches in `data`. Raises TypeError if it has no length, ValueError if that is zero."""
    try:
        steps = len(data)
    except TypeError:
        raise TypeError(f"{type(data).__name__} has no length: give a list, a DataLoader or lrtut.batches().") from None
    if steps == 0:
        raise ValueError("no batch to train on: the iterable is empty (drop_last with fewer samples than a batch?).")
    return steps


def check_reusable(val: Any, epochs: int) -> None:
    """Raise ValueError if `val` can be passed over only once, and `epochs` passes are needed."""
    if epochs > 1 and isinstance(val, Iterator):
        name = type(val).__name__
        raise ValueError(
            f"val is a {name}, used up after the first epoch: give a list, a DataLoader or lrtut.batches()."
        )


def explain_batch(batch: Any, error: Exception, way_out: str) -> None:
    """Raise ValueError from `error`: the batch is not a pair of tensors."""
    what = type(batch).__name__
    if isinstance(batch, tuple | list):
        what += f" ({', '.join(type(part).__name__ for part in batch[:5])})"
    raise ValueError(f"a batch is a {what}, not a pair of tensors (inputs, targets): {way_out}.") from error


# --- a step of training -------------------------------------------------------------------------------------------


def explain_inputs(model: nn.Module, inputs: Tensor, error: Exception) -> None:
    """Raise a clearer error from the one that `model(inputs)` raised, where the inputs are to blame."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if isinstance(error, ValueError) and len(inputs) == 1:
        if any(isinstance(module, norms) and module.training for module in model.modules()):
            raise ValueError(
                f"a batch of one sample, of shape {list(inputs.shape)}, and BatchNorm needs two to train: leave an "
                "incomplete last batch out (drop_last=True), or take larger batches."
            ) from error
    if inputs.is_inference():
        raise ValueError("inputs were made in torch.inference_mode(): make them outside, or .clone() them.") from error
    if inputs.is_floating_point() or inputs.is_complex():
        return
    try:
        with torch.no_grad():
            copy.deepcopy(model)(inputs.float())
    except Exception:
        return  # it fails on floats too: the type is not to blame
    way_out = "pass them through lrtut.batches()" if inputs.dtype == torch.uint8 else "make them floats, by .float()"
    raise TypeError(f"inputs are {inputs.dtype}, the model's weights are floats: {way_out}.") from error


def explain_targets(outputs: Tensor, targets: Tensor, loss_fn: Callable, error: IndexError) -> None:
    """Raise ValueError from the error that `loss_fn` raised, where targets are not classes of the model."""
    classes = outputs.shape[1] if outputs.ndim > 1 else 0
    of_partial = getattr(loss_fn, "keywords", {})
    ignored = getattr(loss_fn, "ignore_index", of_partial.get("ignore_index", _IGNORED))
    wrong = targets[(targets != ignored) & ((targets < 0) | (targets >= classes))]
    if classes and len(wrong):
        found = ", ".join(map(str, torch.unique(wrong)[:5].tolist()))
        raise ValueError(
            f"targets hold {found}, but the model has {classes} outputs, for the classes 0 to {classes - 1}: number "
            "the classes from 0, or give the model more outputs."
        ) from error


def check_loss(loss: Any) -> None:
    """Raise TypeError unless `loss` is a tensor, ValueError unless it is one number."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn returned {loss!r}: it must return a tensor, for backward().")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss is of shape {list(loss.shape)}: loss_fn must return one number (a mean: reduction='mean')."
        )


def check_gradient(loss: Tensor) -> None:
    """Raise ValueError unless a parameter that requires a gradient had a part in the loss."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss depends on no parameter that requires a gradient: all are frozen (requires_grad_(True) thaws "
            "them), or the model or loss_fn cuts the graph (.detach(), .item(), no_grad())."
        )


def explain_loss(loss: Any, error: Exception) -> None:
    """Raise ValueError from `error` where what a train_step returned is not one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return  # the device's own error
    what = f"of shape {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise ValueError(f"the loss is {what}: a range test needs one number a step (a mean, a sum).") from error
