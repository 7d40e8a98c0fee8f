"""`python -m minigrad`: what this machine has, what works, and what to install for the rest."""

import importlib.metadata
import os
import platform

import numpy as np
import threadpoolctl

from minigrad.device import TRIALS, NoGPU, attempt, find_gpu, import_cupy

GIB = 2**30


def of_the_cpu():
    """(what, its facts) of Python, NumPy and the processor."""
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
    """(what, its facts) of CuPy, the driver and each GPU, as far as they can be had."""
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
    for what in TRIALS:
        attempt(what, cupy)
        yield "can", what
    free, _ = runtime.memGetInfo()
    yield "free", f"{free / GIB:.1f} GiB on GPU 0, the one that is used"


def dotted(version):
    """CUDA writes 12.8 as 12080."""
    return f"{version // 1000}.{version % 1000 // 10}"


def main():
    conclusion = "train_shakespeare.py --device auto takes the GPU."
    try:
        for part in (of_the_cpu, of_the_gpu):
            for what, facts in part():
                print(f"{what:11}{facts}")
    except NoGPU as error:
        conclusion = f"train_shakespeare.py --device auto takes the CPU: {error}."
    print(f"\n{conclusion}")


if __name__ == "__main__":
    main()
