"""The affine map by cuBLAS."""

import math

from minigrad import ops
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.fast.gpu.column_sum import column_sum
from minigrad.fast.gpu.cublas import fits, gemm
from minigrad.internals.guards import grad_slot


@twin(ops.linear, "gpu")
def linear(x, weight, bias=None):
    """Differs    Three products without a copy, in the precision that is set.  The bias is written
                  to out first, and the product added to it: of the three passes over out that a
                  bias costs either way, only the writing is then a pass of its own.  Its gradient
                  is a sum over rows by two kernels.  Gradients of parameters are written to where
                  their optimizer wants them.
    Declines      integers, a mix of dtypes, and shapes that the page refuses
    """
    bias_shape = weight.shape[:1] if bias is None else bias.shape
    if weight.ndim != 2 or weight.shape != bias_shape + x.shape[-1:] or not fits(x, weight, bias):
        return NotImplemented
    O, I = weight.shape
    *front, _ = x.shape
    N = math.prod(front)
    rows, out = x.reshape(N, I), array_module(x).empty((N, O), x.dtype)
    if bias is not None:
        out[...] = bias
    gemm(rows, weight.T, out, accumulate=bias is not None)

    def backward(dout):
        dout = dout.reshape(N, O)
        dx, dweight = gemm(dout, weight), gemm(dout.T, rows, grad_slot(weight, x))
        dbias = None if bias is None else column_sum(dout, grad_slot(bias, x))
        return dx.reshape(*front, I), dweight, dbias

    return out.reshape(*front, O), backward
