"""The affine map: the one op in which nearly all of a GPT's work is done."""

from minigrad.faults import misfit
from minigrad.tensor import op


@op
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

    Numerics    All axes in front are flattened into rows, so that forward and backward are one
                large matrix product each, not a batch of small ones.
    """
    bias_shape = weight.shape[:1] if bias is None else bias.shape
    if weight.ndim != 2 or weight.shape != bias_shape + x.shape[-1:]:
        fault = misfit("x (..., I)  weight (O, I)  bias (O,)", x=x, weight=weight, bias=bias)
        raise ValueError(f"linear: {fault}")
    x_shape = x.shape
    rows = x.reshape(-1, x_shape[-1])  # (N, I), N rows in all
    out = rows @ weight.T  # (N, O)
    if bias is not None:
        out += bias

    def backward(dout):
        dout = dout.reshape(-1, len(weight))  # (N, O)
        dx = (dout @ weight).reshape(x_shape)
        dweight = dout.T @ rows
        dbias = None if bias is None else dout.sum(0)
        return dx, dweight, dbias

    return out.reshape(*x_shape[:-1], len(weight)), backward
