"""How sharply a loss curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrtut.evaluation import forward
from lrtut.misuse import check_gradient, check_kind, check_parts, check_whole


def sharpness(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    *,
    iterations: int = 40,
    vector: Tensor | None = None,
) -> tuple[float, Tensor]:
    """The largest curvature of a loss, in any direction of the weights, and that direction `[weights]`, of length 1.

    >>> value, vector = lrtut.sharpness(model, x, y)
    >>> print(f"gradient descent is stable below a rate of {2 / value:.3g}")
    >>> value, vector = lrtut.sharpness(model, x, y, vector=vector)  # after a few more steps: starts where it was

    It is the largest eigenvalue of the loss's Hessian over the weights that require a gradient, by power iteration with
    Hessian-vector products (Pearlmutter 1994). An iteration costs about three passes forward and back, and too few read
    too low: 40 from a random start may miss a few percent, where the two largest are close; a `vector` from a moment
    before needs fewer. The model is used as it is, in train or eval mode (BatchNorm in train mode counts the passes).

    Args:
        model: maps `inputs` to what `loss_fn` takes.
        inputs: a batch; take the whole training set for the loss that full-batch descent sees.
        targets: its targets.
        loss_fn: `(outputs, targets)` → one number, twice differentiable.
        iterations: Hessian-vector products, at least 1.
        vector: where to start, `[weights]`; None draws a start from a fixed seed.

    Raises:
        ValueError: `model` is no module, or has no weight that requires a gradient; `vector` is zero, or of another
            length.
    """
    check_parts(model, {"loss_fn": loss_fn})
    check_whole("iterations", iterations)
    weights = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in weights)
    if not weights:
        raise ValueError("model has no weight that requires a gradient: there is nothing to curve along.")
    if vector is None:
        generator = torch.Generator("cpu").manual_seed(0)
        vector = torch.randn(count, generator=generator, device="cpu").to(weights[0])
    check_kind("vector", vector, Tensor, "give a tensor [weights], or None")
    if vector.shape != (count,):
        raise ValueError(f"vector has the shape {list(vector.shape)}: this model has {count} weights.")
    if not vector.any():
        raise ValueError("vector is zero: it has no direction. Give another, or None.")

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        loss = forward(model, inputs, targets, loss_fn)[1]
        check_gradient(loss)
        gradient = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        flat = torch.cat([g.flatten() for g in gradient])
        if not flat.requires_grad:  # the loss is linear
            return 0.0, vector / vector.norm()

        def iterate(vector: Tensor, shift: float) -> tuple[float, Tensor]:
            value = math.nan
            for _ in range(iterations):
                vector = vector / vector.norm()
                product = torch.autograd.grad(flat, weights, vector, retain_graph=True, materialize_grads=True)
                product = torch.cat([p.flatten() for p in product])
                if not product.any():
                    return 0.0, vector  # it is linear where it is now
                value, vector = torch.dot(product, vector).item(), product + shift * vector
            return value, vector / vector.norm()

        value, along = iterate(vector, 0.0)
        if value < 0:  # the iteration went to the most negative curvature; lifted by that much, it is the smallest
            value, along = iterate(vector, -value)
    return value, along.detach()
