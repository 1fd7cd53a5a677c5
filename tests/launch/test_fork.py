"""scripts/fork.py on a copy of this checkout."""

import re
import subprocess
import sys

import pytest
from copies import ROOT, copy_checkout, git

from lrtut.version import repository

SLUG = repository().removeprefix("https://github.com/")


def fork(folder, *arguments):
    command = [sys.executable, ROOT / "scripts" / "fork.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    return copy_checkout(tmp_path / "copy")


def traces(folder, of):
    """Files of `folder` that name the repository `of`."""
    found = subprocess.run(
        ["git", "-C", folder, "grep", "-lIE", f"{of}([^a-zA-Z0-9_-]|$)"], capture_output=True, text=True
    )
    return found.stdout.splitlines()


def test_no_trace_of_the_old_address_is_left(copy):
    before = traces(copy, SLUG)
    assert {"README.md", "CITATION.cff", "pyproject.toml"} <= set(before) and len(before) > 7
    done = fork(copy, "Ada-L/my.course", "--branch", "spring-27")
    assert done.returncode == 0, done.stderr
    assert traces(copy, SLUG) == []
    assert set(traces(copy, "Ada-L/my[.]course")) == {*before, "tests/launch/test_fork.py"}  # this file names it anyhow
    assert all(name in done.stdout for name in before)

    everything = "".join((copy / name).read_text(encoding="utf-8") for name in before)
    ends = re.findall(r"Ada-L/my\.course(/(?:blob|tree)/[\w.-]+|/[\w.-]+\?|@[\w.-]+)", everything)
    assert {re.split(r"[/@]", end)[-1].rstrip("?") for end in ends} == {"spring-27"} and len(ends) > 15
    # Not one word else: put back, nothing differs.
    assert fork(copy, SLUG, "--branch", "main").returncode == 0
    assert git(copy, "status", "--porcelain") == ""


def test_the_fork_passes_the_tests_of_its_links(copy):
    assert fork(copy, "https://github.com/ada/rates.git").returncode == 0
    links = "head or badges or address or readme"
    command = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", links]
    files = ["tests/launch/test_project.py", "tests/lessons/test_notebooks.py"]
    done = subprocess.run([sys.executable, *command, *files], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10


def test_without_a_branch_the_branch_stays(copy):
    assert fork(copy, "ada/rates").returncode == 0
    assert "mybinder.org/v2/gh/ada/rates/main?urlpath" in (copy / "README.md").read_text(encoding="utf-8")


def test_a_longer_name_that_begins_alike_is_another_repository(copy):
    (copy / "more.md").write_text(f"https://github.com/{SLUG}-extras and https://github.com/{SLUG}.")
    git(copy, "add", "more.md")
    assert fork(copy, "ada/rates").returncode == 0
    assert (copy / "more.md").read_text() == f"https://github.com/{SLUG}-extras and https://github.com/ada/rates."


@pytest.mark.parametrize(
    "address",
    [
        "ada",
        "ada/",
        "/rates",
        "ada/rates/more",
        "ada lovelace/rates",
        "https://gitlab.com/ada/rates",
        "-ada/rates",
        "ada-/rates",
    ]
    + ["ada/..", "ada/ra?tes", "ad\u00e4/rates", "", "http://github.com/ada/rates", "ada_l/rates", "a" * 40 + "/rates"],
)
def test_a_malformed_address_is_refused(tmp_path, address):
    done = fork(tmp_path, "--", address)
    assert done.returncode == 2 and "is no repository on GitHub. Give OWNER/NAME" in done.stderr


@pytest.mark.parametrize("branch", ["feature/x", "", " ", "-x", "a b", "x?y"])
def test_a_branch_that_breaks_a_link_is_refused(copy, branch):
    done = fork(copy, "ada/rates", f"--branch={branch}")
    assert done.returncode == 2 and "can stand in a badge's link" in done.stderr
    assert git(copy, "status", "--porcelain") == ""


def test_outside_a_clone_it_says_where_to_go(tmp_path):
    done = fork(tmp_path, "ada/rates")
    assert done.returncode == 2 and "is not the root of a clone of the course" in done.stderr
