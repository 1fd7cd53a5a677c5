"""A sweep in which many networks are trained as one, by torch.func."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from lrtut import misuse
from lrtut.data import Digits
from lrtut.evaluation import device_of, forward, mean_score, on_device, right_answers
from lrtut.sweep import Run, listed, sweep
from lrtut.training import History, in_batches, record_losses, train


def vectorised_sweep(
    make_model: Callable[[Any], nn.Module],
    data: Digits | Iterable[tuple[Tensor, Tensor]],
    lrs: Iterable,
    seeds: Iterable = (0,),
    make_optimizer: Callable[[Iterable, Any], Optimizer] = SGD,
    *,
    epochs: int,
    batch_size: int = 128,
    schedule: Callable[[int], float] | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    val: Iterable[tuple[Tensor, Tensor]] | None = None,
    at_once: int = 256,
    progress: bool = True,
) -> list[Run]:
    """Train `make_model(seed)` at each rate with each seed: many networks at once, as one.

    >>> runs = lrtut.vectorised_sweep(lrtut.small_cnn, data, [0.01, 0.1, 1.0], seeds=range(8), epochs=3)
    >>> ax = lrtut.plot_sweep(runs)

    It is meant for a GPU, which one small network leaves idle. On a CPU it gains little, and with convolutions it loses
    (benchmarks/README.md): use `sweep` there.

    Each run is the one that `train` would give with this seed, but for rounding: losses agree to 1e-9 in float64, and
    to 1e-3 in float32 over a hundred steps, at rates at which training is stable. A network whose loss turns NaN or
    infinite is marked (`diverged`) and leaves the others at the end of its epoch.

    What cannot be trained as one is trained one by one, by `sweep`, and a RuntimeWarning says why: a forward pass that
    changes buffers (BatchNorm's running statistics), draws random numbers (dropout), depends on values (`if`,
    `.item()`) or writes in place where torch.func cannot; an optimizer other than SGD and Adam, or one that changes
    another of their options than the rate, SGD's momentum and Adam's betas.

    Args:
        make_model: `seed -> model`. All must be on one device, and alike but for their values.
        data: what `load_mnist()` returns: each network gets the order of its seed. Or an iterable of `(inputs,
            targets)`, such as a list: all get the same batches.
        lrs: learning rates, or whatever `make_optimizer` takes in their place, such as pairs of rate and momentum.
        seeds: seeds; each rate is run with each.
        make_optimizer: `(parameters, lr) -> optimizer`, such as `torch.optim.Adam`, or
            `lambda parameters, pair: torch.optim.SGD(parameters, lr=pair[0], momentum=pair[1])`.
        epochs: passes over the training data.
        batch_size: samples in a batch, as in `train`.
        schedule: a factor of the rate for each batch, `step -> factor`, such as those in `lrtut.schedules`.
        loss_fn: `(outputs, targets) -> scalar`.
        val: batches to validate on; `load_mnist()` brings its own.
        at_once: networks trained at once: memory grows with it.
        progress: show a bar on anything longer than two seconds.

    Returns:
        A `Run` for each pair, with its `History`, in the order of `sweep`.

    Raises:
        ValueError, TypeError: as `sweep` and `train` do. Whatever ends it, the attribute `runs` of the exception holds
            the runs that are done.
    """
    for name, function in {"make_model": make_model, "make_optimizer": make_optimizer}.items():
        misuse.check_kind(name, function, Callable, "give a function")
    misuse.check_kind("schedule", schedule, Callable | None, "give a function of the step, as in lrtut.schedules")
    for name, number in {"epochs": epochs, "batch_size": batch_size, "at_once": at_once}.items():
        misuse.check_whole(name, number)
    misuse.check_parts(nn.Identity(), {"loss_fn": loss_fn}, **{} if isinstance(data, Digits) else {"data": data})
    lrs, seeds = listed("lrs", lrs), listed("seeds", seeds)
    pairs = [(lr, seed) for lr in lrs for seed in seeds]
    if not pairs:
        raise ValueError("nothing to sweep: give at least one learning rate and one seed.")

    def alone(lr: Any, seed: Any) -> History:
        model = make_model(seed)
        optimizer = make_optimizer(model.parameters(), lr)
        options = {"epochs": epochs, "batch_size": batch_size, "loss_fn": loss_fn, "val": val, "progress": False}
        if schedule:
            options |= {"scheduler": LambdaLR(optimizer, schedule), "scheduler_step": "batch"}
        return train(model, optimizer, data, seed=seed if isinstance(data, Digits) else 0, **options)

    runs: list[Run] = []
    bar = tqdm(desc="sweep", total=len(pairs) * epochs, unit="epoch", delay=2, leave=False, disable=not progress)
    try:
        with bar:
            for i in range(0, len(pairs), at_once):
                members = pairs[i : i + at_once]
                batches = _Batches(data, val, batch_size, [seed for _, seed in members])
                stack = _Stack(make_model, make_optimizer, members, loss_fn)
                histories = _train(stack, batches, schedule, epochs, bar)
                runs += [Run(*pair, history) for pair, history in zip(members, histories, strict=True)]
    except _CannotStackError as why:
        message = f"these networks cannot be trained as one, so they are trained one by one: {why}."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return sweep(alone, lrs, seeds, progress=progress)
    except BaseException as stop:
        stop.runs = runs
        raise
    return runs


class _CannotStackError(Exception):
    """Why networks cannot be trained as one."""


class _Batches:
    """Batches for all networks: the same ones, or for images of `load_mnist()` each network's own, by its seed."""

    def __init__(self, data: Any, val: Any, batch_size: int, seeds: list):
        seeds = seeds if isinstance(data, Digits) else [0] * len(seeds)
        orders = list(dict.fromkeys(seeds))
        self.loaders = [in_batches(data, val, batch_size, seed)[0] for seed in orders]
        self.val = in_batches(data, val, batch_size, 0)[1]
        misuse.check_reusable(2, data=self.loaders[0], val=self.val)
        self.order_of = torch.tensor([orders.index(seed) for seed in seeds])
        self.axis = 0 if len(orders) > 1 else None

    def on(self, device: torch.device, active: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass for the networks `active`; where `axis` is 0, tensors are `[M, N, …]`."""
        which = self.order_of[active].to(device)
        for several in zip(*self.loaders, strict=True):
            pairs = [on_device(batch, device) for batch in several]
            yield (
                pairs[0] if self.axis is None else tuple(torch.stack(part)[which] for part in zip(*pairs, strict=True))
            )


def _train(stack: _Stack, batches: _Batches, schedule: Callable | None, epochs: int, bar: tqdm) -> list[History]:
    """What `train` does, for all networks of the stack."""
    rates = stack.numbers[0].tolist()
    histories, active = [History() for _ in rates], list(range(len(rates)))
    for epoch in range(1, epochs + 1):
        bar.update(len(rates))
        if not active:
            continue
        losses, factors = [], []
        for x, y in batches.on(stack.device, active):
            factors.append(schedule(stack.steps) if schedule else 1.0)
            misuse.check_rates(factors[-1:], "Look at schedule.")
            losses.append(stack.step(x, y, factors[-1], batches.axis))
        if not losses:
            raise misuse.no_batch(epoch)
        for i, values in zip(active, torch.stack(losses, 1).tolist(), strict=True):
            histories[i].lrs += [[rates[i] * factor] for factor in factors]
            record_losses(values, histories[i])
            histories[i].steps_per_epoch = histories[i].steps_per_epoch or len(values)
            histories[i].epoch_ends.append(len(histories[i].loss))
        finite = [k for k, i in enumerate(active) if not histories[i].diverged]
        if len(finite) < len(active):
            stack.keep(finite)
            active = [active[k] for k in finite]
        if active and batches.val is not None:
            for i, loss, accuracy in zip(active, *stack.evaluate(batches.val), strict=True):
                histories[i].val_loss.append(loss)
                histories[i].val_accuracy.append(accuracy)
                histories[i].diverged = epoch == epochs and not math.isfinite(loss)
    return histories


class _Stack:
    """Networks that are trained as one: their tensors, and their optimizers' numbers, are stacked to `[M, …]`."""

    def __init__(self, make_model: Callable, make_optimizer: Callable, members: list[tuple], loss_fn: Callable):
        models = [make_model(seed) for _, seed in members]
        misuse.check_parts(models[0], {})
        optimizers = [make_optimizer(m.parameters(), lr) for m, (lr, _) in zip(models, members, strict=True)]
        misuse.check_trains(models[0], optimizers[0])
        self.model, self.loss_fn, self.device, self.steps = models[0], loss_fn, device_of(models[0]), 0
        self.numbers = _numbers(optimizers, self.device)
        self.update, size = _UPDATES[type(optimizers[0])]
        held = {id(p) for p in optimizers[0].param_groups[0]["params"] if p.requires_grad}
        trained = {name for name, p in self.model.named_parameters() if id(p) in held}
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
        if self.steps == 0:
            self._check(*(x, y) if axis is None else (x[0], y[0]))
        gradient = vmap(grad_and_value(self._forward, has_aux=True), (0, 0, axis, axis))
        try:
            gradients, (losses, _) = gradient(self.params, self.fixed, x, y)
        except torch.OutOfMemoryError as error:
            error.add_note("Give a smaller at_once.")
            raise
        except misuse.FAILURES as error:
            if self.steps:
                raise
            raise _CannotStackError(str(error).strip().split("\n")[0].rstrip(".")) from error
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
        """Raise what `train` would raise for the first batch; _CannotStackError if a forward pass changes buffers."""
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        misuse.check_gradient(forward(self.model, x, y, self.loss_fn)[1])
        for name, buffer in self.model.named_buffers():
            if not torch.equal(buffer, before[name]):
                raise _CannotStackError(f"the forward pass changes the buffer {name}")

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
        both = mean_score(score, val, self.device, self.loss_fn)
        size = len(self.numbers[0])
        return tuple([None] * size if values is None else np.broadcast_to(values, size).tolist() for values in both)


# --- optimizers ---------------------------------------------------------------------------------------------------


def _numbers(optimizers: list[Optimizer], device: torch.device) -> tuple[Tensor, ...]:
    """The rate and SGD's momentum, or Adam's two betas, of each: float64 `[M]`, as torch itself computes with them."""
    kind, rows = type(optimizers[0]), []
    for optimizer in optimizers:
        misuse.check_rates(misuse.current_rates(optimizer), "Look at lrs and make_optimizer.")
        if kind not in _UPDATES:
            raise _CannotStackError(f"the optimizer is {kind.__name__}, neither SGD nor Adam")
        group, *more = optimizer.param_groups
        usual = kind([torch.zeros(1)]).defaults
        other = [f"{name}={group[name]}" for name in usual if name not in _OWN and group[name] != usual[name]]
        if more or other:
            raise _CannotStackError(f"the optimizer has {'several groups' if more else ', '.join(other)}")
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
