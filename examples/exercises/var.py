"""Exercise: write the backward of var.

Check it with `python -m minigrad.exercises FOLDER var`.
FOLDER is where this file is.  For a hint add `--hint var`.

The imported functions have docstrings: try help(spread).
"""

from minigrad.backend import accurate_sum
from minigrad.ops.reduce import group_size, spread


def var(x, *, axis=None, keepdims=False, correction=0):
    """out = Σ (x − μ)² / (n − correction),  where  μ = (Σ x) / n,  over the n entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
                correction 0 gives the mean square, as in NumPy and in layer norm; 1 the estimate
                from a sample, PyTorch's default
    """
    total = accurate_sum(x, axis, keepdims=True)
    n = group_size(x.shape, axis)
    if n <= correction:
        raise ValueError(
            f"var: the groups of x {x.shape} have n = {n}, and n - correction must be above 0"
        )
    centred = x - total / n
    centred = centred - accurate_sum(centred, axis, keepdims=True) / n
    out = accurate_sum(centred * centred, axis, keepdims) / (n - correction)

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return out, backward
