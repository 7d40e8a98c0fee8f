"""Dropout: in training, forget a random part of what was computed, so that nothing relies on it."""

from minigrad import random
from minigrad.backend import array_module
from minigrad.tensor import op


@op
def dropout(x, p, *, training, key=None):
    """out = x ⊙ mask,  where an entry of the mask is 0 with probability p, else 1 / (1 − p)

    Shapes      p a number, 0 ≤ p < 1   x, mask, out (B, ...)
                key (seed, step, layer, row): the mask as a pure function of these numbers, see
                minigrad.random; without it, the next key of the running counter
    Source      Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
                Overfitting", JMLR 15, whose p is the probability to keep; "inverted", so that
                nothing changes at evaluation
    Derivation  The mask is drawn, not computed from x, so it is a constant:  dx = dout ⊙ mask

    In words    Dividing by 1 − p keeps the expected value:  (1 − p) · x / (1 − p) + p · 0 = x.
    """
    if x.ndim == 0:
        raise ValueError("dropout: x () must have 1 axis or more, (B, ...): its rows are masked")
    if not training or p == 0:
        return x, lambda dout: (dout, None)
    xp = array_module(x)
    keep = random.keep_mask(x, p, key)
    scale = 1 / (1 - p)

    def backward(dout):
        return xp.where(keep, dout * scale, 0), None

    return xp.where(keep, x * scale, 0), backward
