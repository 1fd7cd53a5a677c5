"""Small networks, each initialised from its own seed."""

from __future__ import annotations

import math

import torch
from torch import nn

from lrtut.data import default_device
from lrtut.misuse import check_whole


def small_cnn(seed: int = 0, *, hidden: int = 96, device: torch.device | str | None = None) -> nn.Sequential:
    """A convolutional network for images `[N, 1, 28, 28]`; it returns logits `[N, 10]`.

    >>> model = lrtut.small_cnn(seed=0)
    >>> print(model(torch.zeros(2, 1, 28, 28)).shape)  # torch.Size([2, 10])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    Two strided 3 × 3 convolutions (1 → 16 → 32 channels), a hidden layer and an output layer, ReLU between them. It has
    neither dropout nor batch normalisation, so a learning rate that is too large visibly diverges.

    Args:
        seed: draws the initial weights, from torch's default distributions, without touching torch's global
            random state: several threads may make models at once.
        hidden: width of the hidden layer.
        device: None means CUDA where there is one, else the CPU.
    """
    check_whole("hidden", hidden)
    model = nn.Sequential(
        _bare(nn.Conv2d, 1, 16, 3, stride=2, padding=1),  # 28 × 28 → 14 × 14
        nn.ReLU(),
        _bare(nn.Conv2d, 16, 32, 3, stride=2, padding=1),  # → 7 × 7
        nn.ReLU(),
        nn.Flatten(),
        _bare(nn.Linear, 32 * 7 * 7, hidden),
        nn.ReLU(),
        _bare(nn.Linear, hidden, 10),
    )
    # channels_last convolutions are faster on the CPU (benchmarks/README.md).
    return _initialise(model, seed).to(default_device(device), memory_format=torch.channels_last)


def mlp(seed: int = 0, *, hidden: int = 128, device: torch.device | str | None = None) -> nn.Sequential:
    """A perceptron with one hidden layer for images `[N, 1, 28, 28]`; it returns logits `[N, 10]`.

    >>> model = lrtut.mlp(seed=0, hidden=64)
    >>> print(model(torch.zeros(2, 1, 28, 28)).shape)  # torch.Size([2, 10])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    The arguments are those of `small_cnn`.
    """
    check_whole("hidden", hidden)
    model = nn.Sequential(
        nn.Flatten(),
        _bare(nn.Linear, 28 * 28, hidden),
        nn.ReLU(),
        _bare(nn.Linear, hidden, 10),
    )
    return _initialise(model, seed).to(default_device(device))


def _bare(layer: type[nn.Module], *args, **kwargs) -> nn.Module:
    """The layer with memory but no values: its own initialisation would draw from torch's global random state."""
    return nn.utils.skip_init(layer, *args, **kwargs)


def _initialise(model: nn.Module, seed: int) -> nn.Module:
    """What `nn.Linear` and `nn.Conv2d` do by default, U(±1/√fan_in) for weight and bias, from a generator."""
    check_whole("seed", seed, least=-math.inf)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
    return model
