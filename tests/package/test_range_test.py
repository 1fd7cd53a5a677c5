"""The range test: the steps that it takes, what it records, what it refuses, and its figure."""

import copy
import json
import math
import re
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from toy import bars, network, pairs, samples, sgd

import lrtut
from lrtut import NoSuggestion, RangeTest, batches, lr_range_test, train


def sweep(model, optimizer, data=None, **kwargs):
    data = pairs() if data is None else data
    return lr_range_test(model, optimizer, data, **{"steps": 25, "progress": False} | kwargs)


@pytest.fixture
def model():
    return network()


# --- the steps ----------------------------------------------------------------------------------------------------


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


OPTIMIZERS = {
    "sgd": sgd,
    "momentum": lambda m: sgd(m, momentum=0.9),
    "adam": lambda m: torch.optim.Adam(m.parameters()),
    "wrapped": lambda m: Wrapped(Wrapped(sgd(m))),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("scale, space", [("exponential", np.geomspace), ("linear", np.linspace)])
def test_records_the_rate_of_each_step_and_the_loss_before_it(make, scale, space, model):
    test = sweep(model, make(model), start_lr=0.3, end_lr=0.9, scale=scale, stop_when_diverged=False)
    optimizer, losses = make(model), []
    for rate, (x, y) in zip(test.lr.tolist(), pairs() * 5, strict=False):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert test.loss.tolist() == losses
    assert test.lr == pytest.approx(space(0.3, 0.9, 25), rel=1e-12)
    assert test.lr[0] == 0.3 and test.lr[-1] == 0.9  # and not a rounding error beside it
    assert test.lrs.shape == (25, 1) and test.lrs.dtype == test.loss.dtype == np.float64


def groups(model, rates):
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    return torch.optim.SGD([{"params": m.parameters(), "lr": lr} for m, lr in zip(layers, rates, strict=True)])


@pytest.mark.parametrize("rates, ratio", [((0.1, 0.2), 2), ((0.1, 0.0), 0), ((0.0, 0.0), 1)])
def test_groups_keep_their_ratios(rates, ratio, model):
    optimizer, used = groups(model, rates), []

    def loss_fn(outputs, targets):
        used.append([group["lr"] for group in optimizer.param_groups])
        return F.cross_entropy(outputs, targets)

    test = sweep(model, optimizer, start_lr=0.03, end_lr=0.7, loss_fn=loss_fn)
    assert test.lrs.tolist() == used and test.lr[0] == 0.03
    assert test.lrs[:, 1] == pytest.approx(test.lr * ratio)


def test_groups_that_a_scheduler_holds_low_keep_the_ratio_of_their_own_rates(model):
    optimizer = groups(model, (0.1, 1.0))
    LambdaLR(optimizer, [lambda t: t, lambda t: 1.0])
    assert sweep(model, optimizer, end_lr=0.1).lrs[:, 1] == pytest.approx(10 * np.geomspace(1e-6, 0.1, 25))


@pytest.mark.parametrize("rates", [(0.0, 0.1), (-0.1, 0.1), (math.nan, 0.1), (0.1, math.inf)])
def test_groups_without_ratios_are_refused(rates, model):
    optimizer = groups(model, (0.1, 0.1))
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    with pytest.raises(ValueError, match=re.escape(f"the groups' rates are [{rates[0]}")):
        sweep(model, optimizer)


def test_a_rate_that_is_a_tensor_stays_one_and_is_recorded_as_the_step_saw_it_and_never_written_to(model):
    shared = torch.tensor(0.1)  # float32, and perhaps another optimizer's as well
    optimizer, used = groups(model, (0.1, 0.1)), []
    optimizer.param_groups[0]["lr"] = shared

    def loss_fn(outputs, targets):
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        assert shared == torch.tensor(0.1) and isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)
        return F.cross_entropy(outputs, targets)

    test = sweep(model, optimizer, end_lr=0.5, loss_fn=loss_fn)
    assert test.lrs.tolist() == used and all(float(np.float32(rate)) == rate for rate in test.lr)
    assert optimizer.param_groups[0]["lr"] is shared


def test_batches_are_begun_anew_when_they_end(model):
    expected = sweep(model, sgd(model)).loss.tolist()
    x, y = samples()
    for data in (DataLoader(TensorDataset(x, y), 10), batches(x, y, 10, shuffle=False), iter((pairs() * 5)[:25])):
        assert sweep(model, sgd(model), data).loss.tolist() == expected


def test_trains_in_train_mode_but_leaves_a_model_in_train_mode_as_it_is():
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


@pytest.mark.parametrize("number", [False, True])
def test_train_step_finds_no_gradients_and_returns_a_tensor_or_a_number(number, model):
    optimizer = sgd(model[2])  # gradients of what the optimizer does not have are none either

    def step(batch):
        assert all(p.grad is None for p in model.parameters())
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item() if number else loss

    step_by_step = sweep(model, optimizer, train_step=step)
    assert step_by_step.loss.tolist() == sweep(model, optimizer).loss.tolist()


def given(*losses):
    remaining = iter(losses)
    return {"steps": len(losses), "train_step": lambda batch: next(remaining)}


def test_a_fifth_of_a_decade_above_four_times_the_first_losses_ends_the_sweep(model):
    first = [1.0] * 5 + [3.0] * 5  # median 2
    losses = first + [7.9] * 20 + [8.1] * 70
    stopped = sweep(model, sgd(model), **given(*losses))
    assert 0.2 <= np.log10(stopped.lr[-1] / stopped.lr[30]) < 0.2 + 7 / 99 + 1e-9
    assert stopped.loss.tolist() == losses[: len(stopped.loss)]
    assert sweep(model, sgd(model), stop_when_diverged=False, **given(*losses)).loss.tolist() == losses
    spikes = ([1.0] * 10 + [9.0]) * 10
    assert len(sweep(model, sgd(model), **given(*spikes)).loss) == 110


@pytest.mark.parametrize("first", [[-1.0, 1.0] * 5, [0.0] * 10], ids=["scatter around zero", "zero"])
def test_first_losses_without_a_level_end_nothing(first, model):
    losses = iter(first + [0.5] * 20 + [math.inf])
    assert len(sweep(model, sgd(model), pairs(), train_step=lambda batch: next(losses), steps=40).loss) == 31


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep_unless_told_otherwise(value, model):
    losses = [1.0] * 22 + [value] + [1.0] * 2
    assert len(sweep(model, sgd(model), **given(*losses)).loss) == 23
    assert len(sweep(model, sgd(model), stop_when_diverged=False, **given(*losses)).loss) == 25


def test_record_survives_json_and_is_shown(model):
    test = sweep(model, groups(model, (0.1, 0.2)), **given(*[1.0] * 29, math.nan))
    again = RangeTest.from_dict(json.loads(json.dumps(test.to_dict())))
    assert np.array_equal(again.lrs, test.lrs) and np.array_equal(again.loss, test.loss, equal_nan=True)
    assert again.lrs.dtype == again.loss.dtype == np.float64
    for record in ({}, [], test.to_dict() | {"loss": [1.0]}, test.to_dict() | {"lrs": ["a"]}):
        with pytest.raises(ValueError, match="record is .*: give what to_dict"):
            RangeTest.from_dict(record)
    for shown in (repr(test), test._repr_html_()):
        assert all(words in shown for words in ("30", "in 2 groups", "none: the loss stands"))


def test_a_bar_is_done_where_divergence_ends_the_sweep(monkeypatch, model):
    """In a notebook, tqdm leaves a bar that is not done standing in red."""
    closed = bars(monkeypatch, 0.5)
    sweep(model, sgd(model), progress=True, **given(*[1.0] * 15, math.nan, *[1.0] * 9))
    assert closed == [(16, 16)]


# --- misuse -------------------------------------------------------------------------------------------------------


def test_numpys_numbers_are_fine(model):
    assert len(sweep(model, sgd(model), steps=np.int64(20), end_lr=np.float32(1)).loss) == 20


FEW = {
    "none": ([], "batches is empty"),
    "none of a full size": (DataLoader(TensorDataset(*samples()), batch_size=99, drop_last=True), "batches is empty"),
    "used up": (iter(pairs() * 4), "batches ended after 24 and cannot be begun anew"),
}


@pytest.mark.parametrize("data, words", FEW.values(), ids=FEW)
def test_too_few_batches_are_refused(data, words, model):
    with pytest.raises(ValueError, match=words):
        sweep(model, sgd(model), data)


@pytest.mark.parametrize("loss, what", [(None, "None"), ("much", "'much'"), (torch.ones(10), r"of shape \[10\]")])
def test_a_loss_of_a_train_step_that_is_no_number_is_refused(loss, what, model):
    for use in (sweep, partial(train, epochs=1)):
        with pytest.raises(ValueError, match=f"the loss that train_step returned is {what}"):
            use(model, sgd(model), pairs(), train_step=lambda batch: loss)


# --- what comes after it ------------------------------------------------------------------------------------------

DATA = TensorDataset(*samples())
LOADERS = {
    "batches": lambda: batches(*DATA.tensors, 10, seed=3),
    "loader": lambda: DataLoader(DATA, 10, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "global": lambda: torch.manual_seed(3) and DataLoader(DATA, 10, shuffle=True),
}


@pytest.mark.parametrize("data", LOADERS.values(), ids=LOADERS)
def test_training_after_a_range_test_is_training_without_one(data):
    def trained(tested):
        model = network(nn.BatchNorm1d(8), nn.Dropout(0.5))
        optimizer, batches = torch.optim.AdamW(model.parameters()), data()
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=18)
        if tested:
            sweep(model, optimizer, batches)
        history = train(model, optimizer, batches, epochs=3, scheduler=scheduler, scheduler_step="batch")
        return history, [p.tolist() for p in model.state_dict().values()]

    assert trained(True) == trained(False)


# --- the figure ---------------------------------------------------------------------------------------------------

EVEN, NARROW, WIDE = np.linspace(1e-3, 1, 200), np.geomspace(0.05, 0.5, 200), np.geomspace(1e-6, 10, 200)
DIP = np.exp(np.linspace(-1.2, 0.8, 200) ** 2)


def record(lrs, losses):
    return RangeTest(lrs[: len(losses), None], np.array(losses, float))


@pytest.mark.parametrize("lrs, scale", [(EVEN, "linear"), (NARROW, "log"), (WIDE, "log")])
def test_the_figure_shows_the_curve_and_the_suggestion_and_says_why(lrs, scale):
    test = record(lrs, DIP)
    test.loss[-1] = 1e6  # above what the figure shows
    rate, given_ax = test.suggestion(), plt.subplots()[1]
    ax = test.plot(ax=given_ax)
    assert ax is given_ax and test.plot() is not ax
    assert ax.get_xscale() == scale and ax.get_title("left")
    words = " ".join(ax.get_xlabel().split())
    assert all(part in words for part in (f"{rate:.2g}", f"{3 * rate:.2g}", "a third"))
    labels = ax.get_legend_handles_labels()[1]
    assert {f"suggestion {rate:.2g}", f"middle of the valley {3 * rate:.2g}", "smoothed"} <= set(labels)
    bottom, top = ax.get_ylim()
    dip = test.loss[0] - test.loss.min()
    assert bottom < test.loss.min() and test.loss[0] < top and dip > 0.5 * (top - bottom)


def test_readings_are_rows_below_the_curve():
    test = record(WIDE, DIP)
    ax = test.plot(readings={"late": 5, "early": 2e-6}, title="Two readings")
    rows = {text.get_text(): text.xy for text in ax.texts}
    assert ax.get_title("left") == "Two readings" and rows["late 5"][0] == 5 and rows["early 2e-06"][0] == 2e-6
    ax.figure.canvas.draw()
    edge = ax.transData.transform((1, test.loss.min()))[1]
    assert all(ax.transAxes.transform((0, rows[name][1]))[1] < edge for name in ("late 5", "early 2e-06"))
    with pytest.raises(ValueError, match=r"readings\['a'\]=0: give a learning rate above zero"):
        test.plot(readings={"a": 0})


@pytest.mark.parametrize("losses", [[], [math.nan] * 50, [2.3] * 10 + [math.nan], [2.3] * 200], ids=len)
def test_the_figure_says_why_there_is_no_suggestion(losses):
    test = record(WIDE, losses)
    with pytest.raises(NoSuggestion) as caught:
        test.suggestion()
    ax = test.plot()
    ax.figure.canvas.draw()
    assert " ".join(ax.get_xlabel().split()) == "learning rate No suggestion: " + " ".join(str(caught.value).split())
    box, figure = ax.xaxis.label.get_window_extent(), ax.figure.bbox
    assert box.x0 >= figure.x0 and box.x1 <= figure.x1  # the words are wrapped


# --- the examples of docs/answers/train_step.md -------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "answers" / "train_step.md"
BLOCKS = dict(re.findall(r"^## (.+?)\n.*?```\{code-cell\} python\n(import.*?)```", PAGE.read_text(), re.S | re.M))


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_an_example_of_the_page_suggests_a_rate_and_leaves_the_model_as_it_was(block, monkeypatch):
    def spy(model, optimizer, batches, train_step, **options):
        def scale():  # a scaler halves it at each step that it leaves out because a gradient overflowed
            return example["scaler"].get_scale() if "scaler" in example else 1

        def counted(batch):
            before, loss = scale(), train_step(batch)
            left_out.append(scale() < before)
            return loss

        steps.clear(), left_out.clear()
        counting = optimizer.register_step_post_hook(lambda *_: steps.append(1))
        before = copy.deepcopy(model.state_dict())
        test = lr_range_test(model, optimizer, batches, train_step=counted, **options)
        torch.testing.assert_close(before, model.state_dict(), rtol=0, atol=0)
        counting.remove()
        return test

    steps, left_out, example = [], [], {}
    torch.manual_seed(0)
    monkeypatch.setattr(lrtut, "lr_range_test", spy)
    exec(compile(block, str(PAGE), "exec"), example)
    test = example["test"]
    assert len(steps) + sum(left_out) == len(left_out) == len(test.loss) and test.suggestion() > 0
    assert "scaler" not in example or example["scaler"].get_scale() == 2**16  # put back
