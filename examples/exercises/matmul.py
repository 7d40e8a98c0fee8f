"""Exercise: write the backward of matmul.

Check it with `python -m minigrad.exercises FOLDER matmul`.
FOLDER is where this file is.  For a hint add `--hint matmul`.

xp is NumPy (CuPy on a GPU).
The imported functions have docstrings: try help(unbroadcast).
"""

from minigrad.backend import array_module
from minigrad.ops.elementwise import unbroadcast


def matmul(x, y):
    """out = x y,  that is  outᵢⱼ = Σₖ xᵢₖ yₖⱼ

    Shapes      x (..., M, K)   y (..., K, N)   out (..., M, N); the axes in front broadcast.
                A vector x (K,) is a single row, a vector y (K,) a single column, as in NumPy;
                out then lacks that axis.
    """
    xp = array_module(x)

    def backward(dout):
        raise NotImplementedError  # return dx, dy

    return x @ y, backward
