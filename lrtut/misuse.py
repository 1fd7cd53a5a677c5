"""Every check of an argument, and every error that is explained: each names the value and the way out.

`check_…` raises before anything is changed. `explain_…` takes an error of torch's, looks at the values that led to it,
and raises a clearer error from it if it knows one; otherwise torch's own error is raised again.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

IGNORED = -100  # the target that torch's losses leave out by default
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)  # of a model or a loss, for a wrong batch


# --- arguments ----------------------------------------------------------------------------------------------------


def check_kind(name: str, value: Any, kinds: Any, way_out: str) -> None:
    """Raise TypeError unless `value` is one of the types `kinds`."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} is {short(value)}: {way_out}.")


def check_whole(name: str, value: int, least: float = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        from_there = f" of at least {least}" if least > -math.inf else ""
        raise ValueError(f"{name}={value!r}: give a whole number{from_there}.")


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


def numbers(name: str, value: Any, way_out: str) -> np.ndarray:
    """`value`, a number or lists of numbers, as float64. Raise ValueError where it holds anything else."""
    try:
        array = np.asarray(value.tolist() if isinstance(value, Tensor) else value)
    except (ValueError, TypeError, RuntimeError):  # lists of several lengths; tensors that require a gradient
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {short(value)}: {way_out}.")
    return array.astype(float)


def check_range(start_lr: float, end_lr: float, steps: int, scale: str, least: int) -> None:
    """Raise ValueError unless a range test can go from `start_lr` to `end_lr` in `steps` steps."""
    for name, value in {"start_lr": start_lr, "end_lr": end_lr}.items():
        check_rate(name, value)
    if start_lr >= end_lr:
        raise ValueError(f"start_lr={start_lr!r} is not below end_lr={end_lr!r}: the rate must grow.")
    check_whole("steps", steps, least)
    check_choice("scale", scale, ("exponential", "linear"))


def current_rates(optimizer: Optimizer) -> list[float]:
    """Each group's rate. Raises ValueError where a group has none, or where this is no optimizer."""
    if not hasattr(optimizer, "param_groups") or isinstance(optimizer, type):
        several = " To train with several, one with a group for each, or a train_step that steps the others, too."
        raise ValueError(
            f"optimizer is of type {type(optimizer).__name__}: give a torch.optim.Optimizer."
            + (several if isinstance(optimizer, list | tuple | dict) else "")
        )
    try:
        return [float(group["lr"]) for group in optimizer.param_groups]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        rates = [group.get("lr") for group in optimizer.param_groups]
        raise ValueError(
            f"the optimizer's parameter groups have lr={rates}: there is no rate to record or to change. Give it one "
            "(lr=…; for transformers' Adafactor, relative_step=False too)."
        ) from error


def own_rates(optimizer: Optimizer) -> list[float]:
    """Each group's rate, or `initial_lr` where a scheduler holds it lower.

    Raises ValueError where a group has no rate, or the groups' rates differ and have no ratio to the first.
    """
    rates = [
        max(rate, float(group.get("initial_lr", rate)))
        for rate, group in zip(current_rates(optimizer), optimizer.param_groups, strict=True)
    ]
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


def check_parts(model: Any, functions: dict[str, Any], **loaders: Any) -> None:
    """Raise ValueError where an argument of a training is not of its kind. `loaders`: the batches, by argument."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is of type {type(model).__name__}: give a torch.nn.Module.")
    for name, batches in loaders.items():
        what = type(batches).__name__
        pairs = name == "val" or "train_step" not in functions
        if pairs and isinstance(batches, tuple) and len(batches) == 2 and isinstance(batches[0], Tensor):
            raise ValueError(f"{name} is a pair of tensors: give lrtut.batches(*{name}), or a list of such pairs.")
        iterable = isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
        if not iterable or isinstance(batches, str | bytes | dict | Tensor | type):
            raise ValueError(f"{name} is of type {what}: give a list, a DataLoader or lrtut.batches().")
        if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
            raise ValueError(
                f"{name} is a {what}, which yields single samples: give DataLoader(dataset, batch_size=…)."
            )
    for name, function in functions.items():
        if not callable(function) or isinstance(function, type):
            raise ValueError(f"{name}={function!r}: give a function (of a loss class, make an object of it).")
        given = {"loss_fn": ("outputs", "targets"), "train_step": ("batch",)}[name]
        check_takes(name, getattr(function, "forward", function), *given)


def check_takes(name: str, function: Callable, *given: str) -> None:
    """Raise ValueError unless `function` can be called with as many arguments as are named."""
    refused = refuses(function, given)
    if refused is not None:
        raise ValueError(
            f"{name} takes ({', '.join(refused)}), and is given ({', '.join(given)}): give a function of these"
            + (", or a train_step." if name == "loss_fn" else ".")
        )


def refuses(function: Callable, given: Sequence) -> list[str] | None:
    """The parameters of `function` if it does not take the arguments `given`; None if it does, or cannot be asked."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*given)
    except TypeError:
        return list(signature.parameters)
    return None


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
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        raise ValueError(
            "called within torch.autocast(), which keeps copies of the weights until it is left: call it outside, and "
            "for mixed precision give a train_step that enters autocast for the forward pass."
        )


def plateau_of(scheduler: Any) -> ReduceLROnPlateau | None:
    """The ReduceLROnPlateau that a scheduler is, wraps or (timm) holds as `lr_scheduler`, or None."""
    inner = innermost(scheduler, "scheduler")
    inner = getattr(inner, "lr_scheduler", inner)
    return inner if isinstance(inner, ReduceLROnPlateau) else None


def innermost(wrapped: Any, attribute: str) -> Any:
    """What wrappers, such as those of accelerate, hold under the name `attribute`; a bare object as it is."""
    while hasattr(inner := getattr(wrapped, attribute, None), "step"):
        wrapped = inner
    return wrapped


def check_steps(name: str, scheduler: Any) -> None:
    """Raise TypeError unless `scheduler` is an object with `step()`, of torch or of another library."""
    if isinstance(scheduler, type | Optimizer) or not callable(getattr(scheduler, "step", None)):
        raise TypeError(
            f"{name} {short(scheduler)}: it must be one scheduler, made with the optimizer, as in "
            "StepLR(optimizer, 10). Several become one by ChainedScheduler or SequentialLR."
        )


def check_owner(scheduler: LRScheduler, optimizer: Optimizer, expected: str) -> None:
    """Raise ValueError unless `scheduler` was made for `optimizer` (`expected`: that one, in words)."""
    mine = innermost(getattr(scheduler, "optimizer", optimizer), "optimizer")
    shared = getattr(mine, "param_groups", None) is optimizer.param_groups  # of wrappers such as SAM
    if mine is not innermost(optimizer, "optimizer") and not shared:
        raise ValueError(f"this {type(scheduler).__name__} belongs to another optimizer: make it with {expected}.")


def check_scheduler(
    scheduler: Any, unit: str, optimizer: Optimizer, *, epochs: int, steps: int | None, sure: bool, val: Any
) -> None:
    """Raise unless `scheduler`, stepped once per `unit` ("epoch" or "batch"), fits the training.

    `steps` is the number of batches in an epoch, None if it is not known, and `sure` whether it can be relied on.
    """
    check_choice("scheduler_step", unit, ("epoch", "batch"))
    if scheduler is None:
        return
    check_steps("scheduler is", scheduler)
    check_owner(scheduler, optimizer, "the one that you pass to train()")
    if plateau_of(scheduler):
        what = f"{type(innermost(scheduler, 'scheduler')).__name__} looks at the validation loss"
        if unit == "batch":
            raise ValueError(f"{what}: use scheduler_step='epoch'.")
        if val is None:
            raise ValueError(f"{what}: give val=, batches to validate on.")
    scheduler = innermost(scheduler, "scheduler")
    if isinstance(scheduler, OneCycleLR) and unit == "batch" and steps is None:
        raise ValueError(
            "OneCycleLR needs the number of steps, and these data have no length: cut them to a list of a fixed number "
            "of batches (itertools.islice), or write the cycle as a function for LambdaLR."
        )
    if isinstance(scheduler, OneCycleLR) and (sure or unit == "epoch"):
        left = scheduler.total_steps - scheduler.last_epoch
        wanted = epochs * steps if unit == "batch" else epochs
        if left != wanted:
            forgotten = unit == "epoch" and steps and left == epochs * steps
            way_out = "scheduler_step='batch'" if forgotten else f"OneCycleLR(..., total_steps={wanted})"
            raise ValueError(
                f"OneCycleLR has {left} steps left, but will be stepped {wanted} times, once a {unit}: use {way_out}."
            )


# --- data ---------------------------------------------------------------------------------------------------------


def check_length(data: Iterable, purpose: str = "train on") -> tuple[int | None, bool]:
    """The number of batches in `data`, None if it has no length; and whether that number can be relied on.

    Streams, and batch samplers of other libraries, may yield another number. Raises ValueError if it is zero.
    """
    try:
        steps = len(data)
    except Exception:  # those of other libraries raise what they like
        return None, False
    if steps == 0:
        raise no_batch(1, purpose)
    if not isinstance(data, DataLoader):
        return steps, True
    own_sampler = type(data.batch_sampler) not in (BatchSampler, type(None))
    return steps, not (own_sampler or isinstance(data.dataset, IterableDataset))


def no_batch(epoch: int, purpose: str = "train on") -> ValueError:
    """The error for data that gave no batch in this epoch."""
    if epoch > 1:
        return ValueError(f"data gave no batch in epoch {epoch}: they can be passed over only once. Give a list.")
    return ValueError(f"no batch to {purpose}: the iterable is empty (drop_last with fewer samples than a batch?).")


def check_reusable(epochs: int, **loaders: Any) -> None:
    """Raise ValueError if one of `loaders` can be passed over only once, and `epochs` passes are needed."""
    for name, batches in loaders.items():
        if epochs > 1 and isinstance(batches, Iterator):
            raise ValueError(
                f"{name} is a {type(batches).__name__}, used up after the first epoch: give a list, a DataLoader or "
                "lrtut.batches()."
            )


def check_mapping(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is a mapping."""
    check_kind(name, value, Mapping, "give a dict from rate or name to curve, as in {0.1: curve}")


def short(value: Any) -> str:
    """A value for an error: its repr where that is short, else its type and the beginning."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"a {type(value).__name__}, {shown[:40]}…"


def not_a_pair(batch: Any, way_out: str) -> ValueError:
    """The error for a batch that is not a pair of tensors."""
    what = type(batch).__name__
    if isinstance(batch, tuple | list):
        what += f" ({', '.join(type(part).__name__ for part in batch[:5])})"
    return ValueError(f"a batch is a {what}, not a pair of tensors (inputs, targets): {way_out}.")


# --- a step of training -------------------------------------------------------------------------------------------


def explain_inputs(model: nn.Module, inputs: Tensor, error: Exception) -> None:
    """Raise a clearer error from the one that `model(inputs)` raised, where the inputs are to blame; else note them."""
    error.add_note(f"The model got {described('inputs', inputs)}.")
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if isinstance(error, ValueError) and len(inputs) == 1:
        if any(isinstance(module, norms) and module.training for module in model.modules()):
            raise ValueError(
                f"a batch of one sample, of shape {list(inputs.shape)}, and BatchNorm needs two to train: leave an "
                "incomplete last batch out (drop_last=True), or take larger batches."
            ) from error
    if isinstance(error, TypeError) and (refused := refuses(model.forward, [inputs])):
        raise ValueError(
            f"model takes ({', '.join(refused)}), and is given the inputs alone: give a train_step, or "
            "wrap it in a module that takes them apart."
        ) from error
    if inputs.is_inference():
        raise ValueError("inputs were made in torch.inference_mode(): make them outside, or .clone() them.") from error
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if inputs.dtype == weights:
        return
    try:
        with torch.no_grad():
            copy.deepcopy(model)(inputs.to(weights))
    except Exception:
        return  # it fails on these too: the type is not to blame
    way_out = "make them floats, by .float()" if weights == torch.float32 else f"convert them, by .to({weights})"
    if inputs.dtype == torch.uint8:
        way_out = "pass them through lrtut.batches()"
    if inputs.is_floating_point():
        way_out += f", or the model by .to({inputs.dtype})"
    raise TypeError(f"inputs are {inputs.dtype}, the model's weights are {weights}: {way_out}.") from error


_CONVERSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    ".long()": Tensor.long,
    ".float()": Tensor.float,
    ".double()": Tensor.double,
    ".squeeze(1)": lambda targets: targets.squeeze(1),
    ".squeeze(1).long()": lambda targets: targets.squeeze(1).long(),
    ".unsqueeze(1)": lambda targets: targets.unsqueeze(1),
    ".unsqueeze(1).float()": lambda targets: targets.unsqueeze(1).float(),
}


def explain_targets(outputs: Any, targets: Tensor, loss_fn: Callable, error: Exception) -> None:
    """Raise ValueError from the error that `loss_fn` raised, where a conversion would help; else note both."""
    by_torch = _raised_within("torch", error)  # else it is the user's own code that fails, for reasons of its own
    if not isinstance(outputs, Tensor):
        if by_torch:
            raise ValueError(
                f"the model returns a {type(outputs).__name__}, and loss_fn does not take one: give a loss_fn that "
                "does, as in lambda outputs, targets: F.cross_entropy(outputs[0], targets), or a train_step."
            ) from error
        return
    error.add_note(f"loss_fn got {described('outputs', outputs)}, and {described('targets', targets)}.")
    if isinstance(error, IndexError) and outputs.ndim > 1:
        classes, ignored = outputs.shape[1], option_of(loss_fn, "ignore_index", IGNORED)
        wrong = targets[(targets != ignored) & ((targets < 0) | (targets >= classes))]
        if len(wrong):
            found = ", ".join(map(str, torch.unique(wrong)[:5].tolist()))
            raise ValueError(
                f"targets hold {found}, but the model has {classes} outputs, for the classes 0 to {classes - 1}: "
                "number the classes from 0, or give the model more outputs."
            ) from error
    for way_out, convert in _CONVERSIONS.items() if by_torch else ():
        try:
            converted = convert(targets)
            with torch.no_grad(), warnings.catch_warnings(action="error"):  # of targets repeated along an axis
                loss_fn(outputs, converted)
            same = torch.equal(
                converted.flatten().double(), targets.flatten().double()
            )  # .long() may cut fractions off
        except Exception:
            continue
        if same:
            raise ValueError(
                f"loss_fn refuses {described('targets', targets)}, for {described('outputs', outputs)}: convert them, "
                f"by targets{way_out}."
            ) from error


def _raised_within(package: str, error: Exception) -> bool:
    """Whether the innermost Python function that raised `error` is one of `package`, not of the user's own code."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == package


def described(name: str, tensor: Tensor) -> str:
    """A tensor in words, for an error."""
    return f"{name} of shape {list(tensor.shape)} and type {tensor.dtype}"


def option_of(loss_fn: Callable, name: str, default: Any) -> Any:
    """An option of a loss: of a module its attribute, of a functools.partial its keyword."""
    return getattr(loss_fn, name, getattr(loss_fn, "keywords", {}).get(name, default))


def check_loss(loss: Any) -> None:
    """Raise TypeError unless `loss` is a tensor, ValueError unless it is one number."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn returned {loss!r}: it must return a tensor, for backward().")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss is of shape {list(loss.shape)}: loss_fn must return one number (a mean: reduction='mean')."
        )
    if loss.is_complex():
        raise ValueError("the loss is complex: loss_fn must return a real number, such as loss.abs() or loss.real.")


def check_gradient(loss: Tensor) -> None:
    """Raise ValueError unless a parameter that requires a gradient had a part in the loss."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss depends on no parameter that requires a gradient: all are frozen (requires_grad_(True) thaws "
            "them), or the model or loss_fn cuts the graph (.detach(), .item(), no_grad())."
        )


def check_step_loss(loss: Any) -> Any:
    """What a train_step returned. Raise ValueError unless it is one number, in a tensor or bare."""
    if isinstance(loss, Tensor):
        one = loss.numel() == 1 and not loss.is_complex()
    else:
        one = isinstance(loss, Real | np.ndarray) and np.size(loss) == 1
    if not one:
        what = f"of shape {list(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else short(loss)
        raise ValueError(f"the loss that train_step returned is {what}: return one number (a mean, a sum).")
    return loss
