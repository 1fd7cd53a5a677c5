import dataclasses
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from lrtut import batches, preview, train
from lrtut import schedules as s

LR = 0.1
STEPS = 1000


def sequential(optimizer):
    parts = [
        torch_schedulers.LinearLR(optimizer, start_factor=0.2, total_iters=100),
        torch_schedulers.ConstantLR(optimizer, factor=1.0),
        torch_schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=500),
    ]
    return torch_schedulers.SequentialLR(optimizer, parts, milestones=[100, 400])


TWINS = {
    "constant": (partial(s.constant, factor=0.3), partial(torch_schedulers.ConstantLR, factor=0.3, total_iters=10**9)),
    "time_decay": (partial(s.time_decay, k=0.01), partial(LambdaLR, lr_lambda=lambda t: 1 / (1 + 0.01 * t))),
    "step_decay": (partial(s.step_decay, step_size=90, gamma=0.5), partial(StepLR, step_size=90, gamma=0.5)),
    "exponential_decay": (
        partial(s.exponential_decay, gamma=0.99),
        partial(torch_schedulers.ExponentialLR, gamma=0.99),
    ),
    "polynomial_decay": (
        partial(s.polynomial_decay, steps=800, power=2.0),
        partial(torch_schedulers.PolynomialLR, total_iters=800, power=2.0),
    ),
    "cosine_decay": (
        partial(s.cosine_decay, steps=STEPS, final=0.01),
        partial(torch_schedulers.CosineAnnealingLR, T_max=STEPS, eta_min=0.01 * LR),
    ),
    "linear_warmup": (
        partial(s.linear_warmup, steps=300, start=0.05),
        partial(torch_schedulers.LinearLR, start_factor=0.05, total_iters=300),
    ),
    "warmup_stable_decay": (
        partial(s.warmup_stable_decay, warmup=100, stable=300, decay=500, start=0.2, final=0.05),
        sequential,
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_pure_functions_agree_with_torch(name):
    function, twin = TWINS[name]
    ours = LR * np.array([function(t) for t in range(STEPS)])
    theirs = preview(twin, lr=LR, steps=STEPS)[:, 0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", TWINS)
def test_pure_functions_fit_lambda_lr(name):
    function, _ = TWINS[name]
    ours = LR * np.array([function(t) for t in range(50)])
    np.testing.assert_array_equal(preview(lambda o: LambdaLR(o, function), lr=LR, steps=50)[:, 0], ours)


def test_ends_and_beyond():
    assert s.polynomial_decay(10, steps=10) == s.polynomial_decay(99, steps=10) == 0
    assert s.cosine_decay(99, steps=10, final=0.2) == pytest.approx(0.2)
    assert s.linear_warmup(0, steps=10, start=0.3) == 0.3 and s.linear_warmup(99, steps=10) == 1
    wsd = partial(s.warmup_stable_decay, warmup=4, stable=3, decay=5)
    assert [wsd(t) for t in (4, 7, 12, 99)] == [1, 1, 0, 0] and wsd(0) == 0.1
    assert s.warmup_stable_decay(0, warmup=0, stable=1, decay=1) == 1  # no warm-up
    for function in (s.polynomial_decay, s.cosine_decay, s.linear_warmup):
        with pytest.raises(ValueError, match="steps=0: give a whole number"):
            function(1, steps=0)
    with pytest.raises(ValueError, match="step_size=0"):
        s.step_decay(1, step_size=0, gamma=0.1)
    with pytest.raises(ValueError, match="decay=0"):
        s.warmup_stable_decay(1, warmup=1, stable=1, decay=0)


def test_defaults():
    assert [s.constant(t) for t in (0, 9)] == [1.0, 1.0]
    assert s.polynomial_decay(5, steps=10) == 0.5 and s.cosine_decay(10, steps=10) == 0
    assert s.linear_warmup(0, steps=10) == 0.1
    assert s.warmup_stable_decay(0, warmup=4, stable=1, decay=2) == 0.1
    assert s.warmup_stable_decay(7, warmup=4, stable=1, decay=2) == 0


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "3", math.nan])
def test_steps_that_are_none_are_named(steps):
    for call in (
        lambda: s.step_decay(1, step_size=steps, gamma=0.5),
        lambda: s.polynomial_decay(1, steps=steps),
        lambda: s.cosine_decay(1, steps=steps),
        lambda: s.linear_warmup(1, steps=steps),
        lambda: s.warmup_stable_decay(9, warmup=1, stable=1, decay=steps),
    ):
        with pytest.raises(ValueError, match=f"={steps!r}: give a whole number of at least 1"):
            call()


def test_one_step_is_enough_and_numpy_counts_too():
    assert s.step_decay(2, step_size=1, gamma=0.5) == s.step_decay(2, step_size=np.int64(1), gamma=0.5) == 0.25
    assert s.linear_warmup(1, steps=1) == 1 and s.cosine_decay(0, steps=1) == 1 and s.polynomial_decay(0, steps=1) == 1
    table = preview(lambda o: StepLR(o, 1, gamma=0.5), lr=np.array([1.0, 0.5]), steps=np.int64(1))
    assert table.tolist() == [[1.0, 0.5]]


def test_an_entry_stays_as_it_is():
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.CATALOGUE["StepLR"].name = "other"


def test_the_loss_that_a_preview_of_plateau_is_given_falls_for_ten_steps():
    metric = s.CATALOGUE["ReduceLROnPlateau"].metric
    assert [metric(t) for t in (0, 1, 9, 10, 11, 59)] == pytest.approx([1.0, 0.95, 0.55, 0.5, 0.5, 0.5])
    assert [name for name, entry in s.CATALOGUE.items() if entry.metric] == ["ReduceLROnPlateau"]


# --- preview --------------------------------------------------------------------------------------------------------


def test_preview_has_a_row_a_step_and_a_column_a_group():
    table = preview(lambda o: StepLR(o, 2, gamma=0.5), lr=[1.0, 0.1, 0.0], steps=5)
    assert table.dtype == np.float64
    np.testing.assert_allclose(table, np.array([1, 1, 0.5, 0.5, 0.25])[:, None] * [1.0, 0.1, 0.0])


def test_preview_leaves_the_scheduler_that_trains_alone():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    preview(lambda o: StepLR(o, 1, gamma=0.5), lr=1.0, steps=9)
    assert optimizer.param_groups[0]["lr"] == 1.0 and scheduler.last_epoch == 0


def test_preview_hands_warnings_on():
    def warns(optimizer):
        warnings.warn("mind this", UserWarning, stacklevel=1)
        return StepLR(optimizer, 1)

    with pytest.warns(UserWarning, match="mind this"):
        preview(warns, lr=0.1, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preview(lambda o: StepLR(o, 1), lr=0.1, steps=3)  # and adds none of its own


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_preview_refuses_steps(steps):
    with pytest.raises(ValueError, match=f"steps={steps!r}: give a whole number of at least 1"):
        preview(lambda o: StepLR(o, 1), lr=0.1, steps=steps)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf, [0.1, -0.2]])
def test_preview_refuses_rates(lr):
    with pytest.raises(ValueError, match="a learning rate is finite and not negative"):
        preview(lambda o: StepLR(o, 1), lr=lr, steps=1)


def test_preview_refuses_a_scheduler_of_another_optimizer():
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError, match="StepLR belongs to another optimizer.*make_scheduler is given"):
        preview(lambda o: StepLR(other, 1), lr=0.1, steps=1)
    assert other.param_groups[0]["lr"] == 1.0


def test_preview_refuses_a_factory_of_something_else():
    with pytest.raises(TypeError, match="make_scheduler returned None"):
        preview(lambda o: None, lr=0.1, steps=1)


def test_preview_of_plateau_wants_a_metric():
    def make(optimizer):
        return ReduceLROnPlateau(optimizer, patience=0, factor=0.5)

    with pytest.raises(ValueError, match="give metric="):
        preview(make, lr=1.0, steps=3)
    with pytest.raises(ValueError, match="metric has 2 values for 3 steps"):
        preview(make, lr=1.0, steps=3, metric=[1.0, 1.0])
    expected = [1.0, 1.0, 0.5, 0.25]
    assert preview(make, lr=1.0, steps=4, metric=[1.0] * 4)[:, 0].tolist() == expected
    assert preview(make, lr=1.0, steps=4, metric=[1.0] * 9)[:, 0].tolist() == expected  # the rest is not needed
    assert preview(make, lr=1.0, steps=4, metric=lambda step: 1.0)[:, 0].tolist() == expected


def test_preview_goes_no_farther_than_the_scheduler():
    with pytest.raises(ValueError, match="Tried to step"):
        preview(lambda o: OneCycleLR(o, 0.1, total_steps=5), lr=0.1, steps=6)


# --- the catalogue --------------------------------------------------------------------------------------------------


def test_catalogue_has_every_scheduler_of_the_installed_torch():
    torchs = set(torch_schedulers.__all__) - {"LRScheduler"} | {"SWALR"}
    assert set(s.CATALOGUE) == torchs
    for name, entry in s.CATALOGUE.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR, momentum=0.9)
        assert type(entry.make(optimizer)).__name__ == entry.name == name
        assert entry.formula and entry.use.endswith(".")


# Rows of the preview at which each entry is in one of its regimes, with the factor of the first group's 0.1 there.
REGIMES = {
    "LambdaLR": {0: 0.1, 5: 0.55, 25: 1.0, 50: 0.5},
    "MultiplicativeLR": {1: 0.9, 19: 0.9**19, 39: 0.9**19, 41: 0.9**19 * 0.8**2},
    "StepLR": {14: 1.0, 15: 0.3, 30: 0.09, 45: 0.027},
    "MultiStepLR": {19: 1.0, 20: 0.3, 35: 0.09, 50: 0.027},
    "ConstantLR": {0: 0.3, 19: 0.3, 20: 1.0, 59: 1.0},  # it has two
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
OVERWRITES = {"CyclicLR", "OneCycleLR", "SWALR"}  # the rate that it ends at, or starts from, is its own


def test_the_catalogues_steps_fall_where_its_lines_say():
    rates = {name: s.preview(s.CATALOGUE[name].make, lr=1.0, steps=60)[:, 0] for name in ("StepLR", "MultiStepLR")}
    falls = {name: (np.flatnonzero(np.diff(of)) + 1).tolist() for name, of in rates.items()}
    assert falls == {"StepLR": [15, 30, 45], "MultiStepLR": [20, 35, 50]}
    assert all(np.isclose(of[-1], 0.3**3) for of in rates.values())


@pytest.mark.parametrize("name", s.CATALOGUE)
def test_each_entry_runs_through_its_regimes_in_two_groups(name):
    entry = s.CATALOGUE[name]
    table = preview(entry.make, lr=[LR, LR / 10], steps=s.STEPS, metric=entry.metric)
    assert table.shape == (s.STEPS, 2) and len(REGIMES[name]) >= 3
    for step, factor in REGIMES[name].items():
        assert table[step, 0] == pytest.approx(LR * factor, rel=0.02, abs=1e-9), step
    if name not in OVERWRITES:
        np.testing.assert_allclose(table[:, 1], table[:, 0] / 10, rtol=1e-9, atol=1e-15)
    elif name != "SWALR":
        np.testing.assert_array_equal(table[:, 1], table[:, 0])


@pytest.mark.parametrize("name", s.CATALOGUE)
def test_preview_is_what_training_records(name):
    entry = s.CATALOGUE[name]
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    groups = [{"params": model[0].parameters(), "lr": LR}, {"params": model[1].parameters(), "lr": LR / 10}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(s.STEPS * 2, 4, generator=generator)
    y = torch.randint(0, 2, (len(x),), generator=generator)
    scheduler = entry.make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        data = batches(x[:8], y[:8], 8)  # one batch an epoch
        history = train(model, optimizer, data, epochs=s.STEPS, scheduler=scheduler, val=data, progress=False)
        metric = history.val_loss
    else:
        data = batches(x, y, 2)
        history = train(model, optimizer, data, epochs=1, scheduler=scheduler, scheduler_step="batch", progress=False)
        metric = None
    expected = preview(entry.make, lr=[LR, LR / 10], steps=s.STEPS, metric=metric)
    np.testing.assert_array_equal(np.array(history.lrs), expected)
