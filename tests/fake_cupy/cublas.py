"""cuBLAS without a GPU: NumPy multiplies what the addresses, strides and leading dimensions name.

It is strict:

* Arguments are checked against the C declarations, which are written here once more: ctypes, left
  to itself, passes addresses as 32-bit integers and cuts lengths off.
* Every matrix must lie within one array of the GPU, to its last entry, and the results of a batch
  may share no entry with each other, nor with an operand.
* Where β is 0 the result is filled with NaN first: what is there must not be read.
* A handle needs a workspace of its caller's, and forgets it when it is given another stream.
* With "tf32" the factors are rounded as the PTX instruction cvt.rna.tf32 does: to 10 bits, ties
  away from zero.  How the tensor cores add up is not shown.

`ledger` counts the calls (launches["cublas"]), their floating-point operations and their bytes.
"""

import ctypes
import itertools

import numpy as np
from numpy.lib.stride_tricks import as_strided

import fake_cupy
from fake_cupy import streams

OK, NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 0, 1, 7, 15
WORDS = {
    OK: (b"CUBLAS_STATUS_SUCCESS", b"success"),
    NOT_INITIALIZED: (b"CUBLAS_STATUS_NOT_INITIALIZED", b"the library was not initialized"),
    INVALID_VALUE: (b"CUBLAS_STATUS_INVALID_VALUE", b"an unsupported value was passed"),
    NOT_SUPPORTED: (b"CUBLAS_STATUS_NOT_SUPPORTED", b"the functionality is not supported"),
}
TYPES = {0: np.float32, 1: np.float64}
COMPUTE = {68: np.float32, 77: np.float32, 70: np.float64}
VERSION = (12, 9, 0)
Pointer, Int, Size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
Long = ctypes.c_longlong


class Function:
    """A function of the library.  A subclass has `declared` types, and computes in `call`."""

    restype = ctypes.c_int
    argtypes: list | None = None

    def __init__(self, function, declared):
        self.function, self.declared = function, declared

    def __call__(self, *arguments):
        name = self.function.__name__
        assert self.argtypes == self.declared, f"{name}: the types of its arguments are not right"
        pairs = zip(arguments, self.declared, strict=True)
        return self.function(*[converted(name, x, kind) for x, kind in pairs])


def converted(name, x, kind):
    """Return an argument as C receives it; a pointer by reference as the object behind it."""
    if kind is Pointer:
        if isinstance(x, Pointer):
            return x.value
        return getattr(x, "_obj", x)
    assert type(x) in (int, bool), f"{name}: {x!r} is no integer"
    assert kind(x).value == x, f"{name}: {x} does not fit into {kind.__name__}"
    return int(x)


class Library:
    """What ctypes.CDLL makes of cuBLAS."""

    def __init__(self):
        self.handles, self.numbers = {}, itertools.count(1)
        matrix = [Pointer, Int, Int, Long]
        for name, types in {
            "cublasCreate_v2": [Pointer],
            "cublasSetStream_v2": [Pointer, Pointer],
            "cublasSetWorkspace_v2": [Pointer, Pointer, Size],
            "cublasGemmStridedBatchedEx": [
                Pointer, Int, Int, Int, Int, Int,
                Pointer, *matrix, *matrix, Pointer, *matrix, Int, Int, Int,
            ],
            "cublasGetProperty": [Int, Pointer],
            "cublasGetStatusName": [Int],
            "cublasGetStatusString": [Int],
        }.items():  # fmt: skip
            method = name.removesuffix("_v2").removeprefix("cublas")
            setattr(self, name, Function(getattr(self, method), types))

    def Create(self, handle):
        handle.value = next(self.numbers)
        self.handles[handle.value] = {"stream": 0, "workspace": None}
        return OK

    def SetStream(self, handle, stream):
        if handle not in self.handles:
            return NOT_INITIALIZED
        self.handles[handle] = {"stream": stream or 0, "workspace": None}
        return OK

    def SetWorkspace(self, handle, address, size):
        if handle not in self.handles:
            return NOT_INITIALIZED
        fake_cupy._memory_at(address, size)
        self.handles[handle]["workspace"] = address
        return OK

    def GetProperty(self, which, number):
        number.value = VERSION[which]
        return OK

    def GetStatusName(self, status):
        return WORDS[status][0]

    def GetStatusString(self, status):
        return WORDS[status][1]

    def GemmStridedBatchedEx(
        self, handle, flag_a, flag_b, m, n, k,
        alpha, a, type_a, lda, step_a, b, type_b, ldb, step_b,
        beta, c, type_c, ldc, step_c, count, compute, algorithm,
    ):  # fmt: skip
        """C ← α op(A) op(B) + β C, where op(A) is (m, k) and op(B) is (k, n), all by columns."""
        if handle not in self.handles:
            return NOT_INITIALIZED
        if not {flag_a, flag_b} <= {0, 1} or compute not in COMPUTE or algorithm != -1:
            return INVALID_VALUE
        if len({type_a, type_b, type_c}) > 1 or TYPES.get(type_a) is not COMPUTE[compute]:
            return NOT_SUPPORTED
        rows_a, columns_a = (k, m) if flag_a else (m, k)
        rows_b, columns_b = (n, k) if flag_b else (k, n)
        if min(m, n, k, count) < 0 or lda < max(1, rows_a) or ldb < max(1, rows_b):
            return INVALID_VALUE
        if ldc < max(1, m):
            return INVALID_VALUE
        assert self.handles[handle]["workspace"], "the workspace is cuBLAS's own: not in a graph"
        assert min(m, n, k, count) > 0, "nothing to compute: not worth a call"
        dtype = np.dtype(TYPES[type_a])
        number = ctypes.c_float if dtype == np.float32 else ctypes.c_double
        assert type(alpha) is type(beta) is number, "α and β have the type of the sums"
        A, of_a = matrices(a, dtype, rows_a, columns_a, lda, step_a, count)
        B, of_b = matrices(b, dtype, rows_b, columns_b, ldb, step_b, count)
        C, of_c = matrices(c, dtype, m, n, ldc, step_c, count)
        if streams.poisoning:  # otherwise memory is too large to look at
            check_apart(A, B, C)
        stream = fake_cupy.cuda.get_current_stream().ptr
        assert self.handles[handle]["stream"] == stream, "the handle is on another stream"
        factor, keep = dtype.type(alpha.value), dtype.type(beta.value)

        def product():
            x, y = (tf32(A), tf32(B)) if compute == 77 else (A, B)
            x, y = x.swapaxes(1, 2) if flag_a else x, y.swapaxes(1, 2) if flag_b else y
            with np.errstate(all="ignore"):
                xy = np.matmul(x, y) * factor
                C[...] = xy if keep == 0 else xy + keep * C

        n_bytes = A.nbytes + B.nbytes + (1 + (beta.value != 0)) * C.nbytes
        workspace = fake_cupy._owner_at(self.handles[handle]["workspace"], 1)
        arrays = of_a, of_b, of_c, workspace
        fake_cupy._launch("cublas", product, arrays, n_bytes, 2 * m * n * k * count)
        return OK


def matrices(address, dtype, rows, columns, ld, step, count):
    """Return (matrices (count, rows, columns) at an address, by columns; the array they are in)."""
    assert step >= 0, "matrices of a batch come one after another"
    size = dtype.itemsize
    n = (step * (count - 1) + ld * (columns - 1) + rows) * size
    assert address % size == 0, "an entry lies between two places"
    memory = fake_cupy._memory_at(address, n).view(dtype)
    strides = step * size, size, ld * size
    return as_strided(memory, (count, rows, columns), strides), fake_cupy._owner_at(address, n)


def check_apart(A, B, C):
    """Refuse results that overlap each other or an operand."""
    places = entries(C)
    assert np.unique(places).size == C.size, "the results of a batch overlap"
    for operand in (A, B):
        if np.may_share_memory(operand, C):
            shared = np.intersect1d(entries(operand), places)
            assert not shared.size, "a result overlaps an operand"


def entries(x):
    """Return the address of every entry of an array."""
    steps = (np.arange(n) * step for n, step in zip(x.shape, x.strides, strict=True))
    return x.ctypes.data + sum(np.ix_(*steps))


def tf32(x):
    """Return float32 numbers rounded to 10 bits behind the leading one, ties away from zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = ((bits + np.uint32(1 << 12)) & np.uint32(~((1 << 13) - 1) % 2**32)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)
