"""Embedding: a token's id picks its vector from a table."""

from minigrad.device import CPU, add_at, array_module, device_of
from minigrad.faults import misfit
from minigrad.tensor import op

SMALL = 512  # tokens: up to here a product with S, below, is quicker than adding row by row


def check_ids(op_name, ids, n_rows):
    """Raise unless `ids` are integers from 0 to n_rows − 1: NumPy would count −1 from the end.

    Of ids on the GPU the values are not checked: Python would have to wait for them.  A wrong one
    picks a wrong row there, so check ids before they move: GPT does with those that it moves, and
    train with the whole text.
    """
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{op_name}: ids must be integers, not {ids.dtype}")
    if device_of(ids) == CPU and ids.size and not 0 <= ids.min() <= ids.max() < n_rows:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{op_name}: id {bad} is outside the vocabulary, 0 to {n_rows - 1}")


@op
def embedding(ids, weight):
    """out = weight[ids]:  row i of the table for every id i

    Shapes      ids (...), integers from 0 to V−1   weight (V, C)   out (..., C)
    Source      the same as a linear map of one-hot vectors; Bengio et al. 2003, "A Neural
                Probabilistic Language Model", JMLR 3, section 2
    Derivation  Let N run over all places of ids, and S be the matrix (N, V) with Sₙᵥ = [idsₙ = v].
                Then out = S weight, and as for any matrix product

                    dweight = Sᵀ dout,   that is   dweightᵥ = Σ of doutₙ over all n with idsₙ = v

    In words    A row learns from every place where its token stood; a token that did not occur
                learns nothing.
    """
    xp = array_module(weight)
    ids = xp.asarray(ids)
    if weight.ndim != 2:
        raise ValueError(f"embedding: {misfit('weight (V, C)', weight=weight)}")
    check_ids("embedding", ids, len(weight))
    V, C = weight.shape

    def backward(dout):
        if V <= SMALL:
            onehot = ids.reshape(-1, 1) == xp.arange(V)  # S (N, V)
            return None, onehot.T @ dout.reshape(-1, C)
        dweight = xp.zeros((V, C), dout.dtype)
        add_at(dweight, ids, dout)  # `dweight[ids] += dout` would count a repeated id once
        return None, dweight

    return weight[ids], backward
