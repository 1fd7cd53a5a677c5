"""A mirror that serves MNIST badly, a cache that cannot be written, and several processes that fill it at once."""

import contextlib
import errno
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import lrtut.download
import pytest
import torch
from tiny_mnist import Mirror

import lrtut.data
from lrtut import load_mnist

# What the printed line says of each fault.
SAYS = {
    "404": "HTTP Error 404",
    "500": "HTTP Error 500",
    "page": "not found or corrupted",
    "truncated": "not found or corrupted",
    "checksum": "not found or corrupted",
    "drops": "not found or corrupted",
    "resets": "onnection",
    "hangs": "the network brought nothing for|timed out",
}


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(lrtut.download, "_PATIENCE_S", 1.0)


def assert_digits(capsys, words):
    """The next call ends in the digits, and says in one line why."""
    capsys.readouterr()
    assert load_mnist().name == "digits"
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "from scikit-learn: MNIST could not be had (" in line
    assert any(word in line for word in words.split("|")), line


def assert_good(mirror, tiny):
    """The next call ends in MNIST, and its cache is trusted when there is no network."""
    assert load_mnist().name == "MNIST"
    assert sorted(p.name for p in mirror.cache.iterdir()) == ["MNIST"]  # and nothing half-finished beside it
    for path in (tiny / "MNIST" / "raw").iterdir():
        assert (mirror.cache / "MNIST" / "raw" / path.name).read_bytes() == path.read_bytes()
    mirror.asked.clear()
    assert load_mnist().name == "MNIST" and mirror.asked == []


def test_download_fills_the_cache_once(mirror, tiny, capsys):
    data = load_mnist()
    assert data.name == "MNIST" and str(mirror.cache) in capsys.readouterr().out
    assert sorted(mirror.asked) == sorted(mirror.packed)
    assert_good(mirror, tiny)
    assert torch.equal(load_mnist().x_train, data.x_train)
    assert lrtut.data.find_data()[0] == str(mirror.cache)


def test_every_fault_is_tried():
    assert set(SAYS) == set(Mirror.FAULTS)


@pytest.mark.parametrize("at", ["first", "last"])
@pytest.mark.parametrize("fault", Mirror.FAULTS)
def test_bad_answer_ends_in_the_digits_and_a_good_one_after_it_works(mirror, tiny, capsys, fault, at):
    mirror.fault, mirror.at = fault, mirror.resources[0 if at == "first" else -1][0]
    for _ in range(2):  # the second call trusts nothing that the first one left
        assert_digits(capsys, SAYS[fault])
        assert list(mirror.cache.iterdir()) == []
    names = [name for name, _ in mirror.resources]
    assert set(mirror.seen) == set(names[: names.index(mirror.at) + 1])  # the others before it had come well
    mirror.fault = None
    assert_good(mirror, tiny)


def test_mirror_that_refuses(mirror, tiny, capsys, monkeypatch):
    import torchvision

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # and nobody listens there from now on
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        assert_digits(capsys, "Connection refused|actively refused")
    assert list(mirror.cache.iterdir()) == []
    assert_good(mirror, tiny)


def test_second_mirror_makes_good_what_the_first_does_badly(mirror, tiny, monkeypatch):
    import torchvision

    bad = Mirror(tiny, mirror.cache)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [bad.address, mirror.address])
    try:
        bad.fault = "500"  # of other faults, torchvision goes on to its next mirror in new versions only
        assert_good(mirror, tiny)
        assert bad.asked
    finally:
        bad.close()


def test_download_that_torchvision_lets_through_is_checked_again(mirror, tiny, capsys, monkeypatch):
    import torchvision

    resources = [(name, None) for name, md5 in mirror.resources]  # no checksum: all is welcome
    mirror.fault = "checksum"
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.MNIST, "resources", resources)
        assert_digits(capsys, "is corrupt")
    assert list(mirror.cache.iterdir()) == []
    mirror.fault = None
    assert_good(mirror, tiny)


def test_network_that_swallows_packets(mirror, capsys, monkeypatch):
    import torchvision

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address] * 5)
        monkeypatch.setattr(lrtut.download, "_PATIENCE_S", 0.4)
        before = socket.getdefaulttimeout()
        start = time.monotonic()
        assert_digits(capsys, SAYS["hangs"])
        assert time.monotonic() - start < 5  # five mirrors: were each waited for, it would be more than the patience
        assert socket.getdefaulttimeout() == before
        for thread in [t for t in threading.enumerate() if t.name == "lrtut-download"]:
            thread.join(10)  # it was left behind, and does not wait for ever
            assert not thread.is_alive()
    assert list(mirror.cache.iterdir()) == []


class Wordless(Exception):
    def __str__(self):
        return " \n"


@pytest.mark.parametrize("error, said", [(TimeoutError(), "TimeoutError"), (Wordless(), "Wordless")])
def test_download_that_fails_without_a_word_says_the_errors_name(mirror, capsys, monkeypatch, error, said):
    import torchvision

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    assert_digits(capsys, f"(download failed: {said})")


@pytest.mark.parametrize("error", ["ImportError('no such file\\n\\nReinstall it.')", "RuntimeError()"])
def test_torchvision_that_cannot_be_imported(mirror, tmp_path, capsys, monkeypatch, error):
    (tmp_path / "torchvision.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert_digits(capsys, "torchvision cannot be imported: Reinstall it.|torchvision cannot be imported: RuntimeError")
    assert list(mirror.cache.iterdir()) == []
    (tmp_path / "torchvision.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_mnist()


def test_server_that_drips(mirror, capsys, monkeypatch):
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
        assert_digits(capsys, "the network brought nothing for 0.5 s")
        assert time.monotonic() - start < 5


def test_interrupted_download_leaves_nothing(mirror, tiny, monkeypatch):
    def interrupted(folder):
        (folder / "MNIST").mkdir()
        (folder / "MNIST" / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lrtut.download, "_download", interrupted)
        load_mnist()
    assert list(mirror.cache.iterdir()) == []
    assert_good(mirror, tiny)


@pytest.mark.parametrize("damage", ["shorter", "one bit", "missing", "empty folder", "packed only"])
def test_damaged_cache_is_filled_again(mirror, tiny, damage):
    load_mnist()
    raw = mirror.cache / "MNIST" / "raw"
    victim = raw / "train-labels-idx1-ubyte"
    whole = victim.read_bytes()
    if damage == "shorter":
        victim.write_bytes(whole[:-1])
    elif damage == "one bit":
        victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "missing":
        victim.unlink()
    else:
        for path in raw.iterdir():
            if damage == "empty folder" or path.suffix != ".gz":
                path.unlink()
    mirror.asked.clear()
    assert load_mnist().name == "MNIST" and len(mirror.asked) == 4
    assert_good(mirror, tiny)


# --- a cache that cannot be written -----------------------------------------------------------------------------------


@pytest.fixture
def mount(tmp_path):
    """Mounts a small file system of its own; skips where that is not allowed."""
    mounted = []

    def command(*words):
        try:
            return subprocess.run(words, capture_output=True, text=True)
        except FileNotFoundError as error:
            return subprocess.CompletedProcess(words, 1, "", str(error))

    def mount(folder, options):
        folder.mkdir(exist_ok=True)
        done = command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        if folder not in mounted:
            mounted.append(folder)

    yield mount
    for folder in mounted:
        assert command("umount", str(folder)).returncode == 0


@pytest.mark.parametrize("room", ["none", "for the packed file"])
def test_full_disk(mirror, tiny, mount, capsys, room):
    mount(mirror.cache, "size=16k")
    # Rounded up to pages of 4 KiB: a packed file takes one, the training images three.
    ballast = mirror.cache / "ballast"
    ballast.write_bytes(bytes(16384 if room == "none" else 8192))
    assert_digits(capsys, "No space left on device")
    assert [p.name for p in mirror.cache.iterdir()] == ["ballast"]
    assert (len(mirror.asked) > 0) and mirror.asked[0] == mirror.at
    mount(mirror.cache, "remount,size=1m")
    ballast.unlink()
    assert_good(mirror, tiny)


def test_disk_that_says_it_is_full(mirror, tiny, capsys, monkeypatch):
    """The same, where nothing may be mounted."""
    import torchvision

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(name, mode="r", *rest):
        file = open(name, mode, *rest)
        if "w" not in mode:
            return file
        file.close()  # it exists, and is empty
        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.utils, "open", full, raising=False)
        assert_digits(capsys, "No space left on device")
    assert list(mirror.cache.iterdir()) == []
    assert_good(mirror, tiny)


def test_read_only_cache(mirror, tiny, mount, capsys):
    mount(mirror.cache, "ro")
    assert_digits(capsys, "Read-only file system")
    assert mirror.asked == []  # nothing is fetched that cannot be kept
    mount(mirror.cache, "remount,rw")
    assert_good(mirror, tiny)
    mount(mirror.cache, "remount,ro")
    assert_good(mirror, tiny)  # a full one need not be written


def test_cache_folder_that_cannot_be_made(mirror, tiny, capsys):
    mirror.cache.write_text("a file, where a folder should be")  # refused to everyone, root included
    assert_digits(capsys, "File exists")
    mirror.cache.unlink()
    assert_good(mirror, tiny)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permission bits do not bind root")
def test_cache_folder_without_permission(mirror, tiny, capsys):
    mirror.cache.mkdir(mode=0o555)
    assert_digits(capsys, "Permission denied")
    mirror.cache.chmod(0o755)
    assert_good(mirror, tiny)


# --- several processes -------------------------------------------------------------------------------------------------

CHILD = """\
import json, sys
from tiny_mnist import pretend, use_mirror
given = json.loads(sys.argv[1])
pretend({name: tuple(what) for name, what in given["files"].items()})
use_mirror([tuple(r) for r in given["resources"]], given["address"], given["cache"])
import lrtut
data = lrtut.load_mnist(device="cpu")
print(json.dumps([data.name, data.x_train.sum().item(), data.y_test.tolist()]))
"""


def fill_at_once(mirror, n=2):
    """What `n` processes print that all begin to fill the cache before one of them gets an answer."""
    waiting = threading.Barrier(n)
    held = threading.Lock(), set()

    def before_answer():
        with held[0]:
            first = threading.get_ident() not in held[1] and len(held[1]) < n
            held[1].add(threading.get_ident())
        if first:
            waiting.wait(60)

    mirror.before_answer = before_answer
    given = {"files": lrtut.download.FILES, "resources": mirror.resources}
    given |= {"address": mirror.address, "cache": str(mirror.cache)}
    environment = {k: v for k, v in os.environ.items() if k != "LRTUT_DATA"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(given)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(n)
    ]
    outs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0] * n
    mirror.before_answer = lambda: None
    return [json.loads(out.splitlines()[-1]) for out in outs]


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_fill_the_same_cache_at_once(mirror, tiny, damaged):
    expected = load_mnist(tiny, device="cpu")
    if damaged:
        load_mnist()
        (mirror.cache / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"")
        mirror.asked.clear()
    told = fill_at_once(mirror)
    assert told == [["MNIST", expected.x_train.sum().item(), expected.y_test.tolist()]] * 2
    assert len(mirror.asked) == 8  # both did download
    assert_good(mirror, tiny)


def test_who_comes_second_keeps_the_first_ones_cache(mirror):
    load_mnist()
    before = (mirror.cache / "MNIST").stat().st_ino
    assert lrtut.download.fill(mirror.cache) == ""  # a second process that found no cache when it looked
    assert (mirror.cache / "MNIST").stat().st_ino == before


def test_damaged_cache_that_another_process_mends_meanwhile(mirror, tiny, monkeypatch):
    load_mnist()
    (mirror.cache / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    rename, mended = Path.rename, []

    def slow(self, target):
        if self.name == "MNIST" and target.name == "damaged":  # between our look and our move, the other one is done
            rename(self, mirror.cache / "old")
            (mirror.cache / "MNIST").mkdir()
            rename(mirror.cache / "copy", mirror.cache / "MNIST" / "raw")
            mended.append(1)
            raise FileNotFoundError
        return rename(self, target)

    (mirror.cache / "copy").mkdir()
    for path in (tiny / "MNIST" / "raw").iterdir():
        (mirror.cache / "copy" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(lrtut.download.Path, "rename", slow)
    assert lrtut.download.fill(mirror.cache) == "" and mended
    lrtut.download.verify(mirror.cache)


def test_patience_leaves_room_under_ten_seconds(monkeypatch):
    monkeypatch.undo()
    assert lrtut.download._PATIENCE_S <= 6  # torchvision's import takes a few more
