"""What users bring to the range test: state in odd places, wrong arguments, batches that are not pairs."""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_range_test import groups, record, sweep
from test_snapshot import noted
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from toy import network, pairs, samples, sgd

from lrtut import lr_range_test


@pytest.fixture
def model():
    return network()


# --- put back -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int8, torch.bool, torch.complex64], ids=str)
def test_memory_that_may_only_be_read_is_not_written(dtype, tmp_path):
    whole = torch.tensor([[0.0, -0.0], [1.0, float("nan")]]).to(dtype)
    np.save(tmp_path / "table.npy", whole.numpy())
    table = torch.from_numpy(np.load(tmp_path / "table.npy", mmap_mode="r"))
    assert noted(lambda module: module.buffer.sum(), buffer=table.T).buffer.shape == (2, 2)  # writing it ends Python


@pytest.mark.parametrize("value", [-0.0, float("nan")])
def test_the_sign_of_a_zero_and_a_nan_are_put_back(value):
    buffer = noted(lambda module: module.buffer.zero_(), buffer=torch.tensor([value])).buffer
    assert buffer.numpy().tobytes() == torch.tensor([value]).numpy().tobytes()


class Average:
    """Of the weights, kept by hand."""

    def __init__(self, model):
        self.model, self.updates = model, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, *_):
        self.updates += 1
        for name, p in self.model.named_parameters():
            self.shadow[name] = self.shadow[name] * 0.9 + p.detach() * 0.1

    __call__ = update


HOOKS = {
    "method": lambda average, model, o: o.register_step_post_hook(average.update),
    "object": lambda average, model, o: o.register_step_post_hook(average),
    "closure": lambda average, model, o: o.register_step_pre_hook(lambda *_: average.update()),
    "partial": lambda average, model, o: model[0].register_forward_hook(partial(Average.update, average)),
    "backward": lambda average, model, o: model[2].register_full_backward_hook(lambda *_: average.update()),
    "tensor": lambda average, model, o: model[0].weight.register_hook(lambda grad: average.update()),
}


@pytest.mark.parametrize("attach", HOOKS.values(), ids=HOOKS)
def test_what_a_hook_keeps_is_put_back(attach, model):
    average, optimizer = Average(model), sgd(model)
    attach(average, model, optimizer)
    before = copy.deepcopy(average.shadow)
    sweep(model, optimizer)
    assert average.updates == 0 and str(average.shadow) == str(before)


class Drifting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(()))

    def forward(self, outputs, targets):
        self.centre += 1
        return F.cross_entropy(outputs, targets)


WAYS = [lambda d: d, lambda d: d.forward, lambda d: partial(d), lambda d: lambda out, y: d(out, y)]


@pytest.mark.parametrize("way", WAYS)
def test_a_buffer_of_the_loss_is_put_back_and_what_it_logs_is_kept(way, model):
    drifting, log = Drifting(), []
    loss_fn = way(drifting)
    sweep(model, sgd(model), loss_fn=lambda out, y: log.append(1) or loss_fn(out, y))
    assert drifting.centre == 0 and len(log) == 25


@pytest.mark.parametrize("make", [random.Random, np.random.default_rng, np.random.RandomState])
def test_a_modules_own_random_generator_is_put_back(make):
    held = noted(lambda module: module.held.uniform(0, 1), held=make(3)).held
    assert held.uniform(0, 1) == make(3).uniform(0, 1)


class Counting:
    """A sampler that counts its passes, as those that shuffle by epoch do."""

    def __init__(self):
        self.passes, self.seen = 0, {"orders": []}

    def __iter__(self):
        self.passes += 1
        self.seen["orders"].append(self.passes)
        return iter(range(60))

    def __len__(self):
        return 60


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_a_samplers_counter_is_put_back(name, model):
    counting = Counting()
    sampler = counting if name == "sampler" else torch.utils.data.BatchSampler(counting, 10, False)
    loader = DataLoader(
        TensorDataset(*samples()), **{name: sampler}, **({"batch_size": 10} if name == "sampler" else {})
    )
    sweep(model, sgd(model), loader)
    assert counting.passes == 0 and counting.seen == {"orders": []}


def test_restore_names_what_cannot_be_found(model):
    average, optimizer = Average(model), sgd(model)
    scheduler, scaler = LinearLR(optimizer), torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(batch):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward(), optimizer.step(), scheduler.step(), average.update(), scaler.update(2.0)
        return loss

    sweep(model, optimizer, train_step=step, restore=[average, scheduler, scaler])
    assert (average.updates, scheduler.last_epoch, scaler.get_scale()) == (0, 0, 8.0)
    with pytest.raises(ValueError, match="restore holds 3, which has nothing to put back"):
        sweep(model, optimizer, restore=[3])


# --- rates --------------------------------------------------------------------------------------------------------

HELD_LOW = [lambda o: LambdaLR(o, lambda t: t / 10), lambda o: LambdaLR(o, [lambda t: t, lambda t: 1.0]),
            lambda o: LinearLR(o, 1e-9), lambda o: OneCycleLR(o, [1.0, 10.0], 20)]  # fmt: skip


@pytest.mark.parametrize("hold", HELD_LOW)
def test_groups_that_a_scheduler_holds_low_keep_the_ratio_of_their_own_rates(hold, model):
    optimizer = groups(model, (0.1, 1.0))
    hold(optimizer)
    assert sweep(model, optimizer, end_lr=0.1).lrs[:, 1] == pytest.approx(10 * np.geomspace(1e-6, 0.1, 25))


@pytest.mark.parametrize("lr", [None, "fast", torch.ones(2)], ids=str)
def test_an_optimizer_without_a_rate_is_refused(lr, model):
    optimizer = sgd(model)
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match="parameter groups have lr=.*: there is no rate to record or to change"):
        sweep(model, optimizer)


# --- misuse -------------------------------------------------------------------------------------------------------

X, Y = samples()
ODD = [
    None,
    3,
    -1.5,
    float("nan"),
    True,
    "odd",
    b"odd",
    1j,
    {},
    {"x": X},
    {1},
    object(),
    int,
    torch.ones(2),
    np.ones(2),
]
WRONG = {"model": ODD, "optimizer": ODD, "batches": ODD, "loss_fn": ODD, "start_lr": ODD[2:], "end_lr": ODD[2:], "steps": ODD,
         "scale": ODD, "train_step": ODD[1:], "restore": [None, 3, True, 1j, object(), int, [3], ["odd"]]}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_a_wrong_kind_is_named(name, model):
    right = {"model": model, "optimizer": sgd(model), "batches": pairs(), "steps": 20, "progress": False}
    for wrong in WRONG[name]:
        with pytest.raises((ValueError, TypeError), match=f"{name}|batch") as caught:
            lr_range_test(**right | {name: wrong})
        assert ":" in str(caught.value)  # what was given, and what to do


BATCHES = {
    "dataset": TensorDataset(X, Y),
    "list of samples": list(TensorDataset(X, Y)),
    "dict": [{"inputs": X, "targets": Y}],
    "tensor": [torch.ones(2, 4)],
    "one": [(X,)],
}


@pytest.mark.parametrize("data", BATCHES.values(), ids=BATCHES)
def test_batches_that_are_not_pairs_are_refused(data, model):
    with pytest.raises(ValueError, match="batch"):
        sweep(model, sgd(model), data)


def test_an_optimizer_of_another_model_is_refused(model):
    with pytest.raises(ValueError, match="optimizer holds none of model's parameters"):
        sweep(model, sgd(network()))


def test_trains_also_where_gradients_are_off_and_says_where_it_cannot(model):
    expected = sweep(model, sgd(model)).loss.tolist()
    with torch.no_grad():
        assert sweep(model, sgd(model)).loss.tolist() == expected and not torch.is_grad_enabled()
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        sweep(model, sgd(model))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast"):
        sweep(model, sgd(model))
    with torch.inference_mode():
        made, inputs = network(), X.clone()
    with pytest.raises(ValueError, match=r"parameter 0.weight was made in torch.inference_mode\(\)"):
        sweep(made, sgd(made))
    with pytest.raises(ValueError, match=r"inputs were made in torch.inference_mode\(\)"):
        sweep(model, sgd(model), [(inputs, Y)])


# --- what a notebook shows ----------------------------------------------------------------------------------------

CURVES = {
    "suggestion 0.0": np.exp(np.linspace(-1.2, 0.8, 200) ** 2),
    "none: the loss stands": [2.3] * 200,
    "none: 0": [],
}


@pytest.mark.parametrize("words, losses", CURVES.items(), ids=CURVES)
def test_a_range_test_is_shown_in_a_line_and_in_a_table(words, losses):
    test = record(np.geomspace(1e-6, 10, 200), losses)
    assert "\n" not in repr(test) and f"steps {len(losses)}" in repr(test) and words in repr(test)
    assert test._repr_html_().count("<tr>") == (4 if len(losses) else 2)
