import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torchs

from lrtut import CATALOGUE, batches, preview, train
from lrtut.catalogue import STEPS

LR = 0.1


def test_catalogue_has_every_scheduler_of_the_installed_torch():
    assert set(CATALOGUE) == set(torchs.__all__) - {"LRScheduler"} | {"SWALR"}
    for name, entry in CATALOGUE.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR, momentum=0.9)
        assert type(entry.make(optimizer)).__name__ == entry.name == name
        assert entry.formula and entry.use.endswith(".")


# Steps at which each entry is in one of its regimes, and the factor of the first group's 0.1 there.
REGIMES = {
    "LambdaLR": {0: 0.1, 5: 0.55, 25: 1.0, 50: 0.5},
    "MultiplicativeLR": {1: 0.9, 19: 0.9**19, 39: 0.9**19, 41: 0.9**19 * 0.8**2},
    "StepLR": {14: 1.0, 15: 0.3, 29: 0.3, 30: 0.09, 45: 0.027},
    "MultiStepLR": {19: 1.0, 20: 0.3, 34: 0.3, 35: 0.09, 50: 0.027},
    "ConstantLR": {0: 0.3, 19: 0.3, 20: 1.0, 59: 1.0},
    "LinearLR": {0: 0.1, 10: 0.55, 20: 1.0, 59: 1.0},
    "ExponentialLR": {0: 1.0, 10: 0.93**10, 59: 0.93**59},
    "PolynomialLR": {0: 1.0, 15: 4 / 9, 44: (1 / 45) ** 2, 45: 0.0, 59: 0.0},
    "CosineAnnealingLR": {0: 1.0, 25: 0.0, 50: 1.0, 55: (1 + math.cos(math.pi * 30 / 25 + math.pi)) / 2},
    "CosineAnnealingWarmRestarts": {0: 1.0, 5: 0.5, 10: 1.0, 20: 0.5, 30: 1.0, 50: 0.5},
    "CyclicLR": {0: 0.1, 8: 1.0, 14: 0.55, 20: 0.1, 28: 1.0, 48: 1.0},
    "OneCycleLR": {0: 1 / 25, 17: 1.0, 34: 1 / 25, 59: 1 / 250_000},
    "ReduceLROnPlateau": {20: 1.0, 21: 0.3, 31: 0.09, 41: 0.027},
    "SequentialLR": {0: 0.1, 5: 0.55, 25: 1.0, 50: 0.525},
    "ChainedScheduler": {0: 0.1, 5: 0.55, 15: 1.0, 25: 0.5, 45: 0.25},
    "SWALR": {0: 1.0, 10: 0.6, 20: 0.2, 59: 0.2},
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_entry_runs_through_its_regimes_in_two_groups(name):
    entry = CATALOGUE[name]
    table = preview(entry.make, lr=[LR, LR / 10], steps=STEPS, metric=entry.metric)
    assert table.shape == (STEPS, 2)
    for step, factor in REGIMES[name].items():
        assert table[step, 0] == pytest.approx(LR * factor, rel=0.02, abs=1e-9), step
    if name in ("CyclicLR", "OneCycleLR"):  # they overwrite the optimizer's rates
        np.testing.assert_array_equal(table[:, 1], table[:, 0])
    elif name != "SWALR":
        np.testing.assert_allclose(table[:, 1], table[:, 0] / 10, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", CATALOGUE)
def test_preview_is_what_training_records(name):
    entry = CATALOGUE[name]
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    groups = [{"params": model[0].parameters(), "lr": LR}, {"params": model[1].parameters(), "lr": LR / 10}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(STEPS * 2, 4, generator=generator), torch.randint(0, 2, (STEPS * 2,), generator=generator)
    options = {"scheduler": entry.make(optimizer), "progress": False}
    metric = None
    if entry.metric:
        data = batches(x[:8], y[:8], 8)  # one batch an epoch
        history = train(model, optimizer, data, epochs=STEPS, val=data, **options)
        metric = history.val_loss
    else:
        history = train(model, optimizer, batches(x, y, 2), epochs=1, scheduler_step="batch", **options)
    expected = preview(entry.make, lr=[LR, LR / 10], steps=STEPS, metric=metric)
    np.testing.assert_array_equal(np.array(history.lrs), expected)
