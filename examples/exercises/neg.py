"""Exercise: write the backward of neg.

Check it with `python -m minigrad.exercises FOLDER neg`.
FOLDER is where this file is.  For a hint add `--hint neg`.
"""


def neg(x):
    """out = −x

    Shapes      out like x
    """

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return -x, backward
