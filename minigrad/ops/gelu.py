"""GELU: a smooth gate that lets large inputs pass and holds small ones back."""

import math

from minigrad.device import array_module, blocks
from minigrad.tensor import op

C, A = math.sqrt(2 / math.pi), 0.044715


@op
def gelu(x):
    """out = x s,  where  s = ½ (1 + tanh u)  and  u = c (x + a x³)

    Shapes      out like x;  the constants  c = √(2/π)  and  a = 0.044715  are C and A in code
    Source      Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", arXiv:1606.08415: x Φ(x),
                Φ the normal distribution function, in its tanh form, which GPT-2 uses
    Derivation  tanh' = 1 − tanh²,  and  1 − tanh² u = (1 + tanh u)(1 − tanh u) = 4 s (1 − s).  So

                    u' = c (1 + 3 a x²)
                    s' = ½ · 4 s (1 − s) u' = 2 s (1 − s) u'

                and by the product rule  out' = s + x s' = s + 2 out (1 − s) u',  dx = dout out'

    In words    s is the gate, from 0 (shut) to 1 (open).  A step in x moves out by the gate, and
                by x times what the step does to the gate.
    """
    xp = array_module(x)
    entries = x.reshape(-1)
    out, slope = xp.empty_like(entries), xp.empty_like(entries)
    # A block at a time, whose intermediate results stay in the processor's cache; and the slope
    # now, while s is at hand.  Forward and backward together take half as long.
    for block in blocks(entries):
        value_and_slope(entries[block], out[block], slope[block])

    def backward(dout):
        return (dout * slope.reshape(x.shape),)

    return out.reshape(x.shape), backward


def value_and_slope(x, out, slope):
    """Fill `out` and `slope` = out' by the formulas above."""
    xp = array_module(x)
    x2 = x * x
    u = x2 * (C * A)  # u = (c a x² + c) x, in place, where a plain line would make new arrays
    u += C
    u *= x
    s = xp.tanh(u, out=u)  # u is not needed again
    s += 1
    s *= 0.5
    xp.multiply(x, s, out=out)
    du2 = x2  # 2 u' = 2 c + 6 c a x², where x² was
    du2 *= 6 * C * A
    du2 += 2 * C
    xp.subtract(1, s, out=slope)  # out' = (1 − s) out 2 u' + s
    slope *= out
    slope *= du2
    slope += s
