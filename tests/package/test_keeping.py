"""With keep=, no finished run is lost or run twice, whatever ends the sweep; key= decides which runs are the same."""

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lrtut import sweep

LRS = [0.01 * i for i in range(1, 31)]
# A sweep in a process of its own, on the arguments FOLDER LOG.
SWEEP = f"""
import sys
from pathlib import Path
sys.path.append({str(Path(__file__).parent)!r})
from test_keeping import LRS, logged, sweep
folder, log = map(Path, sys.argv[1:])
sweep(logged(log), LRS, keep=folder, key="test", progress=False)
"""


def logged(log):
    def run(lr, seed):
        with open(log, "a") as file:
            file.write(f"{lr}\n")
        return [lr * i for i in range(20_000)]

    return run


def kept(folder):
    return len(list(folder.glob("*.pickle"))) if folder.exists() else 0


def test_a_sweep_that_is_killed_goes_on_where_it_stopped(tmp_path):
    folder, log = tmp_path / "kept", tmp_path / "log"
    for enough in (1, 15):
        process = subprocess.Popen([sys.executable, "-c", SWEEP, folder, log])
        while kept(folder) < enough and process.poll() is None:
            time.sleep(0.001)
        process.kill()  # SIGKILL
        process.wait()
        assert (done := kept(folder)) >= enough
    log.unlink()
    runs = sweep(logged(log), LRS, keep=folder, key="test")
    assert [run.result for run in runs] == [[lr * i for i in range(20_000)] for lr in LRS]
    assert len(log.read_text().splitlines() if log.exists() else []) == len(LRS) - done


def test_each_run_is_kept_as_soon_as_it_ends(tmp_path):
    def run(lr, seed):
        end = time.monotonic() + 60
        while kept(tmp_path) < lr - 1:  # the runs before this one
            assert time.monotonic() < end
            time.sleep(0.01)
        return lr

    with ThreadPoolExecutor(1) as one:
        assert [r.result for r in sweep(run, [1, 2, 3], executor=one, keep=tmp_path, key=0)] == [1, 2, 3]


def test_the_key_decides_what_is_run_again(tmp_path):
    calls = []

    def keys_run(keys, lrs=(0.1, 0.2), seeds=(0, 1)):
        calls.clear()
        for key in keys:
            runs = sweep(lambda lr, seed: calls.append((lr, seed)), lrs, seeds, keep=tmp_path, key=key)
            assert [(r.lr, r.seed) for r in runs] == [(lr, seed) for lr in lrs for seed in seeds]
        return len(calls)

    model = {"model": "small_cnn", "epochs": 3}
    assert keys_run([model]) == 4
    assert keys_run([dict(reversed(model.items()))]) == 0
    assert keys_run([model], np.array([0.1, 0.2]), np.arange(3)) == 2  # only the new seed
    assert keys_run([model | {"epochs": 4}]) == 4


def test_a_failed_run_is_run_again(tmp_path):
    with pytest.warns(RuntimeWarning, match="1 of 2 runs failed"):
        sweep(lambda lr, seed: 1 / lr, [0.0, 1.0], keep=tmp_path, key=0)
    assert [r.result for r in sweep(lambda lr, seed: lr + 5, [0.0, 1.0], keep=tmp_path, key=0)] == [5.0, 1.0]


def test_a_damaged_file_is_named_and_its_run_run_again(tmp_path):
    def run(lr, seed):
        return list(range(int(lr)))

    sweep(run, [10, 2000], keep=tmp_path, key=0)
    for file in tmp_path.iterdir():
        whole = file.read_bytes()
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:size])
            with pytest.warns(RuntimeWarning, match=f"{file.name} is damaged .*: its run is run again") as said:
                assert [len(r.result) for r in sweep(run, [10, 2000], keep=tmp_path, key=0)] == [10, 2000]
            assert said[0].filename == __file__ and file.read_bytes() == whole


def test_a_file_whose_class_is_missing_is_left_alone(tmp_path):
    sweep(lambda lr, seed: lr, [1.0], keep=tmp_path, key=0)
    (file,) = tmp_path.iterdir()
    file.write_bytes(foreign := pickle.dumps(0.5).replace(b"G", b"cno_such_module\nThing\nG"))
    with pytest.raises(ModuleNotFoundError) as error:
        sweep(lambda lr, seed: lr, [1.0], keep=tmp_path, key=0)
    assert "importable" in error.value.__notes__[0] and file.read_bytes() == foreign


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_full_disk_loses_no_result(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run(lr, seed):
        return bytes(int(lr))

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.warns(RuntimeWarning, match="results cannot be kept in .*File too large.*: the sweep goes on"):
            runs = sweep(run, [100, 5000, 200], keep=tmp_path, key=0, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [len(r.result) for r in runs] == [100, 5000, 200]
    assert kept(tmp_path) == len(os.listdir(tmp_path)) == 2  # nothing half-written is left


def test_a_folder_that_can_no_longer_be_written_to_loses_no_result(tmp_path):
    def run(lr, seed):
        (tmp_path / "kept").rmdir()
        return lr

    with pytest.warns(RuntimeWarning, match="results cannot be kept in .*: the sweep goes on"):
        assert [r.result for r in sweep(run, [0.1], keep=tmp_path / "kept", key=0)] == [0.1]


def test_two_sweeps_in_one_folder_do_not_disturb_each_other(tmp_path):
    both = threading.Barrier(2)

    def run(lr, seed):
        both.wait(60)  # so they write the same file at the same time
        return [lr] * 10_000

    def sweep_alone(_):
        with ThreadPoolExecutor(1) as one:
            return sweep(run, LRS, executor=one, keep=tmp_path, key=0)

    with ThreadPoolExecutor(2) as threads:
        a, b = threads.map(sweep_alone, range(2))
    assert a == b == sweep(run, LRS, keep=tmp_path, key=0)  # read from the files: run would wait
    assert len(os.listdir(tmp_path)) == len(LRS)


def test_what_cannot_be_kept_is_refused_before_anything_is_run(tmp_path):
    def never(lr, seed):
        raise AssertionError

    for wrong in ({"keep": tmp_path}, {"key": 0}):
        with pytest.raises(ValueError, match="keep=.* and key=.*: give both"):
            sweep(never, [0.1], **wrong)
    for lrs, key in (([0.1], object()), ([len], 0), ([{1j}], 0)):
        with pytest.raises(TypeError, match="with keep=, build them of numbers, text, lists and dicts"):
            sweep(never, lrs, keep=tmp_path, key=key)
    (tmp_path / "file").touch()
    for keep in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="keep=.*file.* is not a folder .*: give another"):
            sweep(never, [0.1], keep=keep, key=0)


def test_a_result_that_cannot_be_pickled_is_returned(tmp_path):
    with pytest.warns(RuntimeWarning, match="results cannot be kept"):
        (run,) = sweep(lambda lr, seed: lambda: lr, [0.1], keep=tmp_path, key=0)
    assert run.result() == 0.1 and os.listdir(tmp_path) == []
