"""The catalogue has every scheduler of torch, and a preview of each is what training records."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from toy import network, pairs

from lrtut import CATALOGUE, preview, train
from lrtut.catalogue import STEPS


def test_catalogue_has_every_scheduler_of_the_installed_torch():
    assert set(CATALOGUE) == set(lr_scheduler.__all__) - {"LRScheduler"} | {"SWALR"}
    for name, entry in CATALOGUE.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
        assert type(entry.make(optimizer)).__name__ == entry.name == name
        assert np.ptp(preview(entry.make, lr=0.1, steps=STEPS, metric=entry.metric)) > 0
        assert entry.formula and entry.use


@pytest.mark.parametrize("name", CATALOGUE)
def test_preview_is_what_training_records(name):
    entry, model, metric = CATALOGUE[name], network(), None
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = entry.make(optimizer)
    if entry.metric:
        history = train(model, optimizer, pairs(10), epochs=STEPS, scheduler=scheduler, val=pairs(10))
        metric = history.val_loss
    else:
        data = pairs(10) * STEPS
        history = train(model, optimizer, data, epochs=1, scheduler=scheduler, scheduler_step="batch")
    expected = preview(entry.make, lr=[0.1, 0.01], steps=STEPS, metric=metric)
    np.testing.assert_array_equal(np.array(history.lrs), expected)
