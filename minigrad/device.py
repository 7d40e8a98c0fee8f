"""Where arrays live: the one file that knows of CuPy, which is NumPy on an NVIDIA GPU.

An op never says `numpy`.  It asks `array_module` for the library that owns its inputs and computes
there: arrays carry their device, and ops follow.  CuPy is imported when a GPU is first asked for,
and must then show that it works; what can be wrong with it is said in one sentence.
"""

import ctypes
import functools
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np

CPU, GPU = "cpu", "gpu"
BLOCK = 1 << 16  # entries: a few arrays of so many fit into a processor's cache

cupy: Any = None  # the library, once open_gpu() has seen it work


class NoGPU(RuntimeError):
    """Why there is no GPU to compute on, and what to do about it, in one sentence."""


# ---- arrays follow their device ------------------------------------------------------------------


def array_module(*arrays):
    """The library that owns the arrays: CuPy or NumPy.  Numbers beside them do not count."""
    if cupy is None:
        return np
    return cupy if any(isinstance(x, cupy.ndarray) for x in arrays) else np


def device_of(x):
    """The name of the device that holds the array `x`."""
    return CPU if array_module(x) is np else GPU


def is_array(x):
    """True of an array or an array library's scalar: of anything that brings its own dtype."""
    return isinstance(x, np.ndarray | np.generic) or array_module(x) is not np


def as_array(x):
    """An array of `x`: arrays keep their dtype, Python's numbers and lists become float32."""
    if type(x) is np.ndarray:  # as most are
        array = x
    elif is_array(x):
        array = array_module(x).asarray(x)
    else:
        array = np.asarray(x, dtype=np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds real numbers or booleans, not {array.dtype}")
    return array


def to_device(array, device):
    """`array` on the device of that name, itself if it is there; NoGPU where there is none."""
    if device == GPU:
        open_gpu()
        return cupy.asarray(array)
    if device != CPU:
        raise ValueError(f"there is no device {device!r}: arrays live on {CPU!r} or {GPU!r}")
    return to_host(array)


def to_host(array):
    """`array` as a NumPy array; one on the GPU is copied, which waits until the GPU is done."""
    return array if array_module(array) is np else cupy.asnumpy(array)


def wait_for(array):
    """Return when `array` has been computed: a GPU may still be at it when an op returns."""
    if device_of(array) == GPU:
        cupy.cuda.runtime.deviceSynchronize()


def one_device(arrays):
    """Raise ValueError unless all arrays live on one device."""
    if cupy is not None and len(devices := {device_of(x) for x in arrays if is_array(x)}) > 1:
        raise ValueError(
            f"inputs on {' and '.join(sorted(devices))}: move them to one device, as in x.to('gpu')"
        )


def set_writeable(array, may):
    """Let an array be written to, or not; return whether that is a change.

    False on a GPU, whose arrays can always be written to.
    """
    if array_module(array) is not np or array.flags.writeable == may:
        return False
    array.setflags(write=may)
    return True


# ---- what differs from device to device ----------------------------------------------------------


def blocks(array, start=0, stop=None):
    """Slices that together cover array[start:stop], for formulas that pass over it many times.

    On a CPU each is short enough to stay in the cache from pass to pass.  On a GPU a pass has a
    price of its own, and all entries go at once.
    """
    stop = len(array) if stop is None else stop
    length = BLOCK if device_of(array) == CPU else max(1, stop - start)
    return [slice(i, min(i + length, stop)) for i in range(start, stop, length)]


def dots(x, y):
    """Σ x ⊙ y along the last axis; NumPy need not make an array of x ⊙ y for it."""
    return np.vecdot(x, y) if device_of(x) == CPU else (x * y).sum(-1)


def add_at(array, index, values):
    """array[index] += values, in which a place that the index names twice gets both.

    On a GPU contributions arrive in any order, and a sum of floating-point numbers depends on it.
    So they are rounded to whole multiples of a unit, a 2⁶²-th of the largest possible sum: whole
    numbers have the same sum in every order, and the same run gives the same bits.  (One value that
    is not finite makes all of the array so; on a CPU only its own place.)
    """
    if device_of(array) == CPU:
        np.add.at(array, index, values)
    elif values.size:
        largest = abs(values).max().astype(np.float64)
        largest = cupy.maximum(largest, 1e-280)  # not 0: we divide by it
        bits = 62 - values.size.bit_length()  # so that the sum of all values fits into 63
        units_per_one = 2.0**bits / largest
        whole = cupy.rint(values * units_per_one).astype(np.int64)
        # As unsigned integers, for not every CuPy adds signed ones; modulo 2⁶⁴ all bits are right.
        total = cupy.zeros(array.shape, np.uint64)
        cupy.add.at(total, index, whole.view(np.uint64))
        array += (total.view(np.int64) / units_per_one).astype(array.dtype)


@functools.cache
def _kernel(name):
    """The CUDA function `name` of kernels/<name>.cu; CuPy compiles it when it is first called."""
    source = Path(__file__).parent / "kernels" / f"{name}.cu"
    return cupy.RawKernel(source.read_text(encoding="utf-8"), name)


def launch(name, n_threads, *arguments):
    """Run kernels/<name>.cu with so many threads.

    An argument is a NumPy scalar or a contiguous array on the GPU.  CUDA checks no types: they must
    be those that the kernel declares, in its order.
    """
    for x in arguments:
        if not (isinstance(x, np.generic) or device_of(x) == GPU and x.flags.c_contiguous):
            raise TypeError(
                f"{name}: an argument must be a NumPy scalar or a contiguous array on the GPU, "
                f"not {type(x).__name__}"
            )
    if n_threads:
        n_blocks = -(-n_threads // 256)  # of 256 threads each, rounded up
        _kernel(name)((n_blocks,), (256,), arguments)


def keep_freed_memory():
    """Have the C library keep memory that is freed, for the next arrays, where it is glibc.

    By default every large array goes back to the system when it is freed, and the next one of its
    size comes as fresh pages that must be zeroed and mapped in, at every step again.
    """
    M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD = -3, -1, -2  # from glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library: nothing to tell it
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_TOP_PAD, 1 << 26)


# ---- is there a GPU, and does it work? -----------------------------------------------------------

INSTALL = 'pip install "gpt-numpy[gpu]"'  # made for CUDA 12, which drivers for CUDA 13 run too

TRIALS = {  # what CuPy must be able to do -> whether it has done it
    "hold an array": lambda library: not library.zeros(1 << 20, np.float32).get().any(),
    "compile a kernel": lambda library: (library.arange(3) * 2).get().tolist() == [0, 2, 4],
    "multiply matrices": lambda library: (
        (library.ones((2, 3)) @ library.ones((3, 2))).get().tolist() == [[3, 3], [3, 3]]
    ),
}


def open_gpu():
    """See to it that the GPU can be used; NoGPU says why it cannot."""
    global cupy
    if cupy is None:
        library = import_cupy()
        find_gpu(library)
        for what in TRIALS:
            attempt(what, library)
        cupy = library


def choose(device):
    """(device, note) for "cpu", "gpu" or "auto"; NoGPU if a GPU was asked for and there is none.

    auto    the GPU if there is one that works, else the CPU
    note    which GPU it is, or why it is none
    """
    if device not in (CPU, GPU, "auto"):
        raise ValueError(f"there is no device {device!r}: choose 'auto', {CPU!r} or {GPU!r}")
    if device == CPU:
        return CPU, ""
    try:
        open_gpu()
    except NoGPU as error:
        if device == GPU:
            raise
        return CPU, str(error)
    return GPU, gpu_name(cupy)


def import_cupy():
    """CuPy, as it can be imported; NoGPU if it cannot."""
    failure = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of is looked for below
            import cupy
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise NoGPU(f"CuPy is not installed; for an NVIDIA GPU: {INSTALL}") from None
        failure = error
    packages = installed_cupys()
    if len(packages) > 1:
        raise NoGPU(
            f"{' and '.join(packages)} are installed and overwrite each other: {install_anew()}"
        )
    if failure:
        reason = in_one_line(failure.__cause__ or failure)  # CuPy wraps it in long advice
        raise NoGPU(f"CuPy is installed but does not load ({reason}): {install_anew()}")
    return cupy


def installed_cupys():
    """The names of all installed packages that hold a CuPy: cupy-cuda12x, say."""
    from importlib.metadata import distributions  # here, for its import takes a while

    names = {d.metadata["Name"] or "" for d in distributions()}
    return sorted(n for n in names if re.fullmatch(r"cupy(-(cuda|rocm)[\w-]+)?|amd-cupy", n))


def install_anew():
    """How to replace the CuPy that is installed."""
    return f"pip uninstall -y {' '.join(installed_cupys()) or 'cupy'}, then {INSTALL}"


def find_gpu(library):
    """Raise NoGPU unless there are a driver and a GPU."""
    runtime = library.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise NoGPU(
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
        raise NoGPU(
            f"the NVIDIA driver is made for CUDA {driver // 1000} and CuPy for CUDA "
            f"{needed // 1000}: update the driver" + f", or {install_anew()}" * (driver >= 12000)
        )
    raise NoGPU(
        f"the NVIDIA driver sees no GPU ({error}): nvidia-smi should list one, and "
        "CUDA_VISIBLE_DEVICES should not hide it"
    )


def attempt(what, library):
    """Have CuPy do one of TRIALS; NoGPU if it does not succeed."""
    try:
        if TRIALS[what](library):
            return
        reason = "the result is wrong"
    except Exception as error:
        reason = in_one_line(error)
        if out_of_memory(error):
            raise NoGPU(
                f"the GPU has no memory left ({reason}): nvidia-smi shows which program holds it"
            ) from error
    raise NoGPU(f"CuPy cannot {what} on the GPU ({reason}): {install_anew()}")


def out_of_memory(error):
    """Whether an error of NumPy, CuPy, CUDA or cuBLAS says that there is not enough memory."""
    signs = "cudaErrorMemoryAllocation CUDA_ERROR_OUT_OF_MEMORY CUBLAS_STATUS_ALLOC_FAILED".split()
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def in_one_line(error):
    """What an error says, without line breaks and not at length; its kind if it says nothing."""
    return textwrap.shorten(str(error), 160, placeholder=" ...") or type(error).__name__


def gpu_name(library):
    """Say which GPU it is that CuPy uses."""
    properties = library.cuda.runtime.getDeviceProperties(0)
    gigabytes = properties["totalGlobalMem"] / 2**30
    return f"{properties['name'].decode()}, {gigabytes:.0f} GiB, CuPy {library.__version__}"
