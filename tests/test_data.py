import contextlib
import functools
import gzip
import hashlib
import http.server
import os
import socket
import threading
import time

import numpy as np
import pytest
import torch

import lrtut.data
import lrtut.download
from lrtut import batches, load_mnist

TRAIN, TEST, VAL = 12, 4, 2  # images in the tiny set


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder laid out as torchvision lays out MNIST, of 12 + 4 images that `load_mnist` takes for the real ones."""
    raw = tmp_path / "tiny" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files = {}
    for name in lrtut.download.FILES:
        n = TRAIN if name.startswith("train") else TEST
        if "images" in name:
            header = np.array([0x803, n, 28, 28], dtype=">i4").tobytes()
            body = np.repeat(np.arange(n, dtype=np.uint8) * 10, 784).tobytes()  # image i is all 10 i
        else:
            header = np.array([0x801, n], dtype=">i4").tobytes()
            body = (np.arange(n) % 10).astype(np.uint8).tobytes()
        (raw / name).write_bytes(header + body)
        files[name] = (len(header + body), hashlib.md5(header + body).hexdigest())
    monkeypatch.setattr(lrtut.download, "FILES", files)
    monkeypatch.setattr(lrtut.data, "FILES", files)
    monkeypatch.setattr(lrtut.data, "_VALIDATION", {"MNIST": VAL, "digits": 250})
    monkeypatch.delenv("LRTUT_DATA", raising=False)
    return tmp_path / "tiny"


@pytest.fixture
def mirror(tiny, tmp_path, monkeypatch):
    """A server on the loopback address that torchvision downloads the tiny set from, and an empty cache folder."""
    import torchvision

    packed, resources = tmp_path / "mirror", []
    packed.mkdir()
    for path in (tiny / "MNIST" / "raw").iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        resources.append((f"{path.name}.gz", hashlib.md5((packed / f"{path.name}.gz").read_bytes()).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=packed))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    cache = tmp_path / "cache"
    monkeypatch.setattr(lrtut.data.platformdirs, "user_cache_dir", lambda name: str(cache))
    yield packed, cache
    server.shutdown()
    server.server_close()


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


# --- the cache and the network --------------------------------------------------------------------------------------


def test_download_fills_the_cache_once(mirror, capsys):
    packed, cache = mirror
    data = load_mnist()
    assert data.name == "MNIST" and str(cache) in capsys.readouterr().out
    assert [p.name for p in cache.iterdir()] == ["MNIST"]  # and nothing half-finished beside it
    for path in packed.iterdir():
        path.unlink()  # the second call needs no network
    assert torch.equal(load_mnist().x_train, data.x_train)
    assert lrtut.data.find_data()[0] == str(cache)


@pytest.mark.parametrize("fault", ["missing", "truncated", "other bytes", "an HTML page"])
def test_bad_download_ends_in_the_digits_and_leaves_nothing(mirror, capsys, fault):
    packed, cache = mirror
    path = packed / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        wrong = {
            "truncated": good[:-5],
            "other bytes": gzip.compress(b"x" * 999),
            "an HTML page": b"<html>Log in</html>",
        }
        path.write_bytes(wrong[fault])
    assert load_mnist().name == "digits"
    assert "MNIST could not be had" in capsys.readouterr().out
    assert list(cache.iterdir()) == []
    path.write_bytes(good)  # a good answer after a bad one works
    assert load_mnist().name == "MNIST"


def test_download_that_torchvision_lets_through_is_checked_again(mirror, monkeypatch):
    import torchvision

    packed, cache = mirror
    resources = [(name, None) for name, md5 in torchvision.datasets.MNIST.resources]  # no checksum: all is welcome
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    images = packed / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(gzip.decompress(images.read_bytes())[:-1] + b"x"))
    assert load_mnist().name == "digits"
    assert list(cache.iterdir()) == []


def test_damaged_cache_is_filled_again(mirror):
    packed, cache = mirror
    load_mnist()
    damaged = cache / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert load_mnist().name == "MNIST"


def test_interrupted_download_leaves_nothing(mirror, monkeypatch):
    packed, cache = mirror

    def interrupted(folder):
        (folder / "MNIST").mkdir()
        (folder / "MNIST" / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lrtut.download, "_download", interrupted)
        load_mnist()
    assert list(cache.iterdir()) == []
    assert load_mnist().name == "MNIST"


def test_who_comes_second_keeps_the_first_ones_cache(mirror):
    packed, cache = mirror
    load_mnist()
    before = (cache / "MNIST").stat().st_ino
    assert lrtut.download.fill(cache) == ""  # a second process that found no cache when it looked
    assert (cache / "MNIST").stat().st_ino == before


def test_read_only_cache_ends_in_the_digits(mirror, monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(lrtut.download.Path, "mkdir", refuse)
    assert load_mnist().name == "digits"
    assert "read-only file system" in capsys.readouterr().out


def test_network_that_swallows_packets(mirror, monkeypatch, capsys):
    import torchvision

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address] * 5)
        monkeypatch.setattr(lrtut.download, "_PATIENCE_S", 0.4)
        before = socket.getdefaulttimeout()
        start = time.monotonic()
        assert load_mnist().name == "digits"
        assert time.monotonic() - start < 5  # five mirrors: were each waited for, it would be more than the patience
        assert socket.getdefaulttimeout() == before
    assert "could not be had" in capsys.readouterr().out
    assert list(mirror[1].iterdir()) == []


def test_server_that_drips(mirror, monkeypatch, capsys):
    import torchvision

    def drip(server):
        with contextlib.suppress(OSError):  # until the test or the client hangs up
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(lrtut.download, "_PATIENCE_S", 0.5)  # no wait is as long as that, and yet nothing comes
        start = time.monotonic()
        assert load_mnist().name == "digits"
        assert time.monotonic() - start < 5
    assert "the network brought nothing for 0.5 s" in capsys.readouterr().out


def test_patience_leaves_room_under_ten_seconds():
    assert lrtut.download._PATIENCE_S <= 6  # torchvision's import takes a few more


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
