"""The classroom's tests: with nbgrader, on Linux; elsewhere nbgrader grades without our limits."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "exercises")]  # also for the processes that grading starts


def pytest_ignore_collect(collection_path, config):
    if sys.platform != "linux" and collection_path.name.startswith("test_grad"):
        return True
    return None


@pytest.fixture(scope="module", autouse=True)
def a_teachers_environment():
    """Students' code may warn: the course's own tests turn warnings in kernels into errors, a teacher does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONWARNINGS", raising=False)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Call a function once for all of pytest's worker processes; it fills a folder and returns what JSON can hold."""
    import json

    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base

    def once(name, make):
        folder, answer = base / name, base / f"{name}.json"
        with FileLock(base / f"{name}.lock"):
            if not answer.exists():
                folder.mkdir()
                answer.write_text(json.dumps(make(folder)), encoding="utf-8")
        return folder, json.loads(answer.read_text(encoding="utf-8"))

    return once
