"""The tasks of finders.py: small classification problems, each with a model, an optimizer and a way of feeding it.

`TUNING` is what the constants of lrtut's rule may be chosen on, `REPORT` what the table is made from. They share no
data set at its size, and no model.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrtut


@dataclass(frozen=True)
class Task:
    """`scale` is `standard`, or how the task is off scale: `raw` inputs, a `sum` for a loss, a `large` batch."""

    data: str
    model: str
    optimizer: str
    scale: str = "standard"

    @property
    def name(self) -> str:
        return f"{self.data} {self.model} {self.optimizer} {self.scale}"

    @property
    def classes(self) -> int:
        return 2 if self.data == "cancer" else 10

    @property
    def steps(self) -> int:
        """Steps of the training that decides which rate was best."""
        return 100 if self.scale == "large" else 300

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="sum" if self.scale == "sum" else "mean")

    def split(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Floats and classes to train on, and to judge by."""
        return _load(self.data, self.scale == "raw")

    def batches(self, seed: int) -> lrtut.data.Batches:
        x, y, _, _ = self.split()
        size = min(1024, len(x) // 2) if self.scale == "large" else 64
        return lrtut.batches(x, y, size, seed=seed, drop_last=True)

    def make_model(self, seed: int) -> nn.Module:
        x = self.split()[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MODELS[self.model](x[0].numel(), self.classes)

    def make_optimizer(self, parameters, lr: float) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](parameters, lr=lr)


OPTIMIZERS: dict[str, Callable] = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "Adam": torch.optim.Adam,
}
FOLKLORE = {"SGD": 0.1, "momentum": 0.01, "Adam": 0.001}


@functools.cache
def _load(name: str, raw: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if name in ("MNIST", "digits"):
        with contextlib.redirect_stdout(io.StringIO()):
            data = lrtut.load_mnist("digits" if name == "digits" else None, device="cpu")
        if data.name != name:
            raise SystemExit("these tasks need MNIST: let LRTUT_DATA name the folder that holds MNIST/raw")
        parts = (data.x_train[:20_000], data.y_train[:20_000], data.x_val[:2000], data.y_val[:2000])
        return tuple(part.float() if raw and i % 2 == 0 else lrtut.normalise(part) for i, part in enumerate(parts))
    if name == "MNIST at 14 × 14":  # other images than the report's, half as large
        x, y, x_val, y_val = _thumbnails()
        return x.flatten(1), y, x_val.flatten(1), y_val
    from sklearn import datasets

    bunch = {"small digits": datasets.load_digits, "cancer": datasets.load_breast_cancer}[name]()
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y, cut = x[order], y[order], len(x) * 4 // 5
    if not raw:
        x = (x - x[:cut].mean(0)) / x[:cut].std(0).clamp_min(1e-3)
    return x[:cut], y[:cut], x[cut:], y[cut:]


def _thumbnails() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with contextlib.redirect_stdout(io.StringIO()):
        data = lrtut.load_mnist(device="cpu")
    if data.name != "MNIST":
        raise SystemExit("these tasks need MNIST: let LRTUT_DATA name the folder that holds MNIST/raw")
    x, x_val = (F.avg_pool2d(lrtut.normalise(x), 2) for x in (data.x_train[30_000:50_000], data.x_val[3000:]))
    return x, data.y_train[30_000:50_000], x_val, data.y_val[3000:]


# --- models: (inputs, classes) -> module, drawn from torch's global random state -----------------------------------


def _cnn(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 96), nn.ReLU(), nn.Linear(96, classes)),
    )


def _cnn_batchnorm(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, classes)),
    )


def _mlp(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, classes))


def _deep_tanh(inputs: int, classes: int) -> nn.Module:
    widths = [inputs, *[64] * 6]
    hidden = [layer for pair in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, classes))


def _two_hidden(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, classes)
    )  # fmt: skip


def _mlp_batchnorm(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()),
        nn.Linear(64, classes),
    )


def _leaky(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(inputs, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU()),
        *(nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, classes)),
    )


def _conv_gelu(inputs: int, classes: int) -> nn.Module:
    side = round(inputs**0.5)
    return nn.Sequential(
        *(
            nn.Unflatten(1, (1, side, side)),
            nn.Conv2d(1, 12, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(12, 24, 3, 2, 1),
            nn.GELU(),
        ),
        *(nn.Flatten(), nn.Linear(24 * ((side + 1) // 2) ** 2, classes)),
    )


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "CNN": _cnn,
    "CNN+BatchNorm": _cnn_batchnorm,
    "MLP": _mlp,
    "deep tanh": _deep_tanh,
    "GELU": _two_hidden,
    "MLP+BatchNorm": _mlp_batchnorm,
    "leaky": _leaky,
    "conv GELU": _conv_gelu,
}

# --- the two lists -------------------------------------------------------------

REPORT = [
    Task(data, model, optimizer)
    for data in ("MNIST", "digits")
    for model in ("CNN", "MLP", "deep tanh", "CNN+BatchNorm")
    for optimizer in OPTIMIZERS
] + [
    Task(data, model, optimizer, scale)
    for data in ("MNIST", "digits")
    for scale in ("raw", "sum", "large")
    for model, optimizer in (("CNN", "SGD"), ("CNN", "Adam"), ("MLP", "momentum"), ("CNN+BatchNorm", "SGD"))
]

TUNING = (
    [
        Task(data, model, optimizer)
        for data in ("small digits", "cancer")
        for model in ("GELU", "leaky", "MLP+BatchNorm")
        for optimizer in OPTIMIZERS
    ]
    + [
        Task("MNIST at 14 × 14", model, optimizer)
        for model in ("conv GELU", "leaky", "MLP+BatchNorm")
        for optimizer in OPTIMIZERS
    ]
    + [
        Task("small digits", model, optimizer, scale)
        for scale in ("raw", "sum", "large")
        for model, optimizer in (("GELU", "SGD"), ("leaky", "Adam"), ("MLP+BatchNorm", "momentum"))
    ]
)
