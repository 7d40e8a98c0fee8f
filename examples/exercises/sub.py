"""Exercise: write the backward of sub.

Check it with `python -m minigrad.exercises`.  For a hint add `--hint sub`.
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
