"""What several tests train: four features, three classes that a linear model can tell apart, in batches of ten."""

import itertools
import signal
import sys
import threading
import time
from traceback import walk_stack

import torch
import tqdm.auto
import tqdm.std
from torch import nn


def samples(n=60):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return x, (x @ torch.randn(4, 3, generator=generator)).argmax(1)


def pairs(n=60):
    x, y = samples(n)
    return [(x[i : i + 10], y[i : i + 10]) for i in range(0, n, 10)]


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def sgd(model, lr=0.1, **kwargs):
    return torch.optim.SGD(model.parameters(), lr=lr, **kwargs)


class Told:
    """A scheduler that is told the time, as timm's are."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, epoch, metric=None):
        self.optimizer.param_groups[0]["lr"] = 0.1 / (1 + epoch)


def bars(monkeypatch, tick):
    """The counts and totals of progress bars when they close, by a clock that is `tick` seconds later at each look."""
    clock, closed, close = itertools.count(), [], tqdm.auto.tqdm.close

    def spy(self):
        if not self.disable:  # it is, once closed
            closed.append((self.n, self.total))
        close(self)

    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * tick)
    monkeypatch.setattr(tqdm.std, "time", lambda: next(clock) * tick)
    monkeypatch.setattr(tqdm.auto.tqdm, "close", spy)
    return closed


def press_ctrl_c(what=signal.SIGINT, *, within):
    """A signal to the main thread, from another, once it waits in the function `within`, "file.py:name".

    To the thread and not to the process, where it might wake another thread, and the main one would sleep on.
    """
    main = threading.main_thread().ident

    def functions():
        frames = walk_stack(sys._current_frames()[main])
        return [f"{frame.f_code.co_filename}:{frame.f_code.co_name}" for frame, _ in frames]

    while not any(name.endswith(within) for name in functions()):
        time.sleep(0.01)
    signal.pthread_kill(main, what)
