"""scripts/fork.py on a copy of this checkout."""

import re
import subprocess
import sys

import pytest
from copies import copy_checkout, git

from lrtut.version import repository

SLUG = repository().removeprefix("https://github.com/")
NEW = "Ada-L/my.course"


def fork(folder, *arguments):
    command = [sys.executable, folder / "scripts" / "fork.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def traces(folder, of):
    """Files of `folder` that name the repository `of`."""
    command = ["git", "-C", folder, "grep", "-lIE", f"{of}([^a-zA-Z0-9_-]|$)"]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def copy(tmp_path):
    return copy_checkout(tmp_path / "copy")


def test_no_trace_of_the_old_address_is_left(copy):
    (copy / "more.md").write_text(f"https://github.com/{SLUG}-extras and https://github.com/{SLUG}.")
    git(copy, "add", "more.md")
    git(copy, "commit", "--quiet", "--no-verify", "--message=more")
    before = traces(copy, SLUG)
    assert {"README.md", "CITATION.cff", "pyproject.toml", "more.md"} <= set(before)
    done = fork(copy, f"https://github.com/{NEW}.git", "--branch", "spring-27")
    assert done.returncode == 0, done.stderr
    assert traces(copy, SLUG) == [] and all(name in done.stdout for name in before)
    assert f"{SLUG}-extras and https://github.com/{NEW}." in (copy / "more.md").read_text()

    everything = "".join((copy / name).read_text(encoding="utf-8") for name in before)
    ends = re.findall(re.escape(NEW) + r"(?:/(?:blob|tree|raw|archive)/|/)([\w-]+)", everything)
    assert set(ends) == {"spring-27"} and len(ends) > 15
    # Nothing else has changed: put back, nothing differs. Without --branch, the branch stays.
    assert fork(copy, SLUG).returncode == 0
    assert fork(copy, SLUG, "--branch", "main").returncode == 0
    assert git(copy, "status", "--porcelain") == ""


def test_an_address_that_breaks_links_is_refused(copy):
    for wrong in ("ada", "ada/rates/more", "https://gitlab.com/ada/rates", "ada/..", "adä/rates"):
        done = fork(copy, wrong)
        assert done.returncode == 2 and repr(wrong) in done.stderr
    done = fork(copy, "ada/rates", "--branch=feature/x")
    assert done.returncode == 2 and repr("feature/x") in done.stderr
    assert git(copy, "status", "--porcelain") == ""
