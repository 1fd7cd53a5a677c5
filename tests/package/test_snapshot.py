"""After a range test, however it ends, everything is to the bit what it was, and the same objects."""

import collections
import copy
import itertools
import random
import signal
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LinearLR, OneCycleLR
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    default_collate,
)
from toy import network, pairs, samples, sgd
from tqdm import tqdm

from lrtut import lr_range_test, train
from lrtut.finder.snapshot import restored


def sweep(model, optimizer, data=None, **kwargs):
    options = {"end_lr": 1.0, "steps": 25, "progress": False} | kwargs
    return lr_range_test(model, optimizer, pairs() if data is None else data, **options)


def everything(model, optimizer):
    """A copy of every value, and the identity and address of every tensor."""
    tensors = model.state_dict(keep_vars=True).items()
    state = [value for state in optimizer.state.values() for value in state.values()]
    return copy.deepcopy(
        [
            [(name, id(t), t.data_ptr(), t.requires_grad, t.detach()) for name, t in tensors],
            [(id(p.grad), p.grad) for p in model.parameters()],
            [(name, module.training, list(vars(module))) for name, module in model.named_modules()],
            [(id(v), v.data_ptr() if isinstance(v, torch.Tensor) else None) for v in state],
            (optimizer.state_dict(), {name: id(value) for name, value in vars(optimizer).items()}),
            (random.getstate(), np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002
        ]
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.to_dense(), b.to_dense())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, random.Random | np.random.Generator | np.random.RandomState):
        return a.uniform(0, 1) == b.uniform(0, 1)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


# --- all kinds of models and optimizers ---------------------------------------------------------------------------


def trained():
    """Groups with their own rates, a scheduler, a layer that the optimizer does not have, a frozen one, both modes."""
    model = network(nn.BatchNorm1d(8), nn.Dropout())
    groups = [{"params": model[1].parameters(), "lr": 0.3}, {"params": model[4].parameters()}]
    optimizer = torch.optim.Adam(groups, amsgrad=True)
    OneCycleLR(optimizer, max_lr=0.5, total_steps=40)
    train(model, optimizer, pairs(30), epochs=1)
    model[4].bias.requires_grad_(False)
    model.eval()[2].train()
    return model, optimizer


def fresh():
    model = network()
    return model, torch.optim.AdamW(model.parameters())


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


def composite():
    optimizer = Composite(model := network())
    train(model, optimizer, pairs(30), epochs=1)
    return model, optimizer


@pytest.mark.parametrize("setting", [trained, fresh, composite])
def test_range_test_puts_back_every_bit(setting):
    model, optimizer = setting()
    optimizers = [optimizer, *getattr(optimizer, "inner", [])]
    before = [everything(model, one) for one in optimizers]
    shared = copy.deepcopy(getattr(optimizer, "shared", None))
    losses = sweep(model, optimizer, start_lr=0.01).loss
    assert len(np.unique(losses)) > 20
    assert same(before, [everything(model, one) for one in optimizers])
    assert same(shared, getattr(optimizer, "shared", None))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back_after_an_error_or_an_interrupt_too(error):
    model, optimizer = trained()
    before, calls = everything(model, optimizer), itertools.count()

    def loss_fn(outputs, targets):
        noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        if next(calls) == 7:
            raise error
        return F.cross_entropy(outputs, targets) * (1 + noise)

    with pytest.raises(error):
        sweep(model, optimizer, loss_fn=loss_fn)
    assert next(calls) == 8 and same(before, everything(model, optimizer))


def test_ctrl_c_while_putting_back_waits_until_all_is_back(ctrl_c, monkeypatch):
    model, optimizer = trained()
    before, came = everything(model, optimizer), []
    set_state = torch.set_rng_state

    def interrupting(state):
        came.append(signal.raise_signal(signal.SIGINT))
        set_state(state)

    monkeypatch.setattr(torch, "set_rng_state", interrupting)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, optimizer)
    assert came and same(before, everything(model, optimizer))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- what somebody else's code may do in the block ----------------------------------------------------------------


def swap_tensors(model, optimizer):
    model[0].weight = nn.Parameter(torch.zeros(8, 4))
    model[0].register_buffer("extra", torch.zeros(1))
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
    model, optimizer = trained()
    before = everything(model, optimizer)
    with restored(model, optimizer):
        change(model, optimizer)
        assert not same(before, everything(model, optimizer))
    assert same(before, everything(model, optimizer))


def test_what_is_lazy_and_has_no_value_is_named():
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3))
    with pytest.raises(ValueError, match="parameter 0.weight has no value yet"):
        sweep(model, sgd(model))


# --- what is kept in unusual places -------------------------------------------------------------------------------


class Holding(nn.Module):
    """Holds an object, a tensor as a buffer, and changes it at each forward pass."""

    def __init__(self, held, change):
        super().__init__()
        self.change = change
        self.register_buffer("held", held) if isinstance(held, torch.Tensor) else setattr(self, "held", held)

    def forward(self, x):
        self.change(self.held)
        return x


def held_through_a_test(held, change):
    model = network(Holding(held, change))
    sweep(model, sgd(model))
    return model[1].held


HELD = {  # and what a forward pass does to it
    "sparse": (lambda: torch.eye(4).to_sparse(), lambda held: held.mul_(2)),
    "resized": (lambda: torch.full((2, 3), 5.0), lambda held: held.resize_(1000).fill_(1)),
    "expanded": (lambda: torch.ones(1).expand(2), lambda held: None),  # nobody can write it: it is left alone
    "list": (lambda: [0], lambda held: held.append(1)),
    "set in a dict": (lambda: {"places": {0}}, lambda held: held["places"].add(1)),
    "deque": (lambda: collections.deque([7, 8], maxlen=2), lambda held: held.append(9)),
    "array": (lambda: np.zeros(2), lambda held: np.add(held, 1, out=held)),
    "array that nobody can write": (lambda: np.broadcast_to(1.0, 2), lambda held: None),
    "tensor in a tuple": (lambda: (torch.zeros(1), "a"), lambda held: held[0].add_(1)),
    "torch's generator": (lambda: torch.Generator().manual_seed(5), lambda held: torch.rand(1, generator=held)),
    "Python's generator": (lambda: random.Random(3), lambda held: held.uniform(0, 1)),
    "numpy's generator": (lambda: np.random.default_rng(3), lambda held: held.uniform(0, 1)),
    "numpy's older generator": (lambda: np.random.RandomState(3), lambda held: held.uniform(0, 1)),
}


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
@pytest.mark.parametrize("make, change", HELD.values(), ids=HELD)
def test_what_a_module_holds_is_put_back(make, change):
    held = make()
    assert held_through_a_test(held, change) is held and same(make(), held)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bool, torch.complex64], ids=str)
def test_memory_that_may_only_be_read_is_not_written(dtype, tmp_path):
    whole = torch.tensor([[0.0, -0.0], [1.0, float("nan")]]).to(dtype)
    np.save(tmp_path / "table.npy", whole.numpy())
    table = torch.from_numpy(np.load(tmp_path / "table.npy", mmap_mode="r"))
    assert held_through_a_test(table.T, torch.sum).shape == (2, 2)  # writing it ends Python


def test_a_module_in_a_plain_list_is_put_back_with_its_gradients():
    teacher = nn.Linear(4, 1)
    teacher(samples()[0]).sum().backward()
    grad, weight = teacher.weight.grad, teacher.weight.detach().clone()

    def change(held):
        assert teacher.weight.grad is None
        held[0].weight.data.add_(1)

    held_through_a_test([teacher], change)
    assert torch.equal(teacher.weight, weight) and teacher.weight.grad is grad


class Stubborn(dict):
    def clear(self):
        raise ArithmeticError("I stay")


def test_what_cannot_be_put_back_keeps_nothing_else_from_it():
    model = network(nn.BatchNorm1d(8), Holding(Stubborn(), lambda held: held.update(x=1)))
    optimizer = sgd(model, momentum=0.9)
    before = everything(model, optimizer)
    with pytest.raises(ArithmeticError, match="I stay"):
        sweep(model, optimizer, loss_fn=lambda out, y: F.cross_entropy(out, y) * (1 + torch.rand(())))
    assert same(before, everything(model, optimizer))


class Rebinding(nn.Module):
    """As TorchScript takes it: forward gives a buffer another tensor."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen = self.seen + 1
        return self.layers(x)


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_a_torchscript_model_is_put_back():
    model = torch.jit.script(Rebinding()).eval()
    before = copy.deepcopy(model.state_dict())
    sweep(model, sgd(model))
    assert same(before, model.state_dict()) and not any(module.training for module in model.modules())


# --- hooks, losses, and what is named -----------------------------------------------------------------------------


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
    "tensor": lambda average, model, o: model[0].weight.register_hook(lambda grad: average.update()),
}


@pytest.mark.parametrize("attach", HOOKS.values(), ids=HOOKS)
def test_what_a_hook_keeps_is_put_back(attach):
    average, optimizer = Average(model := network()), sgd(model)
    attach(average, model, optimizer)
    before = copy.deepcopy(average.shadow)
    sweep(model, optimizer)
    assert average.updates == 0 and same(before, average.shadow)


class Drifting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        self.centre += 1
        return F.cross_entropy(outputs * self.scale, targets)


def by_keyword(drifting):
    def loss_fn(outputs, targets, *, held=drifting):
        return held(outputs, targets)

    return loss_fn


@pytest.mark.parametrize(
    "way", [lambda drifting: drifting.forward, partial, by_keyword], ids=["method", "partial", "keyword"]
)
def test_what_the_loss_holds_is_put_back_and_what_it_logs_is_kept(way):
    model, drifting, log = network(), Drifting(), []
    loss_fn, optimizer = way(drifting), torch.optim.SGD([*model.parameters(), drifting.scale], lr=0.1)
    sweep(model, optimizer, loss_fn=lambda out, y: log.append(1) or loss_fn(out, y))
    assert drifting.centre == 0 and drifting.scale == 1 and drifting.scale.grad is None and len(log) == 25


def test_restore_names_what_cannot_be_found():
    average, optimizer = Average(model := network()), sgd(model)
    scheduler, scaler = LinearLR(optimizer), torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(batch):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward(), optimizer.step(), scheduler.step(), average.update(), scaler.update(2.0)
        return loss

    sweep(model, optimizer, train_step=step, restore=[average, scheduler, scaler])
    assert (average.updates, scheduler.last_epoch, scaler.get_scale()) == (0, 0, 8.0)


# --- loaders ------------------------------------------------------------------------------------------------------


class Augmented(Dataset):
    """Draws from a generator of its own."""

    def __init__(self):
        self.noise = torch.Generator().manual_seed(2)

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.randn(4, generator=self.noise), i % 3


def augmented():
    return DataLoader(Subset(Subset(Augmented(), range(30)), range(20)), batch_size=10)


def with_workers_that_stay():
    return DataLoader(TensorDataset(*samples(40)), 10, shuffle=True, num_workers=1, persistent_workers=True)


def shuffled(**kwargs):
    return DataLoader(TensorDataset(*samples(40)), 10, generator=torch.Generator().manual_seed(1), **kwargs)


def concatenated():
    return DataLoader(ConcatDataset([Augmented(), Augmented()]), 10)


def with_a_noisy_collate():
    noise = torch.Generator().manual_seed(2)

    def collate(items):
        x, y = default_collate(items)
        return x + torch.randn(x.shape, generator=noise), y

    return DataLoader(TensorDataset(*samples(40)), 10, collate_fn=collate)


class Shifting(Drifting):
    """Counts the batches in a buffer, and adds their number."""

    def forward(self, items):
        self.centre += 1
        x, y = default_collate(items)
        return x + self.centre, y


def with_a_module_as_collate():
    return DataLoader(TensorDataset(*samples(40)), 10, collate_fn=Shifting())


class Passing(Sampler):
    """A sampler around another."""

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return iter(self.inner)


def of_a_sampler_in_a_sampler():
    inner = RandomSampler(range(40), generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(*samples(40)), 10, sampler=Passing(inner))


def in_a_bar():
    return tqdm(shuffled(shuffle=True), disable=True)


class InTurn:
    def __init__(self):
        self.loaders = {"one": shuffled(shuffle=True), "other": shuffled(shuffle=True)}

    def __iter__(self):
        return itertools.chain(*self.loaders.values())


LOADERS = [
    augmented,
    with_workers_that_stay,
    concatenated,
    with_a_noisy_collate,
    with_a_module_as_collate,
    of_a_sampler_in_a_sampler,
    in_a_bar,
    InTurn,
]


@pytest.mark.parametrize("make", LOADERS)
def test_a_loader_yields_what_it_yields_without_a_range_test(make):
    def next_batches(tested):
        torch.manual_seed(1)
        model, loader = network(), make()
        torch.manual_seed(2)
        if tested:
            sweep(model, sgd(model), loader)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(next_batches(True), next_batches(False))


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


def test_a_samplers_counter_is_put_back():
    model, counting = network(), Counting()
    sweep(model, sgd(model), DataLoader(TensorDataset(*samples()), 10, sampler=counting))
    assert counting.passes == 0 and counting.seen == {"orders": []}
