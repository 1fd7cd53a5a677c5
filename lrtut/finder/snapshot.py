"""Everything that a trial training changes, put back: the same tensors, with the same bits in them."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lrtut.misuse import check_model
from lrtut.training import held_back

_Undo = Callable[[], None]
_KEPT = (Tensor, np.ndarray, torch.Generator, nn.Module, Optimizer, dict, list, set, deque, tuple)


@contextlib.contextmanager
def restored(model: nn.Module, optimizer: Optimizer, *loaders: Any) -> Iterator[None]:
    """Undo at the end of the block, however it ends, what the block did to model, optimizer and random states.

    It puts back parameters and buffers (the same tensors, by `data_ptr`, unless one was resized or is sparse),
    gradients, requires_grad, every module's train/eval mode, all attributes of modules and optimizers (of a TorchScript
    module: parameters, buffers, mode), and what dicts, lists, sets, tensors, arrays, generators, modules and optimizers
    among these hold, however deep, but not what objects of other kinds hold; the random states of torch (CPU and the
    devices in use), numpy and Python, and of every `torch.Generator` that is an attribute of one of `loaders`, of its
    samplers or of its dataset. Workers that stay alive (`persistent_workers=True`) end if the block started them.
    Inside the block the gradients start at None.

    It needs memory for a second copy of all these tensors and arrays.

    Raises:
        ValueError: the model has a lazy parameter that has no value yet.
        Exception: the first error met while putting things back; everything else has been put back.
    """
    check_model(model)
    parts = _parts(loaders)
    undo = [_keep_random(), *(_keep_items(vars(part)) for part in parts if isinstance(part, DataLoader))]
    state = getattr(optimizer, "state", None)  # beside vars(): they may be properties
    kept, leaves = _keep(model, vars(optimizer), optimizer.param_groups, state, *_generators(parts))
    undo += kept
    try:
        for leaf in leaves:
            leaf.grad = None
        yield
    finally:
        with held_back():
            _run_all(reversed(undo))


def _run_all(steps: Iterator[_Undo]) -> None:
    """Run every step, also those after one that fails, then raise the first error."""
    first = None
    for step in steps:
        try:
            step()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first


def _keep(*roots: Any) -> tuple[list[_Undo], list[Tensor]]:
    """Copy what can be reached from `roots`: how to put it back, and the leaf tensors, which hold gradients."""
    undo: list[_Undo] = []
    leaves: list[Tensor] = []
    seen: dict[int, Any] = {}  # holds the objects, so that no new one gets the id of an old one
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not isinstance(value, _KEPT):
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            undo.append(_keep_tensor(value))
            if value.is_leaf:
                leaves.append(value)
        elif isinstance(value, np.ndarray):
            if value.flags.writeable:
                undo.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, torch.Generator):
            undo.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, nn.Module | Optimizer):
            waiting.append(vars(value))
            if isinstance(value, torch.jit.ScriptModule):
                undo.append(_keep_script(value))
                waiting += [*value.children(), *value.parameters(recurse=False), *value.buffers(recurse=False)]
        else:
            if not isinstance(value, tuple):
                undo.append(_keep_items(value))
            waiting += value.values() if isinstance(value, dict) else value
    return undo, leaves


def _keep_tensor(tensor: Tensor) -> _Undo:
    """Keep a tensor's values and place; a leaf's gradient and requires_grad too."""
    leaf, requires_grad = tensor.is_leaf, tensor.requires_grad
    grad = tensor.grad if leaf else None  # set aside, so no step touches its values
    strided = tensor.layout == torch.strided and not tensor.is_nested
    # An expanded tensor cannot be written, so nothing writes to it.
    expanded = strided and any(n > 1 and stride == 0 for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    data, copy = tensor.data, None if expanded else tensor.detach().clone()

    def back() -> None:
        if tensor.layout == torch.sparse_coo:
            tensor.data = copy  # writing into `data` would not change what `tensor` holds
        else:
            if strided and _place(tensor) != _place(data):
                tensor.data = data
            if not expanded:
                data.copy_(copy)
        if leaf:
            if not tensor.is_leaf:  # something with a gradient was written into it
                tensor.detach_()
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            tensor.grad = grad

    return back


def _place(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _keep_script(module: torch.jit.ScriptModule) -> _Undo:
    """A TorchScript module keeps its tables in C++, where only names reach them."""
    held = {"training": module.training, **dict(module.named_parameters(recurse=False))}
    held |= dict(module.named_buffers(recurse=False))

    def back() -> None:
        for name, value in held.items():
            setattr(module, name, value)

    return back


def _keep_items(holder: dict | list | set | deque) -> _Undo:
    """Keep which objects it holds, in which order; not what is in them. If it still holds them, it is not touched."""
    items = dict(holder) if isinstance(holder, dict) else list(holder)

    def back() -> None:
        if not holder and not items:  # most of a module's tables
            return
        now, before = _flat(holder), _flat(items)
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            holder.clear()
            (holder.extend if isinstance(holder, list | deque) else holder.update)(items)

    return back


def _flat(holder: dict | list | set | deque) -> list:
    return [*holder, *holder.values()] if isinstance(holder, dict) else list(holder)


def _keep_random() -> _Undo:
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def back() -> None:
        random.setstate(python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        if mps is not None:
            torch.mps.set_rng_state(mps)

    return back


def _parts(loaders: tuple[Any, ...]) -> list[Any]:
    """The loaders, their samplers and datasets, and the samplers and datasets of these in turn."""
    found: dict[int, Any] = {}
    waiting = list(loaders)
    while waiting:
        part = waiting.pop()
        if id(part) not in found:
            found[id(part)] = part
            waiting += [getattr(part, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    return list(found.values())


def _generators(parts: list[Any]) -> list[torch.Generator]:
    values = [(getattr(part, "generator", None), *getattr(part, "__dict__", {}).values()) for part in parts]
    return [value for attributes in values for value in attributes if isinstance(value, torch.Generator)]
