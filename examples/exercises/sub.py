"""Exercise: write the backward of sub.

Check it with `python -m minigrad.exercises FOLDER sub`.
FOLDER is where this file is.  For a hint add `--hint sub`.

The imported functions have docstrings: try help(unbroadcast).
An input may be a plain number.  Then shape_of and unbroadcast return None:
a number has no gradient.
"""

from minigrad.ops.elementwise import shape_of, unbroadcast


def sub(x, y):
    """out = x − y

    Shapes      x and y broadcast against each other to the shape of out
    """
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        raise NotImplementedError  # return dx, dy

    return x - y, backward
