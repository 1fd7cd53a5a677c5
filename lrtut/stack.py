"""Networks as one, by torch.func: their tensors are stacked, and one step steps them all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.optim import SGD, Adam, Optimizer

from lrtut import misuse
from lrtut.evaluation import device_of, evaluate, forward, mean_score, right_answers


class CannotStackError(Exception):
    """Why networks cannot be trained as one."""


@contextlib.contextmanager
def _as_one(alone: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Where networks fail as one: raise what `alone` raises, which does it with one of them; else CannotStackError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except misuse.FAILURES as error:
        alone()
        raise CannotStackError(str(error).strip().split("\n")[0].rstrip(".")) from error


class Stack:
    """Networks that are trained as one: their tensors, and their optimizers' numbers, are stacked to `[M, …]`."""

    def __init__(self, make_model: Callable, make_optimizer: Callable, members: list[tuple], loss_fn: Callable):
        models = [make_model(seed) for _, seed in members]
        misuse.check_parts(models[0], {})
        optimizers = [make_optimizer(m.parameters(), lr) for m, (lr, _) in zip(models, members, strict=True)]
        self.model, self.loss_fn, self.device, self.steps = models[0], loss_fn, device_of(models[0]), 0
        self.numbers = _numbers(optimizers, self.device)
        misuse.check_trains(models[0], optimizers[0])
        self.update, size = _UPDATES[type(optimizers[0])]
        held = {id(p) for p in optimizers[0].param_groups[0]["params"] if p.requires_grad}
        trained = {name for name, p in self.model.named_parameters() if id(p) in held}
        if len({(repr(model), *model.state_dict()) for model in models}) > 1:
            raise CannotStackError("make_model gives different networks for different seeds")
        with _as_one():
            params, self.fixed = stack_module_state(models)
        self.fixed |= {name: p.detach() for name, p in params.items() if name not in trained}
        self.params = {name: params[name].detach() for name in trained}
        self.state = {name: [torch.zeros_like(p) for _ in range(size)] for name, p in self.params.items()}

    def keep(self, indices: list[int]) -> None:
        """Drop the other networks."""
        chosen = torch.tensor(indices, dtype=torch.long, device=self.device)
        self.numbers = tuple(number[chosen] for number in self.numbers)
        self.params = {name: tensor[chosen] for name, tensor in self.params.items()}
        self.fixed = {name: tensor[chosen] for name, tensor in self.fixed.items()}
        self.state = {name: [tensor[chosen] for tensor in tensors] for name, tensors in self.state.items()}

    def step(self, x: Tensor, y: Tensor, factor: float, axis: int | None) -> Tensor:
        """One step of each, on a batch for all (axis None) or on stacked ones; the losses before it, `[M]`."""
        self.model.train()
        first = (x, y) if axis is None else (x[0], y[0])
        gradient = vmap(grad_and_value(self._forward, has_aux=True), (0, 0, axis, axis))
        if self.steps == 0:
            self._check(*first)
        with _as_one(lambda: self._check(*first)):
            gradients, (losses, _) = gradient(self.params, self.fixed, x, y)
        self.steps += 1
        lr, *others = self.numbers
        for name, param in self.params.items():
            self.update(param, gradients[name], self.state[name], self.steps, lr * factor, *others)
        return losses

    def _forward(self, params: dict, fixed: dict, x: Tensor, y: Tensor) -> tuple[Tensor, Any]:
        """Loss and outputs of one network."""
        outputs = functional_call(self.model, (params, fixed), (x,))
        return self.loss_fn(outputs, y).reshape(()), outputs

    def _check(self, x: Tensor, y: Tensor) -> None:
        """Raise what `train` would raise for a batch; CannotStackError if a forward pass changes buffers."""
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        misuse.check_gradient(forward(self.model, x, y, self.loss_fn)[1])
        for name, buffer in self.model.named_buffers():
            if not torch.equal(buffer, before[name]):
                raise CannotStackError(f"the forward pass changes the buffer {name}")

    @torch.no_grad()
    def evaluate(self, val: Iterable) -> tuple[list[float], list[float | None]]:
        """Each network's mean loss and accuracy."""

        def score(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            def right(outputs: Any) -> Tensor | None:
                return right_answers(self.model, outputs, y, self.loss_fn)

            losses, outputs = vmap(self._forward, (0, 0, None, None))(self.params, self.fixed, x, y)
            known = isinstance(outputs, Tensor) and right(outputs[0]) is not None
            return losses, vmap(right)(outputs) if known else None

        self.model.eval()
        with _as_one(lambda: evaluate(self.model, val, self.loss_fn)):
            both = mean_score(score, val, self.device, self.loss_fn)
        size = len(self.numbers[0])
        return tuple([None] * size if values is None else np.broadcast_to(values, size).tolist() for values in both)


# --- optimizers ---------------------------------------------------------------------------------------------------


def _numbers(optimizers: list[Optimizer], device: torch.device) -> tuple[Tensor, ...]:
    """The rate and SGD's momentum, or Adam's two betas, of each: float64 `[M]`, as torch itself computes with them."""
    kind, rows = type(optimizers[0]), []
    for optimizer in optimizers:
        misuse.check_rates(misuse.current_rates(optimizer), "Look at lrs and make_optimizer.")
        if type(optimizer) not in _UPDATES:
            raise CannotStackError(f"the optimizer is {type(optimizer).__name__}, neither SGD nor Adam")
        if type(optimizer) is not kind:
            raise CannotStackError("some optimizers are SGD, others Adam")
        group, *more = optimizer.param_groups
        usual = kind([torch.zeros(1)]).defaults
        other = [f"{name}={group[name]}" for name in usual if name not in _OWN and group[name] != usual[name]]
        if more or other:
            raise CannotStackError(f"the optimizer has {'several groups' if more else ', '.join(other)}")
        rows.append([group["lr"], *(group["betas"] if kind is Adam else [group["momentum"]])])
    return torch.tensor(rows, dtype=torch.float64, device=device).unbind(1)


def _sgd(p: Tensor, g: Tensor, state: list[Tensor], step: int, lr: Tensor, momentum: Tensor) -> None:
    (velocity,) = state
    velocity.mul_(_along(p, momentum)).add_(g)
    p.sub_(_along(p, lr) * velocity)


def _adam(p: Tensor, g: Tensor, state: list[Tensor], step: int, lr: Tensor, beta1: Tensor, beta2: Tensor) -> None:
    mean, square = state
    mean.lerp_(g, _along(p, 1 - beta1))
    square.lerp_(g * g, _along(p, 1 - beta2))
    root = square.sqrt() / _along(p, (1 - beta2**step).sqrt())
    p.sub_(_along(p, lr / (1 - beta1**step)) * mean / (root + 1e-8))


def _along(p: Tensor, numbers: Tensor) -> Tensor:
    """One number a network, in the shape in which it multiplies their `p`."""
    return numbers.to(p.dtype).view(-1, *[1] * (p.ndim - 1))


_OWN = ("lr", "momentum", "betas")  # what each network may have for itself
_UPDATES = {SGD: (_sgd, 1), Adam: (_adam, 2)}  # how to step, and the number of tensors in an optimizer's state
