import copy
import math
import signal
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from lrtut import Digits, History, batches, evaluate, train, training


def problem(n=40, seed=0):
    """Four features, three classes that a linear model can tell apart, in batches of ten."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    y = (x @ torch.randn(4, 3, generator=generator)).argmax(1)
    return x, y


def linear(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(4, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def setting(lr=0.1, **kwargs):
    x, y = problem()
    model = linear()
    return (
        model,
        torch.optim.SGD(model.parameters(), lr=lr, **kwargs),
        [(x[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)],
    )


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def bare(model, optimizer, data, epochs):
    losses = []
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_takes_the_steps_of_a_bare_loop():
    model, optimizer, data = setting(momentum=0.9)
    expected = bare(model, optimizer, data, 3)
    other, optimizer, data = setting(momentum=0.9)
    history = train(other, optimizer, data, epochs=3)
    assert history.loss == expected and torch.equal(flat(model), flat(other))
    assert history.lrs == [[0.1]] * 12 and history.lr == [0.1] * 12
    assert history.steps_per_epoch == 4 and not history.diverged and history.val_loss == []


def digits(n=70):
    x = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 10
    return Digits(x, y, x[:20], y[:20], x[:5], y[:5], name="digits")


def test_digits_are_shuffled_by_seed_and_lose_an_incomplete_batch():
    data = digits()

    def losses(seed, **kwargs):
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        nn.init.zeros_(model[1].weight)
        nn.init.zeros_(model[1].bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return train(model, optimizer, data, epochs=2, seed=seed, **kwargs)

    h = losses(0, batch_size=32)
    assert h.steps_per_epoch == 2 and len(h.loss) == 4  # 70 = 2 · 32 + 6
    assert len(h.val_loss) == len(h.val_accuracy) == 2
    assert h.loss == losses(0, batch_size=32).loss != losses(1, batch_size=32).loss
    assert losses(0, batch_size=100).steps_per_epoch == 1  # fewer images than a batch: they are kept


def test_rates_are_recorded_as_the_step_used_them_for_every_group():
    x, y = problem()
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    data = [(x[:20], y[:20]), (x[20:], y[20:])]
    history = train(model, optimizer, data, epochs=2, scheduler=StepLR(optimizer, 1, gamma=0.5), scheduler_step="batch")
    assert history.lrs == [[0.1, 0.01], [0.05, 0.005], [0.025, 0.0025], [0.0125, 0.00125]]


def test_scheduler_is_stepped_after_each_epoch_by_default():
    model, optimizer, data = setting()
    history = train(model, optimizer, data, epochs=3, scheduler=ExponentialLR(optimizer, 0.1))
    assert history.lr == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 4)


def test_tensor_rate_is_recorded_as_a_number():
    model, _, data = setting()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1, dtype=torch.float64))
    history = train(model, optimizer, data, epochs=2, scheduler=ExponentialLR(optimizer, 0.5))
    assert history.lr == pytest.approx([0.1] * 4 + [0.05] * 4)


def test_plateau_is_given_the_validation_loss():
    model, optimizer, data = setting(lr=0.0)
    optimizer.param_groups[0]["lr"] = 0.4
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


def test_divergence_ends_the_run_and_is_no_error():
    x, y = problem()
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    data = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)]
    square = lambda out, target: (out**2).mean()  # noqa: E731  a loss that squares what it is given overflows soon
    history = train(model, optimizer, data, epochs=5, loss_fn=square, val=data)
    assert history.diverged and len(history.loss) <= 4  # at the end of the first epoch
    assert all(map(math.isfinite, history.loss[:-1])) and not math.isfinite(history.loss[-1])
    assert len(history.lrs) == len(history.loss) and history.val_loss == []


def test_a_bar_is_done_where_divergence_ends_the_run(monkeypatch):
    """tqdm leaves a bar that is not done standing in red, as if something had failed."""
    closed = []

    class Bar(training.tqdm):
        def close(self):
            closed.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(training, "tqdm", Bar)
    model, optimizer, data = setting(lr=1e30)
    history = train(model, optimizer, data, epochs=5, loss_fn=lambda out, target: (out**2).mean())
    assert history.diverged and closed[0] == (len(data), len(data))  # divergence is seen at the end of an epoch


def test_a_last_step_that_blows_up_is_divergence():
    def run(epochs, val):
        x, y = problem()
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
        return train(model, optimizer, [(x, y)], epochs=epochs, val=[(x, y)] if val else None)

    blown = run(1, val=True)
    assert blown.diverged and math.isfinite(blown.loss[0]) and not math.isfinite(blown.val_loss[0])
    assert not run(1, val=False).diverged  # nothing has seen it
    assert len(run(3, val=True).loss) == 2 and run(3, val=True).diverged


def test_zero_rate_is_no_error():
    model, optimizer, data = setting(lr=0.0)
    before = flat(model)
    train(model, optimizer, data, epochs=1)
    assert torch.equal(before, flat(model))


def test_export():
    model, optimizer, data = setting()
    history = train(model, optimizer, data, epochs=2, val=data)
    rows = history.to_dicts()
    assert len(rows) == 8 and [r["epoch"] for r in rows] == [1] * 4 + [2] * 4
    assert rows[2] == {"step": 2, "epoch": 1, "loss": history.loss[2], "lr": [0.1]}
    assert [i for i, r in enumerate(rows) if "val_loss" in r] == [3, 7]
    assert rows[7]["val_loss"] == history.val_loss[1] and rows[3]["val_accuracy"] == history.val_accuracy[0]
    four = History([1.0] * 8, [[0.1]] * 8, [0.4, 0.3, 0.2, 0.1], [0.6, 0.7, 0.8, 0.9], 2, False).to_dicts()
    assert [row["val_loss"] for row in four[1::2]] == [0.4, 0.3, 0.2, 0.1]
    assert [row["val_accuracy"] for row in four[1::2]] == [0.6, 0.7, 0.8, 0.9]


def test_accuracy_is_counted_where_there_is_a_class_for_each_output():
    model, _, ((x, _), *_) = setting()
    _, accuracy = evaluate(model, [(x, torch.tensor(1))], lambda outputs, target: outputs.mean())
    assert math.isnan(accuracy)


def test_a_word_need_not_be_the_very_object():
    model, optimizer, data = setting()
    scheduler = OneCycleLR(optimizer, 0.1, total_steps=8)
    history = train(model, optimizer, data, epochs=2, scheduler=scheduler, scheduler_step="".join(["ba", "tch"]))
    assert len(set(history.lr)) == 8


def test_a_dataloader_will_do():
    x, y = problem()
    model = linear()
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    assert len(train(model, torch.optim.SGD(model.parameters(), lr=0.1), loader, epochs=2).loss) == 6


@pytest.mark.parametrize("step", [0, 5])
def test_interrupt_waits_for_the_step_and_keeps_the_record(step, ctrl_c):
    model, optimizer, data = setting(momentum=0.9)
    calls = []

    def loss_fn(out, target):
        calls.append(1)
        if len(calls) == step + 1:
            signal.raise_signal(signal.SIGINT)  # Ctrl-C in the middle of a step
        return F.cross_entropy(out, target)

    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, loss_fn=loss_fn)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    twin, optimizer, data = setting(momentum=0.9)
    expected = bare(twin, optimizer, (data * 3)[: step + 1], 1)
    assert stop.value.history.loss == expected and len(stop.value.history.lrs) == step + 1
    assert torch.equal(flat(model), flat(twin))  # the step in hand is whole


def test_interrupt_that_ends_the_step_in_an_error_is_an_interrupt(ctrl_c):
    model, optimizer, data = setting()
    calls = []

    def loss_fn(out, target):
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
            raise error
        return F.cross_entropy(out, target)

    error = RuntimeError("a worker exited unexpectedly")
    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, loss_fn=loss_fn)
    assert stop.value.__cause__ is error and len(stop.value.history.loss) == len(stop.value.history.lrs) == 5
    assert stop.value.__notes__ == ["5 steps were recorded: sys.last_value.history"]


def test_an_error_without_an_interrupt_is_raised_as_it_is(ctrl_c):
    model, optimizer, data = setting()
    error = RuntimeError("spilt coffee")

    def loss_fn(out, target):
        raise error

    with pytest.raises(RuntimeError) as caught:
        train(model, optimizer, data, epochs=3, loss_fn=loss_fn)
    assert caught.value is error


def test_second_interrupt_does_not_wait(ctrl_c):
    model, optimizer, data = setting()

    def stuck(out, target):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=1, loss_fn=stuck)
    assert stop.value.history.loss == []


def test_interrupt_between_epochs_comes_when_the_epoch_is_whole(ctrl_c):
    model, optimizer, data = setting()
    scheduler = LambdaLR(optimizer, lambda epoch: 1.0 if epoch == 0 else signal.raise_signal(signal.SIGINT) or 0.5)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, optimizer, data, epochs=3, scheduler=scheduler, val=data)
    history = stop.value.history
    assert len(history.loss) == 4 and len(history.val_loss) == 1 and scheduler.get_last_lr() == [0.05]
    assert stop.value.__notes__ == ["4 steps were recorded: sys.last_value.history"]


def test_somebody_elses_handling_of_ctrl_c_is_left_alone(ctrl_c):
    heard = []
    signal.signal(signal.SIGINT, lambda signum, frame: heard.append(signum))
    mine = signal.getsignal(signal.SIGINT)
    model, optimizer, data = setting()
    history = train(model, optimizer, data, epochs=1, loss_fn=lambda *a: signal.raise_signal(2) or F.cross_entropy(*a))
    assert heard == [signal.SIGINT] * 4 and len(history.loss) == 4 and signal.getsignal(signal.SIGINT) is mine


def test_a_history_of_nothing_is_empty():
    assert History() == History([], [], [], [], 0, False) and History().to_dicts() == []


def test_batches_of_128_unless_told_otherwise():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    sizes = []
    model.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)) if module.training else None)
    train(model, optimizer, digits(260), epochs=1)
    assert sizes == [128, 128]


def test_the_bar_counts_steps_and_can_be_left_out(monkeypatch):
    made = []

    class Spy(sys.modules["lrtut.training"].tqdm):
        def __init__(self, **kwargs):
            made.append((kwargs, self))
            super().__init__(**kwargs)

        def update(self, n=1):
            self.counted = getattr(self, "counted", 0) + n
            return super().update(n)

    monkeypatch.setattr("lrtut.training.tqdm", Spy)
    for progress in (True, False):
        model, optimizer, data = setting()
        train(model, optimizer, data, epochs=3, progress=progress)
        kwargs, bar = made.pop()
        kept = {"desc": "train", "unit": "step", "delay": 2, "leave": False}
        assert kwargs == kept | {"total": 12, "disable": not progress} and bar.counted == 12


def test_digits_may_come_with_other_validation_batches():
    data = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    other = batches(data.x_test, data.y_test, shuffle=False)
    history = train(model, torch.optim.SGD(model.parameters(), lr=0.001), data, epochs=1, val=other)
    assert (history.val_loss[0], history.val_accuracy[0]) == evaluate(model, other)


# --- misuse ---------------------------------------------------------------------------------------------------------


def test_scheduler_of_another_optimizer():
    model, optimizer, data = setting()
    other = torch.optim.SGD(linear().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="StepLR belongs to another optimizer"):
        train(model, optimizer, data, epochs=1, scheduler=StepLR(other, 1))


def test_one_cycle_that_does_not_match():
    model, optimizer, data = setting(momentum=0.9)
    short = OneCycleLR(optimizer, 0.1, total_steps=7)
    with pytest.raises(ValueError, match="7 steps left, but will be stepped 8 times, once a batch.*total_steps=8"):
        train(model, optimizer, data, epochs=2, scheduler=short, scheduler_step="batch")
    right = OneCycleLR(optimizer, 0.1, total_steps=8)
    with pytest.raises(ValueError, match="8 steps left, but will be stepped 2 times.*scheduler_step='batch'"):
        train(model, optimizer, data, epochs=2, scheduler=right)
    assert len(train(model, optimizer, data, epochs=2, scheduler=right, scheduler_step="batch").lr) == 8
    with pytest.raises(ValueError, match="0 steps left"):  # used up
        train(model, optimizer, data, epochs=2, scheduler=right, scheduler_step="batch")


def test_one_cycle_goes_on_where_it_was():
    model, optimizer, data = setting(momentum=0.9)
    cycle = OneCycleLR(optimizer, 0.1, total_steps=8)
    for _ in range(4):
        optimizer.step()
        cycle.step()
    assert len(train(model, optimizer, data, epochs=1, scheduler=cycle, scheduler_step="batch").lr) == 4
    cycle = OneCycleLR(optimizer, 0.1, total_steps=300)  # a number that Python does not keep one object for
    with pytest.raises(ValueError, match="300 steps left, but will be stepped 75 times.*scheduler_step='batch'"):
        train(model, optimizer, data, epochs=75, scheduler=cycle)


def test_plateau_without_validation():
    model, optimizer, data = setting()
    plateau = ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="give val="):
        train(model, optimizer, data, epochs=1, scheduler=plateau)
    with pytest.raises(ValueError, match="scheduler_step='epoch'"):
        train(model, optimizer, data, epochs=1, scheduler=plateau, scheduler_step="batch", val=data)


def test_scheduler_step_is_one_of_two_words():
    model, optimizer, data = setting()
    with pytest.raises(ValueError, match="scheduler_step='step'"):
        train(model, optimizer, data, epochs=1, scheduler_step="step")


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True, None])
def test_epochs_that_are_none(epochs):
    model, optimizer, data = setting()
    with pytest.raises(ValueError, match=f"epochs={epochs}: give a whole number of at least 1"):
        train(model, optimizer, data, epochs=epochs)


def test_validation_batches_that_can_be_passed_over_once():
    model, optimizer, data = setting()
    before = flat(model)
    with pytest.raises(ValueError, match="val is a generator, used up after the first epoch"):
        train(model, optimizer, data, epochs=2, val=(b for b in data))
    assert torch.equal(before, flat(model))
    assert len(train(model, optimizer, data, epochs=1, val=(b for b in data)).val_loss) == 1


def test_no_batches():
    model, optimizer, _ = setting()
    with pytest.raises(ValueError, match="no batch to train on"):
        train(model, optimizer, [], epochs=1)
    with pytest.raises(TypeError, match="generator has no length"):
        train(model, optimizer, (b for b in []), epochs=1)


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_rate_that_is_none(rate):
    model, optimizer, data = setting()
    before = flat(model)
    with pytest.raises(ValueError, match=f"learning rate {rate} in parameter group 0"):
        train(model, optimizer, data, epochs=1, scheduler=LambdaLR(optimizer, lambda step: rate * 10))
    assert torch.equal(before, flat(model))


def test_integer_inputs():
    model, optimizer, data = setting()
    whole = [(x.to(torch.uint8), y) for x, y in data]
    with pytest.raises(TypeError, match="inputs are torch.uint8.*lrtut.batches"):
        train(model, optimizer, whole, epochs=1)
    with pytest.raises(TypeError, match="inputs are torch.uint8"):
        evaluate(model, whole)
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3))  # takes integers by right
    tokens = [(torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, dtype=torch.long))]
    assert len(train(words, torch.optim.SGD(words.parameters(), lr=0.1), tokens, epochs=1).loss) == 1


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_is_the_mean_over_samples_whatever_the_batches():
    x, y = problem()
    model = linear()
    loss, accuracy = evaluate(model, batches(x, y, 7, shuffle=False))  # the last batch has 5
    assert loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert accuracy == pytest.approx((model(x).argmax(1) == y).float().mean().item())


def test_evaluate_puts_each_modules_mode_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[2].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    x, y = problem()
    assert evaluate(model, [(x, y)]) == evaluate(model, [(x, y)])  # dropout is off
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_evaluate_without_classes_and_without_batches():
    model = nn.Linear(4, 1)
    x, _ = problem()
    loss, accuracy = evaluate(model, [(x, x[:, :1])], F.mse_loss)
    assert math.isfinite(loss) and math.isnan(accuracy)
    numbers = (x, torch.zeros(len(x)))  # as many targets as outputs, but no classes
    assert math.isnan(evaluate(model, [numbers], lambda out, y: F.mse_loss(out[:, 0], y))[1])
    several = (x, torch.zeros(len(x), 1, dtype=torch.long))
    assert math.isnan(evaluate(model, [several], lambda out, y: F.mse_loss(out, y.float()))[1])
    with pytest.raises(ValueError, match="no batch"):
        evaluate(model, [])
