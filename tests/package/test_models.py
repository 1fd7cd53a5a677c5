"""The course's networks: drawn from a seed as torch would draw them, without touching anybody's random numbers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from lrtut import mlp, small_cnn


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_seeded_and_silent(make):
    state = torch.get_rng_state()
    expected = {seed: weights(make(seed, device="cpu")) for seed in range(8)}
    with ThreadPoolExecutor(8) as pool:  # several at once, as in a sweep
        again = list(pool.map(lambda seed: weights(make(seed, device="cpu")), [*range(8)] * 10))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(expected[i % 8], w) for i, w in enumerate(again))
    assert not torch.equal(expected[0], expected[1]) and torch.equal(weights(make(device="cpu")), expected[0])
    assert make(device="cpu", hidden=5)(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_distribution_is_torchs_default(make):
    torch.manual_seed(0)
    for layer in make(device="cpu"):
        if not hasattr(layer, "weight"):
            continue
        ours = layer.weight.detach().clone(), layer.bias.detach().clone()
        layer.reset_parameters()  # torch's own draw
        for mine, theirs in zip(ours, (layer.weight, layer.bias), strict=True):
            bound = 1 / layer.weight[0].numel() ** 0.5
            assert mine.abs().max() <= bound and theirs.abs().max() <= bound + 1e-7
            if mine.numel() > 1000:
                assert abs(mine.std() / theirs.std() - 1) < 0.1


@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_nothing_in_them_hides_divergence(make):
    """Normalisation would; dropout would draw random numbers."""
    assert {type(layer) for layer in make()} <= {nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear}
