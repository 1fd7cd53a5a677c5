"""The sharpness is the largest eigenvalue of the Hessian, as torch's dense one gives it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrtut import mlp, sharpness, tiny_gpt


def dense(model, x, y, loss_fn):
    weights = dict(model.named_parameters())
    sizes = [p.numel() for p in weights.values()]

    def loss(flat):
        parts = {n: f.view_as(p) for (n, p), f in zip(weights.items(), flat.split(sizes), strict=True)}
        return loss_fn(torch.func.functional_call(model, parts, (x,)), y)

    start = torch.cat([p.detach().flatten() for p in weights.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, start))


def test_as_the_dense_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randint(3, (20,))
    value, vector = sharpness(model, x, y, iterations=500)
    expected = dense(model, x, y, F.cross_entropy)[-1].item()
    assert value == pytest.approx(expected, rel=1e-6) and vector.norm().item() == pytest.approx(1)
    assert sharpness(model, x, y, iterations=1, vector=vector)[0] == pytest.approx(expected, rel=1e-6)
    # The most negative curvature is the larger one in size: not what is asked for.
    down = lambda outputs, targets: -F.cross_entropy(outputs, targets)  # noqa: E731
    expected = dense(model, x, y, down)[-1].item()
    assert sharpness(model, x, y, down, iterations=3000)[0] == pytest.approx(expected, rel=1e-3)
    assert all(p.grad is None for p in model.parameters())


def test_attention_has_one_too():
    model, numbers = tiny_gpt(9, width=8, heads=2, context=6, device="cpu"), torch.randint(9, (4, 7))
    loss_fn = lambda logits, targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # noqa: E731
    assert sharpness(model, numbers[:, :-1], numbers[:, 1:], loss_fn)[0] > 0


def test_what_it_cannot_do():
    x, y = torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"vector has the shape \[3\]"):
        sharpness(mlp(device="cpu"), x, y, vector=torch.ones(3))
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="vector is zero"):
        sharpness(model, torch.ones(1, 2), torch.ones(1, 1), F.mse_loss, vector=torch.zeros(3))
    for linear in (model, nn.Sequential(model, nn.ReLU())):  # without a curvature, with one that is zero
        value, vector = sharpness(linear, torch.ones(1, 2), torch.ones(1, 1), lambda outputs, targets: outputs.sum())
        assert value == 0 and vector.isfinite().all()
    frozen = mlp(device="cpu").requires_grad_(False)
    with pytest.raises(ValueError, match="no weight that requires a gradient"):
        sharpness(frozen, x, y)


def test_a_weight_without_a_part_in_the_loss_is_no_curve():
    class Spare(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.spare = nn.Parameter(torch.ones(5))

    torch.manual_seed(0)
    model, x, y = Spare(), torch.randn(10, 4), torch.arange(10) % 3
    value, vector = sharpness(model, x, y)
    model.spare = None
    assert not vector[-5:].any() and sharpness(model, x, y, vector=vector[:-5])[0] == pytest.approx(value, rel=0.01)
    with pytest.raises(ValueError, match=r"convert them, by targets\.long\(\)"):
        sharpness(model, x, y.float())
