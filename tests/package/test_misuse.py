"""Models, losses and batches that go wrong in train, evaluate and lr_range_test: a clear error, or torch's own."""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrtut import NoSuggestion, evaluate, lr_range_test, train


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def batch(n=10):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % 3


def training(model, data, loss_fn=F.cross_entropy):
    return train(model, torch.optim.SGD(model.parameters(), lr=0.1), data, epochs=2, loss_fn=loss_fn, progress=False)


def range_test(model, data, loss_fn=F.cross_entropy):
    return lr_range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), data, loss_fn, progress=False)


everywhere = pytest.mark.parametrize("use", [training, evaluate, range_test])
in_training = pytest.mark.parametrize("use", [training, range_test])


def state(model):
    return [t.clone() for t in model.state_dict().values()]


def same(before, model):
    return all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


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


# --- losses -----------------------------------------------------------------------------------------------------------


def nan_from(call):
    """A layer that passes on NaN from its `call`-th call on."""
    calls = iter(range(1, 1000))
    return Calls(lambda x: x * math.nan if next(calls) >= call else x)


def test_nan_ends_training_as_divergence_and_evaluate_returns_it():
    history = training(network(nan_from(3)), [batch()] * 4)
    assert history.diverged and len(history.loss) == len(history.lrs) == 3
    assert all(map(math.isfinite, history.loss[:2])) and math.isnan(history.loss[2])
    loss, accuracy = evaluate(network(nan_from(1)), [batch()])
    assert math.isnan(loss) and 0 <= accuracy <= 1


def test_nan_stops_a_range_test_that_says_where_and_restores_the_model():
    model = network(nan_from(1))
    before = state(model)
    test = range_test(model, [batch()])
    assert len(test.loss) == 1 and math.isnan(test.loss[0]) and same(before, model)
    with pytest.raises(NoSuggestion, match="the loss was nan at the first step"):
        test.suggestion()
    later = range_test(network(nan_from(30)), [batch()])
    assert len(later.loss) == 30 and math.isnan(later.loss[-1]) and math.isfinite(later.loss[-2])


@everywhere
def test_losses_that_are_not_one_number(use):
    for shape, loss_fn in (
        (r"\[10\].*reduction='mean'", functools.partial(F.cross_entropy, reduction="none")),
        (r"\[0\]", lambda outputs, targets: outputs[:0, 0]),
    ):
        with pytest.raises(ValueError, match=f"the loss is of shape {shape}"):
            use(network(), [batch()], loss_fn)
    with pytest.raises(TypeError, match=r"loss_fn returned 1\.5: it must return a tensor"):
        use(network(), [batch()], lambda outputs, targets: 1.5)


@everywhere
def test_loss_of_one_number_in_a_list_is_a_number(use):
    def record(loss_fn):
        result = use(network(), [batch()], loss_fn)
        return result[0] if use is evaluate else list(result.loss)

    assert record(lambda outputs, targets: F.cross_entropy(outputs, targets).reshape(1)) == record(F.cross_entropy)


@in_training
def test_nothing_to_train(use):
    with pytest.raises(ValueError, match="depends on no parameter that requires a gradient: all are frozen"):
        use(network().requires_grad_(False), [batch()])
    with pytest.raises(ValueError, match=r"cuts the graph \(.detach"):
        use(network(), [batch()], lambda outputs, targets: F.cross_entropy(outputs.detach(), targets))


# --- targets ----------------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("wrong, words", [([-1], "-1"), ([10, 7, 10], "7, 10"), (range(3, 12), "3, 4, 5, 6, 7")])
def test_targets_out_of_range(use, wrong, words):
    inputs, targets = batch()
    targets[: len(wrong)] = torch.tensor(list(wrong))
    model = network()
    before = state(model)
    with pytest.raises(ValueError, match=f"targets hold {words}, but the model has 3 outputs, for the classes 0 to 2"):
        use(model, [(inputs, targets)])
    assert same(before, model)


@everywhere
@pytest.mark.parametrize(
    "loss_fn, ignored",
    [
        (F.cross_entropy, -100),
        (nn.CrossEntropyLoss(ignore_index=255), 255),
        (functools.partial(F.cross_entropy, ignore_index=255), 255),
    ],
    ids=["default", "module", "partial"],
)
def test_targets_that_the_loss_leaves_out_are_not_blamed(use, loss_fn, ignored):
    inputs, targets = batch()
    targets[0] = ignored
    use(network(), [(inputs, targets)], loss_fn)
    targets[1] = 5
    with pytest.raises(ValueError, match="targets hold 5, but"):
        use(network(), [(inputs, targets)], loss_fn)


# --- batches ----------------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x, y: (x.numpy(), y.numpy()), r"tuple \(ndarray, ndarray\)"),
        (lambda x, y: {"x": x, "y": y}, "dict"),
        (lambda x, y: (x, 1, "a", 1.0, [], None), r"tuple \(Tensor, int, str, float, list\)"),
        (lambda x, y: x, "Tensor"),
    ],
)
def test_batch_that_is_not_a_pair_of_tensors(use, wrong, words):
    model = network()
    before = state(model)
    way_out = "train_step" if use is range_test else "collate_fn"
    with pytest.raises(ValueError, match=rf"a batch is a {words}, not a pair of tensors .*{way_out}"):
        use(model, [wrong(*batch())])
    assert same(before, model)


@everywhere
def test_batch_without_a_sample(use):
    inputs, targets = batch()
    with pytest.raises(ValueError, match=r"a batch holds no sample: .*\[0, 4\].*Leave it out"):
        use(network(), [(inputs, targets), (inputs[:0], targets[:0])])


@in_training
def test_batch_of_one_for_batchnorm(use):
    says = r"a batch of one sample, of shape \[1, 4\], and BatchNorm needs two.*drop_last"
    with pytest.raises(ValueError, match=says):
        use(network(nn.BatchNorm1d(8)), [batch(1)])
    use(network(), [batch(1)])  # without BatchNorm, one will do


def test_batch_of_one_is_fine_where_batchnorm_needs_no_second():
    assert math.isfinite(evaluate(network(nn.BatchNorm1d(8)), [batch(1)])[0])
    images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 3))
    one = (torch.randn(1, 1, 8, 8), torch.zeros(1, dtype=torch.long))
    assert len(training(images, [one]).loss) == 2  # one image has many pixels a channel


@in_training
def test_bad_batch_leaves_a_range_test_undone_and_a_training_at_its_last_step(use):
    model, (inputs, targets) = network(), batch()
    before = state(model)
    with pytest.raises(ValueError, match="targets hold 9"):
        use(model, [(inputs, targets), (inputs, targets + 9)])
    assert same(before, model) == (use is range_test)


# --- integers ---------------------------------------------------------------------------------------------------------

FLOAT_MODELS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.Linear(2, 3)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3)),
    "activation": lambda: nn.Sequential(nn.GELU(), nn.Flatten(), nn.Linear(64, 3)),
    "recurrent": lambda: nn.Sequential(nn.Flatten(2), Calls(lambda x: x[:, 0]), nn.RNNCell(64, 3)),
}


@everywhere
@pytest.mark.parametrize("model", FLOAT_MODELS)
def test_raw_images(use, model):
    images = torch.ones(10, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"inputs are torch.uint8, .*: pass them through lrtut.batches\(\)"):
        use(FLOAT_MODELS[model](), [(images, batch()[1])])
    with pytest.raises(TypeError, match=r"inputs are torch.int64, .* make them floats, by \.float\(\)"):
        use(FLOAT_MODELS[model](), [(images.long(), batch()[1])])


def normalises():
    return Calls(lambda x: x.float() / 255)


INTEGER_MODELS = {
    "embedding": lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 3)),
    "bag": lambda: nn.Sequential(nn.EmbeddingBag(5, 8), nn.Linear(8, 3)),
    "counts": lambda: nn.Sequential(normalises(), nn.Linear(4, 3)),
}


@everywhere
@pytest.mark.parametrize("model", INTEGER_MODELS)
def test_integer_inputs_to_a_model_that_takes_them(use, model):
    use(INTEGER_MODELS[model](), [(torch.randint(0, 5, (10, 4)), batch()[1])])


# --- errors that are torch's, or the user's own -----------------------------------------------------------------------


@everywhere
def test_other_errors_are_passed_on(use):
    for error in (IndexError("my own"), ValueError("my own")):
        with pytest.raises(type(error), match="^my own$"):
            use(network(Calls(raises(error))), [batch(1)])
    with pytest.raises(IndexError, match="^my own$"):
        use(network(), [batch()], raises(IndexError("my own")))
    one_output = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(IndexError, match="index 1000 is out of bounds"):
        use(one_output, [batch()], lambda outputs, targets: outputs[torch.tensor(1000)])


@everywhere
def test_errors_of_models_that_take_integers_are_passed_on(use):
    words = torch.zeros(10, 4, dtype=torch.long)
    double = INTEGER_MODELS["embedding"]()
    double[2].double()
    with pytest.raises(RuntimeError, match="dtype"):
        use(double, [(words, batch()[1])])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        use(nn.Sequential(normalises(), nn.Linear(7, 3)), [(words, batch()[1])])
    with pytest.raises(RuntimeError, match="one_hot is only applicable"):  # floats where whole numbers are meant
        use(nn.Sequential(Calls(lambda x: F.one_hot(x, 3)), nn.Linear(3, 3)), [batch()])


def test_model_without_parameters():
    inputs, targets = batch()
    model, scale = Calls(lambda x: x[:, :3]), nn.Parameter(torch.ones(()))
    assert evaluate(model, [batch()])[0] == F.cross_entropy(inputs[:, :3], targets).item()

    def loss_fn(outputs, targets):
        return F.cross_entropy(outputs * scale, targets)

    train(model, torch.optim.SGD([scale], lr=0.1), [batch()], epochs=1, loss_fn=loss_fn, progress=False)
    assert scale.item() != 1


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduled", [False, True])
def test_optimizer_that_needs_a_closure(scheduled):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    if scheduled:  # a scheduler wraps step()
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    before = state(model)
    with pytest.raises(ValueError, match=r"LBFGS.step\(\) needs a closure.*train_step"):
        train(model, optimizer, [batch()], epochs=1)
    with pytest.raises(ValueError, match=r"LBFGS.step\(\) needs a closure.*give a train_step"):
        lr_range_test(model, optimizer, [batch()])
    assert same(before, model)

    def train_step(batch):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            return loss

        return optimizer.step(closure)

    train_step(batch())
    before, memory = state(model), copy.deepcopy(optimizer.state_dict()["state"])
    assert len(lr_range_test(model, optimizer, [batch()], train_step=train_step, progress=False).loss) > 10
    assert same(before, model) and str(optimizer.state_dict()["state"]) == str(memory)


def test_optimizer_whose_step_takes_whatever_it_is_given():
    class Passing(torch.optim.SGD):
        def step(self, *args, **kwargs):
            return super().step(*args, **kwargs)

    class Wrapper:
        def __init__(self, optimizer):
            self.wrapped = optimizer

        def __getattr__(self, name):
            return getattr(self.wrapped, name)

    for wrap in (lambda optimizer: optimizer, Wrapper):
        model = network()
        before = state(model)
        train(model, wrap(Passing(model.parameters(), lr=0.1)), [batch()], epochs=1, progress=False)
        assert not same(before, model)
