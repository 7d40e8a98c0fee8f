"""The gradient of an embedding as a product, or of sorted ids."""

import numpy as np

from minigrad import ops
from minigrad.fast import twin
from minigrad.ops.embedding import check_ids

SMALL = 512  # tokens: up to here a product with the one-hot matrix is faster
MANY = 1 << 14  # ids: beyond, the product, in float32, would lose digits


@twin(ops.embedding, "cpu")
def embedding(ids, weight):
    """Differs    For a small vocabulary dweight = Sᵀ dout is computed as this product.  For a large
                  one the ids are sorted, and the rows of dout for equal ids, now next to each
                  other, are added up in float64: no table of float64 numbers is needed.
    Declines      a weight that the page refuses
    """
    ids = np.array(ids)  # a copy, because backward reads them again
    if weight.ndim != 2:
        return NotImplemented
    check_ids("embedding", ids, len(weight))
    V, C = weight.shape

    def backward(dout):
        flat_ids, rows = ids.reshape(-1), dout.reshape(ids.size, C)
        few = V <= SMALL and ids.size <= MANY
        if few and np.isfinite(np.vdot(rows, rows)):  # an infinite dout would give 0 · ∞
            onehot = flat_ids[:, None] == np.arange(V)  # S (N, V)
            return None, onehot.T @ rows
        dweight = np.zeros((V, C), dout.dtype)
        if ids.size:
            order = np.argsort(flat_ids, kind="stable")
            tokens, starts = np.unique(flat_ids[order], return_index=True)
            dweight[tokens] = np.add.reduceat(rows[order], starts, dtype=np.float64)
        return None, dweight

    return weight[ids], backward
