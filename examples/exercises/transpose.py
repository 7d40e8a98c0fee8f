"""Exercise: write the backward of transpose.

Check it with `python -m minigrad.exercises FOLDER transpose`.
FOLDER is where this file is.  For a hint add `--hint transpose`.
"""


def transpose(x, *, axes=None):
    """out = x with its axes in another order: axis i of out is axis `axes[i]` of x

    Shapes      out.shape[i] = x.shape[axes[i]]; without `axes` the order is reversed, as in NumPy
    """
    axes = range(x.ndim)[::-1] if axes is None else axes
    out = x.transpose(tuple(axes))  # an error where axes are no permutation
    axes = [a % x.ndim for a in axes]  # −1 is the last
    inverse = [axes.index(i) for i in range(x.ndim)]  # where axis i of x went

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return out, backward
