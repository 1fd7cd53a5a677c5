"""What holds on the CPU holds on a CUDA device: `uv run pytest -m gpu`; skipped where there is none."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lrtut

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def digits():
    """The small digits on the GPU, which is where they go by themselves, and on the CPU."""
    return lrtut.load_mnist("digits"), lrtut.load_mnist("digits", device="cpu")


def trained(data, device, make=lrtut.small_cnn, epochs=3):
    model = make(seed=0, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = lrtut.batches(data.x_train, data.y_train, 64, seed=1, drop_last=True)
    history = lrtut.train(model, optimizer, batches, epochs=epochs, progress=False)
    loss, accuracy = lrtut.evaluate(model, lrtut.batches(data.x_val, data.y_val, 500, shuffle=False))
    return history, loss, accuracy


def test_data_and_models_go_to_the_gpu_by_themselves(digits):
    on_gpu, on_cpu = digits
    assert on_gpu.x_train.is_cuda and not on_cpu.x_train.is_cuda
    assert torch.equal(on_gpu.x_train.cpu(), on_cpu.x_train) and torch.equal(on_gpu.y_val.cpu(), on_cpu.y_val)
    for make in (lrtut.mlp, lrtut.small_cnn):
        ours, theirs = make(seed=3), make(seed=3, device="cpu")
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert a.is_cuda and torch.equal(a.cpu(), b)  # a seed means the same weights everywhere


@pytest.mark.parametrize("make", [lrtut.mlp, lrtut.small_cnn])
def test_training_is_that_of_the_cpu(digits, make):
    (gpu, gpu_loss, gpu_accuracy), (cpu, cpu_loss, cpu_accuracy) = (
        trained(data, data.x_train.device, make) for data in digits
    )
    assert gpu.lr == cpu.lr and len(gpu.loss) == len(cpu.loss)
    # TF32 and another order of sums: the first steps agree, and the end is as good.
    assert np.allclose(gpu.loss[:10], cpu.loss[:10], rtol=5e-3)
    assert gpu_accuracy > 0.85 and abs(gpu_accuracy - cpu_accuracy) < 0.03 and abs(gpu_loss - cpu_loss) < 0.1


def normed_and_dropped():
    """A network whose buffers change as it trains and that draws from the GPU's random state."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)]
    return nn.Sequential(*layers).cuda()


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "capturable": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3, device="cuda"), capturable=True),
}


def everything(model, optimizer):
    """All that training may change, as copies."""
    return copy.deepcopy([model.state_dict(), optimizer.state_dict(), torch.cuda.get_rng_state_all()])


def addresses(model, optimizer):
    state = [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    return [t.data_ptr() for t in (*model.parameters(), *model.buffers(), *state)]


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["whole", KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_range_test_puts_back_every_bit(digits, kind, how):
    data, _ = digits
    model = normed_and_dropped()
    optimizer = OPTIMIZERS[kind](model.parameters())
    batches = lrtut.batches(data.x_train, data.y_train, 64)
    lrtut.train(model, optimizer, batches, epochs=1, progress=False)
    before, places = everything(model, optimizer), addresses(model, optimizer)
    if how == "whole":
        test = lrtut.lr_range_test(model, optimizer, batches, steps=60, progress=False)
        assert np.isfinite(test.loss[:20]).all()
    else:
        calls = []

        def loss_fn(outputs, targets):
            calls.append(1)
            if len(calls) == 8:
                raise how
            return F.cross_entropy(outputs, targets)

        with pytest.raises(type(how)):
            lrtut.lr_range_test(model, optimizer, batches, loss_fn, steps=60, progress=False)
    assert_same(everything(model, optimizer), before)
    assert addresses(model, optimizer) == places


def test_a_rate_that_is_a_tensor_on_the_gpu_is_swept(digits):
    data, _ = digits
    model = lrtut.mlp(seed=0)
    optimizer = OPTIMIZERS["capturable"](model.parameters())
    rate = optimizer.param_groups[0]["lr"]
    test = lrtut.lr_range_test(
        model, optimizer, lrtut.batches(data.x_train, data.y_train, 64), start_lr=1e-5, end_lr=1.0, progress=False
    )
    assert 1e-4 < test.suggestion() < 0.1
    assert optimizer.param_groups[0]["lr"] is rate and rate.is_cuda and rate.item() == pytest.approx(1e-3)


def test_sweep_sees_random_numbers_drawn_on_the_gpu():
    torch.rand(1, device="cuda")
    with pytest.warns(RuntimeWarning, match="drew random numbers"):
        lrtut.sweep(lambda lr, seed: torch.rand(1, device="cuda").item(), lrs=[0.1, 0.2], progress=False)
