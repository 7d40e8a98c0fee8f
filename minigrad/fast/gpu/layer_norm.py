"""Layer norm in one kernel forward, and two backward."""

import numpy as np

from minigrad import ops
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.fast.arrays import same_float_dtype
from minigrad.fast.gpu.column_sum import total
from minigrad.fast.gpu.launch import contiguous, launch, of_dtype
from minigrad.internals.guards import grad_slot

BYTES = 64  # of a row that a thread keeps in registers, at most: 16 float32 or 8 float64
TEAM = 256  # threads that share a row, at most: those of a larger block have fewer registers
ROWS = 8  # rows of a block whose warps have one each
PARTS = 512  # blocks of the backward pass at most; not measured


def shape_of(C, dtype):
    """Return (threads that share a row, rows of a block, options) for rows of C entries."""
    team = 32
    while team * BYTES < C * dtype.itemsize:
        team *= 2
    rows = ROWS if team == 32 else 1
    options = f"-DTEAM={team}", f"-DPER={-(-C // team)}", f"-DROWS={rows}"
    return team, rows, (*options, *of_dtype(dtype))


@twin(ops.layer_norm, "gpu")
def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Differs    A row stays in registers.  backward computes x̂ again, from x and three numbers of
                  each row: μ, what was left when it was subtracted, and r.
                  dweight and dbias are first added up for some rows each, in the dtype of x, and
                  these sums in float64: the same order, and the same bits, in every run.  They are
                  written to where the optimizer of the parameters wants them.
    Declines      a mix of dtypes, shapes that the page refuses, rows of no entries, or of more
                  than 4,096 float32 or 2,048 float64
    """
    if not x.ndim or not same_float_dtype(x, weight, bias):
        return NotImplemented
    C = x.shape[-1]
    if (
        any(y is not None and y.shape != (C,) for y in (weight, bias))
        or not 0 < C * x.dtype.itemsize <= TEAM * BYTES
    ):
        return NotImplemented
    xp, dtype = array_module(x), x.dtype
    x, weight, bias = map(contiguous, (x, weight, bias))
    N = x.size // C
    team, rows, options = shape_of(C, dtype)
    sizes, n_blocks = (np.int32(N), np.int32(C)), -(-N // rows)
    out, stats = xp.empty(x.shape, dtype), xp.empty((N, 3), dtype)
    arrays = x, weight, bias, out, stats
    launch("layer_norm_forward", n_blocks, (team, rows), *arrays, *sizes, dtype.type(eps),
           options=options)  # fmt: skip

    def backward(dout):
        dout, dx = contiguous(dout), xp.empty(x.shape, dtype)
        n_parts = max(1, min(PARTS, n_blocks))
        parts = xp.empty((n_parts, 2 * C), np.float64)
        arrays = x, dout, weight, stats, dx, parts
        launch("layer_norm_backward", n_parts, (team, rows), *arrays, *sizes, options=options)
        dweight = None if weight is None else total(parts[:, :C], dtype, grad_slot(weight, x))
        dbias = None if bias is None else total(parts[:, C:], dtype, grad_slot(bias, x))
        return dx, dweight, dbias

    return out, backward
