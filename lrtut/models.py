"""Small networks, each initialised from its own seed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrtut.data import default_device
from lrtut.misuse import check_whole


def small_cnn(seed: int = 0, *, hidden: int = 96, device: torch.device | str | None = None) -> nn.Sequential:
    """A convolutional network for images `[N, 1, 28, 28]`; it returns logits `[N, 10]`.

    >>> model = lrtut.small_cnn(seed=0)
    >>> print(model(torch.zeros(2, 1, 28, 28)).shape)  # torch.Size([2, 10])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    Two strided 3 × 3 convolutions (1 → 16 → 32 channels), a hidden layer and an output layer, ReLU between them. It has
    neither dropout nor batch normalisation, so a learning rate that is too large visibly diverges.

    Args:
        seed: draws the initial weights, from torch's default distributions, without touching torch's global
            random state: several threads may make models at once.
        hidden: width of the hidden layer.
        device: None means CUDA where there is one, else the CPU.
    """
    check_whole("hidden", hidden)
    model = nn.Sequential(
        _bare(nn.Conv2d, 1, 16, 3, stride=2, padding=1),  # 28 × 28 → 14 × 14
        nn.ReLU(),
        _bare(nn.Conv2d, 16, 32, 3, stride=2, padding=1),  # → 7 × 7
        nn.ReLU(),
        nn.Flatten(),
        _bare(nn.Linear, 32 * 7 * 7, hidden),
        nn.ReLU(),
        _bare(nn.Linear, hidden, 10),
    )
    # channels_last convolutions are faster on the CPU (benchmarks/README.md).
    return _initialise(model, seed).to(default_device(device), memory_format=torch.channels_last)


def mlp(seed: int = 0, *, hidden: int = 128, device: torch.device | str | None = None) -> nn.Sequential:
    """A perceptron with one hidden layer for images `[N, 1, 28, 28]`; it returns logits `[N, 10]`.

    >>> model = lrtut.mlp(seed=0, hidden=64)
    >>> print(model(torch.zeros(2, 1, 28, 28)).shape)  # torch.Size([2, 10])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    The arguments are those of `small_cnn`.
    """
    check_whole("hidden", hidden)
    model = nn.Sequential(
        nn.Flatten(),
        _bare(nn.Linear, 28 * 28, hidden),
        nn.ReLU(),
        _bare(nn.Linear, hidden, 10),
    )
    return _initialise(model, seed).to(default_device(device))


class _Block(nn.Module):
    """Attention to the characters before, then a perceptron, each added to what comes in (pre-norm)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attention(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)  # [B, H, 3, T, D]
        mixed = F.scaled_dot_product_attention(*heads.unbind(2), is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class _GPT(nn.Module):
    def __init__(self, characters: int, width: int, layers: int, heads: int, context: int):
        super().__init__()
        self.embedding, self.position = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        length, context = numbers.shape[1], self.position.num_embeddings
        if length > context:
            raise ValueError(f"inputs of {length} characters: this model was made for context={context}.")
        x = self.embedding(numbers) + self.position.weight[:length]
        return self.head(self.norm(self.blocks(x)))


def tiny_gpt(
    characters: int,
    seed: int = 0,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    context: int = 64,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A small pre-norm Transformer that predicts the next character: int64 `[N, T]` → logits `[N, T, characters]`.

    >>> text = lrtut.load_text()
    >>> model = lrtut.tiny_gpt(len(text.alphabet), seed=0)
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)

    GPT-2 in small (Radford et al. 2019): learned positions, no dropout. The weights begin with a standard deviation of
    0.8/√width; the 0.02 of GPT-2 is for a width of 768.

    Args:
        characters: size of the alphabet.
        seed: draws the initial weights, without touching torch's global random state.
        width: numbers that stand for a character; a multiple of `heads`.
        layers: blocks of attention and perceptron.
        heads: heads of each attention.
        context: characters that it can see at most.
        device: None means CUDA where there is one, else the CPU.
    """
    sizes = {"characters": characters, "width": width, "layers": layers, "heads": heads, "context": context}
    for name, size in sizes.items():
        check_whole(name, size)
    check_whole("seed", seed, least=-math.inf)
    if width % heads:
        raise ValueError(f"width={width} with heads={heads}: give a width that is a multiple of heads.")
    with torch.device("meta"):  # no values: torch's own initialisation would draw from the global random state
        model = _GPT(**sizes)
    model.to_empty(device="cpu")
    generator = torch.Generator("cpu").manual_seed(seed)
    std = 0.8 / math.sqrt(width)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                into_sum = name.endswith(("project.weight", "mlp.2.weight"))
                p.normal_(0, std / math.sqrt(2 * layers) if into_sum else std, generator=generator)
    return model.to(default_device(device))


def _bare(layer: type[nn.Module], *args, **kwargs) -> nn.Module:
    """The layer with memory but no values: its own initialisation would draw from torch's global random state."""
    return nn.utils.skip_init(layer, *args, **kwargs)


def _initialise(model: nn.Module, seed: int) -> nn.Module:
    """What `nn.Linear` and `nn.Conv2d` do by default, U(±1/√fan_in) for weight and bias, from a generator."""
    check_whole("seed", seed, least=-math.inf)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
    return model
