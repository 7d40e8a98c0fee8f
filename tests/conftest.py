"""The GPU that tests run on: the fake one, unless `pytest -m gpu` asks for the real."""

import sys
from pathlib import Path

import fake_cupy
import pytest

from minigrad import device

TESTS = Path(__file__).parent
FAKE_PATH = [str(TESTS / "fake_cupy/path"), str(TESTS)]  # where a program of its own finds the fake


def opened(monkeypatch, cupy=None):
    """Open the GPU anew; by the given CuPy, or by the one that is installed."""
    monkeypatch.setattr(device, "cupy", None)
    if cupy is not None:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(device, "installed_cupys", lambda: ["cupy-fake"])
    device._kernel.cache_clear()
    device.open_gpu()


@pytest.fixture
def fake_gpu(monkeypatch):
    """Open the fake as "gpu", and hand it over for its ledger."""
    opened(monkeypatch, fake_cupy)
    yield fake_cupy
    device._kernel.cache_clear()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """Which of the two "gpu" is: a test that takes this runs on both."""
    try:
        opened(monkeypatch, fake_cupy if request.param == "fake" else None)
    except device.NoGPU as error:
        pytest.fail(str(error), pytrace=False)
    yield request.param
    device._kernel.cache_clear()
