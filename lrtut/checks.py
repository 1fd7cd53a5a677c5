"""Checks of arguments that several modules take, whose errors name the value and the way out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import numpy as np
from torch.optim import Optimizer


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: give a whole number of at least {least}.")


def check_step(optimizer: Optimizer, way_out: str) -> None:
    """Raise ValueError if `optimizer.step()` cannot be called without a closure, as that of LBFGS cannot."""
    # The class's: a scheduler puts a wrapper before the instance's, which looks as if it took `self` too.
    step = getattr(type(optimizer), "step", None)  # a wrapper may have none, and hand on its optimizer's
    if step and _needs_more_than_self(step):
        raise ValueError(f"{type(optimizer).__name__}.step() needs a closure, and is given none here: {way_out}.")


@functools.cache  # inspect takes as long as half a step of a small model
def _needs_more_than_self(step: Callable) -> bool:
    parameters = list(inspect.signature(step).parameters.values())[1:]
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
