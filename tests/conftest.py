"""Fixtures of several test files: the GPU (the fake one, unless `pytest -m gpu`), and tiny runs."""

import os
import random
import signal
import sys
import types
from pathlib import Path

# In parallel (pytest-xdist), the threads of all processes together are as many as the cores.
if n_processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    n_threads = max(1, (os.cpu_count() or 1) // n_processes)
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", str(n_threads))  # before NumPy is loaded

import fake_cupy
import fake_cupy.cublas
import numpy as np
import pytest
from command import TINY, example, exit_status
from fake_cupy import cuda_source

import gpt_numpy.scale.train
from gpt_numpy.scale.graph import stream_of
from minigrad import backend
from minigrad.fast.gpu.cublas import handle_of
from minigrad.fast.gpu.launch import kernel, module
from minigrad.internals import cublas, gpu

NOT_LONG = "not whole and not gpu and not kill"
QUICK = f"not slow and {NOT_LONG}"  # as in pyproject.toml


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Run the whole suite in as many processes as there are cores, if pytest-xdist is installed.

    A single file is quicker in one, and so are the tests that share a GPU.  Without a GPU, those
    are not started: one line says why.  Of a file that is named, the slow tests run too.
    """
    option = config.option
    if option.markexpr == QUICK and config.args_source == config.ArgsSource.ARGS:
        option.markexpr = NOT_LONG
    elif option.markexpr == "slow":  # of a slow file too, what has a marker of its own waits for it
        option.markexpr = f"slow and {NOT_LONG}"
    if option.markexpr == "gpu" and not option.collectonly:
        try:
            gpu.init_gpu()
        except gpu.GPUUnavailable as error:
            print(f"pytest -m gpu: {error}", file=sys.stderr)
            return pytest.ExitCode.TESTS_FAILED
    if (
        config.args_source == config.ArgsSource.TESTPATHS
        and config.pluginmanager.hasplugin("xdist")
        and not hasattr(config, "workerinput")  # this is one of the processes
        and option.numprocesses is None
        and option.markexpr not in ("gpu", "kill")
        and not (option.usepdb or option.collectonly)
    ):
        option.numprocesses, option.dist = "auto", "worksteal"
    return None  # and pytest goes on


TESTS = Path(__file__).parent
FAKE_PATH = [str(TESTS / "fake_cupy/path"), str(TESTS)]  # where a program of its own finds the fake

# A shell starts background programs with Ctrl-C ignored, nohup with hangups ignored, and a training
# run does not change that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def opened(monkeypatch, cupy=None):
    """Open the GPU once more: through the given CuPy, or through the one that is installed."""
    if cupy is fake_cupy and (reason := cuda_source.unavailable()):
        pytest.skip(reason)
    monkeypatch.setattr(backend, "cupy", None)
    if cupy is not None:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(gpu, "installed_cupys", lambda: ["cupy-fake"])
        monkeypatch.setattr(cublas, "load", fake_cupy.cublas.Library)
    forget_gpu()
    backend.to_device(np.zeros(1), "gpu")


def forget_gpu():
    """Drop CuPy and cuBLAS as they were found, kernels that are compiled, and handles."""
    loaded = kernel, module, cublas.library, cublas.why_not, handle_of, stream_of
    for found in (gpu.init_gpu, *loaded):
        found.cache_clear()


@pytest.fixture
def fake_gpu(monkeypatch):
    """Open the fake as "gpu", and return it, with its ledger."""
    opened(monkeypatch, fake_cupy)
    yield fake_cupy
    forget_gpu()


@pytest.fixture(name="gpu", params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def each_gpu(request, monkeypatch):
    """Open the fake, then the real GPU, as "gpu", and return which: the test runs on both."""
    try:
        opened(monkeypatch, fake_cupy if request.param == "fake" else None)
    except gpu.GPUUnavailable as error:
        pytest.fail(str(error), pytrace=False)
    yield request.param
    forget_gpu()


WORDS = "the cat sat on a mat and ran to see her old dog by day".split()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """Write a text of some 2,700 characters, and return its path."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=6)) for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "mat.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def no_figures(monkeypatch):
    """Draw no loss.png, which takes most of the time of a tiny run; the file is empty."""
    monkeypatch.setattr("gpt_numpy.app.report.loss_figure", lambda *_, **__: None)


@pytest.fixture
def train(text_file, tmp_path, capsys):
    """Return train(name, *flags): a tiny run that returns its status, lines, err and folder."""
    main = example("train_shakespeare").main

    def train(name, *flags):
        out = tmp_path / name
        settings = [] if "--resume" in flags else [*TINY]
        settings += [] if {"--resume", "--data"} & {*flags} else ["--data", text_file]
        status = exit_status(main, "--out", out, *settings, *flags)
        printed = capsys.readouterr()
        return types.SimpleNamespace(
            status=status, lines=printed.out.splitlines(), err=printed.err, folder=out
        )

    return train


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(step, *signals): the process gets these when it has done that step, once."""
    program = example("train_shakespeare")

    def stop_at(step, *signals):
        steps = gpt_numpy.scale.train.train

        def stopping(*arguments):
            for result in steps(*arguments):
                if result.step == step:
                    monkeypatch.setattr(program, "train", steps)
                    for number in signals:
                        os.kill(os.getpid(), number)
                yield result

        monkeypatch.setattr(program, "train", stopping)

    return stop_at
