"""The README's way in: its badges, and the messages under "If something goes wrong" as the reader meets them."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from copies import ROOT

from lrtut import data

README = (ROOT / "README.md").read_text(encoding="utf-8")
WRONG = README.split("## If something goes wrong")[1]
HEADINGS = [" ".join(heading.split()) for heading in re.findall(r"^- \*\*(.+?):\*\*", WRONG, re.M | re.S)]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
QUOTES = [quote for heading in HEADINGS for quote in re.findall(r"`([^`]+)`", heading)]


def test_what_to_expect_opens_the_first_lesson_on_colab_on_binder_and_here():
    section = README.split("## What to expect")[1].split("\n## ")[0]
    slug, branch = URLS["Repository"].removeprefix("https://github.com/"), URLS["Notebooks"].split("/")[-2]
    first = "notebooks/01_what_the_learning_rate_does.ipynb"
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert f"(https://colab.research.google.com/github/{slug}/blob/{branch}/{first})" in rows[0]
    assert f"(https://mybinder.org/v2/gh/{slug}/{branch}?urlpath=lab/tree/{first})" in rows[1]
    assert f"`git clone {URLS['Repository']}`" in rows[2] and len(rows) == 3 and (ROOT / first).exists()
    for row in rows:
        clicks, seconds = row.split("|")[-3:-1]
        assert re.match(r" \d", clicks) and re.match(r" \d+", seconds)
        assert "(measured)" in seconds and "(estimated" in seconds


def test_no_network(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("LRTUT_DATA", raising=False)
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    monkeypatch.setattr(data, "MIRRORS", ["http://127.0.0.1:9/"])
    data.load_mnist(train_size=10)
    assert quoted("could not be had") in capsys.readouterr().out


def test_no_lrtut_and_another_version():
    """That these messages come is tested in test_colab.py and test_version.py."""
    with pytest.raises(
        ImportError, match=re.escape(quoted("No module named 'lrtut'").replace("lrtut", "no_such_package"))
    ):
        import no_such_package  # noqa: F401
    source = (ROOT / "lrtut" / "version.py").read_text(encoding="utf-8")
    assert quoted("older copy") in source and quoted("too old") in source


@pytest.mark.skipif(not shutil.which("uv"), reason="uv says it")
def test_a_python_that_is_too_old_or_missing(tmp_path):
    project = '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.99"\n'
    (tmp_path / "pyproject.toml").write_text(project)
    sync = ["uv", "sync", "--offline", "--no-python-downloads", "--python"]
    quiet = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PYTHON")}
    for python, quote in ((sys.executable, "incompatible with"), ("3.99", "No interpreter")):
        done = subprocess.run([*sync, python], cwd=tmp_path, env=quiet, capture_output=True, text=True)
        assert done.returncode != 0 and quoted(quote) in " ".join(done.stderr.split()), done.stderr
    assert (
        "3.11 or newer" in WRONG
        and tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
        == ">=3.11"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows says it in its own words")
def test_a_full_disk():
    """uv and pip hand on what the system says."""
    assert quoted("No space") == os.strerror(errno.ENOSPC)


def quoted(part):
    """The message among the README's headings that holds `part`."""
    (quote,) = [quote for quote in QUOTES if part in quote]
    return quote
