"""GELU with a cached derivative."""

import math

import numpy as np

from minigrad import ops
from minigrad.fast import twin
from minigrad.fast.arrays import chunks
from minigrad.ops.gelu import A, C


@twin(ops.gelu, "cpu")
def gelu(x):
    """Differs    The forward pass computes the derivative too, while s is in the cache, a chunk of
                  entries at a time and in place; backward is one product.  Two arrays are kept, out
                  and the derivative, where the page keeps x², s and out.  The gate is written as
                  s = 1 / (1 + exp(−2u)), the same by tanh u = 2 / (1 + exp(−2u)) − 1: NumPy's exp
                  takes half as long as its tanh.  An exp that overflows shuts the gate, s = 0.
    Declines      integers
    """
    if x.dtype.kind != "f":
        return NotImplemented
    shape = x.shape
    entries = x.reshape(-1)
    out, slope = np.empty_like(entries), np.empty_like(entries)
    with np.errstate(over="ignore"):
        limit = not math.isfinite(entries @ entries)  # some x²: cheaper than to limit every x
        for chunk in chunks(entries):
            value_and_slope(entries[chunk], out[chunk], slope[chunk], limit)

    def backward(dout):
        return (dout * slope.reshape(shape),)

    return out.reshape(shape), backward


def value_and_slope(x, out, slope, limit):
    """Fill `out` and `slope` = out' by the formulas of the page; `limit`: some x² overflows."""
    near = np.clip(x, -30, 30) if limit else x
    x2 = near * near
    s = x2 * (-2 * C * A)  # at first −2u = (−2 c a x² − 2 c) x
    s -= 2 * C
    s *= near
    np.exp(s, out=s)
    s += 1
    np.reciprocal(s, out=s)
    np.multiply(x, s, out=out)
    du2 = x2  # 2 u' = 2 c + 6 c a x², in the memory of x²
    du2 *= 6 * C * A
    du2 += 2 * C
    np.subtract(1, s, out=slope)  # out' = (1 − s) out 2 u' + s
    slope *= out
    slope *= du2
    slope += s
