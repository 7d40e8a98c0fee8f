"""GELU: a smooth gate that lets large inputs pass and holds small ones back."""

import math

from minigrad.backend import array_module
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

                and by the product rule  out' = s + x s' = s + 2 (1 − s) u' out,  dx = dout out'

    In words    s is the gate, from 0 (shut) to 1 (open).  A step in x moves out by the gate, and
                by x times what the step does to the gate.

    Numerics    Beyond |x| = 10 the gate is fully open or shut, in every dtype, and 1 − s or out is
                0.  So the gate may read x limited to ±10 (`near`), of which no power overflows.
                x³ is written x x², because a cube is ten times slower than a product.
    """
    xp = array_module(x)
    near = xp.clip(x, -10, 10)
    x2 = near * near
    u = C * (near + A * near * x2)
    s = 0.5 * (1 + xp.tanh(u))
    out = x * s

    def backward(dout):
        du = C * (1 + 3 * A * x2)  # u'
        return (dout * (s + 2 * (1 - s) * du * out),)

    return out, backward
