import matplotlib
import matplotlib.pyplot as plt
import pytest
from tiny_mnist import VAL, Mirror, make_tiny

import lrtut.data

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder laid out as MNIST is, of 12 + 4 images that `load_mnist` takes for the real ones."""
    monkeypatch.setattr(lrtut.data, "FILES", make_tiny(tmp_path / "tiny"))
    monkeypatch.setattr(lrtut.data, "MIRRORS", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(lrtut.data, "_VALIDATION", {"MNIST": VAL, "digits": 250})
    monkeypatch.setattr(lrtut.data.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.delenv("LRTUT_DATA", raising=False)
    return tmp_path / "tiny"


@pytest.fixture
def mirror(tiny, tmp_path, monkeypatch):
    """A server on the loopback address from which the tiny set is downloaded into an empty cache folder."""
    mirror = Mirror(tiny)
    mirror.cache = tmp_path / "cache"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(lrtut.data, "MIRRORS", [mirror.address])
    monkeypatch.setattr(lrtut.data, "_TIMEOUT_S", 60.0)  # nothing is given up because the machine is busy
    monkeypatch.setattr(lrtut.data, "_PATIENCE_S", 60.0)
    yield mirror
    mirror.close()
