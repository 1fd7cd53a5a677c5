"""After a range test, however it ends, everything is to the bit what it was, and the same objects."""

import collections
import copy
import itertools
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
from toy import network, pairs, samples, sgd

from lrtut import lr_range_test
from lrtut.finder.snapshot import restored


def take_steps(model, optimizer, n):
    for x, y in pairs()[:n]:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def sweep(model, optimizer, **kwargs):
    return lr_range_test(model, optimizer, pairs(), **{"end_lr": 1.0, "steps": 25, "progress": False} | kwargs)


def everything(model, optimizer):
    """A copy of every value, and the identity and address of every tensor."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    state = [value for state in optimizer.state.values() for value in state.values()]
    return copy.deepcopy(
        {
            "values": {name: tensor.detach() for name, tensor in tensors.items()},
            "places": {name: (id(tensor), tensor.data_ptr()) for name, tensor in tensors.items()},
            "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
            "grads": {name: (id(p.grad), p.grad) for name, p in model.named_parameters()},
            "modes": {name: module.training for name, module in model.named_modules()},
            "module attributes": {name: list(module.__dict__) for name, module in model.named_modules()},
            "optimizer": optimizer.state_dict(),
            "state places": [(id(v), v.data_ptr() if isinstance(v, torch.Tensor) else None) for v in state],
            "optimizer attributes": {name: id(value) for name, value in optimizer.__dict__.items()},
            "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002
        }
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def differences(before, after):
    return [key for key in before if not same(before[key], after[key])]


# --- all kinds of models and optimizers ---------------------------------------------------------------------------


def fresh(*between, make=sgd, change=lambda model: None):
    model = network(*between)
    change(model)
    return model, make(model)


def trained(*args, **kwargs):
    model, optimizer = fresh(*args, **kwargs)
    take_steps(model, optimizer, 3)
    return model, optimizer


def with_momentum():
    return trained(make=lambda model: sgd(model, momentum=0.9, weight_decay=0.01))


def with_batch_norm():
    return trained(nn.BatchNorm1d(8))


def with_adam():
    return trained(make=lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True))


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model, sgd(model, momentum=0.9)


def several_groups(model):
    return torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters()}], 0.1)


def lazy_but_initialised():
    model = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    model(samples()[0])
    return model, sgd(model)


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


SETTINGS = {
    "plain": fresh,
    "momentum": with_momentum,
    "batch norm": with_batch_norm,
    "adam": with_adam,
    "fresh adamw": lambda: fresh(make=lambda model: torch.optim.AdamW(model.parameters())),
    "eval mode": lambda: fresh(nn.BatchNorm1d(8), nn.Dropout(), change=nn.Module.eval),
    "half in eval mode": lambda: fresh(nn.BatchNorm1d(8), nn.Dropout(), change=lambda model: model.eval()[2].train()),
    "frozen": lambda: fresh(change=lambda model: model[0].requires_grad_(False)),
    "several groups": lambda: fresh(make=several_groups),
    "tied": tied,
    "not all in the optimizer": lambda: trained(make=lambda model: sgd(model[2])),
    "lazy but initialised": lazy_but_initialised,
    "composite optimizer": lambda: fresh(make=Composite),
    "composite optimizer, trained": lambda: trained(make=Composite),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_range_test_puts_back_every_bit(setting):
    model, optimizer = setting()
    optimizers = [optimizer, *getattr(optimizer, "inner", [])]
    before = [everything(model, one) for one in optimizers]
    shared = copy.deepcopy(getattr(optimizer, "shared", None))
    losses = sweep(model, optimizer, start_lr=0.01).loss
    assert len(np.unique(losses)) > 20
    assert same(before, [everything(model, one) for one in optimizers])
    assert same(shared, getattr(optimizer, "shared", None))


def spill():
    raise RuntimeError("spilt coffee")


ENDS = {
    "error": (RuntimeError, spill),
    "Ctrl-C": (KeyboardInterrupt, lambda: signal.raise_signal(signal.SIGINT)),
}


@pytest.mark.parametrize("setting", [with_momentum, with_batch_norm, with_adam])
@pytest.mark.parametrize("kind, end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("after", [0, 7])
def test_everything_is_put_back_after_an_error_or_an_interrupt_too(setting, kind, end, after, ctrl_c):
    model, optimizer = setting()
    before, calls = everything(model, optimizer), itertools.count()

    def loss_fn(outputs, targets):
        if next(calls) == after:
            end()
        return F.cross_entropy(outputs, targets) * (1 + torch.rand(()))

    with pytest.raises(kind):
        sweep(model, optimizer, loss_fn=loss_fn)
    assert next(calls) == after + 1 and differences(before, everything(model, optimizer)) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_putting_back_waits_until_all_is_back(ctrl_c, monkeypatch):
    model, optimizer = with_adam()
    before, came = everything(model, optimizer), []
    set_state = torch.set_rng_state

    def interrupting(state):
        came.append(signal.raise_signal(signal.SIGINT))
        set_state(state)

    monkeypatch.setattr(torch, "set_rng_state", interrupting)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, optimizer)
    assert came and differences(before, everything(model, optimizer)) == []


@pytest.mark.parametrize("draw", [lambda: torch.rand(5).tolist(), lambda: np.random.rand(5).tolist(), random.random])  # noqa: NPY002
def test_the_next_random_numbers_are_those_without_a_range_test(draw):
    def next_numbers(tested):
        model, optimizer = fresh(nn.Dropout(0.5))
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
        if tested:
            sweep(model, optimizer, loss_fn=lambda out, y: F.cross_entropy(out, y) * draw_all())
        return draw()

    def draw_all():
        return 1 + torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002

    assert next_numbers(True) == next_numbers(False)


# --- schedulers ---------------------------------------------------------------------------------------------------

SCHEDULERS = {
    "StepLR": lambda o: StepLR(o, 3, gamma=0.5),
    "OneCycleLR": lambda o: OneCycleLR(o, max_lr=0.5, total_steps=40),
    "LambdaLR": lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("steps", [0, 5])
def test_a_scheduler_goes_on_as_if_nothing_had_happened(make, steps):
    def rates(tested):
        model, optimizer = fresh(make=lambda model: sgd(model, momentum=0.9))
        scheduler, found = make(optimizer), []
        for step in range(35):
            if tested and step == steps:
                before = everything(model, optimizer)
                sweep(model, optimizer)
                assert differences(before, everything(model, optimizer)) == []
            optimizer.step()
            scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
            found.append({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a scheduler that is stepped too early
        assert rates(True) == rates(False) and len({group["lr"] for group in rates(True)}) > 2


# --- what somebody else's code may do in the block ----------------------------------------------------------------


def swap_tensors(model, optimizer):
    model[0].weight = nn.Parameter(torch.zeros(8, 4))
    model[0].register_buffer("extra", torch.zeros(1))
    model[0].note = "extra"
    model[1].running_var = model[1].running_var + 1
    model.append(nn.ReLU())
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0})


def give_tensors_other_data(model, optimizer):
    state = [value for state in optimizer.state.values() for value in state.values() if value is not None]
    for tensor in [*model.parameters(), *model.buffers(), *state]:
        tensor.data = tensor.data + 1


def freeze(model, optimizer):
    model[0].requires_grad_(False)


@pytest.mark.parametrize("change", [swap_tensors, give_tensors_other_data, freeze])
def test_what_was_swapped_is_swapped_back(change):
    model, optimizer = trained(nn.BatchNorm1d(8), make=lambda model: torch.optim.Adam(model.parameters()))
    before = everything(model, optimizer)
    with restored(model, optimizer):
        change(model, optimizer)
        assert differences(before, everything(model, optimizer))
    assert differences(before, everything(model, optimizer)) == []


@pytest.mark.parametrize(
    "name, layer",
    [("parameter 0.weight", nn.LazyLinear(3)), ("buffer 0.running_mean", nn.LazyBatchNorm1d(affine=False))],
)
def test_what_is_lazy_and_has_no_value_is_named(name, layer):
    model = nn.Sequential(layer, nn.Linear(4, 3))
    with pytest.raises(ValueError, match=f"{name} has no value yet"):
        sweep(model, sgd(model))


def test_a_parameter_of_the_loss_is_put_back():
    model, scale = network(), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)
    sweep(model, optimizer, loss_fn=lambda out, y: scale**2 + F.cross_entropy(out, y), end_lr=0.1)
    assert scale.item() == 1.0 and scale.grad is None


# --- what is kept in unusual places -------------------------------------------------------------------------------


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


def noted(note, **attributes):
    """The module `Noting` after a range test of a model that it is in."""
    model = network(Noting(note, **attributes))
    sweep(model, sgd(model))
    return model[1]


def make_it_part_of_a_graph(buffer):
    buffer.detach_().mul_(nn.Parameter(torch.ones(())) * 2)


def nested(**kwargs):
    return torch.nested.nested_tensor([torch.ones(3), torch.ones(4)], **kwargs)


def double(buffer):
    buffer.mul_(2)


ONE = torch.ones(1)
BUFFERS = {  # and what a forward pass does to it
    "sparse": (lambda: torch.eye(4).to_sparse(), double),
    "sparse, more entries": (lambda: torch.eye(4).to_sparse(), lambda b: b.copy_(torch.ones(4, 4).to_sparse())),
    "csr": (lambda: torch.eye(4).to_sparse_csr(), double),
    "bsr": (lambda: torch.eye(4).to_sparse_bsr((2, 2)), double),
    "jagged": (lambda: nested(layout=torch.jagged), double),
    "nested": (nested, double),
    "resized": (lambda: torch.full((2, 3), 5.0), lambda b: b.resize_(1000).fill_(1)),
    "in a graph": (lambda: torch.full((2, 3), 5.0), make_it_part_of_a_graph),
    "expanded": (lambda: ONE.expand(2), lambda b: None),  # nobody can write it: it is left alone
    "one row of stride zero": (lambda: torch.arange(3.0).as_strided((1, 3), (0, 1)), double),
}


@pytest.mark.filterwarnings("ignore:.* in (beta|prototype) (state|stage):UserWarning")
@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
@pytest.mark.parametrize("make, change", BUFFERS.values(), ids=BUFFERS)
def test_a_buffer_of_any_kind_is_put_back(make, change):
    def plain(buffer):
        return [t.clone() for t in buffer.unbind()] if buffer.is_nested else [buffer.to_dense().clone()]

    buffer = make()
    expected = plain(buffer)
    held = noted(lambda module: change(module.buffer), buffer=buffer)
    assert held.buffer is buffer and same(expected, plain(buffer)) and buffer.is_leaf and not buffer.requires_grad
    assert ONE.tolist() == [1]


HELD = {
    "tensor": (lambda: torch.zeros(3), lambda held: held.add_(1)),
    "list": (lambda: [0], lambda held: held.append(1)),
    "list that becomes shorter": (lambda: [1, 2, 3], lambda held: held and held.pop()),
    "empty list": (lambda: [], lambda held: held.append(1)),
    "dict": (lambda: {"calls": 0}, lambda held: held.update(calls=held["calls"] + 1)),
    "set in a dict": (lambda: {"places": {0}}, lambda held: held["places"].add(1)),
    "deque": (lambda: collections.deque([7, 8], maxlen=2), lambda held: held.append(9)),
    "array": (lambda: np.zeros(2), lambda held: np.add(held, 1, out=held)),
    "array that nobody can write": (lambda: np.broadcast_to(1.0, 2), lambda held: None),
    "tensor in a tuple": (lambda: (torch.zeros(1), "a"), lambda held: held[0].add_(1)),
    "generator": (lambda: torch.Generator().manual_seed(5), lambda held: torch.rand(1, generator=held)),
}


@pytest.mark.parametrize("make, change", HELD.values(), ids=HELD)
def test_an_attribute_that_was_changed_in_place_is_put_back(make, change):
    held = make()
    assert noted(lambda module: change(module.held), held=held).held is held and same(make(), held)


def test_a_list_that_holds_itself_is_put_back():
    loop = []
    loop.append(loop)
    noted(lambda module: module.loop[0].append(1), loop=loop)
    assert len(loop) == 1 and loop[0] is loop


def test_a_module_in_a_plain_list_is_put_back_with_its_gradients():
    teacher = nn.Linear(4, 1)
    teacher(samples()[0]).sum().backward()
    grad, weight = teacher.weight.grad, teacher.weight.detach().clone()

    def note(module):
        assert teacher.weight.grad is None
        with torch.no_grad():
            teacher.weight.add_(1)

    noted(note, teachers=[teacher])
    assert torch.equal(teacher.weight, weight) and teacher.weight.grad is grad


class Stubborn(dict):
    def clear(self):
        raise ArithmeticError("I stay")


def test_what_cannot_be_put_back_keeps_nothing_else_from_it():
    note = Noting(lambda module: module.a.update(x=1) or module.b.update(x=1), a=Stubborn(), b=Stubborn())
    model = network(nn.BatchNorm1d(8), note)
    optimizer = sgd(model, momentum=0.9)
    before = everything(model, optimizer)
    with pytest.raises(ArithmeticError, match="I stay"):
        sweep(model, optimizer, loss_fn=lambda out, y: F.cross_entropy(out, y) * (1 + torch.rand(())))
    assert differences(before, everything(model, optimizer)) == []
    assert noted(lambda module: None, held=Stubborn(x=1)).held == {"x": 1}  # what has not changed is not touched


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
@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_model_is_put_back(how, mode):
    torch.manual_seed(0)
    script = how == "script"
    model = torch.jit.script(Rebinding()) if script else torch.jit.trace(network(nn.BatchNorm1d(8)), samples()[0])
    model.train(mode)
    if script:
        dict(model.named_modules())["layers.1"].eval()
    optimizer = sgd(model, momentum=0.9)

    def record():  # TorchScript hands out a new object for a tensor each time
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        found = everything(model, optimizer)
        return found | {"places": {name: t.data_ptr() for name, t in tensors.items()}, "random": None}

    before, inside = record(), []
    sweep(model, optimizer, loss_fn=lambda out, y: inside.append(record()) or F.cross_entropy(out, y))
    assert "values" in differences(before, inside[-1]) and differences(before, record()) == []


# --- loaders ------------------------------------------------------------------------------------------------------


class Augmented(Dataset):
    """Draws from generators of its own."""

    def __init__(self):
        self.generator, self.noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.randn(4, generator=self.generator) + torch.randn(4, generator=self.noise), i % 3


def augmented():
    return DataLoader(Subset(Subset(Augmented(), range(30)), range(20)), batch_size=10)


def with_workers_that_stay():
    x, y = samples(40)
    return DataLoader(TensorDataset(x, y), 10, shuffle=True, num_workers=1, persistent_workers=True)


@pytest.mark.parametrize("make, passes", [(augmented, 0), (with_workers_that_stay, 0), (with_workers_that_stay, 1)])
def test_a_loader_yields_what_it_yields_without_a_range_test(make, passes):
    def next_batches(tested):
        torch.manual_seed(1)
        model, loader = network(), make()
        for _ in range(passes):
            list(loader)
        torch.manual_seed(2)
        if tested:
            lr_range_test(model, sgd(model), loader, steps=20, progress=False)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(next_batches(True), next_batches(False))
