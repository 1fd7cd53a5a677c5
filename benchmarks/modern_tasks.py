"""The tasks of modern.py: Transformers, recurrent and residual networks, AdamW, small batches, fine-tuning.

`CHOOSE` is what a rule may be chosen on, `JUDGE` what it is judged by: on other data, with other networks, or with
another optimizer. JUDGE alone has a ViT, a residual network, a GRU, blocks with their norm last, LoRA, and plain SGD.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from finder_tasks import _load, _thumbnails
from torch import Tensor, nn
from torch.nn.utils import parametrize

import lrtut

LENGTH = 32  # characters in a sample of text


@dataclass(frozen=True)
class Task:
    """`start` is `scratch`, or what is trained of a network that is pretrained on other classes, or another text."""

    data: str
    model: str
    optimizer: str
    batch: int = 32
    start: str = "scratch"  # or "all", "head", "LoRA"

    steps: ClassVar[int] = 300

    @property
    def name(self) -> str:
        return f"{self.data} {self.model} {self.optimizer} {self.batch} {self.start}"

    @property
    def tuned(self) -> bool:
        return self.start != "scratch"

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def split(self, old: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs and targets to train on, and to judge by; `old`: those that the network is pretrained on."""
        return _split(self.data, self.tuned, old)

    def batches(self, seed: int, old: bool = False) -> lrtut.data.Batches:
        x, y, _, _ = self.split(old)
        return lrtut.batches(x, y, self.batch, seed=seed, drop_last=True)

    def make_model(self, seed: int) -> nn.Module:
        if not self.tuned:
            return self._fresh(seed)
        model = copy.deepcopy(_pretrained(self))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.data not in TEXTS:
                model[-1] = nn.Linear(model[-1].in_features, model[-1].out_features)  # for the new classes
            if self.start == "LoRA":
                _add_lora(model)
            elif self.start == "head":
                model[:-1].requires_grad_(False)
        return model

    def _fresh(self, seed: int) -> nn.Module:
        x, y, _, _ = self.split(old=self.tuned)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MODELS[self.model](x[0].numel(), int(y.max()) + 1)

    def make_optimizer(self, parameters, lr: float, make: Callable | None = None) -> torch.optim.Optimizer:
        parameters = [p for p in parameters if p.requires_grad]
        optimizer = (make or OPTIMIZERS[self.optimizer])(parameters, lr=lr)
        if "LSTM" in self.model or "GRU" in self.model:
            optimizer.register_step_pre_hook(functools.partial(_clip, parameters))
        return optimizer

    @functools.cached_property
    def guessing(self) -> float:
        """The loss of knowing nothing: of the targets' frequencies or, of a text to fine-tune on, of not training."""
        x, y, x_val, y_val = self.split()
        if self.tuned and self.data in TEXTS:
            return loss_on(_pretrained(self), x_val, y_val)
        share = (y.flatten().bincount(minlength=int(y_val.max()) + 1) + 1.0).div(y.numel())
        return float(-share[y_val.flatten()].log().mean())


def _clip(parameters: list[Tensor], *_) -> None:
    nn.utils.clip_grad_norm_(parameters, 1.0)


def loss_on(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


@functools.cache
def _pretrained(task: Task) -> nn.Module:
    """After 1000 steps on the old classes or the old text, at a rate that decays."""
    model, done, steps = task._fresh(seed=1000), 0, 1000
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    while done < steps:
        for x, y in task.batches(seed=1000, old=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            done += 1
            if done == steps:
                break
    return model


# --- data: text as windows of characters [N, LENGTH], each target the next character -------------------------------


@functools.cache
def _split(data: str, tuned: bool, old: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if data in TEXTS:
        other = {"help": "code", "code": "help"}[data]
        return _windows(TEXTS[other if old else data]())
    x, y, x_val, y_val = _thumbnails() if data == "MNIST at 14 × 14" else _load(data, False)
    x, x_val = (images.reshape(len(images), -1) for images in (x, x_val))
    if not tuned:
        return x, y, x_val, y_val
    kept, kept_val = ((labels < 5) == old for labels in (y, y_val))
    first = None if old else 2000
    return x[kept][:first], y[kept][:first] % 5, x_val[kept_val], y_val[kept_val] % 5


def _windows(text: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes = torch.tensor([min(max(ord(c) - 31, 0), 95) for c in text])  # the printable ASCII characters, others as one
    x, y = codes[:-1].unfold(0, LENGTH, LENGTH), codes[1:].unfold(0, LENGTH, LENGTH)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].contiguous(), y[order].contiguous()
    return x[400:], y[400:], x[:400], y[:400]


def _help() -> str:
    from pydoc_data.topics import topics

    return "".join(topics.values())


def _code() -> str:
    import argparse
    import difflib
    import doctest
    import tarfile
    import typing

    return "".join(map(inspect.getsource, (argparse, difflib, doctest, tarfile, typing)))


TEXTS: dict[str, Callable[[], str]] = {"help": _help, "code": _code}


# --- models: (inputs, classes) -> module, drawn from torch's global random state; the last one is the head ----------


class _Positions(nn.Module):
    def __init__(self, length: int, width: int):
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class _Blocks(nn.Module):
    """Transformer blocks."""

    def __init__(self, width: int, layers: int, norm_first: bool, causal: int = 0):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=norm_first)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.mask = nn.Transformer.generate_square_subsequent_mask(causal) if causal else None

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=self.mask is not None)
        return self.norm(x)


class _Last(nn.Linear):
    """A head for sequences: its logits are [N, classes, LENGTH], as the cross-entropy takes them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(1, 2)


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], width: int):
        super().__init__()
        self.net = kind(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.net(x))


def _gpt(inputs: int, classes: int, *, norm_first: bool = True) -> nn.Module:
    width = 48
    return nn.Sequential(
        nn.Embedding(96, width), _Positions(LENGTH, width), _Blocks(width, 2, norm_first, LENGTH), _Last(width, 96)
    )


def _recurrent(inputs: int, classes: int, *, kind: type[nn.RNNBase], width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(96, width), _Recurrent(kind, width), _Last(width, 96))


def _vit(inputs: int, classes: int) -> nn.Module:
    """On patches of 7 × 7 of 28 × 28 pixels."""
    patches = (nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 48, 7, 7), nn.Flatten(2), _Transposed())
    return nn.Sequential(*patches, _Positions(16, 48), _Blocks(48, 2, True), _Mean(), nn.Linear(48, classes))


class _Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def _resnet(inputs: int, classes: int) -> nn.Module:
    side = round(inputs**0.5)
    first = (nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*first, _Residual(16), _Residual(16), nn.Flatten(2), _MeanOfPlaces(), nn.Linear(16, classes))


class _MeanOfPlaces(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def _conv_batchnorm(inputs: int, classes: int) -> nn.Module:
    side = round(inputs**0.5)
    return nn.Sequential(
        *(nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
        nn.Linear(32 * ((side + 3) // 4) ** 2, classes),
    )


def _mlp(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, classes)
    )  # fmt: skip


def _conv(inputs: int, classes: int) -> nn.Module:
    side = round(inputs**0.5)
    return nn.Sequential(
        *(nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(32 * ((side + 3) // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, classes)),
    )


class _LowRank(nn.Module):
    """The weight plus a product of rank 4 that is zero at first."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.down = nn.Parameter(torch.randn(4, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], 4))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 2 * self.up @ self.down


def _add_lora(model: nn.Module) -> None:
    """To each linear layer but the head; these and the head are all that is trained."""
    layers = [m for m in model[:-1].modules() if isinstance(m, nn.Linear) and not hasattr(m, "parametrizations")]
    model[:-1].requires_grad_(False)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _LowRank(layer.weight))


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "GPT": _gpt,
    "GPT, norm after": functools.partial(_gpt, norm_first=False),
    "LSTM": functools.partial(_recurrent, kind=nn.LSTM, width=64),
    "GRU": functools.partial(_recurrent, kind=nn.GRU, width=64),
    "ViT": _vit,
    "ResNet": _resnet,
    "conv BatchNorm": _conv_batchnorm,
    "MLP": _mlp,
    "conv": _conv,
}
OPTIMIZERS: dict[str, Callable] = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "RMSprop": torch.optim.RMSprop,
    "Adam": torch.optim.Adam,
    "AdamW": functools.partial(torch.optim.AdamW, weight_decay=0.1),
}
FOLKLORE = {"SGD": 0.1, "momentum": 0.01, "RMSprop": 0.001, "Adam": 0.001, "AdamW": 0.001}

# --- the two lists --------------------------------------------------------------------------------------------------

CHOOSE = [
    Task("help", "GPT", "AdamW", 16),
    Task("help", "LSTM", "AdamW", 16),
    Task("help", "LSTM", "momentum", 32),
    Task("MNIST at 14 × 14", "conv BatchNorm", "AdamW", 32),
    Task("MNIST at 14 × 14", "conv BatchNorm", "momentum", 8),
    Task("MNIST at 14 × 14", "MLP", "RMSprop", 16),
    Task("MNIST at 14 × 14", "MLP", "AdamW", 32, "all"),
    Task("MNIST at 14 × 14", "MLP", "AdamW", 32, "head"),
    Task("MNIST at 14 × 14", "conv BatchNorm", "momentum", 32, "all"),
]
JUDGE = [
    Task("MNIST", "conv", "momentum", 32, "head"),
    Task("MNIST", "conv", "RMSprop", 16),
    Task("code", "GPT", "AdamW", 8, "head"),
    Task("code", "GPT", "AdamW", 8, "all"),
    Task("MNIST", "ViT", "AdamW", 8),
    Task("code", "GPT, norm after", "AdamW", 8),
    Task("MNIST", "ViT", "AdamW", 8, "LoRA"),
    Task("MNIST", "ResNet", "momentum", 8),
    Task("code", "GRU", "Adam", 16),
    # Added, and committed, before any of them was measured, when the rule was what it is.
    Task("code", "GPT", "Adam", 32),
    Task("help", "GPT, norm after", "AdamW", 32),
    Task("code", "LSTM", "RMSprop", 32),
    Task("help", "GRU", "momentum", 16),
    Task("MNIST", "ViT", "momentum", 32),
    Task("MNIST", "ResNet", "AdamW", 32),
    Task("MNIST", "ResNet", "SGD", 64),
    Task("MNIST", "conv BatchNorm", "RMSprop", 128),
    Task("MNIST", "conv", "Adam", 64),
    Task("MNIST", "MLP", "Adam", 512),
    Task("MNIST", "MLP", "SGD", 64),
    Task("small digits", "ResNet", "momentum", 32),
    Task("small digits", "MLP", "AdamW", 8),
    Task("small digits", "conv", "SGD", 16),
    Task("MNIST", "conv", "AdamW", 64, "all"),
    Task("MNIST", "ResNet", "momentum", 32, "all"),
    Task("MNIST", "MLP", "SGD", 32, "all"),
    Task("MNIST", "ViT", "Adam", 16, "head"),
    Task("MNIST", "MLP", "RMSprop", 128, "all"),
    Task("help", "GPT", "AdamW", 32, "all"),
    Task("help", "LSTM", "AdamW", 32, "all"),
    Task("code", "GRU", "momentum", 16, "all"),
    Task("code", "GPT", "AdamW", 16, "LoRA"),
]
