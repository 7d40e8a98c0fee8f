"""The seam: which library owns an array, and what is said where there is no GPU to be had."""

import os
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
from minigrad import device
from minigrad.__main__ import main
from minigrad.device import (
    BLOCK,
    NoGPU,
    add_at,
    array_module,
    as_array,
    blocks,
    choose,
    device_of,
    launch,
    to_device,
    to_host,
)

ROOT = Path(__file__).parents[1]
train_shakespeare, generate = example("train_shakespeare"), example("generate")

# ---- arrays follow their device ------------------------------------------------------------------


def test_arrays_know_their_library(fake_gpu):
    """One array of CuPy's among numbers is enough; NumPy owns all else."""
    x, y = np.ones(2), fake_gpu.ones(2)
    assert array_module(x) is array_module(1.0) is array_module() is np
    assert array_module(y) is array_module(1.0, y) is array_module(y, None) is fake_gpu
    assert (device_of(x), device_of(y)) == ("cpu", "gpu")
    assert as_array(y) is y and as_array(x) is x and as_array([1, 2]).dtype == np.float32


def test_arrays_move(fake_gpu):
    """Up and down; one that is there already stays the same object."""
    x = np.arange(3.0)
    y = to_device(x, "gpu")
    assert device_of(y) == "gpu" and to_device(y, "gpu") is y and to_device(x, "cpu") is x
    assert to_host(x) is x and to_host(y).tolist() == to_device(y, "cpu").tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["tpu", "cuda", "GPU", ""])
def test_other_devices_are_unknown(name):
    with pytest.raises(ValueError, match=f"no device '{name}': arrays live on 'cpu' or 'gpu'"):
        mg.Tensor([1.0]).to(name)


@pytest.mark.parametrize("length", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_cover_an_array(length, fake_gpu):
    """Each entry once and in order: short blocks on a CPU, all in one on a GPU."""
    for xp in (np, fake_gpu):
        array = xp.zeros(length)
        parts = blocks(array)
        covered = [i for part in parts for i in range(part.start, part.stop)]
        assert covered == list(range(length))
        assert len(parts) == (-(-length // BLOCK) if xp is np else min(length, 1))
    assert blocks(np.zeros(9), 2, 5) == [slice(2, 5)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_add_at_counts_a_place_twice(dtype, fake_gpu):
    """As np.add.at does, on top of what is there."""
    index, values = np.array([3, 0, 3, 3]), np.array([1.5, -2.0, 0.25, -8.0], dtype)
    expected = np.array([-1.0, 1.0, 1.0, 1 + 1.5 + 0.25 - 8.0], dtype)
    for xp in (np, fake_gpu):
        array = xp.ones(4, dtype)
        add_at(array, index, xp.asarray(values))
        assert array.dtype == dtype and to_host(array).tolist() == expected.tolist()


def test_launch_looks_at_its_arguments(fake_gpu):
    """A kernel would read past what it is given, or what lies between: it is not started."""
    array = fake_gpu.zeros((4, 4))
    for bad in (array.T[1:], np.zeros(3), 3, 2.0):
        with pytest.raises(TypeError, match="dropout_keep: an argument must be"):
            launch("dropout_keep", 8, bad)
    launch("dropout_keep", 0, array)  # no threads, no kernel


# ---- what can be wrong ---------------------------------------------------------------------------

INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime"
CAUSE = "libcudart.so.12: cannot open shared object file: No such file or directory"
WRAPPED = f"""
try:
    raise ImportError({CAUSE!r})
except ImportError as error:  # as CuPy does it, with a page of advice
    raise ImportError("=" * 64 + "\\nFailed to import CuPy.\\n" + 20 * "Try it.\\n") from error
"""


class OutOfMemoryError(MemoryError):
    """CuPy's own is one as well: tests/test_fake_cupy.py."""


def raising(error):
    def function(*arguments, **keywords):
        raise error

    return function


def broken(runtime=None, **functions):
    """The fake CuPy, some of whose functions are others."""
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
    """Asked for by name, the GPU is refused in one sentence; auto takes the CPU and says why."""
    assert train_shakespeare.main(["--device", "gpu", "--out", "/nowhere"]) == 2
    out, err = capsys.readouterr()
    sentence = err.removeprefix("train_shakespeare: ").removesuffix("\n")
    assert out == "" and len(sentence) == len(err) - 20 and "\n" not in sentence
    assert len(sentence) < 350
    assert all(part in sentence for part in parts), sentence
    assert choose("auto") == ("cpu", sentence)
    assert choose("cpu") == ("cpu", "")
    with pytest.raises(NoGPU):
        mg.Tensor([1.0]).to("gpu")
    assert device.cupy is None, "what does not work is not used"


@pytest.fixture
def closed(monkeypatch):
    """No GPU has been opened, and no CuPy is installed but the one that a test brings."""
    monkeypatch.setattr(device, "cupy", None)
    monkeypatch.setattr(device, "installed_cupys", lambda: ["cupy-cuda12x"])
    return monkeypatch


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence(fault, closed, capsys):
    cupy, parts = FAULTS[fault]
    closed.setitem(sys.modules, "cupy", cupy)
    check_refusal(parts, capsys)


def test_no_cupy(closed, capsys):
    closed.setitem(sys.modules, "cupy", None)  # Python's way to say that there is none
    closed.setattr(device, "installed_cupys", lambda: [])
    advice = 'CuPy is not installed; for an NVIDIA GPU: pip install "gpt-numpy[gpu]"'
    check_refusal([advice], capsys)


@pytest.mark.parametrize("cupy", [fake_cupy, broken()])
def test_two_cupys(cupy, closed, capsys):
    """Whether what is left of them can be imported or not."""
    closed.setitem(sys.modules, "cupy", cupy)
    closed.setattr(device, "installed_cupys", lambda: ["cupy-cuda12x", "cupy-cuda13x"])
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
    (tmp_path / "cupy.py").write_text(line, encoding="utf-8")
    closed.syspath_prepend(tmp_path)
    closed.delitem(sys.modules, "cupy", raising=False)
    begin = "CuPy is installed but does not load"
    check_refusal([begin, part, "pip uninstall -y cupy-cuda12x"], capsys)
    assert "Try it" not in choose("auto")[1]


def test_packages_of_cupy_are_found(tmp_path, monkeypatch):
    """By their names; others that begin alike are none."""
    for name in ("cupy-cuda13x", "cupy", "cupylike", "cupy-xarray", "not-cupy", "amd-cupy"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert device.installed_cupys() == ["amd-cupy", "cupy", "cupy-cuda13x"]
    monkeypatch.setattr(sys, "path", [])
    assert device.install_anew().startswith("pip uninstall -y cupy, then pip install ")


def test_a_gpu_that_works_is_named(fake_gpu):
    assert choose("gpu") == choose("auto") == ("gpu", "no GPU, but NumPy, 16 GiB, CuPy fake")


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
    """A folder that hides a CuPy which may be installed."""
    folder = tmp_path / "path"
    folder.mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')"
    (folder / "cupy.py").write_text(missing, encoding="utf-8")
    return folder


@pytest.mark.parametrize("program", ["train_shakespeare", "generate"])
def test_no_gpu_is_one_line_and_status_2(program, without_cupy, tmp_path):
    """Before anything is written."""
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


def test_auto_says_what_it_took_and_why(without_cupy, tmp_path):
    data = tmp_path / "text"
    data.write_text("the same line again\n" * 200, encoding="utf-8")
    small = "--steps 1 --n-layer 1 --n-head 1 --n-embd 8 --block-size 4 --workers 1".split()
    script = ROOT / "examples/train_shakespeare.py"
    done = python(script, "--data", data, "--out", tmp_path / "run", *small, path=[without_cupy])
    assert done.returncode == 0, done.stderr
    assert "\ndevice: cpu (CuPy is not installed; for an NVIDIA GPU: pip install " in done.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--workers", "2"], "--workers shares a step out over the cores of a CPU, but the device"),
        (["--preset", "large"], "preset must be one of laptop, baby, gpt2; it is large"),
    ],
)
def test_flags_that_a_gpu_does_not_take(flags, message, tmp_path):
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


def test_workers_choose_the_cpu(tmp_path):
    """Where the device is left open: they share a step out over the CPU's cores."""
    done = small_run(tmp_path, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "\ndevice: cpu (--workers shares a step out over the cores of a CPU)\n" in done.stdout
    assert "preset laptop" in done.stdout


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("Out of memory allocating 805,306,368 bytes"),
        fake_cupy.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"),
    ],
)
def test_memory_that_runs_out_is_one_line(error, tmp_path, monkeypatch, capsys):
    """In the middle of a run, with status 1 and advice."""
    data = tmp_path / "text"
    data.write_text("the same line again\n" * 200, encoding="utf-8")
    monkeypatch.setattr(train_shakespeare, "evaluate", raising(error))
    flags = ["--device", "cpu", "--data", data, "--out", tmp_path / "run", "--quiet"]
    assert train_shakespeare.main([str(flag) for flag in flags]) == 1
    err = capsys.readouterr().err
    assert str(error) in err and "lower --batch-size" in err and err.count("\n") == 1
    monkeypatch.setattr(generate, "choose", raising(error))
    GPT(GPTConfig(vocab_size=3, block_size=4, n_layer=1, n_head=1, n_embd=4)).save_pretrained(
        tmp_path / "run"
    )
    assert generate.main([str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert err == f"generate: there is not enough memory ({error})\n"


def test_help_does_not_look_for_a_gpu(tmp_path):
    """It would wait a second for CuPy."""
    (tmp_path / "cupy.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    done = python(ROOT / "examples/train_shakespeare.py", "--help", path=[tmp_path])
    assert done.returncode == 0 and "--device {auto,cpu,gpu}" in done.stdout
    assert "(default: laptop)" in done.stdout
    done = python(
        ROOT / "examples/train_shakespeare.py", "--device", "gpu", "--help", path=[tmp_path]
    )
    assert done.returncode == 0 and "(default: baby)" in done.stdout


def test_the_engine_does_not_import_cupy(tmp_path):
    """It does when a GPU is asked for, and not before."""
    (tmp_path / "cupy.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    code = "import minigrad as mg; x = mg.Tensor([1.0], True); (x * x).sum().backward()"
    assert python("-c", code, path=[tmp_path]).returncode == 0


def test_one_file_imports_cupy():
    """device.py, and nothing else that a user runs."""
    files = [
        *ROOT.glob("minigrad/**/*.py"),
        *ROOT.glob("gpt_numpy/*.py"),
        *ROOT.glob("examples/**/*.py"),
    ]
    found = [p.name for p in files if "import cupy" in p.read_text(encoding="utf-8")]
    assert len(files) > 30 and found == ["device.py"]


def test_the_diagnosis(without_cupy):
    """`python -m minigrad`: versions, BLAS, what there is, and what to install."""
    out = python("-m", "minigrad", path=[without_cupy]).stdout
    for label in ("minigrad", "Python", "NumPy", "BLAS", "processor", "memory"):
        assert f"\n{label:11}" in f"\n{out}"
    assert f"{np.__version__}\n" in out and " threads\n" in out
    assert out.splitlines()[-1].startswith(
        "train_shakespeare.py --device auto takes the CPU: CuPy is not installed; for an NVIDIA GPU"
    )


def test_the_diagnosis_with_a_gpu():
    out = python("-m", "minigrad", path=FAKE_PATH).stdout
    for line in (
        "CuPy       fake, for CUDA 12.8",
        "driver     for CUDA 12.8",
        "GPU 0      no GPU, but NumPy, compute capability 0.0, 16.0 GiB",
        "can        hold an array",
        "free       8.0 GiB on GPU 0, the one that is used",
        "can        multiply matrices",
        "train_shakespeare.py --device auto takes the GPU.",
    ):
        assert f"\n{line}\n" in out


@pytest.mark.gpu
def test_the_diagnosis_on_a_real_gpu():
    out = python("-m", "minigrad").stdout
    assert "\ncan        multiply matrices\n" in out and out.endswith("takes the GPU.\n")


def test_the_diagnosis_of_a_gpu_that_fails(monkeypatch, capsys):
    """What works stands there, and at the end what does not."""
    monkeypatch.setitem(sys.modules, "cupy", FAULTS["no cuBLAS"][0])
    monkeypatch.setattr(device, "installed_cupys", lambda: ["cupy-cuda12x"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "can        compile a kernel"
    assert "--device auto takes the CPU: CuPy cannot multiply matrices" in lines[-1]
