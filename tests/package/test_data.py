import dataclasses
import os
import shutil

import pytest
import torch
from sklearn.datasets import load_digits
from tiny_mnist import TEST, TRAIN, VAL

from lrtut import batches, load_mnist
from lrtut import data as data_module


def test_tiny_is_loaded_and_split(tiny, capsys):
    data = load_mnist(tiny)
    assert data.x_train.dtype == torch.uint8 and data.x_train.shape == (TRAIN - VAL, 1, 28, 28)
    assert data.y_train.dtype == torch.int64 and len(data.y_val) == VAL and len(data.y_test) == TEST
    values = torch.cat([data.x_train, data.x_val])[:, 0, 0, 0]
    assert sorted(values.tolist()) == [10 * i for i in range(TRAIN)]  # each image once: val is not in train
    assert torch.equal(data.x_train[:, 0, 3, 5].long() // 10 % 10, data.y_train)  # labels went along
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "MNIST" in line and str(tiny) in line


def test_data_are_compared_by_identity(tiny):
    one, other = load_mnist(tiny), load_mnist(tiny)
    assert one == one and one != other


def test_split_is_drawn_by_seed_and_kept_by_train_size(tiny):
    data, again, other = load_mnist(tiny), load_mnist(tiny), load_mnist(tiny, seed=1)
    assert torch.equal(data.x_train, again.x_train) and torch.equal(data.x_val, again.x_val)
    assert not torch.equal(data.x_train, other.x_train)
    few = load_mnist(tiny, train_size=3)
    assert torch.equal(few.x_train, data.x_train[:3]) and torch.equal(few.x_val, data.x_val)


def test_environment_variable_names_the_root_and_root_goes_before(tiny, monkeypatch, capsys):
    monkeypatch.setenv("LRTUT_DATA", str(tiny))
    assert load_mnist().name == "MNIST"
    assert load_mnist("digits").name == "digits"
    monkeypatch.setenv("LRTUT_DATA", "digits")
    assert load_mnist().name == "digits"
    assert load_mnist(tiny).name == "MNIST"
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_device(tiny):
    assert load_mnist(tiny, device="cpu").x_val.device.type == "cpu"
    assert load_mnist(tiny, device="meta").y_test.device.type == "meta"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_mnist(tiny).x_train.device.type == expected


def test_root_that_does_not_exist(tiny, monkeypatch):
    with pytest.raises(ValueError, match="root='/no/such/folder' is not a folder.*MNIST/raw"):
        load_mnist("/no/such/folder")
    monkeypatch.setenv("LRTUT_DATA", "/no/such/folder")
    with pytest.raises(ValueError, match="LRTUT_DATA='/no/such/folder' is not a folder"):
        load_mnist()


def test_missing_file_and_packed_file(tiny):
    path = tiny / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is missing. Name another folder"):
        load_mnist(tiny)
    path.with_name("elsewhere").rename(path.with_name(path.name + ".gz"))
    with pytest.raises(ValueError, match="is missing. Unpack the .gz"):
        load_mnist(tiny)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_truncated_too_long_and_corrupt_files(tiny, name):
    path = tiny / "MNIST" / "raw" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"{name} is truncated: .* Delete it"):
        load_mnist(tiny)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=f"{name} is too long"):
        load_mnist(tiny)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit, in the body: the header is right
    with pytest.raises(ValueError, match=f"{name} is corrupt"):
        load_mnist(tiny)


@pytest.mark.parametrize("train_size", [0, -1, 2.5, True, "10"])
def test_train_size_that_is_no_size(tiny, train_size):
    with pytest.raises(ValueError, match="train_size=.*whole number of at least 1"):
        load_mnist(tiny, train_size=train_size)


def test_train_size_above_what_there_is(tiny, capsys):
    assert len(load_mnist(tiny, train_size=TRAIN - VAL).x_train) == TRAIN - VAL
    with pytest.raises(ValueError, match=f"train_size=11: MNIST has 10 training images.*at most {TRAIN - VAL}"):
        load_mnist(tiny, train_size=TRAIN - VAL + 1)
    capsys.readouterr()
    assert len(load_mnist("digits", train_size=5000).x_train) == 1250
    assert "asked for 5,000; there are no more" in capsys.readouterr().out
    assert len(load_mnist("digits", train_size=100).x_train) == 100


def test_digits_are_digits():
    data = load_mnist("digits")
    sizes = [len(y) for y in (data.y_train, data.y_val, data.y_test)]
    assert sizes == [1250, 250, 297] and data.x_train.shape[1:] == (1, 28, 28)
    assert set(data.y_train.tolist()) == set(range(10))
    # Nearest class mean tells most of them apart, so labels and images belong together.
    x, y = data.x_train.float().flatten(1), data.y_train
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    guess = torch.cdist(data.x_val.float().flatten(1), means).argmin(1)
    assert (guess == data.y_val).float().mean() > 0.8


def test_mnist_keeps_5000_images_to_validate_on(monkeypatch, capsys):
    source = "".join(["/full", "/mnist"])
    monkeypatch.setattr(data_module, "find_data", lambda root: (source, source))
    full = [torch.zeros(n, 1, 1, 1, dtype=torch.uint8) for n in (60_000, 10_000)]
    parts = full[0], torch.zeros(60_000).long(), full[1], torch.zeros(10_000).long()
    monkeypatch.setattr(data_module, "_read_mnist", lambda folder: parts)
    data = load_mnist(device="cpu")
    assert repr(data) == "MNIST on cpu: train 55,000, val 5,000, test 10,000"
    assert capsys.readouterr().out == f"{data!r}, from {source}.\n"
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


def test_defaults_are_seed_0_and_batches_of_128(tiny):
    assert torch.equal(load_mnist(tiny).x_train, load_mnist(tiny, seed=0).x_train)
    x, y = numbered(200)
    for given, default in zip(batches(x, y, 128, seed=0, shuffle=True, drop_last=False), batches(x, y), strict=True):
        assert torch.equal(given[1], default[1])


def test_small_digits_lie_in_the_middle_as_mnists_do():
    data = load_mnist("digits", device="cpu")
    x = torch.cat([data.x_train, data.x_val, data.x_test])
    for border in (x[..., :4, :], x[..., -4:, :], x[..., :4], x[..., -4:]):
        assert border.max() == 0
    inside = x[..., 4:24, 4:24]
    assert inside.amax() == 255 and all(edge.max() > 0 for edge in (inside[..., 0, :], inside[..., -1, :]))
    bunch = load_digits()
    assert torch.equal(data.y_test, torch.from_numpy(bunch.target[-297:]))
    # Made small again they are scikit-learn's: 8 × 8, 0 to 16.
    small = torch.nn.functional.interpolate(data.x_test[..., 4:24, 4:24].float(), size=(8, 8), mode="area") * 16 / 255
    assert (small[:, 0] - torch.from_numpy(bunch.images[-297:])).abs().max() < 9


@pytest.mark.parametrize("name", ["another", "zebra"])  # before and after "digits" in the alphabet
def test_data_of_any_name_in_words_that_are_equal_but_not_the_same_object(monkeypatch, name):
    word = "".join(["dig", "its"])
    assert load_mnist(word).name == "digits" and len(load_mnist(word, train_size=5000).x_train) == 1250
    monkeypatch.setattr(data_module, "find_data", lambda root: (name, name))
    monkeypatch.setattr(data_module, "_read_mnist", lambda folder: pytest.fail(f"{folder} is read"))
    with pytest.raises(pytest.fail.Exception, match=name):
        load_mnist(name)


def test_a_word_that_is_no_folder_is_not_taken_for_digits(tiny):
    for word in ("zebra", "another"):
        with pytest.raises(ValueError, match=f"root='{word}' is not a folder"):
            load_mnist(word)


def test_the_users_cache_is_filled_once_and_digits_stand_in_where_it_cannot_be(tiny, tmp_path, monkeypatch):
    cache, calls = tmp_path / "cache", []

    def fill(folder):
        calls.append(folder)
        if len(calls) == 1:
            return "no network"
        shutil.copytree(tiny, folder)
        return ""

    monkeypatch.setattr(data_module.platformdirs, "user_cache_dir", lambda name: str(cache))
    monkeypatch.setattr(data_module, "fill", fill)
    where, why = data_module.find_data()
    assert where == "digits" and "MNIST could not be had (no network)" in why
    assert data_module.find_data() == data_module.find_data() == (str(cache), str(cache))
    assert calls == [cache, cache]  # not a third time


def test_one_image_and_batches_of_one(tiny):
    assert len(load_mnist(tiny, train_size=1).x_train) == 1
    assert [t.tolist() for _, t in batches(*numbered(3), 1, shuffle=False)] == [[0], [1], [2]]


def test_tests_look_for_the_data_once():
    assert os.environ["LRTUT_DATA"]  # set by conftest.py, for every kernel


# --- batches --------------------------------------------------------------------------------------------------------


def numbered(n=10):
    return torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1), torch.arange(n)


def test_batches_are_normalised_floats():
    x, y = numbered()
    inputs, targets = next(iter(batches(x, y, 4, shuffle=False)))
    assert inputs.dtype == torch.float32
    assert torch.allclose(inputs, (x[:4].float() / 255 - 0.1307) / 0.3081)
    assert torch.equal(targets, y[:4])
    floats = torch.randn(10, 3)
    assert torch.equal(next(iter(batches(floats, y, 10, shuffle=False)))[0], floats)


def test_batches_cover_everything_once_and_have_a_length():
    x, y = numbered()
    b = batches(x, y, 4, seed=3)
    sizes = [len(t) for _, t in b]
    assert sizes == [4, 4, 2] and len(b) == 3
    assert sorted(torch.cat([t for _, t in b]).tolist()) == list(range(10))
    dropped = batches(x, y, 4, drop_last=True)
    assert [len(t) for _, t in dropped] == [4, 4] and len(dropped) == 2
    assert len(batches(x, y, 5, drop_last=True)) == len(batches(x, y, 5)) == 2


def test_batches_shuffle_by_seed_anew_at_each_pass():
    x, y = numbered(100)

    def passes(seed):
        b = batches(x, y, 100, seed=seed)
        return [next(iter(b))[1].tolist() for _ in range(2)]

    assert passes(0) == passes(0)
    first, second = passes(0)
    assert first != second and first != passes(1)[0]
    state = torch.get_rng_state()
    passes(0)
    assert torch.equal(state, torch.get_rng_state())


def test_batches_refuse_bad_input():
    x, y = numbered()
    for size in (0, -1, 1.5):
        with pytest.raises(ValueError, match="batch_size="):
            batches(x, y, size)
    with pytest.raises(ValueError, match="10 inputs but 9 targets"):
        batches(x, y[:9], 2)
    with pytest.raises(ValueError, match="9 inputs but 10 targets"):
        batches(x[:9], y, 2)
    x, y = numbered(300)  # numbers that Python does not keep one object for
    assert len(batches(x, y.clone(), 299)) == 2 and [len(t) for _, t in batches(x, y, 100)] == [100] * 3
    assert len(batches(x[:10], y[:10], 3)) == 4 and len(batches(x[:7], y[:7], 3)) == 3
