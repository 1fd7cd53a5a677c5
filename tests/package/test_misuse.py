"""Models, losses and batches that go wrong in train, evaluate and lr_range_test: a clear error, or torch's."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from toy import network, samples, sgd

from lrtut import evaluate, lr_range_test, train

X, Y = samples(10)
EPOCHS = {train: {"epochs": 1}}


def training(model, data, loss_fn=F.cross_entropy, optimizer=None):
    return train(model, optimizer or sgd(model), data, epochs=2, loss_fn=loss_fn, progress=False)


def range_test(model, data, loss_fn=F.cross_entropy, optimizer=None):
    return lr_range_test(model, optimizer or sgd(model), data, loss_fn, progress=False)


everywhere = pytest.mark.parametrize("use", [training, evaluate, range_test])
in_training = pytest.mark.parametrize("use", [training, range_test])


class Calls(nn.Module):
    """A layer made of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def raises(error):
    def function(*_):
        raise error

    return function


# --- optimizers and contexts ------------------------------------------------------------------------------------------


def without_a_rate(model):
    optimizer = sgd(model)
    optimizer.param_groups[0]["lr"] = None
    return optimizer


OPTIMIZERS = {
    "another model's": (lambda m: sgd(network()), "optimizer holds none of model's parameters"),
    "no rate": (without_a_rate, "there is no rate"),
    "closure": (lambda m: torch.optim.LBFGS(m.parameters()), r"LBFGS.step\(\) needs a closure.*give a train_step"),
}


@in_training
@pytest.mark.parametrize("make, words", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_that_cannot_train_the_model_is_refused(use, make, words):
    with pytest.raises(ValueError, match=words):
        use(model := network(), [(X, Y)], optimizer=make(model))


def test_an_optimizer_that_needs_a_closure_gets_it_from_a_train_step():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def train_step(batch):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            return loss

        return optimizer.step(closure)

    assert len(lr_range_test(model, optimizer, [(X, Y)], train_step=train_step, progress=False).loss) > 10


def test_trains_also_where_gradients_are_off_and_says_where_it_cannot():
    expected = range_test(network(), [(X, Y)]).loss.tolist()
    with torch.no_grad():
        assert range_test(network(), [(X, Y)]).loss.tolist() == expected and not torch.is_grad_enabled()
    for use in (training, range_test):
        with torch.inference_mode(), pytest.raises(ValueError, match="called within torch.inference_mode"):
            use(network(), [(X, Y)])
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast"):
            use(network(), [(X, Y)])
    with torch.inference_mode():
        made, inputs = network(), X.clone()
    with pytest.raises(ValueError, match=r"parameter 0.weight was made in torch.inference_mode\(\)"):
        range_test(made, [(X, Y)])
    with pytest.raises(ValueError, match=r"inputs were made in torch.inference_mode\(\)"):
        range_test(network(), [(inputs, Y)])


# --- losses -----------------------------------------------------------------------------------------------------------


@everywhere
def test_losses_that_are_not_one_number(use):
    with pytest.raises(ValueError, match=r"the loss is of shape \[10\].*reduction='mean'"):
        use(network(), [(X, Y)], functools.partial(F.cross_entropy, reduction="none"))
    with pytest.raises(TypeError, match=r"loss_fn returned 1\.5: it must return a tensor"):
        use(network(), [(X, Y)], lambda outputs, targets: 1.5)
    use(network(), [(X, Y)], lambda outputs, targets: F.cross_entropy(outputs, targets).reshape(1))  # this one is


@in_training
def test_nothing_to_train(use):
    with pytest.raises(ValueError, match="depends on no parameter that requires a gradient: all are frozen"):
        use(network().requires_grad_(False), [(X, Y)])
    with pytest.raises(ValueError, match=r"cuts the graph \(.detach"):
        use(network(), [(X, Y)], lambda outputs, targets: F.cross_entropy(outputs.detach(), targets))


def test_a_model_without_parameters():
    model, scale = Calls(lambda x: x[:, :3]), nn.Parameter(torch.ones(()))
    assert evaluate(model, [(X, Y)])[0] == F.cross_entropy(X[:, :3], Y).item()
    train(model, torch.optim.SGD([scale], lr=0.1), [(X, Y)], epochs=1, loss_fn=lambda out, y: (out * scale).sum())
    assert scale.item() != 1


class Translates(nn.Linear):
    def forward(self, source, target):
        return super().forward(source)


@everywhere
def test_what_wants_other_arguments_is_named_with_what_it_takes(use):
    taken = r"\(log_probs, targets, input_lengths, target_lengths\), and is given \(outputs, targets\): .* a train_step"
    with pytest.raises(ValueError, match=f"loss_fn takes {taken}"):
        use(network(), [(X, Y)], nn.CTCLoss())
    with pytest.raises(ValueError, match=r"model takes \(source, target\), and is given the inputs alone"):
        use(Translates(4, 3), [(X, Y)])


@pytest.mark.parametrize("function", [train, lr_range_test])
def test_a_train_step_that_takes_no_batch_is_refused(function):
    with pytest.raises(ValueError, match=r"train_step takes \(\), and is given \(batch\)"):
        function(model := network(), sgd(model), [(X, Y)], train_step=lambda: 1.0, **EPOCHS.get(function, {}))


@everywhere
def test_a_loss_that_is_complex_is_refused(use):
    with pytest.raises(ValueError, match="the loss is complex: .* loss.abs"):
        use(network(), [(X, Y)], lambda outputs, targets: (1j * outputs).sum())


# --- targets ----------------------------------------------------------------------------------------------------------


TARGETS = {
    "negative": ([-1], F.cross_entropy, "-1"),
    "too large": ([7, 3, 7], F.cross_entropy, "3, 7"),
    "ignored by default": ([-100, 5], F.cross_entropy, "5"),  # only the second is to blame
    "ignored by a module": ([255, 5], nn.CrossEntropyLoss(ignore_index=255), "5"),
    "ignored by a partial": ([255, 5], functools.partial(F.cross_entropy, ignore_index=255), "5"),
}


@everywhere
@pytest.mark.parametrize("wrong, loss_fn, words", TARGETS.values(), ids=TARGETS)
def test_targets_out_of_range(use, wrong, loss_fn, words):
    targets = Y.clone()
    targets[: len(wrong)] = torch.tensor(wrong)
    with pytest.raises(ValueError, match=f"targets hold {words}, but the model has 3 outputs, for the classes 0 to 2"):
        use(network(), [(X, targets)], loss_fn)


# --- batches ----------------------------------------------------------------------------------------------------------

NO_PAIRS = {
    "arrays": ((X.numpy(), Y.numpy()), r"a batch is a tuple \(ndarray, ndarray\), not a pair of tensors"),
    "dict": ({"x": X, "y": Y}, "a batch is a dict, not a pair of tensors"),
    "six": ((X, 1, "a", 1.0, [], None), r"a batch is a tuple \(Tensor, int, str, float, list\), not a pair"),
    "one": ((X,), r"a batch is a tuple \(Tensor\), not a pair"),
    "tensor": (X, "a batch is a Tensor, not a pair"),
    "a tensor of two rows": (X[:2], "a batch is a Tensor, not a pair"),
    "one sample": ((X[0], Y[0]), "targets are a single number, as of one sample"),
    "empty": ((X[:0], Y[:0]), r"a batch holds no sample: .*\[0, 4\].*Leave it out"),
}


@everywhere
@pytest.mark.parametrize("wrong, words", NO_PAIRS.values(), ids=NO_PAIRS)
def test_a_batch_that_is_not_a_pair_of_tensors(use, wrong, words):
    with pytest.raises(ValueError, match=words):
        use(network(), [(X, Y), wrong])


@everywhere
def test_data_that_yield_single_samples_are_refused(use):
    with pytest.raises(ValueError, match="is a TensorDataset, which yields single samples"):
        use(network(), TensorDataset(X, Y))


@everywhere
def test_a_pair_of_tensors_in_place_of_batches_is_refused(use):
    with pytest.raises(ValueError, match=r"is a pair of tensors: give lrtut.batches\("):
        use(network(), (X, Y))


@in_training
def test_batch_of_one_for_batchnorm(use):
    one = (X[:1], Y[:1])
    says = r"a batch of one sample, of shape \[1, 4\], and BatchNorm needs two.*drop_last"
    with pytest.raises(ValueError, match=says):
        use(network(nn.BatchNorm1d(8)), [one])
    use(network(), [one])  # without BatchNorm, one will do


IMAGES = torch.ones(10, 1, 8, 8, dtype=torch.uint8)
TYPES = {
    "raw images": (IMAGES, r"inputs are torch.uint8, .*: pass them through lrtut.batches\(\)"),
    "integers": (IMAGES.long(), r"inputs are torch.int64, .* make them floats, by \.float\(\)"),
    "doubles": (IMAGES.double(), "inputs are torch.float64, the model's weights are torch.float32: make them"),
}


@everywhere
@pytest.mark.parametrize("inputs, words", TYPES.values(), ids=TYPES)
def test_inputs_of_another_type_than_the_weights(use, inputs, words):
    model = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.Linear(2, 3))
    with pytest.raises(TypeError, match=words):
        use(model, [(inputs, Y)])
    if inputs.is_floating_point():
        use(model.double(), [(inputs, Y)])


# --- errors that are torch's, or the user's own -----------------------------------------------------------------------


@everywhere
def test_other_errors_are_passed_on(use):
    for error in (IndexError("my own"), ValueError("my own")):
        with pytest.raises(type(error), match="^my own"):
            use(network(Calls(raises(error))), [(X[:1], Y[:1])])
    with pytest.raises(IndexError, match="^my own"):
        use(network(), [(X, Y)], raises(IndexError("my own")))


@everywhere
def test_errors_of_models_that_take_integers_are_passed_on(use):
    words = torch.zeros(10, 4, dtype=torch.long)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        use(nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(7, 3)), [(words, Y)])
    with pytest.raises(RuntimeError, match="one_hot is only applicable"):  # floats where whole numbers are meant
        use(nn.Sequential(Calls(lambda x: F.one_hot(x, 3)), nn.Linear(3, 3)), [(X, Y)])
