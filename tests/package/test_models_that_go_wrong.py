"""Faults of models, losses and batches: in train, evaluate and lr_range_test, a clear error or what was designed."""

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


class Broken(nn.Module):
    """Hands on NaN from its `after`-th call on."""

    def __init__(self, after=1):
        super().__init__()
        self.calls, self.after = 0, after

    def forward(self, x):
        self.calls += 1
        return x * math.nan if self.calls >= self.after else x


def test_nan_ends_training_as_divergence():
    history = training(network(Broken(after=3)), [batch()] * 4)
    assert history.diverged and len(history.loss) == len(history.lrs) == 3
    assert all(map(math.isfinite, history.loss[:2])) and math.isnan(history.loss[2])


def test_nan_is_what_evaluate_returns():
    loss, accuracy = evaluate(network(Broken()), [batch()])
    assert math.isnan(loss) and 0 <= accuracy <= 1


def test_nan_stops_a_range_test_that_says_where_and_restores_the_model():
    model = network(Broken())
    before = state(model)
    test = range_test(model, [batch()])
    assert len(test.loss) == 1 and math.isnan(test.loss[0]) and same(before, model)
    with pytest.raises(NoSuggestion, match="the loss was nan at the first step"):
        test.suggestion()
    later = range_test(network(Broken(after=30)), [batch()])
    assert len(later.loss) == 30 and math.isnan(later.loss[-1]) and math.isfinite(later.loss[-2])


@everywhere
def test_loss_of_many_numbers(use):
    with pytest.raises(ValueError, match=r"the loss is of shape \[10\].*reduction='mean'"):
        use(network(), [batch()], lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))


@everywhere
def test_loss_that_is_no_tensor(use):
    with pytest.raises(TypeError, match=r"loss_fn returned 1\.5: it must return a tensor"):
        use(network(), [batch()], lambda outputs, targets: 1.5)


@everywhere
def test_loss_of_one_number_in_a_list_is_a_number(use):
    def wrapped(outputs, targets):
        return F.cross_entropy(outputs, targets).reshape(1)

    def record(result):
        return result.loss if use is training else result[0] if use is evaluate else result.loss.tolist()

    assert record(use(network(), [batch()], wrapped)) == record(use(network(), [batch()]))


@everywhere
@pytest.mark.parametrize(
    "wrong, words", [([3], "3"), ([-1], "-1"), ([10, 7, 10], "7, 10"), (list(range(3, 12)), "3, 4, 5, 6, 7")]
)
def test_targets_out_of_range(use, wrong, words):
    inputs, targets = batch()
    targets[: len(wrong)] = torch.tensor(wrong)
    model = network()
    before = state(model)
    with pytest.raises(ValueError, match=rf"targets hold {words}, but the model has 3 outputs, for the classes 0 to 2"):
        use(model, [(inputs, targets)])
    assert same(before, model)


@everywhere
def test_targets_that_torch_leaves_out_are_none_of_them(use):
    inputs, targets = batch()
    targets[0] = -100
    use(network(), [(inputs, targets)])
    targets[1] = 5
    with pytest.raises(ValueError, match="targets hold 5, but"):
        use(network(), [(inputs, targets)])


@everywhere
def test_other_errors_of_a_model_or_a_loss_are_its_own(use):
    class Fails(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error = error

        def forward(self, x):
            raise self.error

    def loss_fn(outputs, targets):
        raise IndexError("my own")

    for error in (IndexError("my own"), ValueError("my own")):
        with pytest.raises(type(error), match="^my own$"):
            use(network(Fails(error)), [batch(1)])
    with pytest.raises(IndexError, match="^my own$"):
        use(network(), [batch()], loss_fn)


@everywhere
def test_batch_without_a_sample(use):
    inputs, targets = batch()
    with pytest.raises(ValueError, match=r"a batch holds no sample: .*\[0, 4\].*Leave it out"):
        use(network(), [(inputs, targets), (inputs[:0], targets[:0])])


@in_training
def test_batch_of_one_for_batchnorm(use):
    model = network(nn.BatchNorm1d(8))
    with pytest.raises(
        ValueError, match=r"a batch of one sample, of shape \[1, 4\], and BatchNorm needs two.*drop_last"
    ):
        use(model, [batch(1)])
    use(network(), [batch(1)])  # without BatchNorm, one will do


def test_batch_of_one_for_batchnorm_is_fine_where_its_running_means_are_used():
    model = network(nn.BatchNorm1d(8))
    loss, _ = evaluate(model, [batch(1)])
    assert math.isfinite(loss) and model.training
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
    assert not any(t.isnan().any() for t in model.state_dict().values())


@everywhere
def test_integer_inputs(use):
    inputs, targets = batch()
    with pytest.raises(TypeError, match=r"inputs are torch.int64, .* make them floats, by \.float\(\)"):
        use(network(), [(inputs.long(), targets)])


FLOAT_MODELS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.Linear(2, 3)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(8), nn.Flatten(), nn.Linear(64, 3)),
    "activation": lambda: nn.Sequential(nn.GELU(), nn.Flatten(), nn.Linear(64, 3)),
    "recurrent": lambda: Recurrent(),
}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(8, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x[:, 0])[0][:, -1]


@everywhere
@pytest.mark.parametrize("model", FLOAT_MODELS)
def test_raw_images(use, model):
    images = torch.ones(10, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"inputs are torch.uint8, .*: pass them through lrtut.batches\(\)"):
        use(FLOAT_MODELS[model](), [(images, batch()[1])])


class Normalises(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.float() / 255)


INTEGER_MODELS = {
    "embedding": (lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 3)), torch.int64),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(5, 8), nn.Linear(8, 3)), torch.int64),
    "images": (Normalises, torch.uint8),
    "counts": (Normalises, torch.int64),
}


@everywhere
@pytest.mark.parametrize("make, dtype", INTEGER_MODELS.values(), ids=INTEGER_MODELS)
def test_integer_inputs_to_a_model_that_takes_them(use, make, dtype):
    use(make(), [(torch.randint(0, 5, (10, 4)).to(dtype), batch()[1])])


@everywhere
def test_an_error_of_a_model_that_takes_integers_is_its_own(use):
    words = torch.zeros(10, 4, dtype=torch.long)
    double = INTEGER_MODELS["embedding"][0]()
    double[2].double()
    with pytest.raises(RuntimeError, match="dtype"):
        use(double, [(words, batch()[1])])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        use(nn.Sequential(Normalises(), nn.Linear(7, 3)), [(words, batch()[1])])


@in_training
def test_nothing_to_train(use):
    with pytest.raises(ValueError, match="depends on no parameter that requires a gradient: all are frozen"):
        use(network().requires_grad_(False), [batch()])
    with pytest.raises(ValueError, match=r"cuts the graph \(.detach"):
        use(network(), [batch()], lambda outputs, targets: F.cross_entropy(outputs.detach(), targets))


@everywhere
@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x, y: (x.numpy(), y.numpy()), r"tuple \(ndarray, ndarray\)"),
        (lambda x, y: [{"x": x}, y], r"list \(dict, Tensor\)"),
        (lambda x, y: {"x": x, "y": y}, "dict"),
        (lambda x, y: (x, x, y), r"tuple \(Tensor, Tensor, Tensor\)"),
        (lambda x, y: x, "Tensor"),
        (lambda x, y: 7, "int"),
    ],
)
def test_batch_that_is_no_pair_of_tensors(use, wrong, words):
    model = network()
    before = state(model)
    way_out = "train_step" if use is range_test else "collate_fn"
    with pytest.raises(ValueError, match=rf"a batch is a {words}, not a pair of tensors .*{way_out}"):
        use(model, [wrong(*batch())])
    assert same(before, model)


class Nothing(nn.Module):
    def forward(self, x):
        return x[:, :3]


def test_model_without_parameters():
    inputs, targets = batch()
    assert evaluate(Nothing(), [batch()])[0] == F.cross_entropy(inputs[:, :3], targets).item()
    scale = nn.Parameter(torch.ones(()))

    def loss_fn(outputs, targets):
        return F.cross_entropy(outputs * scale, targets)

    train(Nothing(), torch.optim.SGD([scale], lr=0.1), [batch()], epochs=1, loss_fn=loss_fn, progress=False)
    assert scale.item() != 1


@everywhere
@pytest.mark.parametrize(
    "loss_fn",
    [nn.CrossEntropyLoss(ignore_index=255), functools.partial(F.cross_entropy, ignore_index=255)],
    ids=["module", "partial"],
)
def test_targets_that_the_loss_is_told_to_leave_out_are_not_blamed(use, loss_fn):
    inputs, targets = batch()
    targets[0] = 255
    use(network(), [(inputs, targets)], loss_fn)
    targets[1] = 3
    with pytest.raises(ValueError, match="targets hold 3, but"):
        use(network(), [(inputs, targets)], loss_fn)
    targets[1] = -100
    with pytest.raises(ValueError, match="targets hold -100, but"):
        use(network(), [(inputs, targets)], loss_fn)


def lbfgs_step(model, optimizer):
    def step(batch):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            return loss

        return optimizer.step(closure)

    return step


@pytest.mark.parametrize("scheduled", [False, True])
def test_optimizer_that_needs_a_closure(scheduled):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    if scheduled:  # a scheduler wraps step()
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    before = state(model)
    with pytest.raises(ValueError, match=r"LBFGS.step\(\) needs a closure.*by hand"):
        train(model, optimizer, [batch()], epochs=1)
    with pytest.raises(ValueError, match=r"LBFGS.step\(\) needs a closure.*give a train_step"):
        lr_range_test(model, optimizer, [batch()])
    assert same(before, model)
    step = lbfgs_step(model, optimizer)
    step(batch())
    before, memory = state(model), copy.deepcopy(optimizer.state_dict()["state"])
    assert len(lr_range_test(model, optimizer, [batch()], train_step=step, steps=20, progress=False).loss) > 10
    assert same(before, model)
    after = optimizer.state_dict()["state"]
    assert str(after) == str(memory)


def test_optimizer_whose_step_takes_whatever_it_is_given():
    class Passing(torch.optim.SGD):
        def step(self, *args, **kwargs):
            return super().step(*args, **kwargs)

    class HandsOn:
        def __init__(self, optimizer):
            self.wrapped = optimizer

        def __getattr__(self, name):
            return getattr(self.wrapped, name)

    for wrap in (lambda optimizer: optimizer, HandsOn):
        model = network()
        before = state(model)
        train(model, wrap(Passing(model.parameters(), lr=0.1)), [batch()], epochs=1, progress=False)
        assert not same(before, model)


@everywhere
def test_a_batch_of_many_parts_is_told_by_its_first_five(use):
    with pytest.raises(ValueError, match=r"a batch is a tuple \(Tensor, int, str, float, list\), not a pair"):
        use(network(), [(torch.zeros(2), 1, "a", 1.0, [], None)])


@everywhere
def test_a_loss_of_no_number(use):
    with pytest.raises(ValueError, match=r"the loss is of shape \[0\]"):
        use(network(), [batch()] * 30, lambda outputs, targets: outputs[:0, 0])


class OneHot(nn.Module):
    """Wants whole numbers, and has a parameter for the optimizer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * F.one_hot(x, 10)


@everywhere
def test_floats_where_a_model_wants_whole_numbers_is_torchs_own_error(use):
    with pytest.raises(RuntimeError, match="one_hot is only applicable"):
        use(OneHot(), [batch()] * 30)


@everywhere
def test_an_index_error_of_a_loss_of_one_output_a_sample_is_its_own(use):
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(IndexError, match="index 1000 is out of bounds"):
        use(model, [batch()] * 30, lambda outputs, targets: outputs[torch.tensor(1000)])
