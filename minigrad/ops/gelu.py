"""GELU: a smooth gate that lets large inputs pass and holds small ones back."""

import math

from minigrad.device import array_module
from minigrad.tensor import op


@op
def gelu(x):
    """out = x s,  where  s = ½ (1 + tanh u)  and  u = c (x + a x³),  c = √(2/π),  a = 0.044715

    Shapes      out like x
    Source      Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", arXiv:1606.08415: x Φ(x) with
                Φ the normal distribution, in its tanh form, which GPT-2 uses
    Derivation  tanh' = 1 − tanh²,  and  1 − tanh² u = (1 + tanh u)(1 − tanh u) = 4 s (1 − s).  So

                    u' = c (1 + 3 a x²)
                    s' = ½ · 4 s (1 − s) u' = 2 s (1 − s) u'

                and by the product rule  dx = dout (s + x s')

    In words    s is the gate, from 0 (shut) to 1 (open).  A step in x moves out by the gate, and
                by x times what the step does to the gate.
    """
    xp = array_module(x)
    c, a = math.sqrt(2 / math.pi), 0.044715
    s = 0.5 * (1 + xp.tanh(c * (x + a * x * x * x)))

    def backward(dout):
        du = c * (1 + 3 * a * x * x)
        ds = 2 * s * (1 - s) * du
        return (dout * (s + x * ds),)

    return x * s, backward
