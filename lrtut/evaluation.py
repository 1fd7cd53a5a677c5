"""A batch's way through a model, to its loss; and what a model comes to over many batches."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrtut import misuse


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float | None]:
    """Mean loss and accuracy (0 to 1) of `model` over batches of `(inputs, targets)`, in eval mode.

    >>> test = lrtut.batches(data.x_test, data.y_test, 1000, shuffle=False)
    >>> loss, accuracy = lrtut.evaluate(model, test)
    >>> print(f"{accuracy:.1%}")

    `loss_fn` must average over its targets, or say `reduction="sum"`. Targets are counted, whatever their axes (one a
    sample, a token, a pixel), but for those that the loss ignores. The accuracy is that of class numbers against
    scores, or of one logit (of `nn.BCELoss`, one probability) a target; None where there are no classes, or where two
    axes of the scores could be theirs (a sequence as long as there are classes, with a `loss_fn` of your own). Every
    module's train/eval mode is put back.

    Raises:
        ValueError: no batch in `data`; a batch that is not a pair of tensors or has no sample; a loss of many numbers;
            targets out of range.
        TypeError: integer inputs to a model that computes with floats; a loss that is not a tensor.
    """
    misuse.check_parts(model, {"loss_fn": loss_fn}, data=data)
    modes = [(module, module.training) for module in model.modules()]

    def score(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        outputs, loss = forward(model, inputs, targets, loss_fn)
        return loss, right_answers(model, outputs, targets, loss_fn)

    model.eval()
    try:
        loss, accuracy = mean_score(score, data, device_of(model), loss_fn)
    finally:
        for module, training in modes:
            module.training = training
    return float(loss), None if accuracy is None else float(accuracy)


def mean_score(
    score: Callable, data: Iterable, device: torch.device, loss_fn: Callable
) -> tuple[float | np.ndarray, float | np.ndarray | None]:
    """Mean loss and accuracy over batches, from `score(inputs, targets) -> (loss, right)`, as `right_answers` says.

    The loss may be a tensor of several models' `[M]`; then `right` is `[M, …]`, and so is what comes out.
    """
    summed = misuse.option_of(loss_fn, "reduction", "mean") == "sum"
    total, share, right, count, batches_seen = 0.0, 0.0, 0, 0, 0
    for batch in data:
        inputs, targets = on_device(batch, device)
        loss, hits = score(inputs, targets)
        batches_seen += 1
        counted = targets != misuse.option_of(loss_fn, "ignore_index", misuse.IGNORED)
        if targets.is_floating_point():  # for cross-entropy a target is a distribution, along axis 1
            counted = torch.ones_like(counted[:, 0] if _of_classes(loss_fn) else counted)
        number = counted.sum().item()
        weight = _weight(loss_fn, targets, counted)
        if weight:
            # In float64, whatever the model's type.
            total = total + loss.cpu().double().numpy() * (1 if summed else weight)
            share += number if summed else weight
        if right is not None:
            right = None if hits is None else right + (hits & counted).flatten(loss.ndim).sum(-1).cpu().numpy()
        count += number
    if batches_seen == 0:
        raise ValueError("evaluate() was given no batch: the iterable is empty.")
    return total / share if share else math.nan, None if right is None or count == 0 else right / count


def _weight(loss_fn: Callable, targets: Tensor, counted: Tensor) -> float:
    """What the mean of a batch was divided by: the number of targets, or the sum of their classes' weights."""
    weights = misuse.option_of(loss_fn, "weight", None)
    if isinstance(weights, Tensor) and _of_classes(loss_fn) and not targets.is_floating_point():
        return weights.to(targets.device)[targets[counted]].double().sum().item()
    return counted.sum().item()


def _of_classes(loss_fn: Callable) -> bool:
    """Whether it is one of torch's two losses that divide by the weights of the targets' classes."""
    kinds, functions = (nn.CrossEntropyLoss, nn.NLLLoss), (F.cross_entropy, F.nll_loss)
    return isinstance(loss_fn, kinds) or getattr(loss_fn, "func", loss_fn) in functions


def _of_probabilities(model: nn.Module, loss_fn: Callable) -> bool:
    """Whether one output is a probability: the model ends in a Sigmoid, or the loss is a BCELoss, or calls one."""
    held, names = [getattr(loss_fn, "func", loss_fn), list(model.modules())[-1]], ()
    if isinstance(loss_fn, nn.Module):
        held += loss_fn.modules()
    elif inspect.isfunction(loss_fn):
        seen, names = inspect.getclosurevars(loss_fn), loss_fn.__code__.co_names
        held += [*seen.nonlocals.values(), *seen.globals.values()]
    called = any(one is F.binary_cross_entropy or isinstance(one, nn.BCELoss | nn.Sigmoid) for one in held)
    return called or "binary_cross_entropy" in names


def right_answers(model: nn.Module, outputs: Any, targets: Tensor, loss_fn: Callable) -> Tensor | None:
    """For each target whether the outputs name it; None where they are no class scores."""
    kinds, functions = (nn.BCELoss, nn.BCEWithLogitsLoss), (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
    of_pairs = isinstance(loss_fn, kinds) or getattr(loss_fn, "func", loss_fn) in functions
    outputs = getattr(outputs, "logits", outputs)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or targets.is_complex():
        return None
    if targets.is_floating_point() and not (of_pairs and ((targets == 0) | (targets == 1)).all()):
        return None
    if outputs.numel() == targets.numel():
        if not ((targets == 0) | (targets == 1)).all():
            return None
        threshold = 0.5 if _of_probabilities(model, loss_fn) else 0
        return (outputs.reshape(targets.shape) > threshold) == targets.bool()
    by_axis_1 = outputs.ndim > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape
    if by_axis_1:
        unclear = outputs.ndim > 2 and outputs.shape[:-1] == targets.shape and not _of_classes(loss_fn)
        return None if unclear else outputs.argmax(1) == targets
    if outputs.numel() // outputs.shape[-1] == targets.numel():  # classes last: [N, T, C], or flat on one side
        return outputs.argmax(-1).reshape(targets.shape) == targets
    return None


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is, or its first buffer; the CPU for a model without either."""
    return next((t.device for t in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))


def on_device(
    batch: Any, device: torch.device, way_out: str = "make it one, for instance in a DataLoader's collate_fn"
) -> tuple[Tensor, Tensor]:
    """The `(inputs, targets)` of a batch, moved to `device`; ValueError if the batch is not a pair of tensors."""
    try:
        inputs, targets = batch
        if inputs.device != device or targets.device != device:  # .to() costs time even where it does nothing
            inputs, targets = inputs.to(device), targets.to(device)
        single = targets.ndim == 0
    except (AttributeError, TypeError, ValueError) as error:
        raise misuse.not_a_pair(batch, way_out) from error
    if single:
        raise ValueError(
            "a batch's targets are a single number, as of one sample: give batches (DataLoader(…, batch_size=…)), or "
            f"{way_out}."
        )
    if isinstance(batch, Tensor):  # of two rows
        raise misuse.not_a_pair(batch, way_out)
    return inputs, targets


def forward(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The outputs of `model` for a batch, and their loss as a tensor of no dimension. NaN passes."""
    if inputs.numel() == 0:
        raise ValueError(f"a batch holds no sample: its inputs have the shape {list(inputs.shape)}. Leave it out.")
    try:
        outputs = model(inputs)
    except misuse.FAILURES as error:
        misuse.explain_inputs(model, inputs, error)
        raise
    try:
        try:
            loss = loss_fn(outputs, targets)
        except (AttributeError, TypeError):
            logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
            if isinstance(outputs, Tensor) or not isinstance(logits, Tensor):
                raise
            outputs = logits  # as models of transformers return them
            loss = loss_fn(outputs, targets)
    except misuse.FAILURES as error:
        misuse.explain_targets(outputs, targets, loss_fn, error)
        raise
    misuse.check_loss(loss)
    return outputs, loss if loss.ndim == 0 else loss.reshape(())
