"""`train` takes the steps of a plain loop and records what it saw; `evaluate` is the mean over samples."""

import copy
import math
import signal

import nbformat
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from toy import bars, network, pairs, samples, sgd

from lrtut import Digits, History, batches, evaluate, lr_range_test, sweep, train


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
    assert history.lr == [0.1] * 12
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


def images(n):
    x = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 10
    return Digits(x, y, x[:20], y[:20], x[:5], y[:5], name="digits")


def train_on_images(n, **kwargs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
    sizes = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None)
    history = train(model, sgd(model, 0.01), images(n), **{"epochs": 2} | kwargs)
    return model, history, sizes


def test_images_are_shuffled_by_seed_and_validated_and_lose_an_incomplete_batch():
    model, history, sizes = train_on_images(70, batch_size=32)
    assert history.steps_per_epoch == 2 and sizes == [32] * 4
    data = images(70)
    validated = evaluate(model, batches(data.x_val, data.y_val, shuffle=False))
    assert (history.val_loss[1], history.val_accuracy[1]) == validated and len(history.val_loss) == 2
    assert history.loss == train_on_images(70, batch_size=32)[1].loss
    assert history.loss != train_on_images(70, batch_size=32, seed=1)[1].loss
    assert train_on_images(260, epochs=1)[2] == [128, 128]
    assert train_on_images(70, epochs=1)[2] == [70]  # fewer than a batch: they are kept
    model, history, _ = train_on_images(70, epochs=1, val=(other := batches(data.x_test, data.y_test, shuffle=False)))
    assert (history.val_loss[0], history.val_accuracy[0]) == evaluate(model, other)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("when", [{}, {"scheduler_step": "epoch"}, {"scheduler_step": "batch"}])
def test_rates_of_every_group_are_recorded_as_the_step_used_them(when, tensor):
    model = network()
    rate = torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1
    groups = [{"params": model[0].parameters(), "lr": rate}, {"params": model[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    history = train(model, optimizer, pairs(20), epochs=2, scheduler=scheduler, **when)
    factors = [1, 0.5, 0.25, 0.125] if "batch" in when.values() else [1, 1, 0.5, 0.5]
    assert history.lrs == [[0.1 * factor, 0.01 * factor] for factor in factors]
    assert all(type(rate) is float for rates in history.lrs for rate in rates)


def test_plateau_is_given_the_validation_loss():
    model, optimizer, data = setting()
    seen = []

    class Spy(ReduceLROnPlateau):
        def step(self, metrics, *args):
            seen.append(metrics)
            super().step(metrics, *args)

    history = train(model, optimizer, data, epochs=2, scheduler=Spy(optimizer), val=data)
    assert seen == history.val_loss and len(seen) == 2


def test_log_line(capsys):
    model, optimizer, data = setting(lr=0.001)
    history = train(model, optimizer, data, epochs=1, log_interval=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Train Epoch: 1 batch-{i}  Loss: {history.loss[i - 1]:.6f}  Learning Rate: 0.001" for i in (2, 4)]


def square(outputs, targets):
    return (outputs**2).mean()  # overflows soon


def test_divergence_ends_the_run_after_its_epoch_and_is_no_error():
    model, optimizer, data = setting(lr=1e30)
    history = train(model, optimizer, data, epochs=5, loss_fn=square, val=data)
    assert history.diverged and 1 < len(history.loss) <= 4 and history.val_loss == []
    assert all(map(math.isfinite, history.loss[:-1])) and not math.isfinite(history.loss[-1])
    assert len(history.lrs) == len(history.loss)


def test_a_last_step_that_blows_up_shows_in_the_validation_loss_alone():
    def run(epochs, val):
        model, optimizer, data = setting(lr=1e38)
        return train(model, optimizer, data[:1], epochs=epochs, val=data[:1] if val else None)

    blown = run(1, val=True)
    assert blown.diverged and math.isfinite(blown.loss[0]) and not math.isfinite(blown.val_loss[0])
    assert not run(1, val=False).diverged
    assert len(run(3, val=True).loss) == 2


def test_history_as_rows():
    history = History([8.0, 7.0, 6.0, 5.0], [[0.1]] * 4, [0.4, 0.3], [0.6, 0.7], steps_per_epoch=2)
    row = {"step": 3, "epoch": 2, "loss": 5.0, "lr": [0.1], "val_loss": 0.3, "val_accuracy": 0.7}
    rows = history.to_dicts()
    assert rows[3] == row and rows[1]["val_loss"] == 0.4 and [r["epoch"] for r in rows] == [1, 1, 2, 2]
    assert "val_loss" not in rows[0] and "val_loss" not in rows[2]
    assert History().to_dicts() == []


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


def test_a_bar_is_done_where_divergence_ends_the_run(monkeypatch):
    """In a notebook, tqdm leaves a bar that is not done standing in red, as if something had failed."""
    closed = bars(monkeypatch, 0.5)
    model, optimizer, data = setting(lr=1e30)
    assert train(model, optimizer, data, epochs=5, loss_fn=square).diverged
    assert closed[0] == (4, 4)


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
    (note,) = stop.value.__notes__
    assert f"{step} steps were recorded" in note and "sys.last_value.history" in note


def test_interrupt_that_ends_the_step_in_an_error_is_an_interrupt(ctrl_c):
    """The workers of a DataLoader hear Ctrl-C too, and the main process then hears of their death."""
    model, optimizer, data = setting()
    error = RuntimeError("a worker exited unexpectedly")

    def die():
        raise error

    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, loss_fn=ctrl_c_at(6, then=die))
    assert stop.value.__cause__ is error and len(stop.value.history.loss) == len(stop.value.history.lrs) == 5


def test_an_error_without_an_interrupt_is_raised_as_it_is(ctrl_c):
    model, optimizer, data = setting()
    error = RuntimeError("spilt coffee")

    def loss_fn(outputs, targets):
        raise error

    with pytest.raises(RuntimeError) as caught:
        train(model, optimizer, data, epochs=3, loss_fn=loss_fn)
    assert caught.value is error and signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
import torch.nn.functional as F

def problem():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    data = [(torch.randn(10, 4), torch.arange(10) % 3) for _ in range(4)]
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), data

def interrupted(outputs, targets):
    interrupted.calls += 1
    if interrupted.calls == 7:
        signal.raise_signal(signal.SIGINT)
    return F.cross_entropy(outputs, targets)

interrupted.calls = 0
model, optimizer, data = problem()
----
lrtut.train(model, optimizer, data, epochs=5, loss_fn=interrupted)
----
history, (twin, its_optimizer, _) = sys.last_value.history, problem()
its = lrtut.train(twin, its_optimizer, (data * 2)[:7], epochs=1)
print(history.loss == its.loss, torch.equal(model.weight, twin.weight))
before, interrupted.calls = model.weight.clone(), 0
----
lrtut.lr_range_test(model, optimizer, data, interrupted)
----
print(torch.equal(model.weight, before), len(lrtut.train(model, optimizer, data, epochs=1).loss))
"""


def test_jupyters_interrupt_keeps_the_record_and_the_next_cell_runs():
    cells = [nbformat.v4.new_code_cell(source) for source in IN_A_KERNEL.split("----\n")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, kernel_name="python3", timeout=300, allow_errors=True, shutdown_kernel="immediate"
    ).execute()
    said = [o.ename if o.output_type == "error" else o.text for cell in cells for o in cell.outputs]
    assert said == ["KeyboardInterrupt", "True True\n", "KeyboardInterrupt", "True 4\n"]


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


MISUSES = {
    "another optimizer's scheduler": ({"scheduler": of_another}, "StepLR belongs to another optimizer"),
    "too short a cycle": (
        {"scheduler": one_cycle(7), "scheduler_step": "batch"},
        "7 steps left, but will be stepped 8 times, once a batch.*total_steps=8",
    ),
    "a cycle stepped by epoch": ({"scheduler": one_cycle(8)}, "8 steps left, .* 2 times.*scheduler_step='batch'"),
    "a cycle used up": ({"scheduler": one_cycle(8, 8), "scheduler_step": "batch"}, "0 steps left"),
    "plateau without validation": ({"scheduler": ReduceLROnPlateau}, "give val="),
    "plateau by batch": (
        {"scheduler": ReduceLROnPlateau, "scheduler_step": "batch", "val": pairs(10)},
        "scheduler_step='epoch'",
    ),
    "another word": ({"scheduler_step": "step"}, "scheduler_step='step'"),
    **{f"epochs={n}": ({"epochs": n}, f"epochs={n}: .*whole number of at least 1") for n in (0, -1, 1.5, True, None)},
    **{f"rate {lr}": ({"scheduler": rate(lr)}, f"learning rate {lr} in parameter group 0") for lr in (-1.0, math.nan)},
    "an infinite rate": ({"scheduler": rate(math.inf)}, "learning rate inf in parameter group 0"),
    "no batch": ({"data": []}, "no batch to train on"),
    "val that is used up": ({"val": iter(pairs(10))}, "val is a list_iterator, used up after the first epoch"),
}


@pytest.mark.parametrize("kwargs, words", MISUSES.values(), ids=MISUSES)
def test_misuse_is_refused_before_the_first_step(kwargs, words):
    model, optimizer, data = setting(momentum=0.9)
    kwargs = {"data": data, "epochs": 2} | kwargs
    if "scheduler" in kwargs:
        kwargs["scheduler"] = kwargs["scheduler"](optimizer)
    before = weights(model)
    with pytest.raises(ValueError, match=words):
        train(model, optimizer, kwargs.pop("data"), **kwargs)
    assert torch.equal(before, weights(model))


def test_what_looks_like_misuse_and_is_none():
    model, optimizer, data = setting(momentum=0.9)
    cycle = one_cycle(8, done=4)(optimizer)  # goes on where it was
    assert len(train(model, optimizer, data, epochs=1, scheduler=cycle, scheduler_step="batch").loss) == 4
    assert len(train(model, optimizer, data, epochs=1, val=iter(data)).val_loss) == 1
    model, optimizer, data = setting(lr=0.0)
    before = weights(model)
    train(model, optimizer, data, epochs=1)
    assert torch.equal(before, weights(model))


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_evaluate_is_the_mean_over_samples_whatever_the_batches():
    x, y = samples(40)
    model = network()
    loss, accuracy = evaluate(model, batches(x, y, 7, shuffle=False))  # the last batch has 5
    assert loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert accuracy == pytest.approx((model(x).argmax(1) == y).float().mean().item())


def test_evaluate_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[2].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    assert evaluate(model, [samples()]) == evaluate(model, [samples()])  # dropout is off
    with pytest.raises(ValueError, match="no batch"):
        evaluate(model, [])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


NO_CLASSES = {
    "columns": (lambda n: torch.zeros(n, 3), F.mse_loss),
    "numbers": (lambda n: torch.zeros(n), lambda out, y: F.mse_loss(out[:, 0], y)),
    "one for all": (lambda n: torch.tensor(1), lambda out, y: out.mean()),
}


@pytest.mark.parametrize("targets, loss_fn", NO_CLASSES.values(), ids=NO_CLASSES)
def test_there_is_no_accuracy_where_the_targets_are_no_classes(targets, loss_fn):
    x, _ = samples()
    loss, accuracy = evaluate(network(), [(x, targets(len(x)))], loss_fn)
    assert math.isfinite(loss) and accuracy is None
