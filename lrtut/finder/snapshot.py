"""Everything that a trial training changes, put back: the same tensors, with the same bits in them."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from lrtut import misuse
from lrtut.training import held_back

_Undo = Callable[[], None]
_RANDOM = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CALLED = (FunctionType, MethodType, partial)
_STATES = (*_RANDOM, nn.Module)  # of loaders
_KEPT = (Tensor, np.ndarray, nn.Module, Optimizer, dict, list, set, deque, tuple, *_RANDOM, *_CALLED)


@contextlib.contextmanager
def restored(
    model: nn.Module, optimizer: Optimizer, *loaders: Any, loss_fn: Any = None, restore: Iterable[Any] = ()
) -> Iterator[None]:
    """Undo at the end of the block, however it ends, what the block did to model, optimizer and random states.

    It puts back what has changed, and writes to nothing else:

    - parameters and buffers (the same tensors, by `data_ptr`, unless one was resized or is sparse), gradients,
      requires_grad, every module's train/eval mode, and all attributes of modules and optimizers (of a TorchScript
      module: parameters, buffers, mode; of DistributedDataParallel, which keeps the rest in C++ too: its module, mode);
    - what dicts, lists, sets, tensors, arrays, random generators, modules and optimizers among these hold, however
      deep; and what hooks and `loss_fn` refer to: the object whose method they are, the arguments of a partial, the
      variables that they close over, globals. A list that such a function only appends to is a log, and stays;
    - the attributes of loaders, and of the loaders, samplers, datasets and functions (`collate_fn`, transforms) that
      these hold, however deep, with all that a sampler holds but the data themselves, and the random generators and
      modules of all. Workers that stay alive (`persistent_workers=True`) end if the block started them;
    - the random states of torch (CPU and the devices in use), numpy and Python;
    - what `restore` names: anything with `state_dict()` and `load_state_dict()`, or objects by their attributes.

    It does not see: what a `train_step` refers to, objects in other objects' attributes, what code keeps outside Python
    (files, C++, other processes), and objects with `__slots__`. Name what you can in `restore`.

    Inside the block the gradients start at None. It needs memory for a second copy of all these tensors and arrays.

    Raises:
        ValueError: the model has a lazy parameter that has no value yet; something in `restore` that has no state.
        Exception: the first error met while putting things back; everything else has been put back.
    """
    misuse.check_model(model)
    parts, states = _parts(loaders)
    samplers = [getattr(part, name, None) for part in parts for name in ("sampler", "batch_sampler")]
    samplers += [part for part in parts if isinstance(part, Sampler)]
    data = [getattr(part, name, None) for part in parts for name in ("dataset", "data_source")]
    state = getattr(optimizer, "state", None)  # beside vars(): they may be properties
    roots = [model, optimizer, vars(optimizer), optimizer.param_groups, state, loss_fn, *_attributes(loss_fn)]
    roots += states
    for sampler in samplers:
        roots += [held for held in getattr(sampler, "__dict__", {}).values() if not any(held is one for one in data)]
    undo = [_keep_random(), *(_keep_items(vars(part)) for part in parts if hasattr(part, "__dict__"))]
    misuse.check_restore(restore)
    for value in restore:
        if hasattr(value, "load_state_dict") and not isinstance(value, _KEPT):
            undo.append(partial(value.load_state_dict, copy.deepcopy(value.state_dict())))
        else:
            misuse.check_state(value, _KEPT)
            roots += [value, *_attributes(value)]
    kept, leaves = _keep(*roots)
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
            waiting += _owners([value._backward_hooks, getattr(value, "_post_accumulate_grad_hooks", None)])
            if value.is_leaf:
                leaves.append(value)
        elif isinstance(value, np.ndarray):
            if value.flags.writeable:
                undo.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, _RANDOM):
            undo.append(_keep_generator(value))
        elif isinstance(value, _CALLED):
            for held in _referenced(value):
                if isinstance(held, list):
                    undo.append(_keep_log(held))
                    waiting += held
                else:
                    waiting += [held, *_attributes(held)]
        elif isinstance(value, DistributedDataParallel):
            undo.append(partial(setattr, value, "training", value.training))
            waiting.append(value.module)
        elif isinstance(value, nn.Module | Optimizer):
            waiting.append(vars(value))
            waiting += _owners(held for name, held in vars(value).items() if name.endswith("_hooks"))
            if isinstance(value, torch.jit.ScriptModule):
                undo.append(_keep_script(value))
                waiting += [*value.children(), *value.parameters(recurse=False), *value.buffers(recurse=False)]
        else:
            if not isinstance(value, tuple):
                undo.append(_keep_items(value))
            waiting += value.values() if isinstance(value, dict) else value
    return undo, leaves


def _referenced(function: FunctionType | MethodType | partial) -> list[Any]:
    """What a function can reach: its object, its arguments, what it closes over, the globals that it names."""
    if isinstance(function, partial):
        return [function.func, *function.args, *function.keywords.values()]
    if isinstance(function, MethodType):
        return [function.__self__, function.__func__]
    found = [function.__globals__.get(name) for name in function.__code__.co_names]
    found = [value for value in found if not isinstance(value, FunctionType)]  # else the whole program
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            found.append(cell.cell_contents)
    return [*found, *(function.__defaults__ or ()), function.__kwdefaults__, vars(function)]


def _attributes(value: Any) -> list[dict]:
    """The attributes of an object of a kind that is not kept as such: a dict in a list, or none."""
    plain = hasattr(value, "__dict__") and not isinstance(value, (*_KEPT, type, ModuleType, Dataset, DataLoader))
    return [vars(value)] if plain else []


def _owners(tables: Iterable[Any]) -> list[Any]:
    """The hooks in these tables, and the attributes of those that are objects."""
    hooks = [hook for table in tables if isinstance(table, dict) for hook in table.values()]
    return [*hooks, *(held for hook in hooks for held in _attributes(hook))]


def _keep_generator(generator: Any) -> _Undo:
    if isinstance(generator, np.random.Generator):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    names = ("getstate", "setstate") if isinstance(generator, random.Random) else ("get_state", "set_state")
    return partial(getattr(generator, names[1]), getattr(generator, names[0])())


def _keep_log(items: list) -> _Undo:
    """Keep what the list holds, but not its end: what was appended stays."""
    before = list(items)

    def back() -> None:
        items[: len(before)] = before

    return back


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
            if not expanded and not _same_bits(data, copy):  # memory that is read-only may not even get the same
                data.copy_(copy)
        if leaf:
            if not tensor.is_leaf:  # something with a gradient was written into it
                tensor.detach_()
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            tensor.grad = grad

    return back


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """True if both hold the same bits: of tensors equal by `==`, a zero may have another sign, and a NaN is not."""
    if type(one) is not Tensor or one.layout != torch.strided or one.is_quantized or one.is_meta or one.is_nested:
        return False
    if one.is_complex():
        one, other = torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj())
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.resolve_neg().view(whole), other.resolve_neg().view(whole))


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


def _parts(loaders: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """The loaders, what they pass over or call, and so on; and the random generators and modules of all these."""
    found: dict[int, Any] = {}
    states, waiting = [], list(loaders)
    while waiting:
        part = waiting.pop()
        if id(part) in found:
            continue
        found[id(part)] = part
        held = [getattr(part, name, None) for name in ("sampler", "batch_sampler", "dataset", "generator")]
        held += _referenced(part) if isinstance(part, _CALLED) else getattr(part, "__dict__", {}).values()
        for value in held:
            if isinstance(value, dict):
                several = value.values()
            else:
                several = value if isinstance(value, list | tuple) else [value]
            states += [one for one in several if isinstance(one, _STATES)]
            waiting += [one for one in several if _is_part(one)]
    return list(found.values()), states


def _is_part(value: Any) -> bool:
    """Whether it is passed over or called, and has attributes. A pass that has begun cannot be put back."""
    if isinstance(value, _CALLED):
        return True
    if not hasattr(value, "__dict__") or isinstance(value, (*_KEPT, type, ModuleType, Iterator)):
        return False
    return any(hasattr(type(value), name) for name in ("__iter__", "__getitem__", "__call__"))
