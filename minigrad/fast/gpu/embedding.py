"""Embedding in one kernel forward and one backward."""

import numpy as np

from minigrad import ops
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.fast.gpu.launch import contiguous, launch, of_dtype
from minigrad.internals.guards import grad_slot
from minigrad.ops.embedding import check_ids

BLOCK = (32, 8)  # lanes, and warps: as in embedding.cu
COLUMNS = 128  # of a block of the backward pass


@twin(ops.embedding, "gpu")
def embedding(ids, weight):
    """Differs    backward adds up the rows of each token in float64, in a fixed order: the same
                  bits in every run.
    Declines      integers, and a weight that the page refuses, or without entries
    """
    if weight.ndim != 2 or not weight.size or weight.dtype.kind != "f":
        return NotImplemented
    xp, (V, C), dtype = array_module(weight), weight.shape, weight.dtype
    ids = xp.asarray(ids)
    check_ids("embedding", ids, V)
    n, options = ids.size, of_dtype(dtype)
    out, rows = xp.empty((*ids.shape, C), dtype), xp.empty(n, np.int32)
    ids, weight = contiguous(ids.astype(np.int64, copy=False)), contiguous(weight)
    numbers = map(np.int32, (n, V, C))
    launch("embedding_forward", -(-n // BLOCK[1]), BLOCK, ids, weight, out, rows, *numbers,
           options=options)  # fmt: skip

    def backward(dout):
        dweight = xp.empty((V, C), dtype) if (slot := grad_slot(weight)) is None else slot
        dweight[...] = 0  # for tokens that do not occur
        grid = (n, -(-C // COLUMNS))
        arrays = rows, contiguous(dout), dweight
        launch("embedding_backward", grid, BLOCK, *arrays, np.int32(n), np.int32(C),
               options=options)  # fmt: skip
        return None, dweight

    return out, backward
