"""Exercise: write the backward of getitem.

Check it with `python -m minigrad.exercises FOLDER getitem`.
FOLDER is where this file is.  For a hint add `--hint getitem`.

xp is NumPy (CuPy on a GPU).
The imported functions have docstrings: try help(add_up).
"""

import copy

from minigrad.backend import add_up, array_module
from minigrad.ops.shape import parts_of


def getitem(x, *, index):
    """out = x[index]

    Shapes      as NumPy's indexing: numbers, slices, ..., None, arrays of integers or booleans
    """
    xp, shape, parts = array_module(x), x.shape, parts_of(index)
    may_repeat = any(hasattr(part, "__len__") for part in parts)  # an array or a list
    if may_repeat:  # copies, for backward reads them again
        index = copy.deepcopy(parts)

    def backward(dout):
        raise NotImplementedError  # return (dx,)

    return x[index], backward
