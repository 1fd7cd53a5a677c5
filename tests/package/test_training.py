"""`train` takes the steps of a plain loop and records what it saw."""

import itertools
import math
import signal

import nbformat
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from toy import Told, bars, network, pairs, samples, sgd

from lrtut import Digits, History, batches, evaluate, lr_range_test, mlp, sweep, train


def setting(lr=0.1, **kwargs):
    model = network()
    return model, sgd(model, lr, **kwargs), pairs(40)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(steps):
    """The losses of a plain loop of so many steps, and the weights after it."""
    model, optimizer, data = setting(momentum=0.9)
    losses = []
    for x, y in (data * steps)[:steps]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, weights(model)


def test_takes_the_steps_of_a_bare_loop():
    model, optimizer, data = setting(momentum=0.9)
    history = train(model, optimizer, data, epochs=3)
    losses, expected = by_hand(12)
    assert history == History(losses, [[0.1]] * 12, steps_per_epoch=4, epoch_ends=[4, 8, 12])
    assert torch.equal(weights(model), expected)


def test_trains_in_train_mode_and_validates_in_eval_mode():
    modes = []

    class Spy(nn.Dropout):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    model = network(Spy()).eval()
    train(model, sgd(model), pairs(20), epochs=2, val=pairs(10))
    assert modes == [True, True, False] * 2


def test_images_are_shuffled_by_seed_and_validated_and_lose_an_incomplete_batch():
    x = torch.randint(0, 256, (150, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(150) % 10
    data = Digits(x, y, x[:20], y[:20], x[:5], y[:5], name="digits")

    def trained(**kwargs):
        model = mlp(device="cpu")
        return model, train(model, sgd(model, 0.01), data, epochs=2, **kwargs)

    model, history = trained(batch_size=64)
    validated = evaluate(model, batches(data.x_val, data.y_val, shuffle=False))
    assert (history.val_loss[1], history.val_accuracy[1]) == validated and len(history.val_loss) == 2
    assert history.loss == trained(batch_size=64)[1].loss != trained(batch_size=64, seed=1)[1].loss
    assert history.steps_per_epoch == 2 and len(history.loss) == 4
    assert trained()[1].steps_per_epoch == 1  # of 128
    assert trained(batch_size=200)[1].steps_per_epoch == 1  # fewer than a batch: they are kept


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(
    "when, factors", [({}, [1, 1, 0.5, 0.5]), ({"scheduler_step": "batch"}, [1, 0.5, 0.25, 0.125])]
)
def test_rates_of_every_group_are_recorded_as_the_step_used_them(when, factors, tensor):
    model = network()
    rate = torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1
    groups = [{"params": model[0].parameters(), "lr": rate}, {"params": model[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    history = train(model, optimizer, pairs(20), epochs=2, scheduler=scheduler, **when)
    assert history.lrs == [[0.1 * factor, 0.01 * factor] for factor in factors]
    assert all(type(rate) is float for rates in history.lrs for rate in rates)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_is_given_the_validation_loss_or_the_accuracy(mode):
    model, optimizer, data = setting()
    scheduler = ReduceLROnPlateau(optimizer, mode, threshold=0)
    history = train(model, optimizer, data, epochs=2, scheduler=scheduler, val=data)
    assert scheduler.best == (min(history.val_loss) if mode == "min" else max(history.val_accuracy))
    assert scheduler.last_epoch == 2


def test_a_plateau_of_a_maximum_needs_an_accuracy():
    model, optimizer, data = setting()
    numbers, scheduler = [(x, x[:, :3]) for x, _ in data], ReduceLROnPlateau(optimizer, "max")
    with pytest.raises(ValueError, match='looks at the accuracy, and there is none: use "min"'):
        train(model, optimizer, numbers, epochs=1, scheduler=scheduler, val=numbers, loss_fn=F.mse_loss)


class ToldPlateau(Told):
    """As timm's PlateauLRScheduler: told the time and a metric."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.lr_scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")

    def step(self, epoch, metric=None):
        if metric is not None:
            self.lr_scheduler.step(metric)


def test_a_plateau_of_another_library_is_given_the_metric():
    model, optimizer, data = setting()
    history = train(model, optimizer, data, epochs=3, scheduler=ToldPlateau(optimizer), val=data)
    assert history.lr[:: len(data)] == pytest.approx([0.1, 0.1, 0.01])  # nothing counts as better: it cuts after two
    with pytest.raises(ValueError, match="ToldPlateau looks at the validation loss: give val="):
        train(model, optimizer, data, epochs=1, scheduler=ToldPlateau(optimizer))


class Counts(Told):
    """A scheduler that counts the time itself."""

    done = 0

    def step(self):
        self.done += 1
        super().step(self.done)


@pytest.mark.parametrize("kind", [Told, Counts])
def test_schedulers_of_others_are_stepped(kind):
    model, optimizer, data = setting()
    history = train(model, optimizer, data, epochs=3, scheduler=kind(optimizer))
    assert history.lr[::4] == pytest.approx([0.1, 0.05, 0.1 / 3])


class Wrapper(torch.optim.Optimizer):
    """Shares the groups of the optimizer that it wraps, as SAM does."""

    def __init__(self, base):
        super().__init__([torch.zeros(1)], {"lr": 9.0})
        self.base_optimizer, self.param_groups = base, base.param_groups

    def step(self, closure=None):
        self.base_optimizer.step()


def test_a_scheduler_of_a_wrapped_optimizer_is_stepped():
    model, optimizer, data = setting()
    history = train(model, Wrapper(optimizer), data, epochs=2, scheduler=StepLR(optimizer, 1))
    assert history.lr[:: len(data)] == pytest.approx([0.1, 0.01])


def test_a_train_step_may_return_a_number_whatever_the_default_device():
    model, optimizer, data = setting()
    with torch.device("meta"):
        assert train(model, optimizer, data, epochs=1, train_step=lambda batch: 1.5).loss == [1.5] * len(data)


def test_a_train_step_takes_any_batch():
    model, optimizer, data = setting(momentum=0.9)

    def step(batch):
        loss = F.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        return loss

    history = train(model, optimizer, [{"x": x, "y": y} for x, y in data], epochs=2, train_step=step)
    assert history.loss == by_hand(8)[0]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*samples(40), strict=True))


class Short:
    """Says another number of batches than it has."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(pairs(40))


class Unsure(Short):
    def __len__(self):
        raise RuntimeError("ask the shards")


@pytest.mark.parametrize("make", [lambda: DataLoader(Stream(), 10), Short, Unsure, lambda: itertools.chain(pairs(40))])
def test_epochs_end_where_the_data_end(make):
    model, optimizer, val = setting()
    epochs = 1 if isinstance(make(), itertools.chain) else 2
    history = train(model, optimizer, make(), epochs=epochs, val=val)
    assert history.epoch_ends == [4, 8][:epochs] and len(history.loss) == 4 * epochs
    assert [row["step"] for row in history.to_dicts() if "val_loss" in row] == [3, 7][:epochs]


def test_a_cycle_on_a_loader_that_says_another_length():
    class Buckets:
        def __len__(self):
            return 1

        def __iter__(self):
            return iter([list(range(8))] * 3)

    def cycle(total):
        model, optimizer, _ = setting(momentum=0.9)
        buckets = DataLoader(TensorDataset(*samples()), batch_sampler=Buckets())
        return train(model, optimizer, buckets, epochs=2, scheduler=one_cycle(total)(optimizer), scheduler_step="batch")

    assert len(cycle(6).loss) == 6
    with pytest.raises(ValueError, match="Tried to step") as error:
        cycle(2)
    assert len(error.value.history.loss) == 3  # nothing that was recorded is lost


def test_log_line(capsys):
    model, optimizer, data = setting(lr=0.001)
    history = train(model, optimizer, data, epochs=1, log_interval=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Train Epoch: 1 batch-{i}  Loss: {history.loss[i - 1]:.6f}  Learning Rate: 0.001" for i in (2, 4)]


def square(outputs, targets):
    return (outputs**2).mean()  # overflows soon


def test_divergence_ends_the_run_after_its_epoch_and_is_no_error(monkeypatch):
    closed = bars(monkeypatch, 0.5)
    model, optimizer, data = setting(lr=1e30)
    history = train(model, optimizer, data, epochs=5, loss_fn=square, val=data)
    assert history.diverged and 1 < len(history.loss) <= 4 and history.val_loss == []
    assert all(map(math.isfinite, history.loss[:-1])) and not math.isfinite(history.loss[-1])
    assert len(history.lrs) == len(history.loss)
    assert closed[0] == (4, 4)  # in a notebook, a bar that is not done stays, in red


def test_a_last_step_that_blows_up_shows_in_the_validation_loss_alone():
    def run(epochs, val):
        model, optimizer, data = setting(lr=1e38)
        return train(model, optimizer, data[:1], epochs=epochs, val=data[:1] if val else None)

    blown = run(1, val=True)
    assert blown.diverged and math.isfinite(blown.loss[0]) and not math.isfinite(blown.val_loss[0])
    assert not run(1, val=False).diverged
    assert len(run(3, val=True).loss) == 2


def test_history_as_rows_and_in_a_line():
    history = History([8.0, 7.0, 6.0, 5.0], [[0.1]] * 4, [0.4, 0.3], [0.6, 0.7], steps_per_epoch=2)
    row = {"step": 3, "epoch": 2, "loss": 5.0, "lr": [0.1], "val_loss": 0.3, "val_accuracy": 0.7}
    rows = history.to_dicts()
    assert rows[3] == row and rows[1]["val_loss"] == 0.4 and [r["epoch"] for r in rows] == [1, 1, 2, 2]
    assert "val_loss" not in rows[0] and "val_loss" not in rows[2]
    assert History().to_dicts() == [] and repr(History()) == "History(0 steps in 0 epochs)"
    assert "4 steps" in repr(history) and "70" in repr(history)


@pytest.mark.parametrize("use", [train, lr_range_test])
def test_batches_are_moved_to_where_the_model_is(use):
    model, places = network().to("meta"), []  # a device that has shapes and no numbers
    scale = nn.Parameter(torch.ones(()))
    parameters = [scale, *model.parameters()]

    def loss_fn(outputs, targets):
        places.extend([outputs.device.type, targets.device.type])
        return scale**2

    epochs = {"epochs": 1} if use is train else {}
    use(model, torch.optim.SGD(parameters, lr=0.1), pairs(), loss_fn=loss_fn, **epochs)
    assert set(places) == {"meta"}


BARS = {
    "train": lambda progress: train(*setting(), epochs=5, progress=progress),
    "range test": lambda progress: lr_range_test(*setting(), steps=20, progress=progress),
    "sweep": lambda progress: sweep(lambda lr, seed: lr, range(20), progress=progress),
}


@pytest.mark.parametrize("tick, progress, shown", [(0.5, True, True), (0.0, True, False), (0.5, False, False)])
@pytest.mark.parametrize("name, use", BARS.items(), ids=BARS)
def test_a_bar_shows_after_two_seconds_unless_it_is_not_wanted(name, use, tick, progress, shown, monkeypatch, capsys):
    bars(monkeypatch, tick)
    use(progress)
    said = capsys.readouterr().err
    assert (f"{name}:" in said and "/20 " in said) == shown and (shown or said.strip() == "")
    assert not said.rsplit("\r", 1)[-1].strip()  # wiped


# --- interrupts ---------------------------------------------------------------------------------------------------


def ctrl_c_at(call, then=lambda: None):
    """A loss function during whose `call`-th call Ctrl-C is pressed."""
    calls = []

    def loss_fn(outputs, targets):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
            then()
        return F.cross_entropy(outputs, targets)

    return loss_fn


@pytest.mark.parametrize("step", [1, 6])
def test_interrupt_waits_for_the_step_and_keeps_the_record(step, ctrl_c):
    model, optimizer, data = setting(momentum=0.9)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, loss_fn=ctrl_c_at(step))
    losses, expected = by_hand(step)
    assert stop.value.history == History(losses, [[0.1]] * step, steps_per_epoch=4, epoch_ends=[4][: step // 4])
    assert torch.equal(weights(model), expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "sys.last_value.history" in stop.value.__notes__[0]


def test_interrupt_that_ends_the_step_in_an_error_is_an_interrupt(ctrl_c):
    """The workers of a DataLoader hear Ctrl-C too, and the main process then hears of their death."""
    model, optimizer, data = setting()
    error = RuntimeError("a worker exited unexpectedly")

    def die():
        raise error

    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, loss_fn=ctrl_c_at(6, then=die))
    assert stop.value.__cause__ is error and len(stop.value.history.loss) == len(stop.value.history.lrs) == 5


def test_second_interrupt_does_not_wait(ctrl_c):
    model, optimizer, data = setting()
    stuck = ctrl_c_at(1, then=lambda: signal.raise_signal(signal.SIGINT) or pytest.fail("it waited"))
    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=1, loss_fn=stuck)
    assert stop.value.history.loss == []


def test_interrupt_between_epochs_comes_when_the_epoch_is_whole(ctrl_c):
    model, optimizer, data = setting()
    scheduler = LambdaLR(optimizer, lambda epoch: 1.0 if epoch == 0 else signal.raise_signal(signal.SIGINT) or 0.5)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, scheduler=scheduler, val=data)
    assert len(stop.value.history.loss) == 4 and len(stop.value.history.val_loss) == 1
    assert scheduler.get_last_lr() == [0.05]


def test_somebody_elses_handling_of_ctrl_c_is_left_alone(ctrl_c):
    heard = []
    mine = lambda signum, frame: heard.append(signum)  # noqa: E731
    signal.signal(signal.SIGINT, mine)
    model, optimizer, data = setting()
    history = train(model, optimizer, data, epochs=1, loss_fn=ctrl_c_at(2))
    assert heard == [signal.SIGINT] and len(history.loss) == 4 and signal.getsignal(signal.SIGINT) is mine


IN_A_KERNEL = """
import signal, sys, torch, lrtut

def interrupted(outputs, targets):
    signal.raise_signal(signal.SIGINT)
    return torch.nn.functional.cross_entropy(outputs, targets)

model = torch.nn.Linear(4, 3)
optimizer, data = torch.optim.SGD(model.parameters()), [(torch.ones(10, 4), torch.arange(10) % 3)]
----
lrtut.train(model, optimizer, data, epochs=5, loss_fn=interrupted)
----
print(len(sys.last_value.history.loss), len(lrtut.train(model, optimizer, data, epochs=3).loss))
"""


def test_jupyters_interrupt_keeps_the_record_and_the_next_cell_runs():
    cells = [nbformat.v4.new_code_cell(source) for source in IN_A_KERNEL.split("----\n")]
    options = {"kernel_name": "python3", "timeout": 300, "allow_errors": True, "shutdown_kernel": "immediate"}
    NotebookClient(nbformat.v4.new_notebook(cells=cells), **options).execute()
    said = [o.ename if o.output_type == "error" else o.text for cell in cells for o in cell.outputs]
    assert said == ["KeyboardInterrupt", "1 3\n"]


# --- misuse -------------------------------------------------------------------------------------------------------


def of_another(optimizer):
    return StepLR(sgd(network()), 1)


def one_cycle(steps, done=0):
    def make(optimizer):
        cycle = OneCycleLR(optimizer, 0.1, total_steps=steps)
        for _ in range(done):
            optimizer.step()
            cycle.step()
        return cycle

    return make


def rate(value):
    return lambda optimizer: LambdaLR(optimizer, lambda step: value * 10)


class Adaptive(Told):
    """Told a metric, as ReduceLROnPlateau is, but not one."""

    def step(self, metrics):
        raise AssertionError


class Demanding(Told):
    def step(self, epoch, step):
        raise AssertionError


STREAM = DataLoader(Stream(), 10)
BY_BATCH = {"scheduler_step": "batch"}
MISUSES = {
    "another optimizer's scheduler": ({"scheduler": of_another}, "StepLR belongs to another optimizer"),
    "too short a cycle": ({"scheduler": one_cycle(7)} | BY_BATCH, "7 steps left, .* 8 times.*total_steps=8"),
    "a cycle stepped by epoch": ({"scheduler": one_cycle(8)}, "8 steps left, .* 2 times.*scheduler_step='batch'"),
    "a cycle used up": ({"scheduler": one_cycle(8, 8)} | BY_BATCH, "0 steps left"),
    "a cycle on a stream": ({"scheduler": one_cycle(8), "data": STREAM} | BY_BATCH, "these data have no length"),
    "a cycle on a stream, by epoch": ({"scheduler": one_cycle(8), "data": STREAM}, "8 steps left, .* 2 times"),
    "plateau without validation": ({"scheduler": ReduceLROnPlateau}, "give val="),
    "plateau by batch": ({"scheduler": ReduceLROnPlateau, "val": pairs(10)} | BY_BATCH, "scheduler_step='epoch'"),
    "a negative rate": ({"scheduler": rate(-1.0)}, "learning rate -1.0 in parameter group 0"),
    "no rate": ({"scheduler": rate(math.nan)}, "learning rate nan in parameter group 0"),
    "a scheduler of a metric": ({"scheduler": Adaptive}, r"scheduler is .*Adaptive.*, with step\(metrics\): give one"),
    "a scheduler that wants more": ({"scheduler": Demanding}, r"scheduler is .*, with step\(epoch, step\): give one"),
    "an optimizer as scheduler": (
        {"scheduler": lambda optimizer: optimizer},
        "it must be one scheduler, made with the optimizer",
    ),
    "val as a pair of tensors": ({"val": pairs(10)[0]}, r"val is a pair of tensors: give lrtut.batches\(\*val\)"),
    "no batch to validate on": ({"val": []}, "no batch to validate on"),
    "no batch": ({"data": []}, "no batch to train on"),
    "data that are used up": ({"data": iter(pairs(10))}, "data is a list_iterator, used up after the first epoch"),
    "val that is used up": ({"val": iter(pairs(10))}, "val is a list_iterator, used up after the first epoch"),
}


@pytest.mark.parametrize("kwargs, words", MISUSES.values(), ids=MISUSES)
def test_misuse_is_refused_before_the_first_step(kwargs, words):
    model, optimizer, data = setting(momentum=0.9)
    kwargs = {"data": data, "epochs": 2} | kwargs
    if "scheduler" in kwargs:
        kwargs["scheduler"] = kwargs["scheduler"](optimizer)
    before = weights(model)
    with pytest.raises((ValueError, TypeError), match=words):
        train(model, optimizer, kwargs.pop("data"), **kwargs)
    assert torch.equal(before, weights(model))


def test_what_looks_like_misuse_and_is_none():
    model, optimizer, data = setting(momentum=0.9)
    cycle = one_cycle(8, done=4)(optimizer)  # goes on where it was
    assert len(train(model, optimizer, data, epochs=1, scheduler=cycle, scheduler_step="batch").loss) == 4
    assert len(train(model, optimizer, data, epochs=1, val=iter(data)).val_loss) == 1
