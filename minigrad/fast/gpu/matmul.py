"""Matrix products by cuBLAS."""

import numpy as np

from minigrad import ops
from minigrad.fast import twin
from minigrad.fast.gpu.cublas import fits, gemm
from minigrad.fast.gpu.linear import linear
from minigrad.ops.elementwise import unbroadcast


@twin(ops.matmul, "gpu")
def matmul(x, y):
    """Differs    Transposed and strided matrices are read where they are, in the precision that is
                  set.  If y is one matrix, all rows of x together are one matrix too.
    Declines      vectors, integers, a mix of dtypes, and shapes that the page refuses
    """
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2] or not fits(x, y):
        return NotImplemented
    if y.ndim == 2:
        out, backward_of_linear = linear(x, y.T)

        def backward_of_rows(dout):
            dx, dy_T, _ = backward_of_linear(dout)
            return dx, dy_T.T

        return out, backward_of_rows
    try:
        np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        return NotImplemented

    def backward(dout):
        dx = gemm(dout, y.swapaxes(-1, -2))
        dy = gemm(x.swapaxes(-1, -2), dout)
        return unbroadcast(dx, x.shape), unbroadcast(dy, y.shape)

    return gemm(x, y), backward
