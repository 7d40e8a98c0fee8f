"""Find CuPy and an NVIDIA GPU, test them, and say in one sentence why there is none.

CuPy is imported when a GPU is first asked for, and must then pass SELF_TESTS.  backend.py, which is
all that an op knows of devices, gets the library from here.
"""

import functools
import re
import textwrap
import warnings

import numpy as np


class GPUUnavailable(RuntimeError):
    """Why there is no GPU to compute on, and what to do about it, in one sentence."""


INSTALL = 'pip install "gpt-numpy[gpu]"'  # built for CUDA 12; drivers for CUDA 13 run it too

SELF_TESTS = {  # what CuPy must be able to do -> a function that tries it
    "hold an array": lambda library: not library.zeros(1 << 20, np.float32).get().any(),
    "compile a kernel": lambda library: (library.arange(3) * 2).get().tolist() == [0, 2, 4],
    "multiply matrices": lambda library: (
        (library.ones((2, 3)) @ library.ones((3, 2))).get().tolist() == [[3, 3], [3, 3]]
    ),
}


@functools.cache
def init_gpu():
    """Return CuPy, once it has passed its self-tests; GPUUnavailable says why it has not."""
    library = import_cupy()
    find_gpu(library)
    for what in SELF_TESTS:
        self_test(what, library)
    return library


def select_device(device):
    """Return (device, note) for "cpu", "gpu" or "auto".

    auto    the GPU if there is one that works, otherwise the CPU
    note    the name of the GPU, or why there is none

    Raises GPUUnavailable if "gpu" was asked for and there is none.
    """
    if device not in ("cpu", "gpu", "auto"):
        raise ValueError(f"there is no device {device!r}: choose 'auto', 'cpu' or 'gpu'")
    if device == "cpu":
        return "cpu", ""
    try:
        return "gpu", gpu_name(init_gpu())
    except GPUUnavailable as error:
        if device == "gpu":
            raise
        return "cpu", str(error)


def use_gpu(i):
    """Compute on GPU number i from now on, modulo how many there are; return its address.

    The address is that of the GPU in its machine, on the PCI bus.  Call this before anything else
    asks for a GPU, in the thread that computes.
    """
    library = import_cupy()
    find_gpu(library)
    device = library.cuda.Device(i % library.cuda.runtime.getDeviceCount())
    device.use()
    init_gpu()
    return device.pci_bus_id


def import_nccl():
    """Return cupy.cuda.nccl, which sums arrays of several GPUs, or None if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller reports what is missing
        from cupy.cuda import nccl
    return nccl if nccl.available else None


def import_cupy():
    """Import CuPy and return it; GPUUnavailable if that fails."""
    failure = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # find_gpu looks for what it would warn of
            import cupy
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise GPUUnavailable(f"CuPy is not installed; for an NVIDIA GPU: {INSTALL}") from None
        failure = error
    packages = installed_cupys()
    if len(packages) > 1:
        raise GPUUnavailable(
            f"{' and '.join(packages)} are installed and overwrite each other: {reinstall()}"
        )
    if failure:
        reason = in_one_line(failure.__cause__ or failure)  # CuPy wraps it in long advice
        raise GPUUnavailable(f"CuPy is installed but does not load ({reason}): {reinstall()}")
    return cupy


def installed_cupys():
    """Return the names of all installed packages that contain CuPy, such as cupy-cuda12x."""
    from importlib.metadata import distributions  # imported here because it is slow

    names = {d.metadata["Name"] or "" for d in distributions()}
    return sorted(n for n in names if re.fullmatch(r"cupy(-(cuda|rocm)[\w-]+)?|amd-cupy", n))


def reinstall():
    """Return the commands that replace the installed CuPy."""
    return f"pip uninstall -y {' '.join(installed_cupys()) or 'cupy'}, then {INSTALL}"


def find_gpu(library):
    """Raise GPUUnavailable unless there is a driver and a GPU."""
    runtime = library.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise GPUUnavailable(
            "CuPy finds no NVIDIA driver: if this machine has an NVIDIA GPU, install its driver "
            "(in Docker: docker run --gpus all)"
        )
    try:
        if runtime.getDeviceCount() > 0:
            return
        error = "it lists none"
    except runtime.CUDARuntimeError as failure:
        error = in_one_line(failure)
    if needed // 1000 > driver // 1000:
        raise GPUUnavailable(
            f"the NVIDIA driver is made for CUDA {driver // 1000} and CuPy for CUDA "
            f"{needed // 1000}: update the driver" + f", or {reinstall()}" * (driver >= 12000)
        )
    raise GPUUnavailable(
        f"the NVIDIA driver sees no GPU ({error}): nvidia-smi should list one, and "
        "CUDA_VISIBLE_DEVICES should not hide it"
    )


def self_test(what, library):
    """Run one of SELF_TESTS; GPUUnavailable if it fails."""
    try:
        if SELF_TESTS[what](library):
            return
        reason = "the result is wrong"
    except Exception as error:
        reason = in_one_line(error)
        if out_of_memory(error):
            raise GPUUnavailable(
                f"the GPU has no memory left ({reason}): nvidia-smi shows which program holds it"
            ) from error
    raise GPUUnavailable(f"CuPy cannot {what} on the GPU ({reason}): {reinstall()}")


def out_of_memory(error):
    """Return whether an error of NumPy, CuPy, CUDA or cuBLAS means that memory ran out."""
    signs = "cudaErrorMemoryAllocation CUDA_ERROR_OUT_OF_MEMORY CUBLAS_STATUS_ALLOC_FAILED".split()
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def in_one_line(error):
    """Return the message of an error in one short line; its type if it has no message."""
    return textwrap.shorten(str(error), 160, placeholder=" ...") or type(error).__name__


def gpu_name(library):
    """Return the name of the GPU that CuPy uses, its memory and the version of CuPy."""
    properties = library.cuda.runtime.getDeviceProperties(0)
    gigabytes = properties["totalGlobalMem"] / 2**30
    return f"{properties['name'].decode()}, {gigabytes:.0f} GiB, CuPy {library.__version__}"
