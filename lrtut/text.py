"""English text as numbers, one a character, and batches of it for a model that predicts the next one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lrtut.data import default_device
from lrtut.misuse import check_whole, short


@dataclass(frozen=True, repr=False, eq=False)
class Text:
    """A text as numbers: `train` and `val`, int64 `[characters]`, each a place in `alphabet`."""

    train: Tensor
    val: Tensor
    alphabet: str

    def encode(self, text: str) -> Tensor:
        """The numbers of `text`, int64 `[characters]`; ValueError for a character that the alphabet lacks."""
        missing = sorted(set(text) - set(self.alphabet))
        if missing:
            raise ValueError(f"{short(missing)} not in this text's alphabet; leave it out.")
        return torch.tensor([self.alphabet.index(c) for c in text], dtype=torch.int64, device=self.train.device)

    def decode(self, numbers: Tensor) -> str:
        """The text that `numbers`, `[characters]`, stand for."""
        return "".join(self.alphabet[i] for i in numbers.tolist())

    def __repr__(self) -> str:
        sizes = f"train {len(self.train):,}, val {len(self.val):,} characters"
        return f"Python's help texts on {self.train.device}: {sizes}, {len(self.alphabet)} different ones"


def load_text(*, device: torch.device | str | None = None) -> Text:
    """The help texts that Python itself carries (what `help("while")` prints), 0.5 MB of English: no download.

    >>> text = lrtut.load_text()
    >>> batches = lrtut.text_batches(text.train, batch_size=32, context=64, steps=600)
    >>> print(text.decode(text.train[:60]))

    The last tenth is for validation. Each version of Python has a text of its own, so figures differ a little. It
    prints one line that says what was loaded.

    Args:
        device: where the tensors go; None means CUDA where there is one, else the CPU.
    """
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(set(whole)))
    place = {character: i for i, character in enumerate(alphabet)}
    numbers = torch.tensor([place[character] for character in whole], device=default_device(device))
    cut = len(numbers) * 9 // 10
    text = Text(numbers[:cut], numbers[cut:], alphabet)
    print(f"{text}.")
    return text


def text_batches(
    numbers: Tensor, batch_size: int = 32, context: int = 64, *, steps: int | None = None, seed: int = 0
) -> TextBatches:
    """Batches of pieces of a text: an iterable with a length that you can pass over as often as you like.

    >>> for inputs, targets in lrtut.text_batches(text.train, 32, 64, steps=600, seed=0):
    ...     logits = model(inputs)  # [32, 64, characters of the alphabet]
    ...     loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    Both are int64 `[batch_size, context]`; the targets are the inputs, one character further on.

    Args:
        numbers: int64 `[characters]`, such as `load_text().train`.
        batch_size: pieces in a batch.
        context: characters in a piece.
        steps: batches in a pass, of pieces that begin at random places. None means all pieces, side by side and in
            order, which is what a validation loss needs; the last batch may be smaller.
        seed: fixes the places of the first pass and of each later one.

    Raises:
        ValueError: a size below 1, or a text that is too short for one piece.
    """
    check_whole("batch_size", batch_size)
    check_whole("context", context)
    check_whole("seed", seed, least=-math.inf)
    if steps is not None:
        check_whole("steps", steps)
    if not isinstance(numbers, Tensor) or numbers.ndim != 1 or len(numbers) <= context:
        shape = list(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        raise ValueError(f"numbers is {shape}: give a tensor [characters] longer than context={context}.")
    return TextBatches(numbers, batch_size, context, steps, seed)


class TextBatches:
    """What `text_batches` returns."""

    def __init__(self, numbers: Tensor, batch_size: int, context: int, steps: int | None, seed: int):
        self.numbers, self.batch_size, self.context, self.steps = numbers, batch_size, context, steps
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self._pieces = (len(numbers) - 1) // context

    def __len__(self) -> int:
        return self.steps or -(-self._pieces // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        span = torch.arange(self.context + 1, device=self.numbers.device)
        for starts in self._starts():
            pieces = self.numbers[starts.to(span.device)[:, None] + span]
            yield pieces[:, :-1], pieces[:, 1:]

    def _starts(self) -> list[Tensor]:
        if self.steps is None:
            return list((torch.arange(self._pieces) * self.context).split(self.batch_size))
        shape = self.steps, self.batch_size
        return list(torch.randint(len(self.numbers) - self.context, shape, generator=self.generator, device="cpu"))
