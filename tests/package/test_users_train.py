"""What users bring to `train` and `evaluate`: losses, targets, loaders, schedulers and steps of many kinds."""

import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrtut import History, evaluate, train

X = torch.randn(96, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
BATCHES = [(X[i : i + 32], Y[i : i + 32]) for i in (0, 32, 64)]


def linear(outputs=2):
    torch.manual_seed(0)
    return nn.Linear(5, outputs)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Wrong:
    """Says another number of batches than it has."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(BATCHES)


@pytest.mark.parametrize("loader", [DataLoader(Stream(), 32), Wrong(), itertools.chain(BATCHES)], ids=repr)
def test_epochs_end_where_the_data_end(loader):
    epochs = 1 if isinstance(loader, itertools.chain) else 2
    history = train(model := linear(), sgd(model), loader, epochs=epochs, val=BATCHES)
    assert history.epoch_ends == [3, 6][:epochs] and len(history.loss) == 3 * epochs
    assert [row["step"] for row in history.to_dicts() if "val_loss" in row] == [2, 5][:epochs]


@pytest.mark.parametrize("loader", [(b for b in BATCHES), iter(BATCHES)], ids=["generator", "iterator"])
def test_data_for_one_pass_are_refused_for_two(loader):
    with pytest.raises(ValueError, match="data is a .*, used up after the first epoch: give a list"):
        train(model := linear(), sgd(model), loader, epochs=2)


def test_one_cycle_wants_a_length_that_is_right():
    def cycle(total, loader):
        optimizer = sgd(model := linear())
        scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, cycle_momentum=False)
        return train(model, optimizer, loader, epochs=2, scheduler=scheduler, scheduler_step="batch")

    class Buckets:
        def __len__(self):
            return 1

        def __iter__(self):
            return iter([list(range(8))] * 3)

    with pytest.raises(ValueError, match="OneCycleLR needs the number of steps, and these data have no length"):
        cycle(6, DataLoader(Stream(), 32))
    buckets = DataLoader(TensorDataset(X, Y), batch_sampler=Buckets())
    assert len(cycle(6, buckets).loss) == 6
    with pytest.raises(ValueError, match="Tried to step") as error:
        cycle(2, buckets)
    assert len(error.value.history.loss) == 3  # nothing that was recorded is lost


HALF, IGNORE = torch.bfloat16, nn.CrossEntropyLoss(ignore_index=0)
TARGETS = {  # outputs, targets, loss, the right loss or None, the right accuracy
    "half": (torch.randn(640, 2).to(HALF), torch.arange(640) % 2, F.cross_entropy, None, 0),
    "per token, classes last": (torch.eye(3).repeat(4, 2, 1), torch.arange(6).repeat(4, 1) % 3, "flat", None, 1.0),
    "per pixel": (
        F.one_hot(torch.arange(16).view(4, 2, 2) % 3, 3).movedim(-1, 1).float(),
        None,
        F.cross_entropy,
        None,
        1,
    ),
    "ignored": (torch.eye(3).repeat(2, 1), torch.arange(6) % 3, IGNORE, None, 1.0),
    "one logit": (torch.tensor([[-1.0], [2.0], [3.0], [-4.0]]), torch.tensor([0, 1, 0, 0]), "binary", None, 0.75),
    "one probability": (torch.tensor([0.2, 0.9, 0.4, 0.3]), torch.tensor([0.0, 1, 1, 0]), nn.BCELoss(), None, 0.75),
    "labels": (torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1.0, 0], [0, 1]]), nn.BCEWithLogitsLoss(), None, 0.75),
    "numbers": (torch.zeros(4, 1), torch.ones(4, 1), F.mse_loss, 1.0, None),
    "sum": (torch.zeros(4, 2), torch.zeros(4).long(), nn.CrossEntropyLoss(reduction="sum"), 0.6931472, 1.0),
    "partial": (
        torch.zeros(4, 2),
        torch.zeros(4).long(),
        functools.partial(F.cross_entropy, reduction="sum"),
        0.69315,
        1.0,
    ),
}
LOSSES = {
    "flat": lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()),
    "binary": lambda out, y: F.binary_cross_entropy_with_logits(out.squeeze(1), y.float()),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("cut", [1, 3])
def test_loss_and_accuracy_count_targets(name, cut):
    outputs, targets, loss_fn, loss, accuracy = TARGETS[name]
    targets = torch.arange(16).view(4, 2, 2) % 3 if targets is None else targets
    loss_fn, cut = LOSSES.get(loss_fn, loss_fn), min(cut, len(outputs) - 1)
    batches = [(outputs[:cut], targets[:cut]), (outputs[cut:], targets[cut:])]
    found = evaluate(nn.Identity(), batches, loss_fn)
    whole = float(loss_fn(outputs.double() if outputs.dtype == HALF else outputs, targets)) if loss is None else loss
    assert found[0] == pytest.approx(whole, rel=0.02 if outputs.dtype == HALF else 1e-5)
    if name != "half":
        assert found[1] == accuracy


def test_a_model_may_return_an_object_with_logits():
    class Model(nn.Linear):
        def forward(self, x):
            return SimpleNamespace(logits=super().forward(x))

    model = Model(5, 2)
    history = train(model, sgd(model), BATCHES, epochs=1, val=BATCHES)
    assert history.val_accuracy[0] == pytest.approx((model(X).logits.argmax(1) == Y).float().mean().item())


def test_a_plateau_of_a_maximum_is_given_the_accuracy():
    def rates(mode, loss_fn=F.cross_entropy, batches=BATCHES, model=None):
        model = model or linear()
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer := sgd(model), mode, patience=0, threshold=0)
        return train(model, optimizer, batches, epochs=3, scheduler=scheduler, val=batches, loss_fn=loss_fn).lr[::3]

    assert rates("max") == rates("min")
    numbers = [(x, x[:, :1]) for x, _ in BATCHES]
    with pytest.raises(ValueError, match='looks at the accuracy, and there is none: use mode="min"'):
        rates("max", F.mse_loss, numbers, linear(1))


class Told:
    """A scheduler that is told the time, as timm's are."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, epoch, metric=None):
        self.optimizer.param_groups[0]["lr"] = 0.1 / (1 + epoch)


class Counts(Told):
    done = 0

    def step(self):
        self.done += 1
        super().step(self.done)


@pytest.mark.parametrize("kind", [Told, Counts, lambda optimizer: SimpleNamespace(step=Counts(optimizer).step)])
def test_schedulers_of_others_are_stepped(kind):
    optimizer = sgd(model := linear())
    history = train(model, optimizer, BATCHES, epochs=3, scheduler=kind(optimizer))
    assert history.lr[::3] == pytest.approx([0.1, 0.05, 0.1 / 3])


@pytest.mark.parametrize("scheduler", [lr_scheduler.StepLR, [1, 2], lambda optimizer: optimizer, "cosine", 3], ids=repr)
def test_what_is_no_scheduler_is_refused_before_the_first_step(scheduler):
    optimizer = sgd(model := linear())
    before = model.weight.clone()
    with pytest.raises(TypeError, match="scheduler is .*: it must be one scheduler, made with the optimizer"):
        train(model, optimizer, BATCHES, epochs=1, scheduler=scheduler)
    assert torch.equal(model.weight, before)


def test_a_train_step_takes_any_batch():
    model = linear()
    optimizer = sgd(model)
    dicts = [{"x": x, "y": y} for x, y in BATCHES]

    def step(batch):
        loss = F.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    history = train(model, optimizer, dicts, epochs=2, train_step=step)
    twin = linear()
    assert history.loss == pytest.approx(train(twin, sgd(twin), BATCHES, epochs=2).loss, rel=1e-4)


WRONG = {
    "another model's": (lambda m: sgd(linear()), BATCHES, "optimizer holds none of model's parameters"),
    "two optimizers": (lambda m: [sgd(m), sgd(m)], BATCHES, "optimizer is of type list: give a torch.optim.Optimizer"),
    "no rate": (lambda m: torch.optim.SGD([{"params": m.parameters(), "lr": None}]), BATCHES, "there is no rate"),
    "dataset": (sgd, TensorDataset(X, Y), "data is a TensorDataset, which yields single samples"),
    "a dict": (sgd, {"x": X}, "data is of type dict"),
}


@pytest.mark.parametrize("make, data, words", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(make, data, words):
    with pytest.raises(ValueError, match=words):
        optimizer = make(model := linear())
        for group in optimizer.param_groups if words == "there is no rate" else []:
            group["lr"] = None
        train(model, optimizer, data, epochs=1)


def test_float64_is_explained():
    with pytest.raises(TypeError, match="inputs are torch.float64, the model's weights are torch.float32: make them"):
        train(model := linear(), sgd(model), [(x.double(), y) for x, y in BATCHES], epochs=1)
    model = linear().double()
    assert train(model, sgd(model), [(x.double(), y) for x, y in BATCHES], epochs=1).loss


def test_a_history_says_in_one_line_what_it_holds():
    said = repr(train(model := linear(), sgd(model), BATCHES, epochs=2, val=BATCHES))
    assert said.startswith("History(6 steps in 2 epochs, loss 0.") and "val_accuracy" in said and len(said) < 160
    assert repr(History()) == "History(0 steps in 0 epochs)"
