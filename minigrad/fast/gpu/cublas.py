"""Matrix products on a GPU by cuBLAS, called through ctypes with a handle of our own.

CuPy calls the same library, but it copies the matrices of a batch unless they are contiguous,
cannot add to a result, has one precision for the whole process, and cannot be recorded in a CUDA
graph (version 14.2).  One function of cuBLAS does all of this, cublasGemmStridedBatchedEx:

    C ← A B + β C    for every matrix of a batch,  with β = 0 or 1

Layout      cuBLAS reads memory by columns: entry (i, j) is at i + j·ld, where ld is the "leading
            dimension".  Memory that holds a matrix row after row therefore holds its transpose
            column after column.  So we ask for  Cᵀ = Bᵀ Aᵀ,  with the operands exchanged, and no
            entry is moved.  An operand that lies column after column, such as weight.T, is read
            with the flag T, for transposed.
Precision   "float32"  products and sums in float32
            "tf32"     the factors are rounded to 10 bits behind the leading one, of float32's 23,
                       by less than 2⁻¹⁰ of their size; their products are added up in float32.
                       The tensor cores of compute capability 8.0 and newer do this much faster.
            Products of float64 are always computed in float64.
Source      NVIDIA, "cuBLAS" (docs.nvidia.com/cuda/cublas), under the name of the function; the
            numbers below are those of its enumerations
"""

import ctypes
import functools
import itertools
import threading

import numpy as np

from minigrad import backend
from minigrad.fast.arrays import same_float_dtype
from minigrad.internals.cublas import library, why_not
from minigrad.internals.hooks import this_thread

N, T = 0, 1  # cublasOperation_t
TYPES = {"float32": 0, "float64": 1}  # cudaDataType_t
COMPUTE = {  # cublasComputeType_t
    ("float32", "float32"): 68,
    ("float32", "tf32"): 77,
    ("float64", "float32"): 70,
    ("float64", "tf32"): 70,
}
NUMBERS = {  # β as an address; α is 1
    name: [ctypes.byref(kind(beta)) for beta in (0, 1)]
    for name, kind in (("float32", ctypes.c_float), ("float64", ctypes.c_double))
}
LONGEST = 2**31 - 1  # what cuBLAS takes as a length
WORKSPACE = 32 << 20  # bytes: what NVIDIA recommends for an H100


def fits(*arrays):
    """Return whether gemm() takes these arrays: of one dtype, float32 or float64; None is ignored.

    False as well where cuBLAS cannot be called, and then CuPy multiplies.
    """
    return same_float_dtype(*arrays) and arrays[0].dtype.name in TYPES and not why_not()


def gemm(a, b, out=None, accumulate=False, precision=None):
    """Return a @ b; written to `out` if that is given, or added to it if `accumulate` is true.

    a, b       (..., M, K) and (..., K, N), of one dtype, float32 or float64.  The axes in front
               broadcast.  A matrix is read where it is if its rows or its columns are contiguous;
               others are copied.
    out        (..., M, N), with contiguous rows or columns, apart from a and b in memory
    precision  "float32" or "tf32"; by default that of mg.precision()

    Raises ValueError for arrays that do not fit, RuntimeError if cuBLAS fails
    """
    cupy = backend.cupy
    (m, k), n = a.shape[-2:], b.shape[-1]
    front = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if b.shape[-2] != k or b.dtype != a.dtype:
        raise ValueError(
            f"gemm: {a.shape} of {a.dtype} and {b.shape} of {b.dtype} do not fit: axis -1 of the "
            "first must be as long as axis -2 of the second, and both must have one dtype"
        )
    if out is None:
        out = cupy.empty((*front, m, n), a.dtype)
    elif (out.shape, out.dtype) != ((*front, m, n), a.dtype) or (out.size and not layout(out)):
        raise ValueError(
            f"gemm: out must be {(*front, m, n)} of {a.dtype} with contiguous rows or columns, it "
            f"is {out.shape} of {out.dtype} with strides {out.strides}"
        )
    if not k and not accumulate:
        out[...] = 0
    if k and out.size:
        if layout(out)[1] == T:  # by columns: then its transpose is by rows
            a, b, c = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
        else:
            c = out
        a, b = map(readable, (a, b))
        if front:
            a, b = (cupy.broadcast_to(x, (*front, *x.shape[-2:])) for x in (a, b))
        multiply(a, b, c, accumulate, precision or this_thread.precision)
    return out


def layout(x):
    """Return (ld, N if matrices (..., R, C) lie row after row, else T); None if they do neither."""
    R, C = x.shape[-2:]
    row, column = (step // x.itemsize for step in x.strides[-2:])  # in entries
    if (C == 1 or column == 1) and (R == 1 or row >= C):
        return (C if R == 1 else row), N
    if (R == 1 or row == 1) and column >= R:
        return column, T
    return None


def readable(x):
    """Return x, or a contiguous copy if cuBLAS cannot read it where it is."""
    if layout(x) is None or min(x.strides) < 0:
        return backend.cupy.ascontiguousarray(x)
    return x


def multiply(a, b, c, accumulate, precision):
    """Call cuBLAS for a, b and c (..., M, N), whose axes in front agree; c lies by rows."""
    *front, m, n = c.shape
    k, dtype = a.shape[-1], c.dtype.name
    (lda, flag_a), (ldb, flag_b), (ldc, _) = map(layout, (a, b, c))
    *loops, (count, steps) = batch_axes(front, [x.strides[:-2] for x in (a, b, c)])
    if max(m, n, k, lda, ldb, ldc, count) > LONGEST:
        raise ValueError(f"gemm: {a.shape} @ {b.shape} has lengths that do not fit into 32 bits")
    handle, kind = current_handle(), TYPES[dtype]
    (sa, sb, sc), size = steps, c.itemsize
    for indices in itertools.product(*[range(length) for length, _ in loops]):
        pa, pb, pc = (
            x.data.ptr + sum(i * step[j] for i, (_, step) in zip(indices, loops, strict=True))
            for j, x in enumerate((a, b, c))
        )
        status = library().cublasGemmStridedBatchedEx(
            handle, flag_b, flag_a, n, m, k, NUMBERS[dtype][1],
            pb, kind, ldb, sb // size, pa, kind, lda, sa // size, NUMBERS[dtype][accumulate],
            pc, kind, ldc, sc // size, count, COMPUTE[dtype, precision], -1,
        )  # fmt: skip
        check(status, f"multiply {a.shape} by {b.shape} in {precision}")


def batch_axes(lengths, strides):
    """Return the axes of a batch as [(length, (a step for each operand)), ...], the longest last.

    Neighbouring axes become one where the outer step is the inner axis's whole length, for each
    operand.  cuBLAS itself goes along one axis; for the others it is called again and again.
    """
    axes: list = []
    for n, *steps in zip(lengths, *strides, strict=True):
        if axes and all(outer == n * step for outer, step in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * n, steps)
        elif n > 1:
            axes.append((n, steps))
    return sorted(axes, key=lambda axis: axis[0]) or [(1, (0, 0, 0))]


# ---- the handle ----------------------------------------------------------------------------------


class Handle:
    """cuBLAS's own state for one thread on one GPU; it lasts until the program ends."""

    def __init__(self):
        self.pointer, self.stream = ctypes.c_void_p(), None
        self.workspaces = {}  # stream -> an array; kept, because recorded graphs write into them
        check(library().cublasCreate_v2(ctypes.byref(self.pointer)), "start")

    def use(self, stream):
        """Send the next products to a CUDA stream, given by its address."""
        if stream not in self.workspaces:
            self.workspaces[stream] = backend.cupy.empty(WORKSPACE, np.uint8)
        workspace = self.workspaces[stream].data.ptr
        check(library().cublasSetStream_v2(self.pointer, stream), "use a stream")
        # After the stream, because a new stream comes with the library's own workspace.
        status = library().cublasSetWorkspace_v2(self.pointer, workspace, WORKSPACE)
        check(status, "use a workspace")
        self.stream = stream


@functools.cache
def handle_of(thread, device):
    """Return the Handle of a thread on a GPU; both are given by their numbers."""
    return Handle()


def current_handle():
    """Return the address of this thread's handle, which uses CuPy's current stream."""
    cuda = backend.cupy.cuda
    handle = handle_of(threading.get_ident(), cuda.runtime.getDevice())
    stream = cuda.get_current_stream().ptr
    if stream != handle.stream:
        handle.use(stream)
    return handle.pointer


def check(status, what):
    """Raise RuntimeError, in cuBLAS's words, unless a call has succeeded."""
    if status:
        name, meaning = (
            describe(status).decode()
            for describe in (library().cublasGetStatusName, library().cublasGetStatusString)
        )
        raise RuntimeError(f"cuBLAS cannot {what}: {name}, {meaning}")
