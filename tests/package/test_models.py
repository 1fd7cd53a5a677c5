from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lrtut import mlp, small_cnn


@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_seeded_and_silent(make):
    state = torch.get_rng_state()
    weights = [torch.cat([p.flatten() for p in make(seed, device="cpu").parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert make(0, device="cpu")(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_eight_threads_fifty_repetitions():
    expected = {seed: torch.cat([p.flatten() for p in small_cnn(seed).parameters()]) for seed in range(8)}

    def same(seed):
        return torch.equal(expected[seed], torch.cat([p.flatten() for p in small_cnn(seed).parameters()]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, [seed for _ in range(50) for seed in range(8)]))


@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_distribution_is_torchs_default(make):
    torch.manual_seed(0)
    ours = make(0, device="cpu")
    for layer in ours:
        if not hasattr(layer, "weight"):
            continue
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        layer.reset_parameters()  # torch's own draw
        for mine, theirs in zip(before, (layer.weight, layer.bias), strict=True):
            bound = 1 / layer.weight[0].numel() ** 0.5
            assert mine.abs().max() <= bound and theirs.abs().max() <= bound + 1e-7
            if mine.numel() > 1000:
                assert abs(mine.std() / theirs.std() - 1) < 0.1


def test_no_layer_that_hides_divergence():
    names = {type(layer).__name__ for layer in small_cnn()}
    assert names == {"Conv2d", "ReLU", "Flatten", "Linear"}
    channels = [(c.in_channels, c.out_channels, c.stride, c.kernel_size) for c in small_cnn() if hasattr(c, "stride")]
    assert channels == [(1, 16, (2, 2), (3, 3)), (16, 32, (2, 2), (3, 3))]
