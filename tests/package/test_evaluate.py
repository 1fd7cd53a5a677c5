"""`evaluate` is the mean over what the loss counts, whatever the batches, and the accuracy where there are classes."""

import copy
import functools
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy import network, pairs, samples, sgd

from lrtut import evaluate, train

NAMED = torch.arange(6) % 3
PIXELS = torch.arange(16).view(4, 2, 2) % 3
FOUR = torch.zeros(4).long()
LIKELY = nn.BCELoss()
SCORES, WEIGHTS = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0.1, 5.0])


def flat(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def of_probability(outputs, targets):
    return LIKELY(outputs.squeeze(1), targets.float())


def of_one_logit(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.float())


KINDS = {  # outputs, targets, loss, accuracy
    "classes": (torch.eye(3).repeat(2, 1), NAMED, F.cross_entropy, 1),
    "per token, classes last": (torch.eye(3).repeat(4, 2, 1), NAMED.repeat(4, 1), flat, 1),
    "per pixel": (F.one_hot(PIXELS, 3).movedim(-1, 1).float(), PIXELS, F.cross_entropy, 1),
    "ignored": (torch.eye(3).repeat(2, 1), NAMED, nn.CrossEntropyLoss(ignore_index=0), 1),
    "weighted": (torch.eye(3).repeat(2, 1), NAMED, nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3])), 1),
    "one logit": (torch.tensor([[-1.0], [2], [3], [-4]]), torch.tensor([0, 1, 0, 0]), of_one_logit, 0.75),
    "one probability": (torch.tensor([0.2, 0.9, 0.4, 0.3]), torch.tensor([0.0, 1, 1, 0]), nn.BCELoss(), 0.75),
    "labels": (torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1.0, 0], [0, 1]]), nn.BCEWithLogitsLoss(), 0.75),
    "a probability, to a function": (torch.tensor([[0.2], [0.9], [0.4]]), torch.tensor([0, 1, 0]), of_probability, 1),
    "a probability, to a lambda": (
        torch.tensor([[0.2], [0.9], [0.4]]),
        torch.tensor([0, 1, 0]),
        lambda outputs, targets: F.binary_cross_entropy(outputs.squeeze(1), targets.float()),
        1,
    ),
    "labels, by a partial": (
        torch.tensor([[1.0, -1], [1, 1]]),
        torch.tensor([[1.0, 0], [0, 1]]),
        functools.partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor([1.0, 2])),
        0.75,
    ),
    "weighted, but divided by the number": (SCORES, torch.tensor([1, 1, 0]), nn.MultiMarginLoss(weight=WEIGHTS), 2 / 3),
    "as many tokens as classes": (torch.eye(3).repeat(4, 1, 1), NAMED[:3].repeat(4, 1), flat, None),
    "numbers": (torch.zeros(4, 1), torch.ones(4, 1), F.mse_loss, None),
}


@pytest.mark.parametrize("outputs, targets, loss_fn, accuracy", KINDS.values(), ids=KINDS)
def test_loss_and_accuracy_count_targets(outputs, targets, loss_fn, accuracy):
    loss, found = evaluate(nn.Identity(), [(outputs[:1], targets[:1]), (outputs[1:], targets[1:])], loss_fn)
    assert loss == pytest.approx(loss_fn(outputs, targets).item(), rel=1e-5, nan_ok=False)
    assert found == accuracy


@pytest.mark.parametrize(
    "loss_fn", [nn.CrossEntropyLoss(reduction="sum"), functools.partial(F.cross_entropy, reduction="sum")]
)
@pytest.mark.parametrize("targets", [FOUR, torch.full((4, 2), 0.5)], ids=["classes", "distributions"])
def test_a_sum_is_shared_among_the_samples(loss_fn, targets):
    loss, _ = evaluate(nn.Identity(), [(torch.zeros(4, 2), targets)] * 2, loss_fn)
    assert loss == pytest.approx(0.6931472)


def test_half_precision_adds_up_in_double():
    outputs, targets = torch.randn(640, 2).bfloat16(), torch.arange(640) % 2
    loss, _ = evaluate(nn.Identity(), list(zip(outputs.split(1), targets.split(1), strict=True)))
    assert loss == pytest.approx(F.cross_entropy(outputs.double(), targets).item(), rel=0.01)


@pytest.mark.parametrize("kind", [SimpleNamespace, dict])
def test_a_model_may_return_an_object_with_logits(kind):
    class Model(nn.Linear):
        def forward(self, x):
            return kind(logits=super().forward(x))

    model, (x, y) = Model(4, 3), samples()
    history = train(model, sgd(model), pairs(), epochs=1, val=pairs())
    assert history.val_accuracy[0] == pytest.approx((nn.Linear.forward(model, x).argmax(1) == y).float().mean().item())


@pytest.mark.parametrize(
    ("targets", "loss_fn", "way_out"),
    [
        (torch.zeros(6), F.cross_entropy, "targets.long()"),
        (torch.zeros(6, dtype=torch.int32), F.cross_entropy, "targets.long()"),
        (torch.zeros(6, 1, dtype=torch.long), F.cross_entropy, "targets.squeeze(1)"),
        (torch.zeros(6, 1, dtype=torch.long), lambda o, t: F.binary_cross_entropy_with_logits(o[:, :1], t), ".float()"),
        (torch.zeros(6), lambda o, t: F.binary_cross_entropy_with_logits(o[:, :1], t), "targets.unsqueeze(1)"),
        (torch.zeros(6, 1), F.cross_entropy, "targets.squeeze(1).long()"),
    ],
)
def test_targets_that_the_loss_refuses_are_named_with_the_way_out(targets, loss_fn, way_out):
    message = rf"loss_fn refuses targets of shape .* and type {targets.dtype}.*{re.escape(way_out)}\."
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Linear(4, 3), [(torch.ones(6, 4), targets)], loss_fn)


def test_what_cannot_be_explained_says_what_model_and_loss_got():
    with pytest.raises(RuntimeError) as caught:
        evaluate(nn.Linear(5, 3), [samples()])
    assert caught.value.__notes__ == ["The model got inputs of shape [60, 4] and type torch.float32."]
    with pytest.raises(ValueError) as caught:
        evaluate(nn.Linear(4, 3), [samples()], lambda outputs, targets: F.nll_loss(outputs, targets[:5]))
    assert "loss_fn got outputs of shape [60, 3]" in caught.value.__notes__[0]


def test_a_model_that_returns_its_loss_has_no_accuracy():
    class Model(nn.Module):
        def forward(self, x):
            return x.mean()

    assert evaluate(Model(), [(torch.ones(4, 2), FOUR)], lambda loss, targets: loss) == (1.0, None)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_no_conversion_that_repeats_the_targets_is_advised():
    with pytest.raises(RuntimeError, match="must match the size"):
        evaluate(nn.Identity(), [(torch.zeros(4, 3), FOUR)], F.mse_loss)


def test_no_conversion_that_changes_the_targets_is_advised():
    with pytest.raises(RuntimeError, match="expected target dtype|expected scalar type") as caught:
        evaluate(nn.Linear(4, 3), [(torch.ones(6, 4), torch.full((6,), 0.5))])
    assert "targets of shape [6]" in caught.value.__notes__[0]


def test_an_error_of_the_users_own_loss_is_passed_on_whatever_the_model_returns():
    def loss_fn(outputs, targets):
        raise RuntimeError("my own")

    model = nn.LSTM(4, 3)  # returns a tuple
    with pytest.raises(RuntimeError, match="^my own"):
        evaluate(model, [samples()], loss_fn)
    with pytest.raises(ValueError, match="the model returns a tuple, and loss_fn does not take one"):
        evaluate(model, [samples()])


def test_evaluate_changes_nothing():
    model = network(nn.Dropout(0.5), nn.BatchNorm1d(8))
    model[2].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    assert evaluate(model, [samples()]) == evaluate(model, [samples()])  # dropout is off
    with pytest.raises(ValueError, match="no batch"):
        evaluate(model, [])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
