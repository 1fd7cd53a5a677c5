"""An old copy of a notebook, or an old lrtut: both are told what to do."""

import pytest

import lrtut
from lrtut import version


def test_the_version_here_fits(monkeypatch):
    for here in ("0.1.0", "0.1.7", "0.1.10.dev1"):
        monkeypatch.setattr(version, "__version__", here)
        assert lrtut.require("0.1") is None


@pytest.mark.parametrize("here", ["0.2.0", "1.0.0", "0.10.0"])
def test_an_old_copy_of_a_notebook_is_sent_to_the_new_one(monkeypatch, here):
    monkeypatch.setattr(version, "__version__", here)
    with pytest.raises(lrtut.VersionError, match="an older copy: it was written for lrtut 0.1, ") as error:
        lrtut.require("0.1")
    assert f"lrtut here is {here}" in str(error.value)
    assert f"Open the notebook anew from {version.repository()}" in str(error.value)


@pytest.mark.parametrize("asked", ["0.2", "0.10", "1.0"])
def test_an_old_lrtut_is_brought_up_to_date(monkeypatch, asked):
    monkeypatch.setattr(version, "__version__", "0.1.3")
    with pytest.raises(lrtut.VersionError, match=f"too old for this notebook, which needs {asked}") as error:
        lrtut.require(asked)
    for words in ("lrtut here is 0.1.3", "git pull", f"--upgrade {version.archive()}.", "restart the kernel"):
        assert words in str(error.value)


@pytest.mark.parametrize("asked", ["0", "0.1.0", "0.x", "", None, 0.1, ">=0.1", " 0.1"])
def test_what_is_no_version(asked):
    with pytest.raises(ValueError, match="give the first two numbers"):
        lrtut.require(asked)
