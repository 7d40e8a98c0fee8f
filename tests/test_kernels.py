"""The CUDA sources without a GPU: run on the CPU through g++, and compiled for GPUs by NVRTC.

The result of a kernel is compared with that of the NumPy function that specifies it.  Its threads
run one after another here, which is enough for kernels whose threads do not communicate.
"""

import ctypes
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_cupy import kernels

from minigrad import random
from minigrad.fast.gpu.launch import launch

KERNELS = Path(random.__file__).parent / "fast/gpu"
HEADER = Path(kernels.__file__).with_name("cuda_on_cpu.h")


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """Return a function that runs a kernel: (name, number of threads, arrays and numbers)."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")

    def compiled(name, source):
        folder = tmp_path_factory.mktemp(name)
        declared = kernels.parameters(source, name)
        types = {"bool": "bool", "uint64": "unsigned long long"}
        names = ", ".join(parameter for parameter, _, _ in declared)
        listed = ", ".join(f"{types[d.name]} {'*' * array}{p}" for p, d, array in declared)
        program = folder / "kernel.cpp"
        program.write_text(
            f'#include "{HEADER}"\n{source}\n'
            f'extern "C" void run(unsigned int blocks, unsigned int threads, {listed}) {{\n'
            "    blockDim.x = threads;\n"
            "    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)\n"
            "        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)\n"
            f"            {name}({names});\n}}\n",
            encoding="utf-8",
        )
        library = folder / "kernel.so"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"]
        flags += ["-fsanitize-undefined-trap-on-error", "-Wno-sign-compare"]
        subprocess.run(["g++", *flags, "-o", library, program], check=True)
        return ctypes.CDLL(str(library)).run

    def run(name, n_threads, *arguments, source=None, threads=256):
        source = source or (KERNELS / f"{name}.cu").read_text(encoding="utf-8")
        converted = [
            ctypes.c_void_p(x.ctypes.data) if isinstance(x, np.ndarray) else ctypes.c_uint64(x)
            for x in arguments
        ]
        compiled(name, source)(-(-n_threads // threads), threads, *converted)

    return run


KEYS = [  # rows, entries of a row, p, (seed, step, layer, row)
    (3, 16, 0.5, (1, 2, 3, 4)),
    (7, 1001, 0.2, (1337, 5000, 12, 640)),
    (2, 1, 0.9, (2**64 - 1, 2**63, 2**40, 2**33)),
    (1, 5000, 0.0, (0, 0, 0, 0)),
    (5, 9, 1 - 2**-40, (5, 4, 3, 2)),  # p·2³² is rounded up to 2³²: nothing is kept
]


def right_mask(n_rows, size, p, key):
    """Return what the kernel is specified to compute."""
    return random.keep_mask(np.empty((n_rows, size)), p, key)


def run_dropout_keep(on_cpu, n_rows, size, p, key, **options):
    """Return the mask that the kernel computes."""
    UNTOUCHED = 7
    keep = np.full(
        (n_rows + 1, size), UNTOUCHED, np.uint8
    )  # one more row, which must not be written
    numbers = (n_rows, size, round(p * 2**32), *key, random.MASK)
    on_cpu("dropout_keep", n_rows * -(-size // 8), keep, *numbers, **options)
    assert (keep[-1] == UNTOUCHED).all()
    return keep[:-1]


@pytest.mark.parametrize("n_rows, size, p, key", KEYS)
def test_dropout_keep(on_cpu, n_rows, size, p, key):
    """Every bit is NumPy's."""
    keep = run_dropout_keep(on_cpu, n_rows, size, p, key)
    np.testing.assert_array_equal(keep, right_mask(n_rows, size, p, key))


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("0xD2E7470EE14C6C93", "0xD2E7470EE14C6C91"),
        ("group + 1;", "group;"),
        ("c2 = row + b", "c2 = row"),
        ("round < 10", "round < 9"),
        ("entry < size", "entry < size + 1"),
        (">= threshold", "> threshold"),
    ],
)
def test_a_mistake_in_the_kernel_is_caught(on_cpu, right, wrong):
    """Another constant, one round less, an entry too far: some case fails."""
    source = (KERNELS / "dropout_keep.cu").read_text(encoding="utf-8")
    assert source.count(right) == 1
    cases = [*KEYS]
    if "threshold" in right:  # one number in 2³² shows this: take a drawn one as the threshold
        bits = int(random.philox((1, 2, 3, 4), random.MASK).random_raw(1).view(np.uint32)[0])
        cases = [(1, 8, bits / 2**32, (1, 2, 3, 4))]
    with pytest.raises(AssertionError):
        for case in cases:
            keep = run_dropout_keep(on_cpu, *case, source=source.replace(right, wrong))
            np.testing.assert_array_equal(keep, right_mask(*case))


NVRTC = """
import os, sys
from cuda import pathfinder
from cupy_backends.cuda.libs import nvrtc
library = pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path
program = nvrtc.createProgram(sys.stdin.read(), "kernel.cu", (), ())
options = (f"-arch={sys.argv[1]}", "-std=c++17", "-ftz=true", "--device-as-default-execution-space")
try:
    nvrtc.compileProgram(program, options)
except nvrtc.NVRTCError:
    sys.exit(nvrtc.getProgramLog(program))
"""


def installed(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_launch_checks_its_arguments(fake_gpu):
    """A kernel would read beyond an array, or the gaps in it, so launch() does not start it."""
    array = fake_gpu.zeros((4, 4))
    for bad in (array.T[1:], np.zeros(3), 3, 2.0):
        with pytest.raises(TypeError, match="dropout_keep: an argument must be"):
            launch("dropout_keep", 8, bad)
    launch("dropout_keep", 0, array)  # no threads, no kernel


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.stem)
def test_a_source_is_ascii(path):
    """CuPy writes it to a file in the machine's encoding, which may have no other characters."""
    assert path.read_bytes().isascii()


@pytest.mark.skipif(
    not (
        (installed("cupy-cuda12x") and installed("nvidia-cuda-nvrtc-cu12"))
        or (installed("cupy-cuda13x") and installed("nvidia-cuda-nvrtc"))
    ),
    reason="needs CuPy and NVRTC, but no GPU: pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12",
)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.stem)
def test_nvrtc_compiles_it(path, architecture):
    """NVIDIA's compiler accepts the source, for an A100 and for an H100."""
    source = path.read_text(encoding="ascii")
    for text, status in ((source, 0), (source.replace("threadIdx", "threadIndex"), 1)):
        done = subprocess.run(
            [sys.executable, "-c", NVRTC, architecture],
            input=text, capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == status, done.stderr
