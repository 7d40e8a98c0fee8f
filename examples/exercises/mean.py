"""Exercise: write the backward of mean.

Check it with `python -m minigrad.exercises FOLDER mean`.
FOLDER is where this file is.  For a hint add `--hint mean`.

The imported functions have docstrings: try help(spread).
"""

from minigrad.backend import accurate_sum
from minigrad.ops.reduce import group_size, spread


def mean(x, *, axis=None, keepdims=False):
    """out = (Σ x) / n,  over the n entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    """
    total = accurate_sum(x, axis, keepdims)
    shape = x.shape
    n = group_size(shape, axis)

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return total / n, backward
