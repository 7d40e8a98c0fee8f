"""Load cuBLAS, the library of matrix products that CuPy has loaded, for calls by ctypes."""

import ctypes
import functools

from minigrad.internals.gpu import in_one_line, init_gpu
from minigrad.internals.hooks import PRECISIONS

P, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
MATRIX = [P, INT, INT, LONG]  # its address, type, leading dimension, and step to the next one
SIGNATURES = {  # of the functions that are called: the types of their arguments
    "cublasCreate_v2": [P],
    "cublasSetStream_v2": [P, P],
    "cublasSetWorkspace_v2": [P, P, ctypes.c_size_t],
    "cublasGemmStridedBatchedEx": [P, *[INT] * 5, P, *MATRIX, *MATRIX, P, *MATRIX, *[INT] * 3],
    "cublasGetProperty": [INT, P],
    "cublasGetStatusName": [INT],
    "cublasGetStatusString": [INT],
}


def load():
    """Return the cuBLAS that CuPy has loaded, through CuPy's own module, which is linked to it.

    A search by name could find another version, such as PyTorch's.
    """
    return ctypes.CDLL(init_gpu().cuda.cublas.__file__)


@functools.cache
def library():
    """Return cuBLAS with the types of its functions declared."""
    cublas = load()
    for name, types in SIGNATURES.items():
        getattr(cublas, name).argtypes = types
    cublas.cublasGetStatusName.restype = cublas.cublasGetStatusString.restype = ctypes.c_char_p
    return cublas


@functools.cache
def why_not():
    """Return why cuBLAS cannot be called, in one line; nothing if it can."""
    try:
        library()
    except (ImportError, OSError, AttributeError) as error:
        return in_one_line(error)
    return ""


def why_no_tf32():
    """Return why this GPU does not multiply in tf32, in one line; nothing if it does."""
    runtime = init_gpu().cuda.runtime
    if runtime.getDeviceProperties(runtime.getDevice())["major"] < 8:
        return "the tensor cores of this GPU are older than compute capability 8.0"
    return f"cuBLAS cannot be called: {why_not()}" if why_not() else ""


def precisions():
    """Return the names of the precisions in which this GPU multiplies, the fastest last."""
    return PRECISIONS[:1] if why_no_tf32() else PRECISIONS


def summary():
    """Return what multiplies matrices on the GPU, in words."""
    if why_not():
        return f"CuPy, because cuBLAS cannot be called: {why_not()}"
    return f"cuBLAS {version()}"


def version():
    """Return the version of cuBLAS, such as "12.9.3"."""
    numbers = [ctypes.c_int() for _ in range(3)]
    for which, number in enumerate(numbers):
        library().cublasGetProperty(which, ctypes.byref(number))
    return ".".join(str(number.value) for number in numbers)
