"""What several test files use: the GPU (the fake one, unless `pytest -m gpu`), and tiny runs."""

import random
import signal
import sys
import types
from pathlib import Path

import fake_cupy
import pytest
from command import TINY, example, exit_status

from minigrad import device

TESTS = Path(__file__).parent
FAKE_PATH = [str(TESTS / "fake_cupy/path"), str(TESTS)]  # where a program of its own finds the fake

# A shell starts what it runs in the background deaf to Ctrl-C, and a run leaves it at that.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


WORDS = "the cat sat on a mat and ran to see her old dog by day".split()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A text of some 2,700 characters."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=6)) for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "mat.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def train(text_file, tmp_path, capsys):
    """train(name, *flags): a tiny run into tmp_path / name; (status, its lines, stderr, folder)."""
    main = example("train_shakespeare").main

    def train(name, *flags):
        out = tmp_path / name
        settings = [] if "--resume" in flags else ["--data", text_file, *TINY]
        status = exit_status(main, "--out", out, *settings, *flags)
        printed = capsys.readouterr()
        return types.SimpleNamespace(
            status=status, lines=printed.out.splitlines(), err=printed.err, folder=out
        )

    return train
