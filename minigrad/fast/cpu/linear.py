"""The affine map, with the bias added in place."""

import math

from minigrad import ops
from minigrad.fast import twin
from minigrad.fast.arrays import same_float_dtype, sum_of_rows


@twin(ops.linear, "cpu")
def linear(x, weight, bias=None):
    """Differs    The bias is added in place, and its gradient is a product with ones.
    Declines      integers, a mix of dtypes, and shapes that the page refuses
    """
    bias_shape = weight.shape[:1] if bias is None else bias.shape
    if weight.ndim != 2 or weight.shape != bias_shape + x.shape[-1:]:
        return NotImplemented
    if not same_float_dtype(x, weight, bias):
        return NotImplemented
    O, I = weight.shape
    *front, _ = x.shape
    rows = x.reshape(math.prod(front), I)
    out = rows @ weight.T
    if bias is not None:
        out += bias

    def backward(dout):
        dout = dout.reshape(len(rows), O)
        dx = (dout @ weight).reshape(*front, I)
        return dx, dout.T @ rows, None if bias is None else sum_of_rows(dout)

    return out.reshape(*front, O), backward
