"""Networks that are trained as one are trained as each would be alone; what cannot be is trained one by one."""

import math
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR
from toy import pairs

from lrtut import mlp, schedules, small_cnn, train, vectorised_sweep
from lrtut.data import load_mnist

COSINE = partial(schedules.cosine_decay, steps=40)
WARMUP = partial(schedules.warmup_stable_decay, warmup=4, stable=6, decay=10)


class Double(nn.Module):
    """In float64 nothing but a mistake makes a visible difference."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()

    def forward(self, x):
        return self.model(x.double())


def network(seed, *between):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), *between, nn.Tanh(), nn.Linear(8, 3))


def with_momentum(kind):
    options = (lambda value: {"momentum": value}) if kind is SGD else (lambda value: {"betas": (value, 0.99)})
    return lambda parameters, pair: kind(parameters, lr=pair[0], **options(pair[1]))


def alone(make_model, data, lr, seed, make_optimizer, schedule=None, **options):
    model = make_model(seed)
    optimizer = make_optimizer(model.parameters(), lr)
    scheduler = schedule and LambdaLR(optimizer, schedule)
    return train(model, optimizer, data, seed=seed, scheduler=scheduler, scheduler_step="batch", **options)


def assert_same(runs, expected, rtol):
    assert len(runs) == len(expected)
    for run, history in zip(runs, expected, strict=True):
        for name in ("loss", "lr", "val_loss", "val_accuracy"):
            values = torch.tensor([getattr(h, name) for h in (run.result, history)], dtype=torch.float64)
            tolerance = rtol if name != "val_accuracy" or rtol < 1e-6 else 0.02
            torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance, equal_nan=True)
        for name in ("diverged", "epoch_ends", "steps_per_epoch"):
            assert getattr(run.result, name) == getattr(history, name)


@pytest.mark.parametrize("schedule", [None, COSINE, WARMUP], ids=["constant", "cosine", "warm-up"])
@pytest.mark.parametrize(
    "make_optimizer, lrs",
    [
        (SGD, [0.01, 0.1, 0.3]),
        (with_momentum(SGD), [(0.01, 0.9), (0.05, 0.5), (0.1, 0.0)]),
        (Adam, [0.001, 0.01]),
        (with_momentum(Adam), [(0.001, 0.9), (0.01, 0.5)]),
    ],
    ids=["sgd", "momentum", "adam", "betas"],
)
def test_each_network_is_trained_as_alone_in_its_own_order(make_optimizer, lrs, schedule):
    data, options = load_mnist("digits", train_size=200, device="cpu"), {"epochs": 2, "batch_size": 16}

    def make_model(seed):
        return Double(mlp(seed, hidden=16, device="cpu"))

    runs = vectorised_sweep(make_model, data, lrs, (0, 3), make_optimizer, schedule=schedule, **options, at_once=4)
    assert [(r.lr, r.seed) for r in runs] == [(lr, seed) for lr in lrs for seed in (0, 3)]
    expected = [alone(make_model, data, r.lr, r.seed, make_optimizer, schedule, **options) for r in runs]
    assert_same(runs, expected, 1e-9)


def test_convolutions_in_float32_on_the_same_batches():
    digits = load_mnist("digits", train_size=640, device="cpu")
    x = digits.x_train.float() / 255
    data = [(x[i : i + 32], digits.y_train[i : i + 32]) for i in range(0, 640, 32)]
    make_model = partial(small_cnn, device="cpu")
    runs = vectorised_sweep(make_model, data, [0.01, 0.1], (0, 1), epochs=5, val=data[:3])
    assert_same(runs, [alone(make_model, data, r.lr, r.seed, SGD, epochs=5, val=data[:3]) for r in runs], 1e-3)


def test_a_network_that_diverges_is_marked_and_disturbs_no_other():
    def make_model(seed):
        return Double(network(seed))

    lrs, options = [0.1, 1e200, 0.2, 1e308], {"epochs": 3, "val": pairs()}
    squares = {"loss_fn": lambda outputs, targets: (outputs - 1).pow(2).mean()}
    runs = vectorised_sweep(make_model, pairs(), lrs, **options, **squares)
    assert [r.result.diverged for r in runs] == [False, True, False, True]
    assert_same(runs, [alone(make_model, pairs(), lr, 0, SGD, **options, **squares) for lr in lrs], 1e-9)
    (last,) = vectorised_sweep(make_model, pairs()[:1], [1e200], epochs=1, val=pairs(), **squares)
    assert last.result.diverged and not math.isfinite(last.result.val_loss[-1])  # what the last step did


def test_frozen_parameters_stay():
    def make_model(seed):
        model = Double(network(seed))
        model.model[0].requires_grad_(False)
        return model

    runs = vectorised_sweep(make_model, pairs(), [0.1, 0.5], epochs=2)
    assert_same(runs, [alone(make_model, pairs(), lr, 0, SGD, epochs=2) for lr in (0.1, 0.5)], 1e-9)


class InPlace(nn.Module):
    def forward(self, x):
        out = torch.zeros(len(x), 8)
        out[:, :] = x
        return out


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    "make_layer, make_optimizer, reason",
    [
        (lambda: nn.BatchNorm1d(8), SGD, "changes the buffer 1.running_mean"),
        (lambda: nn.Dropout(0.5), SGD, "random"),
        (InPlace, SGD, "in-?place"),
        (Branch, SGD, "control flow"),
        (nn.Identity, torch.optim.AdamW, "optimizer is AdamW, neither SGD nor Adam"),
        (nn.Identity, partial(SGD, momentum=0.9, nesterov=True), "optimizer has nesterov=True"),
    ],
    ids=["batchnorm", "dropout", "in-place", "branch", "adamw", "nesterov"],
)
def test_what_cannot_be_vectorised_is_named_and_trained_one_by_one(make_layer, make_optimizer, reason):
    with pytest.warns(RuntimeWarning) as said:
        runs = vectorised_sweep(
            lambda seed: network(seed, make_layer()), pairs(), [0.1], (0,), make_optimizer, epochs=2
        )
    message = str(said[0].message)
    assert re.search(f"one by one: .*{reason}", message) and said[0].filename == __file__, message
    assert len(runs) == 1 and len(runs[0].result.loss) == 12


@pytest.mark.parametrize("difference", ["layers", "optimizers"])
def test_networks_that_differ_are_trained_one_by_one(difference):
    def make_model(seed):
        return network(0, nn.Tanh() if seed and difference == "layers" else nn.Sigmoid())

    def make_optimizer(parameters, lr):
        return (Adam if lr == 0.1 and difference == "optimizers" else SGD)(parameters, lr=lr)

    with pytest.warns(RuntimeWarning, match="one by one: (make_model gives different|some optimizers are)"):
        runs = vectorised_sweep(make_model, pairs(), [0.1, 0.2], (0, 1), make_optimizer, epochs=2)
    assert_same(runs, [alone(make_model, pairs(), r.lr, r.seed, make_optimizer, epochs=2) for r in runs], 0)


def test_errors_are_those_of_train():
    wrong = (torch.zeros(2, 4), torch.tensor([0, 7]))
    for options in ({"data": [wrong]}, {"data": [*pairs(), wrong]}, {"data": pairs(), "val": [wrong]}):
        with pytest.raises(ValueError, match="targets hold 7, but the model has 3 outputs"):
            vectorised_sweep(network, lrs=[0.1], epochs=1, **options)
    for factor, message in ((-1.0, "Look at schedule"), (None, r"schedule\(0\) is None: return one number")):
        with pytest.raises(ValueError, match=message):
            vectorised_sweep(network, pairs(), [0.1], epochs=1, schedule=lambda step, factor=factor: factor)


@pytest.mark.parametrize("name", ["make_model", "make_optimizer"])
def test_functions_of_other_arguments_are_named(name):
    makers = {"make_model": network, "make_optimizer": SGD} | {name: lambda: None}
    with pytest.raises(ValueError, match=rf"{name} takes \(\), and is given"):
        vectorised_sweep(data=pairs(), lrs=[0.1], epochs=1, **makers)
