"""The course's networks: drawn from a seed as torch would draw them, without touching anybody's random numbers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from lrtut import mlp, small_cnn, tiny_gpt


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def gpt(seed=0, *, device, **sizes):
    return tiny_gpt(20, seed, device=device, **sizes)


@pytest.mark.parametrize("make", [small_cnn, mlp, gpt])
def test_seeded_and_silent(make):
    state = torch.get_rng_state()
    expected = {seed: weights(make(seed, device="cpu")) for seed in range(8)}
    with ThreadPoolExecutor(8) as pool:  # several at once, as in a sweep
        again = list(pool.map(lambda seed: weights(make(seed, device="cpu")), [*range(8)] * 10))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(expected[i % 8], w) for i, w in enumerate(again))
    assert not torch.equal(expected[0], expected[1]) and torch.equal(weights(make(device="cpu")), expected[0])


@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_shapes(make):
    assert make(device="cpu", hidden=5)(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_a_gpt_sees_only_what_came_before():
    model, text = gpt(device="cpu", width=16, layers=2, heads=2, context=8), torch.randint(20, (3, 8))
    later = text.clone()
    later[:, 5:] = (later[:, 5:] + 1) % 20
    before, after = model(text), model(later)
    assert before.shape == (3, 8, 20)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6) and not torch.allclose(before[:, 5:], after[:, 5:])
    with pytest.raises(ValueError, match="9 characters: .* context=8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="width=10 with heads=4"):
        tiny_gpt(20, width=10)


def test_a_gpt_begins_at_a_spread_that_fits_its_width():
    for width in (16, 64):
        model = gpt(device="cpu", width=width, layers=2)
        std = 0.8 / width**0.5
        assert abs(model.blocks[0].mlp[0].weight.std() / std - 1) < 0.1
        # Every block adds twice to what comes in: four times here, so half as wide.
        assert abs(model.blocks[0].mlp[2].weight.std() / (std / 2) - 1) < 0.1


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
