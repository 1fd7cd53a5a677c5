"""The text: nothing is lost on the way to numbers and back; batches are pieces of it, in the order that a seed fixes."""

import pytest
import torch

from lrtut import load_text, text_batches


@pytest.fixture(scope="module")
def text():
    return load_text(device="cpu")


def test_to_numbers_and_back(text):
    assert len(text.train) > 8 * len(text.val) > 100_000
    assert "statement" in text.decode(text.train) and text.decode(text.encode("while True")) == "while True"
    assert text.train.max() < len(text.alphabet)
    with pytest.raises(ValueError, match="ツ"):
        text.encode("ツ")


def test_targets_are_the_next_characters(text):
    batches = text_batches(text.train, 4, 16, steps=3, seed=1)
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == 3 and all(x.shape == y.shape == (4, 16) for x, y in first)
    whole = text.decode(text.train)
    for x, y in first:
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert all(text.decode(torch.cat([row, target[-1:]])) in whole for row, target in zip(x, y, strict=True))
    assert not torch.equal(first[0][0], second[0][0])  # a new pass, other pieces
    again = text_batches(text.train, 4, 16, steps=3, seed=1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip([*again, *again], [*first, *second], strict=True))


def test_a_whole_pass_takes_each_character_once(text):
    batches = text_batches(text.val[:100], 2, 16)
    assert len(batches) == len(list(batches)) == 3
    assert torch.equal(torch.cat([y.flatten() for _, y in batches]), text.val[1:97])
    with pytest.raises(ValueError, match="longer than context=16"):
        text_batches(text.val[:16], 2, 16)
