"""Exercise: write the backward of sum.

Check it with `python -m minigrad.exercises FOLDER sum`.
FOLDER is where this file is.  For a hint add `--hint sum`.

The imported functions have docstrings: try help(spread).
"""

from minigrad.backend import accurate_sum
from minigrad.ops.reduce import spread


def sum(x, *, axis=None, keepdims=False):
    """out = Σ x,  over the entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    """
    shape = x.shape

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return accurate_sum(x, axis, keepdims), backward
