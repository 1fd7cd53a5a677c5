"""Data as they are promised; a mirror that serves badly, a disk that fails, and two that fill one cache."""

import errno
import os
import re
import socket
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sklearn.datasets import load_digits
from tiny_mnist import TEST, TRAIN, VAL, Mirror

import lrtut.data
from lrtut import batches, load_mnist, normalise


def test_tiny_is_loaded_and_split(tiny, capsys):
    data = load_mnist(tiny)
    assert data.x_train.dtype == torch.uint8 and data.x_train.shape == (TRAIN - VAL, 1, 28, 28)
    assert data.y_train.dtype == torch.int64 and len(data.y_val) == VAL and len(data.y_test) == TEST
    values = torch.cat([data.x_train, data.x_val])[:, 0, 0, 0]
    assert sorted(values.tolist()) == [10 * i for i in range(TRAIN)]  # each image once: val is not in train
    assert torch.equal(data.x_train[:, 0, 3, 5].long() // 10 % 10, data.y_train)  # labels went along
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "MNIST" in line and str(tiny) in line


def test_split_is_drawn_by_seed_and_kept_by_train_size(tiny):
    data, again, other = load_mnist(tiny), load_mnist(tiny, seed=0), load_mnist(tiny, seed=1)
    assert torch.equal(data.x_train, again.x_train) and torch.equal(data.x_val, again.x_val)
    assert not torch.equal(data.x_train, other.x_train)
    few = load_mnist(tiny, train_size=3)
    assert torch.equal(few.x_train, data.x_train[:3]) and torch.equal(few.x_val, data.x_val)


def test_environment_variable_names_the_root_and_root_goes_before(tiny, monkeypatch):
    monkeypatch.setenv("LRTUT_DATA", str(tiny))
    assert load_mnist().name == "MNIST" and load_mnist("digits").name == "digits"
    monkeypatch.setenv("LRTUT_DATA", "digits")
    assert load_mnist().name == "digits" and load_mnist(tiny).name == "MNIST"


def test_small_digits_are_scikit_learns_and_lie_in_the_middle_as_mnists_do():
    data, bunch = load_mnist("digits", device="cpu"), load_digits()
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [1250, 250, 297]
    x = torch.cat([data.x_train, data.x_val, data.x_test])
    assert x.shape[1:] == (1, 28, 28) and x[..., 4:24, 4:24].max() == 255
    assert all(border.max() == 0 for border in (x[..., :4, :], x[..., -4:, :], x[..., :4], x[..., -4:]))
    assert torch.equal(data.y_test, torch.from_numpy(bunch.target[-297:]))
    # Made small again they are what scikit-learn has: 8 × 8, 0 to 16.
    small = torch.nn.functional.interpolate(data.x_test[..., 4:24, 4:24].float(), size=(8, 8), mode="area") * 16 / 255
    assert (small[:, 0] - torch.from_numpy(bunch.images[-297:])).abs().max() < 9


def test_train_size_above_what_there_is(tiny, capsys):
    with pytest.raises(ValueError, match=f"train_size=11: MNIST has 10 training images.*at most {TRAIN - VAL}"):
        load_mnist(tiny, train_size=TRAIN - VAL + 1)
    assert len(load_mnist(tiny, train_size=TRAIN - VAL).x_train) == TRAIN - VAL
    assert len(load_mnist("digits", train_size=5000).x_train) == 1250
    assert "asked for 5,000; there are no more" in capsys.readouterr().out


def test_root_that_does_not_exist(tiny, monkeypatch):
    with pytest.raises(ValueError, match="root='/no/such/folder' is not a folder.*MNIST/raw"):
        load_mnist("/no/such/folder")
    monkeypatch.setenv("LRTUT_DATA", "zebra")
    with pytest.raises(ValueError, match="LRTUT_DATA='zebra' is not a folder"):
        load_mnist()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_missing_packed_truncated_too_long_and_corrupt_files(tiny, name):
    path = tiny / "MNIST" / "raw" / name
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])  # one bit, in the body: the header is right
    for content, says in ((whole[:-1], "truncated"), (whole + b"\0", "too long"), (flipped, "corrupt")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is {says}: .*Delete it"):
            load_mnist(tiny)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing. Name another folder"):
        load_mnist(tiny)
    path.with_name(name + ".gz").write_bytes(b"")
    with pytest.raises(ValueError, match="is missing. Unpack the .gz"):
        load_mnist(tiny)


# --- batches ----------------------------------------------------------------------------------------------------------


def numbered(n=10):
    return torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1), torch.arange(n)


def test_batches_are_normalised_floats():
    x, y = numbered()
    inputs, targets = next(iter(batches(x, y, 4, shuffle=False)))
    assert inputs.dtype == torch.float32 and torch.equal(targets, y[:4])
    assert torch.allclose(inputs, (x[:4].float() / 255 - 0.1307) / 0.3081)
    floats = torch.randn(10, 3)
    assert torch.equal(normalise(floats), floats)


def test_batches_cover_everything_once_and_have_a_length():
    x, y = numbered()
    b = batches(x, y, 4, seed=3)
    assert [len(t) for _, t in b] == [4, 4, 2] and len(b) == 3
    assert sorted(torch.cat([t for _, t in b]).tolist()) == list(range(10))
    dropped = batches(x, y, 4, drop_last=True)
    assert [len(t) for _, t in dropped] == [4, 4] and len(dropped) == 2
    assert len(batches(x, y, 5, drop_last=True)) == len(batches(x, y, 5)) == 2


def test_batches_shuffle_by_seed_anew_at_each_pass():
    x, y = numbered(100)

    def passes(**seed):
        b = batches(x, y, **seed)
        return [next(iter(b))[1].tolist() for _ in range(2)]

    state = torch.get_rng_state()
    (first, second), (other, _) = passes(), passes(seed=1)
    assert passes(seed=0) == [first, second] and first != second and first != other
    assert torch.equal(state, torch.get_rng_state())


def test_batches_refuse_another_number_of_targets():
    x, y = numbered()
    with pytest.raises(ValueError, match="9 inputs but 10 targets"):
        batches(x[:9], y, 2)


# --- the download -----------------------------------------------------------------------------------------------------

SLOW = "the network brought less than"
SAYS = {"404": "404", "500": "500", "resets": "onnection|IncompleteRead", "hangs": SLOW, "drips": SLOW}


def assert_digits(mirror, capsys, words):
    """The next call ends in the digits, says why in one line, and leaves nothing behind."""
    capsys.readouterr()
    assert load_mnist().name == "digits"
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "from scikit-learn: MNIST could not be had (" in line
    assert re.search(words, line)
    assert not mirror.cache.is_dir() or list(mirror.cache.iterdir()) == []


def assert_good(mirror, tiny):
    """The next call ends in MNIST, and its cache is trusted when there is no network."""
    assert load_mnist().name == "MNIST"
    assert [p.name for p in mirror.cache.iterdir()] == ["MNIST"]  # and nothing half-finished beside it
    for path in (tiny / "MNIST" / "raw").iterdir():
        assert (mirror.cache / "MNIST" / "raw" / path.name).read_bytes() == path.read_bytes()
    mirror.asked.clear()
    assert load_mnist().name == "MNIST" and mirror.asked == []


@pytest.mark.parametrize("fault", Mirror.FAULTS)
def test_bad_answer_ends_in_the_digits_and_a_good_one_after_it_works(mirror, tiny, capsys, monkeypatch, fault):
    at = mirror.at

    def lose_patience():
        if mirror.asked[-1] == at and fault in ("hangs", "drips"):
            lrtut.data._PATIENCE_S = 0.1

    mirror.fault, mirror.before_answer = fault, lose_patience
    for _ in range(2):  # the second call trusts nothing that the first one left
        monkeypatch.setattr(lrtut.data, "_PATIENCE_S", 60.0)
        assert_digits(mirror, capsys, SAYS.get(fault, "does not match the known hash|IncompleteRead"))
    assert mirror.asked.count(at) == 2
    mirror.fault, mirror.before_answer = None, lambda: None
    monkeypatch.setattr(lrtut.data, "_PATIENCE_S", 60.0)
    assert_good(mirror, tiny)


@pytest.mark.parametrize("fault", ["500", "checksum", "hangs"])
def test_second_mirror_makes_up_for_what_the_first_does_badly(mirror, tiny, monkeypatch, fault):
    bad = Mirror(tiny)
    bad.fault = fault
    monkeypatch.setattr(lrtut.data, "MIRRORS", [bad.address, mirror.address])
    monkeypatch.setattr(lrtut.data, "_TIMEOUT_S", 2.0)
    assert_good(mirror, tiny)
    assert bad.at in bad.asked
    bad.close()


def test_name_look_up_that_hangs(mirror, tiny, capsys, monkeypatch):
    released = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(lrtut.data, "_PATIENCE_S", 0.5)
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(30) and [])
        assert_digits(mirror, capsys, SLOW)
        released.set()
        for thread in [t for t in threading.enumerate() if t.name == "lrtut-download"]:
            thread.join(30)  # it was left behind, and ends once it hears something
            assert not thread.is_alive()
    assert list(mirror.cache.iterdir()) == []
    assert_good(mirror, tiny)


def test_a_slow_line_is_not_given_up(mirror, tiny, monkeypatch):
    clock = [0.0]

    def tick():  # each file takes two thirds of the patience
        clock[0] += 40.0

    mirror.before_answer = tick
    monkeypatch.setattr(lrtut.data, "_LEAST_BYTES", 10)
    monkeypatch.setattr(lrtut.data, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    assert_good(mirror, tiny)
    assert clock[0] == 160


def test_interrupted_download_leaves_nothing(mirror, tiny, monkeypatch):
    def interrupted(folder):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lrtut.data, "_download", interrupted)
        load_mnist()
    assert list(mirror.cache.iterdir()) == []
    assert_good(mirror, tiny)


def test_damaged_cache_is_filled_again(mirror, tiny):
    load_mnist()
    (mirror.cache / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(b"half of it")
    mirror.asked.clear()
    assert load_mnist().name == "MNIST" and len(mirror.asked) == 4
    assert_good(mirror, tiny)


# --- a cache that cannot be written -----------------------------------------------------------------------------------

REFUSALS = {"tempfile.TemporaryDirectory": errno.EROFS, "shutil.copyfileobj": errno.ENOSPC}


@pytest.mark.parametrize("function, number", REFUSALS.items())
def test_a_disk_that_is_read_only_or_full(function, number, mirror, tiny, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"lrtut.data.{function}", refuse)
        assert_digits(mirror, capsys, os.strerror(number))
        assert len(mirror.asked) == (4 if number == errno.ENOSPC else 0)  # nothing is fetched that cannot be kept
    assert_good(mirror, tiny)


def test_cache_folder_that_cannot_be_made(mirror, tiny, capsys):
    mirror.cache.write_text("a file, where a folder should be")  # refused to everyone, root included
    assert_digits(mirror, capsys, "File exists")
    mirror.cache.unlink()
    assert_good(mirror, tiny)


# --- two at once ------------------------------------------------------------------------------------------------------


def test_two_fill_the_same_cache_at_once(mirror, tiny):
    both = threading.Barrier(2)

    def wait_for_the_other():  # neither gets its first file before both have asked for it
        if mirror.asked.count(mirror.at) <= 2 and mirror.asked[-1] == mirror.at:
            both.wait(60)

    mirror.before_answer = wait_for_the_other
    with ThreadPoolExecutor(2) as pool:
        assert [data.name for data in pool.map(lambda _: load_mnist(), range(2))] == ["MNIST"] * 2
    assert len(mirror.asked) == 8  # both did download
    assert_good(mirror, tiny)


def test_who_comes_second_keeps_the_first_ones_cache(mirror):
    load_mnist()
    before = (mirror.cache / "MNIST").stat().st_ino
    lrtut.data._fill(mirror.cache)  # a second process that found no cache when it looked
    assert (mirror.cache / "MNIST").stat().st_ino == before
