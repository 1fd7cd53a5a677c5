"""Everything that a trial training changes, put back: the same tensors, with the same bits in them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lrtut.interrupts import held_back

_Undo = Callable[[], None]


@contextlib.contextmanager
def restored(model: nn.Module, optimizer: Optimizer, *others: Any) -> Iterator[None]:
    """Put back at the end of the block, however it ends, what the block did to model, optimizer and random states.

    That is: parameters, buffers and gradients (the same tensors, by `data_ptr`), requires_grad, every module's
    train/eval mode and plain attributes, the optimizer's state, groups and attributes, the random states of torch (CPU
    and the devices in use), numpy and Python, and of every `torch.Generator` that one of `others` (a loader) draws from.
    Inside the block the gradients start at None.

    It needs memory for a second copy of parameters, buffers and the optimizer's state.

    Raises:
        ValueError: the model has a lazy parameter that has no value yet.
    """
    undo = [_keep_random(others), _keep_model(model, optimizer)]
    try:
        for parameter in _parameters(model, optimizer):
            parameter.grad = None
        yield
    finally:
        with held_back() as interrupted:
            for back in reversed(undo):
                back()
        if interrupted():
            raise KeyboardInterrupt


def _parameters(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """The model's, and any others that the optimizer has, each once."""
    found = {id(p): p for p in model.parameters()}
    found |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
    return list(found.values())


def _keep_model(model: nn.Module, optimizer: Optimizer) -> _Undo:
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if is_lazy(tensor):
                raise ValueError(f"{kind} {name} has no value yet: pass one batch through the model first.")
    known: dict[int, Tensor] = {}
    undo: list[_Undo] = []
    for parameter in _parameters(model, optimizer):
        undo += [_keep_parameter(parameter), _keep_tensor(parameter, known)]
    for buffer in model.buffers():
        undo.append(_keep_tensor(buffer, known))
    for module in model.modules():
        undo += [_keep_dict(table) for table in (module._parameters, module._buffers, module._modules)]
        undo.append(_keep_dict(module.__dict__))
    undo += _keep_optimizer(optimizer, known)

    def back() -> None:
        for step in reversed(undo):
            step()

    return back


def _keep_parameter(parameter: Tensor) -> _Undo:
    grad, requires_grad = parameter.grad, parameter.requires_grad

    def back() -> None:
        parameter.requires_grad_(requires_grad)
        parameter.grad = grad  # it was set aside, so no step has touched its values

    return back


def _keep_tensor(tensor: Tensor, known: dict[int, Tensor]) -> _Undo:
    """Keep a tensor's values; once, if it is met again. An expanded tensor cannot be written, so nothing wrote to it."""
    if id(tensor) in known or any(
        n > 1 and stride == 0 for n, stride in zip(tensor.shape, _strides(tensor), strict=False)
    ):
        return lambda: None
    known[id(tensor)] = tensor
    data, copy = tensor.data, tensor.detach().clone()

    def back() -> None:
        if tensor.data_ptr() != data.data_ptr():
            tensor.data = data
        data.copy_(copy)

    return back


def _strides(tensor: Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.layout == torch.strided else ()


def _keep_dict(table: dict) -> _Undo:
    """Keep which objects a dict holds, in which order; not what is in them."""
    items = dict(table)

    def back() -> None:
        table.clear()
        table.update(items)

    return back


def _keep_optimizer(optimizer: Optimizer, known: dict[int, Tensor]) -> list[_Undo]:
    """Its attributes (a scheduler adds some), its groups and its state; those of an optimizer inside it, too."""
    undo = [_keep_dict(optimizer.__dict__)]
    for name, value in optimizer.__dict__.items():
        if isinstance(value, Optimizer):
            undo += _keep_optimizer(value, known)
        elif name in ("state", "param_groups", "defaults"):
            undo += _keep_nested(value, known)
    return undo


def _keep_nested(value: Any, known: dict[int, Tensor]) -> list[_Undo]:
    """Keep dicts, lists and tensors in each other, each as the object that it is."""
    if isinstance(value, Tensor):
        return [_keep_tensor(value, known)]
    if isinstance(value, dict):
        return [_keep_dict(value), *(undo for item in value.values() for undo in _keep_nested(item, known))]
    if isinstance(value, list):
        items = list(value)

        def back() -> None:
            value[:] = items

        return [back, *(undo for item in items for undo in _keep_nested(item, known))]
    if isinstance(value, tuple):
        return [undo for item in value for undo in _keep_nested(item, known)]
    return []


def _keep_random(loaders: tuple[Any, ...]) -> _Undo:
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    generators = [(generator, generator.get_state()) for generator in _generators(loaders)]

    def back() -> None:
        random.setstate(python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for generator, state in generators:
            generator.set_state(state)

    return back


def _generators(loaders: tuple[Any, ...]) -> list[torch.Generator]:
    """Those of `lrtut.batches`, of a DataLoader, and of its samplers."""
    found, waiting = {}, list(loaders)
    while waiting:
        loader = waiting.pop()
        generator = getattr(loader, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
        waiting += [part for name in ("sampler", "batch_sampler") if (part := getattr(loader, name, None)) is not None]
    return list(found.values())
