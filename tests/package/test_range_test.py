import copy
import dataclasses
import itertools
import json
import math
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import lrtut
from lrtut import NoSuggestion, RangeTest, batches, lr_range_test, train
from lrtut.finder import rules
from lrtut.finder.rules import LEAST, ONE_CYCLE, RULES


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the sweep --------------------------------------------------------------------------------------------------


def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    return x, (x @ torch.randn(4, 3, generator=generator)).argmax(1)


def pairs():
    x, y = problem()
    return [(x[i : i + 10], y[i : i + 10]) for i in range(0, 60, 10)]


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def sgd(model, lr=0.1, **kwargs):
    return torch.optim.SGD(model.parameters(), lr=lr, **kwargs)


def sweep(model, optimizer, data=None, **kwargs):
    data = pairs() if data is None else data
    return lr_range_test(model, optimizer, data, **{"steps": 25, "progress": False} | kwargs)


@pytest.mark.parametrize("make", [sgd, lambda m: sgd(m, momentum=0.9), lambda m: torch.optim.Adam(m.parameters())])
@pytest.mark.parametrize("scale, space", [("exponential", np.geomspace), ("linear", np.linspace)])
def test_records_the_rate_of_each_step_and_the_loss_before_it(make, scale, space):
    model = network()
    test = sweep(model, make(model), start_lr=1e-3, end_lr=1.0, steps=40, scale=scale, stop_when_diverged=False)

    optimizer, losses = make(model), []
    for rate, (x, y) in zip(test.lr.tolist(), (pairs() * 7)[:40], strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert test.loss.tolist() == losses and test.lr == pytest.approx(space(1e-3, 1.0, 40), rel=1e-12)
    assert test.lrs.shape == (40, 1) and test.lrs.dtype == test.loss.dtype == np.float64


def test_first_and_last_rate_are_those_asked_for():
    model = network()
    test = sweep(model, sgd(model), start_lr=3e-5, end_lr=0.7)
    assert test.lr[0] == 3e-5 and test.lr[-1] == 0.7
    assert np.diff(np.log(test.lr)) == pytest.approx(math.log(0.7 / 3e-5) / 24)


def test_linear_scale_takes_equal_steps_in_the_rate():
    model = network()
    test = sweep(model, sgd(model), start_lr=0.01, end_lr=0.25, scale="linear")
    assert test.lr == pytest.approx(np.arange(1, 26) / 100)


def three_groups(rates):
    model = network(nn.Linear(8, 8))
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    groups = [{"params": layer.parameters(), "lr": lr} for layer, lr in zip(layers, rates, strict=True)]
    return model, torch.optim.SGD(groups)


@pytest.mark.parametrize(
    "rates, ratios",
    [
        ((0.1, 0.01, 0.2), (1, 0.1, 2)),
        ((0.1, 0.0, 0.1), (1, 0, 1)),
        ((0.0, 0.0, 0.0), (1, 1, 1)),
        ((3, 3, 3), (1, 1, 1)),
    ],
)
def test_groups_keep_their_ratios(rates, ratios):
    model, optimizer = three_groups(rates)
    used = []

    def loss_fn(outputs, targets):
        used.append([group["lr"] for group in optimizer.param_groups])
        return F.cross_entropy(outputs, targets)

    test = sweep(model, optimizer, start_lr=0.03, end_lr=0.7, loss_fn=loss_fn)
    assert test.lrs.tolist() == used and test.lr[0] == 0.03
    assert test.lrs / test.lr[:, None] == pytest.approx(np.tile(ratios, (25, 1)))
    assert [group["lr"] for group in optimizer.param_groups] == list(rates)


def test_a_rate_that_is_a_tensor_is_recorded_as_the_step_saw_it_and_never_written_to():
    model, optimizer = three_groups((0.1, 0.2, 0.1))
    shared = torch.tensor(0.1)  # float32, in two groups
    for i in (0, 2):
        optimizer.param_groups[i]["lr"] = shared
    used = []

    def loss_fn(outputs, targets):
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        assert shared.item() == torch.tensor(0.1).item()
        assert [isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups] == [True, False, True]
        return F.cross_entropy(outputs, targets)

    test = sweep(model, optimizer, end_lr=0.5, loss_fn=loss_fn)
    assert test.lrs.tolist() == used  # rounded to float32 where the rate is one
    assert (
        all(float(np.float32(rate)) == rate for rate in test.lr) and test.lrs[:, 0].tolist() == test.lrs[:, 2].tolist()
    )
    assert any(float(np.float32(rate)) != rate for rate in test.lrs[:, 1])
    assert optimizer.param_groups[0]["lr"] is shared and optimizer.param_groups[2]["lr"] is shared


def test_the_rate_of_a_single_group_stays_a_tensor_where_it_was_one():
    model = network()
    optimizer, seen = sgd(model, lr=torch.tensor(0.1)), []

    def loss_fn(outputs, targets):
        seen.append(type(optimizer.param_groups[0]["lr"]))
        return F.cross_entropy(outputs, targets)

    sweep(model, optimizer, loss_fn=loss_fn)
    assert set(seen) == {torch.Tensor}


@pytest.mark.parametrize(
    "rates", [(0.0, 0.1, 0.1), (-0.1, 0.1, 0.1), (math.nan, 0.1, 0.1), (0.1, float("inf"), 0.1), (0.1, -0.1, 0.1)]
)
def test_groups_without_ratios_are_refused(rates):
    model, optimizer = three_groups((0.1, 0.1, 0.1))
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    with pytest.raises(ValueError, match="the groups' rates are"):
        sweep(model, optimizer)


def test_batches_are_begun_anew_when_they_end():
    x, y = problem()
    expected = sweep(m := network(), sgd(m)).loss.tolist()
    assert sweep(m, sgd(m), (pairs() * 5)[:25]).loss.tolist() == expected
    assert sweep(m, sgd(m), tuple(pairs())).loss.tolist() == expected
    assert sweep(m, sgd(m), DataLoader(TensorDataset(x, y), batch_size=10)).loss.tolist() == expected
    assert sweep(m, sgd(m), batches(x, y, 10, shuffle=False)).loss.tolist() == expected


def test_one_shot_generator_may_be_just_long_enough():
    model = network()
    assert len(sweep(model, sgd(model), (pair for pair in (pairs() * 5)[:25])).loss) == 25


def test_one_shot_generator_that_is_too_short_is_refused():
    model = network()
    with pytest.raises(ValueError, match="batches ended after 24 and cannot be begun anew"):
        sweep(model, sgd(model), (pair for pair in (pairs() * 4)))


@pytest.mark.parametrize("empty", [[], iter(()), DataLoader(TensorDataset(*problem()), batch_size=99, drop_last=True)])
def test_no_batch_is_refused(empty):
    model = network()
    with pytest.raises(ValueError, match="batches is empty"):
        sweep(model, sgd(model), empty)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("start_lr", value) for value in (0, -1e-3, math.nan, math.inf, 10.0, 11.0)),
        *(("end_lr", value) for value in (0.0, -1, math.nan, math.inf, 1e-6, 1e-7)),
        *(("steps", value) for value in (19, 0, -5, 50.0, 50.5, True, "50", None)),
        *(("scale", value) for value in ("log", "Linear", None)),
    ],
)
def test_bad_argument_is_named(name, value):
    model = network()
    with pytest.raises(ValueError, match=name):
        sweep(model, sgd(model), **{name: value})


def test_numpy_numbers_are_fine():
    model = network()
    assert len(sweep(model, sgd(model), steps=np.int64(20), end_lr=np.float32(1)).loss) == 20


@pytest.mark.parametrize(
    "batch",
    [{"x": 1}, {"x": 1, "y": 2}, torch.zeros(3, 4), (torch.zeros(2, 4),), (1, 2, 3), 7],
    ids=lambda b: type(b).__name__,
)
def test_batch_that_is_no_pair_asks_for_a_train_step(batch):
    model = network()
    with pytest.raises(ValueError, match=f"{type(batch).__name__}.*train_step"):
        sweep(model, sgd(model), [batch])


def test_loss_of_many_numbers_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"the loss is of shape \[10\].*one number"):
        sweep(model, sgd(model), train_step=lambda batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"))


def test_loss_that_the_device_does_not_hand_over_raises_its_own_error():
    model = network()
    with pytest.raises(RuntimeError, match="meta"):
        sweep(model, sgd(model), train_step=lambda batch: torch.empty((), device="meta"))


@pytest.mark.parametrize("loss", [None, "much", (1.0, 2.0)])
def test_loss_that_is_no_number_is_refused(loss):
    model = network()
    with pytest.raises(ValueError, match=re.escape(f"the loss is {loss!r}")):
        sweep(model, sgd(model), train_step=lambda batch: loss)


def test_train_step_finds_no_gradients_and_may_return_a_number():
    model = network()
    optimizer = sgd(model)
    found = []

    def step(batch):
        found.append(all(p.grad is None for p in model.parameters()))
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    F.cross_entropy(model(pairs()[0][0]), pairs()[0][1]).backward()
    test = sweep(model, optimizer, train_step=step)
    assert all(found) and len(found) == 25
    assert test.loss.tolist() == sweep(model, optimizer).loss.tolist()


def test_train_step_finds_no_gradients_of_what_the_optimizer_does_not_have():
    model = network()
    optimizer = sgd(model[2])
    found = []

    def step(batch):
        found.append(all(p.grad is None for p in model.parameters()))
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    sweep(model, optimizer, train_step=step)
    assert all(found)


def given_losses(*losses):
    remaining = iter(losses)
    return lambda batch: next(remaining)


def test_diverged_sweep_stops_early_unless_told_to_go_on():
    model = network()
    losses = [1.0] * 30 + [5.0] * 70
    stopped = sweep(model, sgd(model), steps=100, train_step=given_losses(*losses))
    decades = np.log10(stopped.lr[-1] / stopped.lr[30])
    assert 0.2 <= decades < 0.2 + 7 / 99 + 1e-9
    assert stopped.loss.tolist() == losses[: len(stopped.loss)]
    whole = sweep(model, sgd(model), steps=100, stop_when_diverged=False, train_step=given_losses(*losses))
    assert whole.loss.tolist() == losses


def test_spikes_do_not_stop_the_sweep():
    model = network()
    losses = ([1.0] * 10 + [9.0]) * 10
    assert len(sweep(model, sgd(model), steps=110, train_step=given_losses(*losses)).loss) == 110


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_stops_the_sweep_unless_told_to_go_on(value):
    model = network()
    losses = [1.0] * 22 + [value] + [1.0] * 2
    assert len(sweep(model, sgd(model), train_step=given_losses(*losses)).loss) == 23
    assert len(sweep(model, sgd(model), train_step=given_losses(*losses), stop_when_diverged=False).loss) == 25


def test_model_trains_in_train_mode_and_one_in_train_mode_stays_as_it_is():
    modes = []

    class Spy(nn.Dropout):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    model = network(Spy()).eval()
    sweep(model, sgd(model))
    model.train()
    model[1].eval()
    sweep(model, sgd(model))
    assert modes == [True] * 25 + [False] * 25


class Wrapped(torch.optim.Optimizer):
    """As accelerate wraps an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


@pytest.mark.parametrize(
    "make, divisor",
    [
        (sgd, 3),
        (lambda m: sgd(m, weight_decay=0.1), 3),
        (lambda m: sgd(m, momentum=0.9), 6),
        (lambda m: torch.optim.Adam(m.parameters()), 6),
        (lambda m: torch.optim.RMSprop(m.parameters()), 6),
        (lambda m: Wrapped(sgd(m)), 3),
        (lambda m: Wrapped(Wrapped(sgd(m, momentum=0.9))), 6),
    ],
)
def test_divisor_is_three_for_plain_sgd_and_six_otherwise(make, divisor):
    model = network()
    assert sweep(model, make(model)).divisor == divisor


def test_record_survives_json():
    model, optimizer = three_groups((0.1, 0.2, 0.3))
    test = sweep(model, optimizer)
    again = RangeTest.from_dict(json.loads(json.dumps(test.to_dict())))
    assert np.array_equal(again.lrs, test.lrs) and np.array_equal(again.loss, test.loss)
    assert again.divisor == test.divisor and again.lrs.dtype == again.loss.dtype == np.float64


def test_records_are_compared_by_identity():
    one, other = (RangeTest(np.ones((3, 1)), np.ones(3)) for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2


def test_record_that_ends_in_nan_survives_json():
    test = RangeTest(np.geomspace(1e-6, 1, 30)[:, None], np.array([1.0] * 29 + [math.nan]))
    again = RangeTest.from_dict(json.loads(json.dumps(test.to_dict())))
    assert np.array_equal(again.loss, test.loss, equal_nan=True)


# --- what comes after a range test ------------------------------------------------------------------------------


def shuffled_batches():
    return batches(*problem(), 10, seed=3)


def shuffled_loader():
    return DataLoader(
        TensorDataset(*problem()), batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(3)
    )


def loader_without_a_generator():
    torch.manual_seed(3)
    return DataLoader(TensorDataset(*problem()), batch_size=10, shuffle=True)


def loader_with_a_sampler():
    sampler = RandomSampler(range(60), generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(*problem()), batch_sampler=BatchSampler(sampler, 10, drop_last=False))


LOADERS = [shuffled_batches, shuffled_loader, loader_without_a_generator, loader_with_a_sampler]


@pytest.mark.parametrize("loader", LOADERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("passes_before", [0, 2])
def test_next_batches_come_in_the_order_of_an_untouched_twin(loader, passes_before):
    def order(tested):
        model = network()
        data = loader()
        for _ in range(passes_before):
            list(data)
        if tested:
            sweep(model, sgd(model), data)
        return torch.stack([torch.cat([x for x, _ in data]) for _ in range(2)])

    touched, untouched = order(True), order(False)
    assert torch.equal(touched, untouched) and not torch.equal(touched[0], touched[1])


@pytest.mark.parametrize(
    "make", [lambda m: sgd(m, momentum=0.9), lambda m: torch.optim.AdamW(m.parameters())], ids=["sgd", "adamw"]
)
@pytest.mark.parametrize("loader", LOADERS, ids=lambda f: f.__name__)
def test_training_after_a_range_test_is_training_without_one(make, loader):
    def trained(tested):
        model = network(nn.BatchNorm1d(8), nn.Dropout(0.5))
        optimizer = make(model)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=18)
        data = loader()
        if tested:
            sweep(model, optimizer, data)
        history = train(model, optimizer, data, epochs=3, scheduler=scheduler, scheduler_step="batch", progress=False)
        return history, [p.tolist() for p in model.state_dict().values()]

    assert trained(True) == trained(False)


def test_exception_puts_the_order_of_the_batches_back_too():
    def broken(outputs, targets):
        raise RuntimeError("spilt coffee")

    model, data, twin = network(), shuffled_batches(), shuffled_batches()
    with pytest.raises(RuntimeError, match="spilt coffee"):
        sweep(model, sgd(model), data, loss_fn=broken)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(data, twin, strict=True))


# --- the suggestion ---------------------------------------------------------------------------------------------

GRID = np.geomspace(1e-6, 10, 200)


def curve(losses, *, lrs=GRID, divisor=6.0):
    losses = np.asarray(losses, float)
    return RangeTest(np.asarray(lrs)[: len(losses), None], losses, divisor)


def noisy(losses, sigma, seed=0):
    return losses * np.exp(sigma * np.random.default_rng(seed).standard_normal(len(losses)))


def valley(lrs=GRID, *, low=0.1, fall=1.5, cliff=0.5, depth=2.0, level=2.3):
    """Flat, falling over about `fall` decades down to `low`, and `cliff` decades further up again, steeply."""
    place = np.log10(lrs / low)
    falling = -depth / (1 + np.exp(-(place + fall / 2) * 8 / fall))
    return level * np.exp(np.minimum(falling + (place > 0) * 4 * (place / cliff) ** 2, 20))


def test_suggestion_is_the_rate_at_the_minimum_over_the_divisor():
    place = np.log10(GRID / 0.02)
    losses = np.exp(0.05 * place**2)
    lowest = GRID[losses.argmin()]
    for divisor in (3.0, 6.0):
        assert curve(losses, divisor=divisor).suggestion() == pytest.approx(lowest / divisor, rel=0.1)


def test_max_lr_is_2_2_times_the_suggestion():
    test = curve(noisy(valley(), 0.02))
    assert test.max_lr() == pytest.approx(3.3 * test.suggestion()) and ONE_CYCLE == 3.3


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule='best'.*'minimum/10'") as caught:
        curve(valley()).suggestion("best")
    assert not isinstance(caught.value, NoSuggestion)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [sgd, lambda m: torch.optim.Adam(m.parameters())], ids=["sgd", "adam"])
def test_each_rule_suggests_a_rate_within_a_real_sweep(rule, make):
    model = network()
    test = sweep(model, make(model), end_lr=100.0, steps=200)
    assert test.lr[0] < test.suggestion(rule) < test.lr[-1]


def test_curve_on_a_linear_grid_gives_the_same_suggestion():
    even, logarithmic = np.linspace(1e-3, 1, 4000), np.geomspace(1e-3, 1, 1000)
    exponential, linear = curve(valley(logarithmic), lrs=logarithmic), curve(valley(even), lrs=even)
    assert linear.suggestion() == pytest.approx(exponential.suggestion(), rel=0.03)


def test_one_spike_hardly_moves_the_suggestion():
    losses = noisy(valley(), 0.02)
    spiked = losses.copy()
    spiked[150] *= 50
    assert curve(spiked).suggestion() == pytest.approx(curve(losses).suggestion(), rel=0.3)


def test_losses_below_zero_are_fine():
    test = curve(np.log(noisy(valley(), 0.02)))
    assert (test.loss < 0).any() and 0.02 < test.suggestion() * test.divisor < 0.3


def test_curve_that_breaks_at_its_lowest_point_has_a_suggestion():
    losses = valley()
    losses[GRID > 0.1] = math.nan
    assert 0.03 < curve(losses).suggestion() * 4 <= 0.1


def test_smoothed_loss_is_nan_from_the_first_loss_that_is_not_finite():
    losses = valley()
    losses[120], losses[150] = math.inf, math.nan
    smoothed = curve(losses).smoothed
    assert np.isfinite(smoothed[:120]).all() and np.isnan(smoothed[120:]).all() and len(smoothed) == 200


def refusal(losses, **kwargs):
    with pytest.raises(NoSuggestion) as caught:
        curve(losses, **kwargs).suggestion()
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_a_loss_that_is_not_finite_at_the_first_step(value):
    assert f"the loss was {value} at the first step" in refusal([value] * 200)
    assert f"the loss was {value} at the first step" in refusal([value])


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_refuses_a_curve_that_breaks_early(rule):
    with pytest.raises(
        NoSuggestion, match=f"19 usable points, 20 are needed: .* from {GRID[19]:.3g} on.*smaller start_lr"
    ):
        curve([2.3] * 19 + [math.nan]).suggestion(rule)


def test_refuses_a_record_that_is_too_short():
    assert "12 usable points, 20 are needed" in refusal(valley()[:12])
    assert "0 usable points" in refusal([])


@pytest.mark.parametrize("level", [2.3, 1e-8, 0.0, -5.0])
def test_refuses_a_loss_that_stands_still(level):
    message = refusal([level] * 200)
    assert f"the loss stands at {level:.4g} at every rate" in message and "requires_grad" in message


def test_refuses_a_model_whose_parameters_get_no_step():
    model = network()
    stranger = sgd(network())
    data = pairs()[:1]
    with pytest.raises(NoSuggestion, match="are they the ones that the optimizer has"):
        sweep(model, stranger, data, steps=50).suggestion()


@pytest.mark.parametrize("steps", [100, 200])
@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_refuses_noise_around_a_flat_line(steps, sigma):
    lrs = np.geomspace(1e-6, 10, steps)
    suggested = 0
    for seed in range(100):
        try:
            curve(noisy(np.full(steps, 2.3), sigma, seed), lrs=lrs).suggestion()
            suggested += 1
        except NoSuggestion:
            pass
    assert suggested <= 5, f"{suggested} of 100 flat curves got a suggestion"


@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.1])
def test_refuses_a_loss_that_only_rises(sigma):
    rising = 0.5 + np.log10(GRID / GRID[0]) ** 2 / 10
    message = refusal(noisy(rising, sigma))
    assert "only rises between 1e-06 and 10" in message and "smaller start_lr" in message


@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.1])
def test_refuses_a_loss_that_still_falls_where_the_sweep_ends(sigma):
    message = refusal(noisy(3 - np.log10(GRID / GRID[0]) / 3, sigma))
    assert "still falls at the end of the sweep, at 10" in message and "larger end_lr" in message


def test_suggestion_on_digits_trains_well():
    data = lrtut.load_mnist("digits", train_size=1000, device="cpu")
    model = lrtut.mlp(device="cpu")
    test = lr_range_test(model, sgd(model), batches(data.x_train, data.y_train, 32), end_lr=100.0, progress=False)
    suggestion = test.suggestion()

    def final_loss(rate):
        model = lrtut.mlp(device="cpu")
        loss = train(model, sgd(model, lr=rate), data, epochs=2, batch_size=32, progress=False).loss[-10:]
        return np.mean(loss) if np.isfinite(loss).all() else math.inf

    at = final_loss(suggestion)
    assert at < 0.5 * final_loss(suggestion * 30) and at < 0.5 * final_loss(suggestion / 100)


@st.composite
def valleys(draw):
    steps = draw(st.integers(60, 300))
    lrs = np.geomspace(1e-6, 10, steps)
    low = 10 ** draw(st.floats(-3.5, 0))
    losses = valley(
        lrs,
        low=low,
        fall=draw(st.floats(0.5, 2.5)),
        cliff=draw(st.floats(0.2, 1)),
        depth=draw(st.floats(0.1, 3)),
        level=draw(st.floats(0.1, 10)),
    )
    return lrs, noisy(losses, draw(st.floats(0.001, 0.1)), draw(st.integers(0, 10**6)))


def suggested(lrs, losses, divisor=6.0):
    try:
        return curve(losses, lrs=lrs, divisor=divisor).suggestion()
    except NoSuggestion:
        return None


@settings(max_examples=50, deadline=None)
@given(valleys(), st.floats(1e-3, 1e3))
def test_suggestion_scales_with_the_rates(points, factor):
    lrs, losses = points
    before, after = suggested(lrs, losses), suggested(lrs * factor, losses)
    assert (before is None) == (after is None)
    assert before is None or after == pytest.approx(before * factor, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(valleys(), st.floats(1e-6, 1e6))
def test_suggestion_does_not_depend_on_the_unit_of_the_loss(points, factor):
    lrs, losses = points
    before, after = suggested(lrs, losses), suggested(lrs, losses * factor)
    assert (before is None) == (after is None)
    assert before is None or after == pytest.approx(before, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(valleys(), st.sampled_from([3.0, 6.0]))
def test_suggestion_is_finite_positive_and_not_above_the_minimum(points, divisor):
    lrs, losses = points
    rate = suggested(lrs, losses, divisor)
    assume(rate is not None)
    smoothed = curve(losses, lrs=lrs).smoothed
    assert 0 < rate < math.inf and rate <= lrs[smoothed.argmin()]


@settings(max_examples=50, deadline=None)
@given(valleys())
def test_other_rules_stay_within_the_sweep(points):
    lrs, losses = points
    for rule in set(RULES) - {"minimum"}:
        assert lrs[0] / 10 <= curve(losses, lrs=lrs).suggestion(rule) <= lrs[-1]


# --- the figure -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def words(ax):
    return " ".join(ax.get_xlabel().split())


@pytest.mark.parametrize("own", [True, False])
def test_plot_draws_on_the_axes_given_or_on_new_ones(own):
    given_ax = plt.subplots()[1] if own else None
    ax = curve(noisy(valley(), 0.02)).plot(ax=given_ax)
    assert (ax is given_ax) == own
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "training loss" and "range test" in ax.get_title("left")


@pytest.mark.parametrize("divisor, part", [(3.0, "third"), (6.0, "sixth")])
def test_plot_says_the_suggestion_and_why(divisor, part):
    test = curve(noisy(valley(), 0.02), divisor=divisor)
    rate = test.suggestion()
    ax = test.plot()
    assert words(ax).startswith("learning rate The smoothed loss is lowest at")
    assert f"{rate:.2g}" in words(ax) and f"{rate * divisor:.2g}" in words(ax) and part in words(ax)
    labels = ax.get_legend_handles_labels()[1]
    assert {f"suggestion {rate:.2g}", f"minimum {rate * divisor:.2g}", "smoothed"} <= set(labels)


@pytest.mark.parametrize(
    "losses",
    [
        [math.nan],
        [math.nan] * 50,
        [2.3] * 10 + [math.nan],
        [2.3] * 200,
        np.geomspace(2, 1, 200),
        np.geomspace(1, 9, 200),
    ],
    ids=["NaN", "NaNs", "early NaN", "flat", "falling", "rising"],
)
def test_plot_says_why_there_is_no_suggestion(losses):
    test = curve(losses)
    with pytest.raises(NoSuggestion) as caught:
        test.suggestion()
    ax = test.plot()
    ax.figure.canvas.draw()
    assert words(ax) == "learning rate No suggestion: " + " ".join(str(caught.value).split())


@pytest.mark.parametrize("losses", [valley(), [2.3] * 200], ids=["suggestion", "refusal"])
def test_words_fit_into_the_figure(losses):
    ax = curve(losses).plot()
    ax.figure.canvas.draw()
    box, figure = ax.xaxis.label.get_window_extent(), ax.figure.bbox
    assert box.x0 >= figure.x0 and box.x1 <= figure.x1


def test_plot_of_a_linear_sweep_has_a_linear_axis():
    even = np.linspace(1e-3, 1, 100)
    assert curve(valley(even), lrs=even).plot().get_xscale() == "linear"


def test_plot_of_a_narrow_exponential_sweep_has_a_logarithmic_axis():
    narrow = np.geomspace(0.05, 0.5, 200)
    assert curve(valley(narrow), lrs=narrow).plot().get_xscale() == "log"


def test_plot_shows_the_curve_below_the_ceiling():
    losses = np.append(valley()[:160], [1e6, 1e9])
    bottom, top = curve(losses).plot().get_ylim()
    assert bottom < losses.min() and top < 5 * 2.3


# --- the examples of docs/range_test.md -------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "range_test.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
NAMES = ["dicts", "several inputs", "mixed precision", "accumulation", "validation"]


def test_page_has_an_example_for_each_case():
    assert len(BLOCKS) == len(NAMES)
    assert all(
        block.rstrip().endswith("test = lrtut.lr_range_test(model, optimizer, batches, train_step=step)")
        for block in BLOCKS
    )


def in_pairs(loader, pair):
    class Pairs:
        def __iter__(self):
            return map(pair, loader)

    return Pairs()


def sweep_by_hand(example, forward, before=None):
    """The losses of the first 60 steps of a plain loop, on a copy."""
    model = copy.deepcopy(example["model"])
    optimizer = sgd(model)
    batches = [batch for _ in range(3) for batch in example["batches"]]
    losses = []
    for rate, batch in zip(example["test"].lr[:60], batches, strict=False):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        loss = forward(model, batch)
        losses.append(before(model).item() if before else loss.item())
        loss.backward()
        optimizer.step()
    return np.array(losses)


def check_dicts(example):
    data = in_pairs(example["batches"], lambda batch: (batch["image"], batch["label"]))
    whole = lr_range_test(example["model"], example["optimizer"], data, progress=False)
    assert np.array_equal(whole.loss, example["test"].loss)


def check_several_inputs(example):
    def forward(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0], batch[1]), batch[2])

    state = torch.get_rng_state()
    losses = sweep_by_hand(example, forward)
    torch.set_rng_state(state)
    assert np.array_equal(losses, example["test"].loss[:60])


def check_mixed_precision(example):
    full = lr_range_test(example["model"], example["optimizer"], example["batches"], progress=False).loss
    half = example["test"].loss
    assert not np.array_equal(half, full) and half[:100] == pytest.approx(full[:100], rel=0.02)
    assert example["scaler"].is_enabled()


def check_accumulation(example):
    whole = lr_range_test(example["model"], example["optimizer"], example["batches"], progress=False).loss
    assert example["test"].loss[:100] == pytest.approx(whole[:100], rel=1e-5)


def check_validation(example):
    def forward(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    state = example["batches"].generator.get_state()
    losses = sweep_by_hand(example, forward, lambda model: F.cross_entropy(model(example["x_val"]), example["y_val"]))
    example["batches"].generator.set_state(state)
    assert np.array_equal(losses, example["test"].loss[:60])
    noise = [np.diff(np.log(losses[:20])).std() for losses in (losses, sweep_by_hand(example, forward))]
    assert noise[0] < 0.1 * noise[1]


CHECKS = [check_dicts, check_several_inputs, check_mixed_precision, check_accumulation, check_validation]


@pytest.mark.parametrize("block, check", list(zip(BLOCKS, CHECKS, strict=True)), ids=NAMES)
def test_example_of_the_page_runs_and_is_true(block, check, monkeypatch):
    calls = []

    def spy(model, optimizer, batches, train_step):
        steps, step = [], optimizer.step
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        test = lr_range_test(model, optimizer, batches, train_step=train_step, progress=False)
        calls.append((before, copy.deepcopy((model.state_dict(), optimizer.state_dict())), len(steps)))
        assert optimizer.step == step
        return test

    torch.manual_seed(0)
    monkeypatch.setattr(lrtut, "lr_range_test", spy)
    example = {}
    exec(compile(block, str(PAGE), "exec"), example)

    test = example["test"]
    ((before, after, steps),) = calls
    # A scaler begins at 2^16, and halves that at each step that it leaves out because a gradient overflowed.
    left_out = 16 - math.log2(example["scaler"].get_scale()) if "scaler" in example else 0
    assert steps + left_out == len(test.loss) >= 20 and np.isfinite(test.loss[:-1]).all()
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), after[0].values(), strict=True))
    assert before[1] == after[1]
    assert all(p.grad is None for p in example["model"].parameters())
    check(example)


def test_a_record_can_be_changed_in_no_way():
    model = network()
    test = sweep(model, sgd(model))
    with pytest.raises(dataclasses.FrozenInstanceError):
        test.divisor = 1.0
    with pytest.raises(ValueError, match="read-only"):
        test.lrs[0] = 1.0


def test_the_ceiling_is_of_the_first_ten_losses_and_not_of_nine():
    model, rates = network(), np.geomspace(1e-6, 10, 200)

    def steps_until_stopped(later):  # from the 100th step on
        losses = iter([1.0] * 5 + [3.0] * 5 + [2.0] * 90 + [later] * 100)  # median 2, of nine 1: a ceiling of 8, or 4
        return len(sweep(model, sgd(model), steps=200, train_step=lambda batch: next(losses)).loss)

    assert steps_until_stopped(7.9) == 200
    stopped = steps_until_stopped(8.1) - 1
    assert rates[stopped - 1] < rates[100] * 10**0.2 <= rates[stopped]  # a fifth of a decade


@pytest.mark.parametrize("scale", ["exponential", "linear"])
def test_the_last_rate_is_the_one_that_was_asked_for(scale):
    model, end = network(), 0.9  # where both grids, from 0.3, would end in a rounding error beside it
    for start in (0.3, 0.003, 1e-5):
        test = sweep(
            model, sgd(model), start_lr=start, end_lr=end, scale="".join(list(scale)), stop_when_diverged=False
        )
        assert test.lr[0] == start and test.lr[-1] == end
        assert (scale == "linear") == bool(np.allclose(np.diff(test.lr, 2), 0))


class Elsewhere:
    """Stands in for a tensor on another device."""

    is_cpu = False

    def __init__(self, tensor):
        self.tensor, self.moved = tensor, 0

    def to(self, device):
        self.moved += 1
        return self.tensor.to(device)


def test_a_batch_is_moved_to_the_models_device_where_it_is_not_there_and_left_alone_where_it_is(monkeypatch):
    def losses(data=None):
        model = network()
        return sweep(model, sgd(model), data).loss.tolist()

    expected = losses()
    for place_x, place_y in ((Elsewhere, Elsewhere), (Elsewhere, lambda t: t), (lambda t: t, Elsewhere)):
        data = [(place_x(x), place_y(y)) for x, y in pairs()]
        assert losses(data) == expected
        assert all(part.moved for batch in data for part in batch if isinstance(part, Elsewhere))
    with monkeypatch.context() as patch:  # a move that does nothing costs time all the same
        patch.setattr(torch.Tensor, "to", lambda *_, **__: pytest.fail("moved"))
        assert losses() == expected
    seen = []

    def forward(model, inputs, targets, loss_fn):  # the meta device has shapes and no numbers
        seen.append((inputs.device.type, targets.device.type))
        return None, torch.ones((), requires_grad=True)

    monkeypatch.setattr("lrtut.finder.range_test.forward", forward)
    m = network().to("meta")
    sweep(m, sgd(m))
    assert set(seen) == {("meta", "meta")}


def test_an_infinite_rate_is_refused_whichever_object_it_is():
    model = network()
    with pytest.raises(ValueError, match="end_lr=inf: give a rate above zero"):
        sweep(model, sgd(model), end_lr=float("inf"))


def test_as_many_points_as_needed_are_enough_and_the_rule_is_known_by_its_name():
    lrs = np.geomspace(1e-3, 1.0, LEAST)
    loss = 1 + np.log10(lrs / 0.1) ** 2
    test = RangeTest(lrs[:, None], loss, divisor=3.0)
    assert test.suggestion("".join(["mini", "mum"])) == RULES["minimum"](lrs, loss) / 3
    with pytest.raises(NoSuggestion, match="19 usable points"):
        RangeTest(lrs[1:, None], loss[1:]).suggestion()


# --- the rules, by hand -------------------------------------------------------------------------------------------


def test_trailing_is_the_weighted_mean_of_what_came_before():
    losses = np.random.default_rng(0).uniform(1, 3, 50)
    for i, mean in enumerate(rules.trailing(losses, beta=0.9)):
        weights = 0.9 ** np.arange(i, -1, -1)
        assert mean == pytest.approx(np.average(losses[: i + 1], weights=weights))
    assert (rules.trailing(losses) == rules.trailing(losses, beta=0.98)).all()


def test_valley_is_half_way_down_the_longest_fall():
    lrs = np.geomspace(1e-3, 1.0, 30)
    assert rules.valley(lrs, np.linspace(3, 1, 30)) == lrs[14]
    # A rise counts for nothing: of 40 losses, the last 20 fall.
    rates = np.geomspace(1e-3, 1.0, 40)
    assert rules.valley(rates, np.r_[np.linspace(1, 1.01, 20), np.geomspace(0.9, 1e-3, 20)]) == rates[29]


def test_a_tenth_of_the_lowest_point():
    losses = np.r_[np.linspace(3, 2, 30), np.full(10, 1e6)]  # the trailing average falls up to the thirtieth
    rates = np.geomspace(1e-3, 1.0, 40)
    assert rules.minimum_tenth(rates, losses) == pytest.approx(rates[29] / 10)


def test_steepest_may_be_at_the_minimum_itself():
    lrs = 10.0 ** np.arange(-6, 0)  # so far apart that the smoothing does nothing
    assert rules.steepest(lrs, np.array([5.0, 4.9, 4.7, 4.3, 3.5, 1.9])) == pytest.approx(0.1)
    assert rules.steepest(lrs, np.array([5.0, 4.9, 2.0, 1.8, 1.7, 9.0])) == pytest.approx(1e-4)


def test_a_loss_that_still_falls_gives_no_minimum_unless_the_sweep_broke():
    losses = np.geomspace(3, 1, len(GRID))
    with pytest.raises(NoSuggestion, match="still falls at the end"):
        rules.minimum(GRID, losses)
    with pytest.raises(NoSuggestion, match="the loss stands at"):  # at 1, whose logarithm is 0, but for rounding
        rules.minimum(GRID, 1 + 1e-15 * (np.arange(len(GRID)) % 3))
    assert rules.minimum(GRID, losses, broke=True) == pytest.approx(GRID[-1], rel=0.5)


def test_noise_around_a_trend_is_estimated_and_a_fall_must_be_four_times_what_is_left_of_it():
    noise = 0.1 * np.random.default_rng(0).standard_normal(5000)
    assert rules._noise(np.linspace(5, 1, 5000) + noise) == pytest.approx(0.1, rel=0.06)

    def suggests(depth):
        try:
            rules.minimum(GRID, np.exp(depth * fall + noise[: len(GRID)]), broke=True)
        except NoSuggestion as why:
            assert "fell by less than its noise" in str(why)
            return False
        return True

    fall = np.linspace(1, 0, len(GRID))
    low, high = 0.0, 1.0  # none suggested, one suggested
    assert not suggests(low) and suggests(high)
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if suggests(middle) else (middle, high)
    losses = high * fall + noise[: len(GRID)]
    smoothed = np.log(rules.smooth(GRID, np.exp(losses)))
    lowest = smoothed.argmin()
    left = rules._noise(losses) * np.sqrt((rules._kernel(GRID, rules.WIDTH) ** 2).sum(axis=1))
    falls = (smoothed - smoothed[lowest])[: lowest + 1] / np.hypot(left, left[lowest])[: lowest + 1]
    assert falls.max() == pytest.approx(4.0, rel=0.02)


def test_a_rise_at_the_end_must_be_twice_what_is_left_of_the_noise():
    noise = 0.02 * np.random.default_rng(1).standard_normal(len(GRID))
    turn = 3 * len(GRID) // 4
    left = rules._noise(noise) * np.sqrt((rules._kernel(GRID, rules.WIDTH) ** 2).sum(axis=1))
    seen = {True: [], False: []}
    for height in np.linspace(0, 0.2, 200):
        losses = np.r_[np.linspace(1, 0, turn), np.linspace(0, height, len(GRID) - turn)] + noise
        smoothed = np.log(rules.smooth(GRID, np.exp(losses)))
        lowest = smoothed.argmin()
        rise = ((smoothed - smoothed[lowest]) / np.hypot(left, left[lowest]))[lowest:].max()
        try:
            rules.minimum(GRID, np.exp(losses))
            seen[True].append(rise)
        except NoSuggestion as why:
            assert "still falls at the end" in str(why)
            seen[False].append(rise)
    assert 1.7 < max(seen[False]) < 2.3 and 1.7 < min(seen[True]) < 2.3


# --- the bar ------------------------------------------------------------------------------------------------------


def test_the_bar_is_complete_where_a_test_ends_early_and_closed_after_an_error(monkeypatch):
    module, made = sys.modules["lrtut.finder.range_test"], []

    class Spy(module.tqdm):
        def close(self):
            if not self.disable:  # closed already
                made.append((self.n, self.total))
            super().close()

    def fails_at_last(out, target):
        if next(steps) == 37:
            raise ArithmeticError
        return F.cross_entropy(out, target)

    monkeypatch.setattr(module, "tqdm", Spy)
    model, steps = network(), itertools.count()
    with pytest.raises(ArithmeticError):
        lr_range_test(model, sgd(model), pairs(), fails_at_last, steps=40, stop_when_diverged=False)
    assert made[0] == (37, 40)
    test = sweep(model, sgd(model), progress=True, train_step=lambda batch: math.nan)
    assert len(test.loss) == 1 and made[-1] == (1, 1)  # tqdm draws an unfinished bar in red


def test_a_batch_of_another_type_that_unpacks_into_two_will_do():
    model, other = network(), network()
    assert (sweep(model, sgd(model), [Two(*p) for p in pairs()]).loss == sweep(other, sgd(other)).loss).all()


class Two:
    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        return iter(self.parts)
