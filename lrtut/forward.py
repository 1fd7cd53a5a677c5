"""A batch's way through the model and the loss and back, with errors that name the value and the way out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_IGNORED = -100  # the target that torch's losses leave out by default

# What torch says where an integer meets weights that are floats: most of its messages name the integer's type.
_OF_DTYPES = re.compile(r"type|not implemented for")
_INTEGER = re.compile(
    r"mixed dtype|\b(torch\.)?(cuda\.)?(u?int\d*|bool|byte|char|short|long)(tensor)?\b", re.IGNORECASE
)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is, or its first buffer; a model without either is taken for the CPU's."""
    return next((t.device for t in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))


def on_device(batch: Any, device: torch.device, or_else: str = "") -> tuple[Tensor, Tensor]:
    """The `(inputs, targets)` of a batch, moved to `device`. `or_else`: one more way out, in words.

    Raises:
        ValueError: the batch is no pair of tensors.
    """
    try:
        inputs, targets = batch
        if not (device.type == "cpu" and inputs.is_cpu and targets.is_cpu):  # a move to where it is costs time
            inputs, targets = inputs.to(device), targets.to(device)
    except (AttributeError, TypeError, ValueError) as error:
        what = type(batch).__name__
        if isinstance(batch, tuple | list):
            what += f" ({', '.join(type(part).__name__ for part in batch[:5])})"
        raise ValueError(
            f"a batch is a {what}, not a pair of tensors (inputs, targets): make it one, in a DataLoader's collate_fn "
            f"for instance{or_else}."
        ) from error
    return inputs, targets


def forward(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The outputs of `model` for a batch, and their loss as a tensor of no dimension. NaN is handed on.

    Raises:
        ValueError: a batch without a sample, a loss of many numbers, targets that are no class of the model (on the
            CPU; a GPU stops by an assertion of its own), one sample for a BatchNorm in train mode.
        TypeError: integer inputs to a model that computes with floats; a loss that is no tensor.
    """
    if inputs.numel() == 0:
        raise ValueError(f"a batch holds no sample: its inputs have the shape {list(inputs.shape)}. Leave it out.")
    try:
        outputs = model(inputs)
    except (RuntimeError, ValueError) as error:
        _explain_inputs(model, inputs, error)
        raise
    try:
        loss = loss_fn(outputs, targets)
    except IndexError as error:
        _explain_targets(outputs, targets, loss_fn, error)
        raise
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn returned {loss!r}: it must return a tensor, for backward().")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss is of shape {list(loss.shape)}: loss_fn must return one number a batch (a mean: reduction='mean')."
        )
    return outputs, loss if loss.ndim == 0 else loss.reshape(())


def backward(loss: Tensor) -> None:
    """`loss.backward()`.

    Raises:
        ValueError: no parameter that requires a gradient had a part in the loss.
    """
    if not loss.requires_grad:
        raise ValueError(
            "the loss depends on no parameter that requires a gradient: all are frozen (requires_grad_(True) thaws "
            "them), or the model or loss_fn cuts the graph (.detach(), .item(), no_grad())."
        )
    loss.backward()


def _explain_inputs(model: nn.Module, inputs: Tensor, error: Exception) -> None:
    if isinstance(error, ValueError) and len(inputs) == 1:
        if any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
            raise ValueError(
                f"a batch of one sample, of shape {list(inputs.shape)}, and BatchNorm needs two to train: leave an "
                "incomplete last batch out (drop_last=True), or take larger batches."
            ) from error
    if inputs.is_floating_point() or inputs.is_complex():
        return
    said = str(error)
    takes_integers = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    if _OF_DTYPES.search(said) and _INTEGER.search(said) and not takes_integers:
        way_out = (
            "pass them through lrtut.batches()" if inputs.dtype == torch.uint8 else "make them floats, by .float()"
        )
        raise TypeError(f"inputs are {inputs.dtype}, the model's weights are floats: {way_out}.") from error


def _explain_targets(outputs: Tensor, targets: Tensor, loss_fn: Callable, error: IndexError) -> None:
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
