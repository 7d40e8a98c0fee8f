"""Exercise: write the backward of div.

Check it with `python -m minigrad.exercises FOLDER div`.
FOLDER is where this file is.  For a hint add `--hint div`.

The imported functions have docstrings: try help(unbroadcast).
An input may be a plain number.  Then shape_of and unbroadcast return None:
a number has no gradient.
"""

from minigrad.ops.elementwise import shape_of, unbroadcast


def div(x, y):
    """out = x / y

    Shapes      x and y broadcast against each other to the shape of out
    """
    out = x / y
    x_shape = shape_of(x)

    def backward(dout):
        raise NotImplementedError  # return dx, dy

    return out, backward
