"""Exercise: write the backward of neg.

Check it with `python -m minigrad.exercises`.  For a hint add `--hint neg`.
"""


def neg(x):
    """out = −x

    Shapes      out like x
    """

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return -x, backward
