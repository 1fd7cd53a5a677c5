"""One forward pass, whose errors name the value and the way out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_IGNORED = -100  # the target that torch's losses leave out by default


def forward(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The outputs of `model` for a batch, and their loss as a tensor of no dimension. NaN is handed on.

    Raises:
        ValueError: a batch without a sample, a loss of many numbers, targets that are no class of the model (on the
            CPU; a GPU stops by an assertion of its own), one sample for a BatchNorm in train mode.
        TypeError: integer inputs to a model of floats; a loss that is no tensor.
    """
    if inputs.numel() == 0:
        raise ValueError(f"a batch holds no sample: its inputs have the shape {list(inputs.shape)}. Leave it out.")
    if not (inputs.is_floating_point() or inputs.is_complex()):
        _check_integers(inputs, model)
    try:
        outputs = model(inputs)
    except ValueError as error:
        if len(inputs) == 1 and any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
            raise ValueError(
                f"a batch of one sample, of shape {list(inputs.shape)}, and BatchNorm needs two to train: leave an "
                "incomplete last batch out (drop_last=True), or take larger batches."
            ) from error
        raise
    try:
        loss = loss_fn(outputs, targets)
    except IndexError as error:
        _explain_targets(outputs, targets, error)
        raise
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn returned {loss!r}: it must return a tensor, for backward().")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss is of shape {list(loss.shape)}: loss_fn must return one number a batch (a mean: reduction='mean')."
        )
    return outputs, loss if loss.ndim == 0 else loss.reshape(())


def _check_integers(inputs: Tensor, model: nn.Module) -> None:
    if not any(isinstance(module, nn.Embedding) for module in model.modules()):
        raise TypeError(
            f"inputs are {inputs.dtype}, the model's weights are floats: pass them through lrtut.batches()."
        )


def _explain_targets(outputs: Tensor, targets: Tensor, error: IndexError) -> None:
    classes = outputs.shape[1] if outputs.ndim > 1 else 0
    wrong = targets[(targets != _IGNORED) & ((targets < 0) | (targets >= classes))]
    if classes and len(wrong):
        found = ", ".join(map(str, torch.unique(wrong)[:5].tolist()))
        raise ValueError(
            f"targets hold {found}, but the model has {classes} outputs, for the classes 0 to {classes - 1}: number "
            "the classes from 0, or give the model more outputs."
        ) from error
