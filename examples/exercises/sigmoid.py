"""Exercise: write the backward of sigmoid.

Check it with `python -m minigrad.exercises FOLDER sigmoid`.
FOLDER is where this file is.  For a hint add `--hint sigmoid`.

xp is NumPy (CuPy on a GPU).
"""

from minigrad.backend import array_module, as_floats


def sigmoid(x):
    """out = 1 / (1 + e⁻ˣ)

    Shapes      out like x, between 0 and 1
    """
    xp, x = array_module(x), as_floats(x)
    e = xp.exp(-xp.abs(x))
    out = xp.where(x >= 0, 1, e) / (1 + e)

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return out, backward
