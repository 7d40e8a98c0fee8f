"""Layer norm by matrix products, in place."""

import numpy as np

from minigrad import ops
from minigrad.fast import twin
from minigrad.fast.arrays import same_float_dtype, sum_of_rows, vecdot

FAR = 4  # standard deviations: a mean below is rounded by less than x̂ is


@twin(ops.layer_norm, "cpu")
def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Differs    The mean of a row is a product with (1/C, ..., 1/C), a sum of squares a product of
                  the row with itself, and a sum over rows a product with ones: none of them needs
                  an array for what is added up.  In place.  The mean is subtracted once.
    Declines      a mean so far from 0 that its rounding would matter, NaN, a missing weight, a mix
                  of dtypes, rows without entries, and shapes that the page refuses
    """
    if weight is None or not x.ndim or not x.size or not same_float_dtype(x, weight, bias):
        return NotImplemented
    if not x.shape[-1:] == weight.shape == (weight if bias is None else bias).shape:
        return NotImplemented
    C = x.shape[-1]
    average = np.full(C, 1 / C, x.dtype)
    mean = x @ average  # (...,)
    xhat = x - mean[..., None]  # at first x − μ
    rstd = 1 / np.sqrt(vecdot(xhat, xhat) / C + eps)  # (...,)
    if not abs(mean * rstd).max() <= FAR:
        return NotImplemented
    rstd = rstd[..., None]
    xhat *= rstd
    out = xhat * weight
    if bias is not None:
        out += bias

    def backward(dout):
        dweight = sum_of_rows((dout * xhat).reshape(-1, C))
        dbias = None if bias is None else sum_of_rows(dout.reshape(-1, C))
        dx = dout * weight  # at first dx̂
        along_ones = (dx @ average)[..., None]
        along_xhat = vecdot(dx, xhat)[..., None] / C
        dx -= along_ones
        dx -= xhat * along_xhat
        dx *= rstd
        return dx, dweight, dbias

    return out, backward
