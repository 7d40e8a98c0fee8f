"""Exercise: write the backward of dropout.

Check it with `python -m minigrad.exercises FOLDER dropout`.
FOLDER is where this file is.  For a hint add `--hint dropout`.

xp is NumPy (CuPy on a GPU).
"""

from minigrad import random
from minigrad.backend import array_module


def dropout(x, p, *, training, key=None):
    """out = x ⊙ mask,  where an entry of the mask is 0 with probability p, else 1 / (1 − p)

    Shapes      p a number, 0 ≤ p < 1   x, mask, out (B, ...)
                key (seed, step, layer, row): the mask as a pure function of these numbers, see
                minigrad.random; without it, the next key of the running counter
    """
    if x.ndim == 0:
        raise ValueError("dropout: x () must have 1 axis or more, (B, ...): its rows are masked")
    if not training or p == 0:
        return x, lambda dout: (dout, None)
    xp = array_module(x)
    keep = random.keep_mask(x, p, key)
    scale = 1 / (1 - p)

    def backward(dout):
        raise NotImplementedError  # return dx, None

    return xp.where(keep, x * scale, 0), backward
