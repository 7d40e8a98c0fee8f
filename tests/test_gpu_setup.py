"""Opening the GPU: every fault is reported in one sentence, by the engine and by the programs."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from command import example
from conftest import FAKE_PATH

import minigrad as mg
from gpt_numpy import GPT, GPTConfig
from minigrad import backend
from minigrad.internals import gpu
from minigrad.internals.gpu import GPUUnavailable, select_device
from minigrad.tools.info import main

ROOT = Path(__file__).parents[1]
train_shakespeare, generate = example("train_shakespeare"), example("generate")

# ---- faults --------------------------------------------------------------------------------------

INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime"
CAUSE = "libcudart.so.12: cannot open shared object file: No such file or directory"
WRAPPED = f"""
try:
    raise ImportError({CAUSE!r})
except ImportError as error:  # as CuPy does it, with a page of advice
    raise ImportError("=" * 64 + "\\nFailed to import CuPy.\\n" + 20 * "Try it.\\n") from error
"""


class OutOfMemoryError(MemoryError):
    """A MemoryError, as CuPy's own error of this name is: tests/test_fake_cupy.py."""


def raising(error):
    def function(*arguments, **keywords):
        raise error

    return function


def broken(runtime=None, **functions):
    """Return the fake CuPy with some of its functions replaced."""
    module = types.ModuleType("cupy")
    vars(module).update(vars(fake_cupy) | functions)
    module.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(**vars(fake_cupy.cuda.runtime) | (runtime or {}))
    )
    return module


def cuda_error(text):
    return raising(fake_cupy.CUDARuntimeError(text))


class Unmultipliable:
    __matmul__ = raising(ImportError('Failure finding "libcublas.so.12"'))


FAULTS = {  # what is wrong -> (CuPy, what the one sentence must say)
    "no driver": (
        broken({"driverGetVersion": lambda: 0, "getDeviceCount": cuda_error(INSUFFICIENT)}),
        ["no NVIDIA driver: if", "install its driver", "--gpus all"],
    ),
    "an old driver": (
        broken({"driverGetVersion": lambda: 11040, "getDeviceCount": cuda_error(INSUFFICIENT)}),
        ["driver is made for CUDA 11 and CuPy for CUDA 12: update the driver"],
    ),
    "a driver for CUDA 12, CuPy for 13": (
        broken({"runtimeGetVersion": lambda: 13000, "getDeviceCount": cuda_error(INSUFFICIENT)}),
        ["CuPy for CUDA 13: update the driver, or pip uninstall -y cupy-cuda12x, then pip"],
    ),
    "no device": (
        broken({"getDeviceCount": cuda_error("cudaErrorNoDevice: no CUDA-capable device")}),
        ["sees no GPU", "cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"],
    ),
    "hidden devices": (
        broken({"getDeviceCount": lambda: 0}),
        ["sees no GPU", "CUDA_VISIBLE_DEVICES"],
    ),
    "a full GPU": (
        broken(zeros=raising(OutOfMemoryError("Out of memory allocating 4,194,304 bytes"))),
        ["no memory left", "4,194,304", "nvidia-smi"],
    ),
    "a GPU too full to start": (
        broken(zeros=cuda_error("cudaErrorMemoryAllocation: out of memory")),
        ["no memory left", "nvidia-smi"],
    ),
    "no room for a kernel": (
        broken(arange=raising(RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"))),
        ["no memory left", "nvidia-smi"],
    ),
    "no NVRTC": (
        broken(arange=raising(RuntimeError('Failure finding "libnvrtc.so.13"\nor .12'))),
        ["cannot compile a kernel", 'Failure finding "libnvrtc.so.13" or .12', "gpt-numpy[gpu]"],
    ),
    "no headers": (
        broken(arange=raising(RuntimeError("Failed to find CUDA headers"))),
        ["cannot compile a kernel", "Failed to find CUDA headers", "gpt-numpy[gpu]"],
    ),
    "no cuBLAS": (
        broken(ones=lambda shape: Unmultipliable()),
        ["cannot multiply matrices", "libcublas.so.12", "gpt-numpy[gpu]"],
    ),
    "a long error": (
        broken(arange=raising(RuntimeError("line of a log\n" * 100))),
        ["cannot compile a kernel on the GPU (line of a log line", " ...): pip uninstall -y"],
    ),
    "cuBLAS without memory": (
        broken(ones=raising(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))),
        ["no memory left", "nvidia-smi"],
    ),
    "wrong results": (
        broken(ones=fake_cupy.zeros),
        ["cannot multiply matrices", "the result is wrong"],
    ),
    "a silent error": (
        broken(zeros=raising(RuntimeError())),
        ["cannot hold an array", "RuntimeError"],
    ),
}


def check_refusal(parts, capsys):
    """`--device gpu` ends with one sentence and status 2; auto takes the CPU and says why."""
    assert train_shakespeare.main(["--device", "gpu", "--out", "/nowhere"]) == 2
    out, err = capsys.readouterr()
    sentence = err.removeprefix("train_shakespeare: ").removesuffix("\n")
    assert out == "" and len(sentence) == len(err) - 20 and "\n" not in sentence
    assert len(sentence) < 350
    assert all(part in sentence for part in parts), sentence
    assert select_device("auto") == ("cpu", sentence)
    assert select_device("cpu") == ("cpu", "")
    with pytest.raises(GPUUnavailable):
        mg.Tensor([1.0]).to("gpu")
    assert backend.cupy is None, "what does not work is not used"


@pytest.fixture
def closed(monkeypatch):
    """No GPU has been opened, and the only CuPy is the one that a test brings."""
    monkeypatch.setattr(backend, "cupy", None)
    monkeypatch.setattr(gpu, "installed_cupys", lambda: ["cupy-cuda12x"])
    gpu.init_gpu.cache_clear()
    return monkeypatch


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence(fault, closed, capsys):
    """The sentence says what is wrong and what to do."""
    cupy, parts = FAULTS[fault]
    closed.setitem(sys.modules, "cupy", cupy)
    check_refusal(parts, capsys)


def test_no_cupy(closed, capsys):
    """The sentence says how to install it."""
    closed.setitem(sys.modules, "cupy", None)  # Python's way to say that there is none
    closed.setattr(gpu, "installed_cupys", lambda: [])
    advice = 'CuPy is not installed; for an NVIDIA GPU: pip install "gpt-numpy[gpu]"'
    check_refusal([advice], capsys)


@pytest.mark.parametrize("cupy", [fake_cupy, broken()])
def test_two_cupys(cupy, closed, capsys):
    """The sentence is the same whether the remains can be imported or not."""
    closed.setitem(sys.modules, "cupy", cupy)
    closed.setattr(gpu, "installed_cupys", lambda: ["cupy-cuda12x", "cupy-cuda13x"])
    advice = "pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install"
    check_refusal(["cupy-cuda12x and cupy-cuda13x are installed", advice], capsys)


@pytest.mark.parametrize(
    "line, part",
    [
        (WRAPPED, f"({CAUSE})"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise OSError('a broken library')", "a broken library"),
    ],
)
def test_a_cupy_that_does_not_load(line, part, closed, tmp_path, capsys):
    """The sentence has the cause, not the page of advice around it."""
    (tmp_path / "cupy.py").write_text(line, encoding="utf-8")
    closed.syspath_prepend(tmp_path)
    closed.delitem(sys.modules, "cupy", raising=False)
    begin = "CuPy is installed but does not load"
    check_refusal([begin, part, "pip uninstall -y cupy-cuda12x"], capsys)
    assert "Try it" not in select_device("auto")[1]


def test_packages_of_cupy_are_found(tmp_path, monkeypatch):
    """By their names; packages whose names only look similar do not count."""
    for name in ("cupy-cuda13x", "cupy", "cupylike", "cupy-xarray", "not-cupy", "amd-cupy"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert gpu.installed_cupys() == ["amd-cupy", "cupy", "cupy-cuda13x"]
    monkeypatch.setattr(sys, "path", [])
    assert gpu.reinstall().startswith("pip uninstall -y cupy, then pip install ")


def test_a_gpu_that_works_is_named(fake_gpu):
    """With its memory and the version of CuPy."""
    assert (
        select_device("gpu")
        == select_device("auto")
        == ("gpu", "no GPU, but NumPy, 16 GiB, CuPy fake")
    )


# ---- whole programs ------------------------------------------------------------------------------


def python(*arguments, path=()):
    """Run Python with these folders first on its path."""
    search = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture
def without_cupy(tmp_path):
    """Return a folder that hides an installed CuPy."""
    folder = tmp_path / "path"
    folder.mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')"
    (folder / "cupy.py").write_text(missing, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train_shakespeare", "generate"])
def test_no_gpu_is_one_line_and_status_2(program, without_cupy, tmp_path):
    """Nothing has been written by then."""
    run, data = tmp_path / "run", tmp_path / "text"
    data.write_text("the same line again\n" * 200, encoding="utf-8")
    script, flags = ROOT / f"examples/{program}.py", ["--device", "gpu"]
    if program == "generate":
        small = "--steps 1 --n-layer 1 --n-head 1 --n-embd 8 --block-size 4 --quiet".split()
        learn = [ROOT / "examples/train_shakespeare.py", "--data", data, "--out", run, *small]
        assert python(*learn, path=[without_cupy]).returncode == 0
        flags = [run, *flags]
    else:
        flags += ["--data", data, "--out", run]
    done = python(script, *flags, path=[without_cupy])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"{program}: CuPy is not installed; for an NVIDIA GPU: pip ")
    assert done.stderr.count("\n") == 1
    assert program == "generate" or not run.exists()


def test_the_tests_of_a_gpu_end_where_there_is_none(without_cupy):
    """`pytest -m gpu` says why in one line, instead of failing test after test; status 1."""
    command = ["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", ROOT / "tests/test_gpu.py"]
    done = python(*command, path=[without_cupy, ROOT])
    assert done.returncode == 1 and done.stdout.count("\n") + done.stderr.count("\n") == 1
    assert (
        "pytest -m gpu: CuPy is not installed; for an NVIDIA GPU: pip" in done.stdout + done.stderr
    )


def test_auto_says_what_it_took_and_why(without_cupy, tmp_path):
    """The run prints its device, and the reason if that is the CPU."""
    data = tmp_path / "text"
    data.write_text("the same line again\n" * 200, encoding="utf-8")
    small = "--steps 1 --n-layer 1 --n-head 1 --n-embd 8 --block-size 4 --workers 1".split()
    script = ROOT / "examples/train_shakespeare.py"
    done = python(script, "--data", data, "--out", tmp_path / "run", *small, path=[without_cupy])
    assert done.returncode == 0, done.stderr
    assert "\ndevice: cpu (CuPy is not installed; for an NVIDIA GPU: pip install " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--workers", "2"], "--workers divides a step among the cores of a CPU, but the device"),
        (["--preset", "large"], "preset must be one of laptop, baby, gpt2; it is large"),
        (["--precision", "bf16"], "there is no precision 'bf16': choose float32 or tf32"),
    ],
)
def test_flags_that_a_gpu_does_not_take(flags, message, tmp_path):
    """The error is one line, with status 2."""
    script = ROOT / "examples/train_shakespeare.py"
    flags = ["--device", "gpu", "--out", tmp_path / "run", *flags]
    done = python(script, *flags, path=FAKE_PATH)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def small_run(tmp_path, *flags):
    data = tmp_path / "text"
    data.write_text("the same line again\n" * 200, encoding="utf-8")
    small = "--steps 1 --n-layer 1 --n-head 1 --n-embd 8 --block-size 4 --batch-size 4".split()
    script = ROOT / "examples/train_shakespeare.py"
    arguments = ["--data", data, "--out", tmp_path / "run", *small, *flags]
    return python(script, *arguments, path=FAKE_PATH)


@pytest.mark.slow
def test_workers_choose_the_cpu(tmp_path):
    """With --workers and no --device, the CPU is chosen: workers use its cores."""
    done = small_run(tmp_path, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "\ndevice: cpu (--workers divides a step among the cores of a CPU)\n" in done.stdout
    assert "preset laptop" in done.stdout


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("Out of memory allocating 805,306,368 bytes"),
        fake_cupy.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"),
    ],
)
def test_memory_that_runs_out_is_one_line(error, tmp_path, monkeypatch, capsys):
    """In the middle of a run: status 1, and advice."""
    data = tmp_path / "text"
    data.write_text("the same line again\n" * 200, encoding="utf-8")
    monkeypatch.setattr(train_shakespeare, "evaluate", raising(error))
    flags = ["--device", "cpu", "--data", data, "--out", tmp_path / "run", "--quiet"]
    assert train_shakespeare.main([str(flag) for flag in flags]) == 1
    err = capsys.readouterr().err
    assert str(error) in err and "lower --batch-size" in err and err.count("\n") == 1
    monkeypatch.setattr(generate, "select_device", raising(error))
    GPT(GPTConfig(vocab_size=3, block_size=4, n_layer=1, n_head=1, n_embd=4)).save_pretrained(
        tmp_path / "run"
    )
    assert generate.main([str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert err == f"generate: there is not enough memory ({error})\n"


def test_help_does_not_look_for_a_gpu(tmp_path):
    """--help does not import CuPy, which takes a second."""
    (tmp_path / "cupy.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    done = python(ROOT / "examples/train_shakespeare.py", "--help", path=[tmp_path])
    assert done.returncode == 0 and "--device {auto,cpu,gpu}" in done.stdout
    assert "(default: laptop)" in done.stdout
    done = python(
        ROOT / "examples/train_shakespeare.py", "--device", "gpu", "--help", path=[tmp_path]
    )
    assert done.returncode == 0 and "(default: baby)" in done.stdout


def test_the_engine_does_not_import_cupy(tmp_path):
    """It imports CuPy only when a GPU is asked for."""
    (tmp_path / "cupy.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    code = "import minigrad as mg; x = mg.Tensor([1.0], True); (x * x).sum().backward()"
    assert python("-c", code, path=[tmp_path]).returncode == 0


def test_one_file_imports_cupy():
    """internals/gpu.py, and no other file that a user runs."""
    files = [
        *ROOT.glob("minigrad/**/*.py"),
        *ROOT.glob("gpt_numpy/*.py"),
        *ROOT.glob("examples/**/*.py"),
    ]
    found = [path.name for path in files if "import cupy" in path.read_text(encoding="utf-8")]
    assert len(files) > 30 and found == ["gpu.py"]


def test_the_diagnosis(without_cupy):
    """`python -m minigrad` lists versions, BLAS and devices, and what to install."""
    out = python("-m", "minigrad", path=[without_cupy]).stdout
    for label in ("minigrad", "Python", "NumPy", "BLAS", "processor", "memory"):
        assert f"\n{label:11}" in f"\n{out}"
    assert f"{np.__version__}\n" in out and " threads\n" in out
    assert out.splitlines()[-1].startswith(
        "train_shakespeare.py --device auto takes the CPU: CuPy is not installed; for an NVIDIA GPU"
    )


def test_the_diagnosis_with_a_gpu():
    """It lists CuPy, the driver, the GPU and the self-tests that passed."""
    out = python("-m", "minigrad", path=FAKE_PATH).stdout
    for line in (
        "CuPy       fake, for CUDA 12.8",
        "driver     for CUDA 12.8",
        "GPU 0      no GPU, but NumPy, compute capability 9.0, 16.0 GiB",
        "can        hold an array",
        "free       8.0 GiB on GPU 0, the one that is used",
        "can        multiply matrices",
        "products   in float32 or tf32, by cuBLAS 12.9.0",
        "train_shakespeare.py --device auto takes the GPU.",
    ):
        assert f"\n{line}\n" in out


@pytest.mark.gpu
def test_the_diagnosis_on_a_real_gpu():
    """All self-tests pass there."""
    out = python("-m", "minigrad").stdout
    assert "\ncan        multiply matrices\n" in out and out.endswith("takes the GPU.\n")
    assert re.search(r"\nproducts   in float32( or tf32)?, by cuBLAS \d+\.\d+\.\d+\n", out)


def test_the_diagnosis_of_a_gpu_that_fails(monkeypatch, capsys):
    """It lists what works, and ends with what does not."""
    monkeypatch.setitem(sys.modules, "cupy", FAULTS["no cuBLAS"][0])
    monkeypatch.setattr(gpu, "installed_cupys", lambda: ["cupy-cuda12x"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "can        compile a kernel"
    assert "--device auto takes the CPU: CuPy cannot multiply matrices" in lines[-1]
