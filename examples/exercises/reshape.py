"""Exercise: write the backward of reshape.

Check it with `python -m minigrad.exercises FOLDER reshape`.
FOLDER is where this file is.  For a hint add `--hint reshape`.
"""


def reshape(x, *, shape):
    """out = the entries of x, in the same order, in another shape

    Shapes      out `shape`, of as many entries as x; one length may be −1, meaning what remains
    """
    before = x.shape

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return x.reshape(shape), backward
