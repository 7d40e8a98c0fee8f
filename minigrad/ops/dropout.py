"""Dropout: in training, forget a random part of what was computed, so that nothing relies on it."""

from minigrad import random
from minigrad.tensor import op


@op
def dropout(x, p, *, training, key=None):
    """out = x ⊙ mask,  where an entry of the mask is 0 with probability p, else 1 / (1 − p)

    Shapes      p a number, 0 ≤ p < 1   x, mask, out (B, ...)
                key (seed, step, layer, row): the mask as a pure function of its place, see
                minigrad.random; without it the next key of the running counter serves
    Source      Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
                Overfitting", JMLR 15, whose p is kept, not dropped; "inverted", so that nothing
                changes at evaluation
    Derivation  The mask is drawn, not computed from x: a constant.  So  dx = dout ⊙ mask

    In words    Dividing by 1 − p keeps the expected value:  (1 − p) · x / (1 − p) + p · 0 = x.
    """
    if x.ndim == 0:
        raise ValueError("dropout: x () must have 1 axis or more, (B, ...): its rows are masked")
    mask = random.dropout_mask(x, p, key) if training and p != 0 else None

    def backward(dout):
        return dout if mask is None else dout * mask, None

    return x if mask is None else x * mask, backward
