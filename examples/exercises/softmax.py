"""Exercise: write the backward of softmax.

Check it with `python -m minigrad.exercises FOLDER softmax`.
FOLDER is where this file is.  For a hint add `--hint softmax`.

xp is NumPy (CuPy on a GPU).
The imported functions have docstrings: try help(accurate_sum).
"""

from minigrad.backend import accurate_sum, array_module, as_floats, axis_of


def softmax(x, *, axis=-1):
    """out = eˣ / S  with  S = Σ eˣ  along the axis

    Shapes      out like x; along `axis` its entries are positive and sum to 1
    """
    if not x.size:  # there is no largest x
        return x, lambda dout: (dout,)
    xp, axis, x = array_module(x), axis_of(x, axis), as_floats(x)
    e = xp.exp(x - x.max(axis, keepdims=True))
    out = e / accurate_sum(e, axis, keepdims=True)

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return out, backward
