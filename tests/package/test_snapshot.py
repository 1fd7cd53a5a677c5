import collections
import copy
import os
import random
import signal
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lrtut import lr_range_test
from lrtut.finder.snapshot import restored


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    y = (x @ torch.randn(4, 3, generator=generator)).argmax(1)
    return [(x[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)]


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def sgd(model, lr=0.1, **kwargs):
    return torch.optim.SGD(model.parameters(), lr=lr, **kwargs)


def take_steps(model, optimizer, n):
    for x, y in (data() * n)[:n]:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def sweep(model, optimizer, **kwargs):
    return lr_range_test(model, optimizer, data(), **{"end_lr": 1.0, "steps": 25, "progress": False} | kwargs)


def everything(model, optimizer):
    """A copy of every value, and the identity and address of every tensor."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    return copy.deepcopy(
        {
            "values": {name: tensor.detach() for name, tensor in tensors.items()},
            "places": {name: (id(tensor), tensor.data_ptr()) for name, tensor in tensors.items()},
            "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
            "grads": {name: parameter.grad for name, parameter in model.named_parameters()},
            "modes": {name: module.training for name, module in model.named_modules()},
            "module attributes": {name: list(module.__dict__) for name, module in model.named_modules()},
            "optimizer": optimizer.state_dict(),
            "state places": [
                (key, id(value), value.data_ptr() if isinstance(value, torch.Tensor) else None)
                for state in optimizer.state.values()
                for key, value in state.items()
            ],
            "optimizer attributes": {name: id(value) for name, value in optimizer.__dict__.items()},
            "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002
        }
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def differences(before, after):
    return [key for key in before if not same(before[key], after[key])]


def plain():
    model = network()
    return model, sgd(model)


def momentum():
    model = network()
    optimizer = sgd(model, momentum=0.9, weight_decay=0.01)
    take_steps(model, optimizer, 3)
    optimizer.zero_grad()
    return model, optimizer


def batch_norm():
    model = network(nn.BatchNorm1d(8))
    optimizer = sgd(model)
    take_steps(model, optimizer, 2)
    return model, optimizer


def dropout():
    model = network(nn.Dropout(0.5))
    return model, sgd(model)


def adam():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    take_steps(model, optimizer, 5)
    return model, optimizer


def fresh_adamw():
    model = network()
    return model, torch.optim.AdamW(model.parameters())


def eval_mode():
    model = network(nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
    return model, sgd(model)


def half_eval_mode():
    model = network(nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
    model[2].train()
    return model, sgd(model)


def frozen():
    model = network()
    model[0].requires_grad_(False)
    return model, sgd(model)


def gradients():
    model = network()
    F.cross_entropy(model(data()[0][0]), data()[0][1]).backward()
    return model, sgd(model)


def several_groups():
    model = network()
    return model, torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters()}], 0.1
    )


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model, sgd(model, momentum=0.9)


def not_all_in_the_optimizer():
    model = network()
    take_steps(model, sgd(model), 1)
    return model, sgd(model[2])


SETTINGS = [
    plain,
    momentum,
    batch_norm,
    dropout,
    adam,
    fresh_adamw,
    eval_mode,
    half_eval_mode,
    frozen,
    gradients,
    several_groups,
    tied,
    not_all_in_the_optimizer,
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda f: f.__name__)
def test_range_test_puts_back_every_bit(setting):
    model, optimizer = setting()
    grads = [p.grad for p in model.parameters()]
    before = everything(model, optimizer)
    losses = sweep(model, optimizer, start_lr=0.01).loss
    assert len(np.unique(losses)) == 25
    assert differences(before, everything(model, optimizer)) == []
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))


def test_everything_is_seen_to_change_inside_the_block():
    model, optimizer = batch_norm()
    model.eval()
    before = everything(model, optimizer)
    seen = []

    def step(batch):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        take_steps(model, optimizer, 1)
        seen.append(differences(before, everything(model, optimizer)))
        return 1.0

    sweep(model, optimizer, train_step=step)
    assert {"values", "grads", "modes", "optimizer", "random"} <= set(seen[-1])
    assert differences(before, everything(model, optimizer)) == []


def test_batches_tracked_and_running_means_are_put_back():
    model, optimizer = batch_norm()
    norm = model[1]
    mean, variance, tracked = norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked
    assert tracked.item() == 2
    sweep(model, optimizer)
    assert norm.num_batches_tracked is tracked and tracked.item() == 2
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)


def test_state_that_was_empty_is_empty_again():
    model, optimizer = fresh_adamw()
    state = optimizer.state
    sweep(model, optimizer)
    assert optimizer.state is state and not state


def test_optimizer_hands_out_the_same_groups_and_state_tensors():
    model, optimizer = adam()
    groups, averages = optimizer.param_groups, [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    first = groups[0]
    sweep(model, optimizer)
    assert optimizer.param_groups is groups and groups[0] is first
    assert all(optimizer.state[p]["exp_avg"] is a for p, a in zip(model.parameters(), averages, strict=True))


def failing(error, after):
    calls = []

    def loss_fn(outputs, targets):
        calls.append(1)
        if len(calls) > after:
            error()
        return F.cross_entropy(outputs, targets)

    return loss_fn


def raising(error):
    def throw():
        raise error

    return throw


@pytest.mark.parametrize("setting", [momentum, batch_norm, eval_mode, adam, gradients], ids=lambda f: f.__name__)
@pytest.mark.parametrize("error", [RuntimeError("spilt coffee"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("after", [0, 7])
def test_exception_in_the_loss_is_raised_after_putting_back(setting, error, after):
    model, optimizer = setting()
    before = everything(model, optimizer)
    with pytest.raises(type(error)) as caught:
        sweep(model, optimizer, loss_fn=failing(raising(error), after))
    assert caught.value is error
    assert differences(before, everything(model, optimizer)) == []


def test_real_ctrl_c_is_raised_after_putting_back(ctrl_c):
    model, optimizer = adam()
    before = everything(model, optimizer)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, optimizer, loss_fn=failing(lambda: os.kill(os.getpid(), signal.SIGINT), 7))
    assert differences(before, everything(model, optimizer)) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_putting_back_waits_until_all_is_back(ctrl_c, monkeypatch):
    model, optimizer = adam()
    before = everything(model, optimizer)
    set_state = torch.set_rng_state
    came = []

    def interrupting(state):
        came.append(os.kill(os.getpid(), signal.SIGINT))
        set_state(state)

    monkeypatch.setattr(torch, "set_rng_state", interrupting)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, optimizer)
    assert came and differences(before, everything(model, optimizer)) == []


SCHEDULERS = {
    "StepLR": lambda o: StepLR(o, 3, gamma=0.5),
    "OneCycleLR": lambda o: OneCycleLR(o, max_lr=0.5, total_steps=40),
    "LambdaLR": lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5),
}


def scheduled(kind, steps):
    model = network()
    optimizer = sgd(model, momentum=0.9)
    scheduler = SCHEDULERS[kind](optimizer)
    for _ in range(steps):
        optimizer.step()
        advance(scheduler)
    return model, optimizer, scheduler


def advance(scheduler):
    scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("steps", [0, 5])
def test_scheduler_goes_on_as_if_nothing_had_happened(kind, steps):
    model, optimizer, scheduler = scheduled(kind, steps)
    _, twin_optimizer, twin = scheduled(kind, steps)
    attributes = {name: id(value) for name, value in scheduler.__dict__.items()}
    before, record = everything(model, optimizer), copy.deepcopy(scheduler.state_dict())
    sweep(model, optimizer)

    assert {name: id(value) for name, value in scheduler.__dict__.items()} == attributes
    assert scheduler.state_dict().keys() == record.keys()
    assert differences(before, everything(model, optimizer)) == []
    assert set(optimizer.__dict__) == set(twin_optimizer.__dict__)
    assert optimizer.__dict__.get("_opt_called") == twin_optimizer.__dict__.get("_opt_called")

    rates, twin_rates = [], []
    for o, s, into in ((optimizer, scheduler, rates), (twin_optimizer, twin, twin_rates)):
        for _ in range(30):
            o.step()
            advance(s)
            into.append({key: value for key, value in o.param_groups[0].items() if key != "params"})
    assert rates == twin_rates and len({r["lr"] for r in rates}) > 2


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_stepping_the_scheduler_too_early_warns_as_without_a_range_test(kind):
    said = []
    for tested in (True, False):
        model, optimizer, scheduler = scheduled(kind, 0)
        if tested:
            sweep(model, optimizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            advance(scheduler)
        said.append([str(w.message) for w in caught])
    assert said[0] == said[1]
    assert bool(said[0]) == (kind != "ReduceLROnPlateau")


def test_range_test_itself_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in SCHEDULERS:
            sweep(*scheduled(kind, 0)[:2])


def test_shared_tensor_rate_is_left_alone_and_put_back():
    rate = torch.tensor(0.1)
    model, other = network(), network()
    optimizer, bystander = sgd(model, lr=rate), sgd(other, lr=rate)
    seen = []

    def loss_fn(outputs, targets):
        seen.append((float(bystander.param_groups[0]["lr"]), float(optimizer.param_groups[0]["lr"])))
        return F.cross_entropy(outputs, targets)

    test = sweep(model, optimizer, loss_fn=loss_fn)
    theirs, ours = zip(*seen, strict=True)
    assert set(theirs) == {float(rate)} and ours == pytest.approx(test.lr)
    assert optimizer.param_groups[0]["lr"] is rate is bystander.param_groups[0]["lr"]
    assert torch.equal(rate, torch.tensor(0.1))


@pytest.mark.parametrize("draw", [lambda: torch.rand(5).tolist(), lambda: np.random.rand(5).tolist(), random.random])  # noqa: NPY002
def test_next_random_numbers_are_those_without_a_range_test(draw):
    def seeded():
        model, optimizer = dropout()
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
        return model, optimizer

    seeded()
    expected = draw()
    model, optimizer = seeded()

    def noisy(outputs, targets):
        return F.cross_entropy(outputs, targets) * (1 + torch.rand(()) + np.random.rand() + random.random())  # noqa: NPY002

    sweep(model, optimizer, loss_fn=noisy)
    assert draw() == expected


@pytest.mark.parametrize("name, layer", [("0.weight", nn.LazyLinear(3)), ("0.weight", nn.LazyBatchNorm1d())])
def test_lazy_parameter_is_named(name, layer):
    model = nn.Sequential(layer)
    optimizer = sgd(model)
    with pytest.raises(ValueError, match=f"parameter {name} has no value yet"):
        sweep(model, optimizer)


def test_lazy_buffer_is_named():
    model = nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="0.running_mean"):
        sweep(model, sgd(model))


def test_lazy_model_is_fine_after_one_batch():
    model = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    model(data()[0][0])
    optimizer = sgd(model)
    before = everything(model, optimizer)
    sweep(model, optimizer)
    assert differences(before, everything(model, optimizer)) == []


def test_tensors_that_were_swapped_are_swapped_back():
    model, optimizer = batch_norm()
    before = everything(model, optimizer)
    with restored(model, optimizer):
        for parameter in model.parameters():
            parameter.data = parameter.data + 1
        model[1].running_mean = model[1].running_mean + 1
        model[0].weight = nn.Parameter(torch.zeros(8, 4))
        model[0].register_buffer("extra", torch.zeros(1))
        model[0].note = "extra"
        model.append(nn.ReLU())
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0})
    assert differences(before, everything(model, optimizer)) == []


def test_buffer_that_was_given_other_data_gets_its_own_back():
    model, optimizer = batch_norm()
    before = everything(model, optimizer)
    with restored(model, optimizer):
        model[1].running_mean.data = model[1].running_mean + 1
    assert differences(before, everything(model, optimizer)) == []


def test_state_that_was_given_other_data_gets_its_own_back():
    model, optimizer = adam()
    before = everything(model, optimizer)
    with restored(model, optimizer):
        for state in optimizer.state.values():
            state["exp_avg"].data = state["exp_avg"] + 1
    assert differences(before, everything(model, optimizer)) == []


def test_freezing_inside_the_block_is_undone():
    model, optimizer = frozen()
    before = everything(model, optimizer)
    with restored(model, optimizer):
        model[0].requires_grad_(True)
        model[2].requires_grad_(False)
    assert differences(before, everything(model, optimizer)) == []


def test_optimizer_inside_an_optimizer_is_put_back():
    class Outer(torch.optim.Optimizer):
        def __init__(self, inner):
            super().__init__(inner.param_groups, inner.defaults)
            self.inner, self.param_groups = inner, inner.param_groups

        def step(self):
            self.inner.step()

    model, inner = adam()
    optimizer = Outer(inner)
    before, of_inner = everything(model, optimizer), everything(model, inner)
    sweep(model, optimizer)
    assert differences(before, everything(model, optimizer)) == []
    assert differences(of_inner, everything(model, inner)) == []


def test_parameters_of_the_loss_are_put_back():
    model = network()
    loss_fn = nn.BCEWithLogitsLoss()
    scale = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)
    sweep(
        model,
        optimizer,
        loss_fn=lambda out, y: scale**2 + loss_fn(out, F.one_hot(y, 3).float()),
        start_lr=0.01,
        end_lr=0.1,
    )
    assert scale.item() == 1.0 and scale.grad is None


# --- what is kept in unusual places -----------------------------------------------------------------------------


class Noting(nn.Module):
    """Calls `note(self)` at each forward pass, on attributes that it is given."""

    def __init__(self, note, **attributes):
        super().__init__()
        self.note = note
        for name, value in attributes.items():
            self.register_buffer(name, value) if name == "buffer" else setattr(self, name, value)

    def forward(self, x):
        self.note(self)
        return x


LAYOUTS = {
    "sparse": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
    "bsr": lambda t: t.to_sparse_bsr((2, 2)),
    "mkldnn": lambda t: t.to_mkldnn(),
    "jagged": lambda t: torch.nested.nested_tensor([t[:3, 0], t[0]], layout=torch.jagged),
    "nested": lambda t: torch.nested.nested_tensor([t[:3, 0], t[0]]),
}


@pytest.mark.filterwarnings("ignore:.* in (beta|prototype) (state|stage):UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_buffer_without_an_address_is_put_back(layout):
    if layout == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("no mkldnn here")
    buffer = LAYOUTS[layout](torch.eye(4))
    expected = list(buffer.unbind()) if buffer.is_nested else [buffer.to_dense()]
    expected = [t.clone() for t in expected]
    model = network(Noting(lambda module: module.buffer.mul_(2), buffer=buffer))
    optimizer = sgd(model)
    weights = [p.detach().clone() for p in model.parameters()]
    sweep(model, optimizer)
    found = list(buffer.unbind()) if buffer.is_nested else [buffer.to_dense()]
    assert model[1].buffer is buffer and all(map(torch.equal, found, expected))
    assert all(map(torch.equal, model.parameters(), weights))


def test_sparse_buffer_whose_number_of_entries_changed_is_put_back():
    buffer = torch.eye(4).to_sparse()
    model = network(Noting(lambda module: module.buffer.copy_(torch.ones(4, 4).to_sparse()), buffer=buffer))
    sweep(model, sgd(model))
    assert model[1].buffer is buffer and torch.equal(buffer.to_dense(), torch.eye(4))


def test_what_cannot_be_put_back_keeps_nothing_else_from_it():
    class Stubborn(dict):
        def clear(self):
            raise ArithmeticError("I stay")

    model = network(nn.BatchNorm1d(8), Noting(lambda m: m.a.update(x=1) or m.b.update(x=1), a=Stubborn(), b=Stubborn()))
    optimizer = sgd(model, momentum=0.9)
    before = everything(model, optimizer)
    with pytest.raises(ArithmeticError, match="I stay"):
        sweep(model, optimizer, loss_fn=lambda out, y: F.cross_entropy(out, y) * (1 + torch.rand(())))
    assert differences(before, everything(model, optimizer)) == []


class Rebinding(nn.Module):
    """As TorchScript takes it: forward gives a buffer another tensor."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen = self.seen + 1
        return self.layers(x)


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated; a tracer warns of BatchNorm
@pytest.mark.parametrize("eval_mode", [False, True])
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_model_is_put_back(how, eval_mode):
    torch.manual_seed(0)
    model = (
        torch.jit.script(Rebinding()) if how == "script" else torch.jit.trace(network(nn.BatchNorm1d(8)), data()[0][0])
    )
    model.train(not eval_mode)
    if how == "script":
        dict(model.named_modules())["layers.1"].eval()
    optimizer = sgd(model, momentum=0.9)

    def record():
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        return copy.deepcopy(
            {
                "values": {name: tensor.detach() for name, tensor in tensors.items()},
                "places": {name: tensor.data_ptr() for name, tensor in tensors.items()},
                "modes": {name: module.training for name, module in model.named_modules()},
                "optimizer": optimizer.state_dict(),
            }
        )

    before, inside, attributes = record(), [], [list(vars(module)) for module in model.modules()]
    losses = sweep(model, optimizer, loss_fn=lambda out, y: inside.append(record()) or F.cross_entropy(out, y)).loss
    assert len(np.unique(losses)) > 10 and "values" in differences(before, inside[-1])
    assert differences(before, record()) == []
    assert [list(vars(module)) for module in model.modules()] == attributes


def test_attributes_that_were_changed_in_place_are_put_back():
    def note(module):
        module.mean.mul_(0.9).add_(1)
        module.log.append(1)
        module.counts["calls"] += 1
        module.counts["places"].add(len(module.log))
        module.last.append(len(module.log))
        module.array += 1
        module.pair[0].add_(1)
        module.loop[0].append(1)
        torch.rand(1, generator=module.generator)

    loop = []
    loop.append(loop)
    given = {
        "mean": torch.zeros(3),
        "log": [0],
        "counts": {"calls": 0, "places": {0}},
        "last": collections.deque([7, 8], maxlen=2),
        "array": np.zeros(2),
        "pair": (torch.zeros(1), "a"),
        "loop": loop,
        "generator": torch.Generator().manual_seed(5),
    }
    model = network(Noting(note, **given))
    sweep(model, sgd(model))
    held = model[1]
    assert all(getattr(held, name) is value for name, value in given.items())
    assert held.mean.tolist() == [0, 0, 0] and held.log == [0] and held.counts == {"calls": 0, "places": {0}}
    assert list(held.last) == [7, 8] and held.array.tolist() == [0, 0] and held.pair[0].item() == 0
    assert len(loop) == 1 and loop[0] is loop
    assert torch.equal(held.generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_a_list_that_became_shorter_is_whole_again():
    model = network(Noting(lambda module: module.log and module.log.pop(), log=[1, 2, 3]))
    sweep(model, sgd(model))
    assert model[1].log == [1, 2, 3]


@pytest.mark.parametrize("places", [2, 8])
def test_an_expanded_buffer_which_nobody_can_write_is_left_alone(places):
    one = torch.ones(1)
    model = network(Noting(lambda module: None, buffer=one.expand(places)))
    sweep(model, sgd(model))
    assert model[1].buffer.tolist() == [1] * places and model[1].buffer.data_ptr() == one.data_ptr()


def test_a_buffer_of_one_row_whose_stride_is_zero_is_put_back():
    row = torch.arange(3.0).as_strided((1, 3), (0, 1))
    model = network(Noting(lambda module: module.buffer.add_(1), buffer=row))
    sweep(model, sgd(model))
    assert model[1].buffer.tolist() == [[0, 1, 2]]


def test_a_module_in_a_plain_list_is_put_back_with_its_gradients():
    teacher = nn.Linear(4, 1)
    teacher(data()[0][0]).sum().backward()
    grad, weight = teacher.weight.grad, teacher.weight.detach().clone()

    def note(module):
        assert teacher.weight.grad is None
        with torch.no_grad():
            teacher.weight.add_(1)

    model = network(Noting(note, teachers=[teacher]))
    sweep(model, sgd(model))
    assert torch.equal(teacher.weight, weight) and teacher.weight.grad is grad


def test_an_attribute_that_is_left_alone_is_not_touched():
    class Stubborn(dict):
        def clear(self):
            raise AssertionError

    model = network(Noting(lambda module: None, held=Stubborn(x=1)))
    sweep(model, sgd(model))
    assert model[1].held == {"x": 1}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
def test_resized_buffer_has_its_shape_again():
    model = network(Noting(lambda module: module.buffer.resize_(1000).fill_(1), buffer=torch.zeros(2, 3)))
    sweep(model, sgd(model))
    assert torch.equal(model[1].buffer, torch.zeros(2, 3))


def test_buffer_that_became_part_of_a_graph_is_a_leaf_again():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("last", torch.zeros(10, 8))

        def forward(self, x):
            self.last.detach_().copy_(x)
            return x + self.last

    model = network(Remembers())
    sweep(model, sgd(model))
    assert model[1].last.is_leaf and not model[1].last.requires_grad and not model[1].last.any()


class Composite(torch.optim.Optimizer):
    """Several optimizers in a list, and a dict of its own."""

    def __init__(self, model):
        parameters = list(model.parameters())
        super().__init__(parameters, {"lr": 0.1})
        self.inner = [torch.optim.Adam(parameters[:2]), torch.optim.SGD(parameters[2:], lr=0.1, momentum=0.9)]
        self.param_groups = [group for inner in self.inner for group in inner.param_groups]
        self.shared = {"steps": 0, "sum": torch.zeros(1)}

    def step(self):
        self.shared["steps"] += 1
        self.shared["sum"] += 1
        for inner in self.inner:
            inner.step()


@pytest.mark.parametrize("steps_before", [0, 2])
def test_optimizers_in_a_list_and_an_optimizers_own_dict_are_put_back(steps_before):
    model = network()
    optimizer = Composite(model)
    take_steps(model, optimizer, steps_before)
    before = [everything(model, one) for one in (optimizer, *optimizer.inner)]
    sweep(model, optimizer)
    assert [
        differences(a, everything(model, one)) for a, one in zip(before, (optimizer, *optimizer.inner), strict=True)
    ] == [[]] * 3
    assert optimizer.shared == {"steps": steps_before, "sum": torch.tensor([float(steps_before)])}


class Augmented(Dataset):
    """Draws from a generator of its own."""

    def __init__(self):
        self.generator, self.noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.randn(4, generator=self.generator) + torch.randn(4, generator=self.noise), i % 3


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: Subset(Subset(d, range(30)), range(20))], ids=["bare", "subset"]
)
def test_generators_of_the_dataset_are_put_back(wrap):
    def next_batches(tested):
        model, loader = network(), DataLoader(wrap(Augmented()), batch_size=10)
        if tested:
            lr_range_test(model, sgd(model), loader, steps=20, progress=False)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(next_batches(True), next_batches(False))


@pytest.mark.parametrize("passes_before", [0, 1])
def test_loader_whose_workers_stay_alive_yields_the_order_of_an_untouched_twin(passes_before):
    x, y = map(torch.cat, zip(*data(), strict=True))

    def order(tested):
        loader = DataLoader(TensorDataset(x, y), 10, shuffle=True, num_workers=1, persistent_workers=True)
        torch.manual_seed(1)
        for _ in range(passes_before):
            list(loader)
        model = network()
        torch.manual_seed(2)
        if tested:
            lr_range_test(model, sgd(model), loader, steps=20, progress=False)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(order(True), order(False))
