"""The affine map: the one op in which nearly all of a GPT's work is done."""

import math

from minigrad.backend import accurate_sum
from minigrad.internals.errors import check_shapes
from minigrad.tensor import op


@op
@check_shapes("x (..., I)  weight (O, I)  bias (O,)")
def linear(x, weight, bias=None):
    """out = x Wᵀ + b

    Shapes      x (..., I)   weight W (O, I)   bias b (O,) or None   out (..., O)
    Source      the product rule; W is stored (out, in), as PyTorch stores it
    Derivation  For one row, outₒ = Σᵢ xᵢ Wₒᵢ + bₒ, so

                    dxᵢ  = Σₒ doutₒ Wₒᵢ       dx = dout W
                    dWₒᵢ = doutₒ xᵢ           summed over all rows, which share W:  dW = doutᵀ x
                    dbₒ  = doutₒ              summed over all rows

    In words    The gradient of the weight from i to o is the input at i times the gradient at o:
                a weight through which nothing came cannot be to blame.

    Numerics    The axes in front are flattened into rows, so that forward and backward are one
                large matrix product each, not a batch of small ones.
    """
    O, I = weight.shape
    *front, _ = x.shape
    N = math.prod(front)
    rows = x.reshape(N, I)
    out = rows @ weight.T  # (N, O)
    out = out if bias is None else out + bias

    def backward(dout):
        dout = dout.reshape(N, O)
        dx = (dout @ weight).reshape(*front, I)
        dweight = dout.T @ rows
        dbias = None if bias is None else accurate_sum(dout, 0)
        return dx, dweight, dbias

    return out.reshape(*front, O), backward
