"""Print what this machine has, what works on it, and what to install: `python -m minigrad`."""

import importlib.metadata
import os
import platform
import sys

import numpy as np
import threadpoolctl

from minigrad.internals import cublas
from minigrad.internals.gpu import SELF_TESTS, GPUUnavailable, find_gpu, import_cupy, self_test

GIB = 2**30


def of_the_cpu():
    """Yield (name, facts) of minigrad, Python, NumPy, BLAS, the processor and the memory."""
    try:
        yield "minigrad", importlib.metadata.version("gpt-numpy")
    except importlib.metadata.PackageNotFoundError:
        yield "minigrad", "not installed: pip install -e ."
    yield "Python", f"{platform.python_version()} on {platform.system()}, {platform.machine()}"
    yield "NumPy", np.__version__
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] == "blas":
            kind = f"{library['internal_api']} {library['version'] or ''}".strip()
            kernels = library.get("architecture", "unknown")
            yield "BLAS", f"{kind}, kernels for {kernels}, {library['num_threads']} threads"
    yield "processor", f"{os.cpu_count()} logical cores"
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield "memory", f"{memory / GIB:.1f} GiB"


def of_the_gpu():
    """Yield (name, facts) of CuPy, the driver and each GPU; GPUUnavailable where that ends."""
    cupy = import_cupy()
    runtime = cupy.cuda.runtime
    yield "CuPy", f"{cupy.__version__}, for CUDA {dotted(runtime.runtimeGetVersion())}"
    driver = runtime.driverGetVersion()
    yield "driver", f"for CUDA {dotted(driver)}" if driver else "none"
    find_gpu(cupy)
    for i in range(runtime.getDeviceCount()):
        gpu = runtime.getDeviceProperties(i)
        name, capability = gpu["name"].decode(), f"{gpu['major']}.{gpu['minor']}"
        memory = gpu["totalGlobalMem"] / GIB
        yield f"GPU {i}", f"{name}, compute capability {capability}, {memory:.1f} GiB"
    for what in SELF_TESTS:
        self_test(what, cupy)
        yield "can", what
    yield "products", f"in {' or '.join(cublas.precisions())}, by {cublas.summary()}"
    free, _ = runtime.memGetInfo()
    yield "free", f"{free / GIB:.1f} GiB on GPU 0, the one that is used"


def dotted(version):
    """Return "12.8" for CUDA's version number 12080."""
    return f"{version // 1000}.{version % 1000 // 10}"


def print_facts():
    """Print the facts, and which device `--device auto` takes."""
    conclusion = "train_shakespeare.py --device auto takes the GPU."
    try:
        for part in (of_the_cpu, of_the_gpu):
            for name, facts in part():
                print(f"{name:11}{facts}")
    except GPUUnavailable as error:
        conclusion = f"train_shakespeare.py --device auto takes the CPU: {error}."
    print(f"\n{conclusion}", flush=True)


def main():
    """Print the facts; return the exit status, 1 if the output is a pipe that was closed."""
    try:
        print_facts()
    except BrokenPipeError:  # `python -m minigrad | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return 1
    return 0
