"""The rates of an optimizer's groups in a sweep: a table of them, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer


def sweep_rates(optimizer: Optimizer, start_lr: float, end_lr: float, steps: int, scale: str) -> np.ndarray:
    """float64 `[steps, groups]`: the first group goes from `start_lr` to `end_lr`, the others keep their ratio to it.

    Raises:
        ValueError: the first group's rate is zero, and another's is not.
    """
    rates = _grid(start_lr, end_lr, steps, scale)[:, None] * _ratios(optimizer)
    for i, group in enumerate(optimizer.param_groups):
        if isinstance(group["lr"], Tensor):  # as the step will see it, rounded
            rates[:, i] = torch.from_numpy(rates[:, i]).to(group["lr"].dtype).double().numpy()
    return rates


def rate_setter(optimizer: Optimizer) -> Callable[[list[float]], None]:
    """Writes a rate into each group; a tensor where there was one, but never into that one, which others may share."""
    groups = optimizer.param_groups
    tensors = [isinstance(group["lr"], Tensor) for group in groups]
    for group, tensor in zip(groups, tensors, strict=True):
        if tensor:
            group["lr"] = group["lr"].clone()

    def set_one(rates: list[float]) -> None:
        only["lr"] = rates[0]

    def set_rates(rates: list[float]) -> None:
        for group, tensor, rate in zip(groups, tensors, rates, strict=True):
            if tensor:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    only = groups[0]
    return set_one if tensors == [False] else set_rates


def _grid(start_lr: float, end_lr: float, steps: int, scale: str) -> np.ndarray:
    share = np.arange(steps) / (steps - 1)
    grid = start_lr * (end_lr / start_lr) ** share if scale == "exponential" else start_lr + (end_lr - start_lr) * share
    grid[-1] = end_lr  # not a rounding error beside it
    return grid


def _ratios(optimizer: Optimizer) -> np.ndarray:
    """Each group's rate over the first one's `[groups]`."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if all(rate == rates[0] for rate in rates):
        return np.ones(len(rates))
    if not (rates[0] > 0 and all(0 <= rate < math.inf for rate in rates)):
        raise ValueError(
            f"the groups' rates are {rates}: their ratios to the first are kept, so it must be above zero. "
            "Set param_groups[i]['lr'] to what you mean to train with."
        )
    return np.array(rates) / rates[0]
