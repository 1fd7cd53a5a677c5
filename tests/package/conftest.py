import pytest
from tiny_mnist import Mirror, make_tiny, pretend, use_mirror


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder laid out as torchvision lays out MNIST, of 12 + 4 images that `load_mnist` takes for the real ones."""
    pretend(make_tiny(tmp_path / "tiny"), monkeypatch.setattr)
    monkeypatch.delenv("LRTUT_DATA", raising=False)
    return tmp_path / "tiny"


@pytest.fixture
def mirror(tiny, tmp_path, monkeypatch):
    """A server on the loopback address that torchvision downloads the tiny set from, and an empty cache folder."""
    mirror = Mirror(tiny, tmp_path / "cache")
    use_mirror(mirror.resources, mirror.address, mirror.cache, monkeypatch.setattr)
    yield mirror
    mirror.close()
