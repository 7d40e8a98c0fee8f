"""Embedding: a token's id selects its vector from a table."""

from minigrad.backend import CPU, add_up, array_module, device_of
from minigrad.internals.errors import check_shapes
from minigrad.tensor import op


def check_ids(op_name, ids, n_rows):
    """Raise unless `ids` are integers from 0 to n_rows − 1: NumPy would count −1 from the end.

    The values of ids on the GPU are not checked, because Python would have to wait for them.  There
    a wrong id selects a wrong row, so check ids before you move them.  GPT checks those that it
    moves, and train() checks the whole text.
    """
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{op_name}: ids must be an array of integers, not {ids.dtype}")
    if device_of(ids) == CPU and ids.size and not 0 <= ids.min() <= ids.max() < n_rows:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{op_name}: id {bad} is outside the vocabulary, 0 to {n_rows - 1}")


@op
@check_shapes("weight (V, C)")
def embedding(ids, weight):
    """out = weight[ids]:  row i of the table for every id i

    Shapes      ids (...), integers from 0 to V−1   weight (V, C)   out (..., C)
    Source      the same as a linear map of one-hot vectors; Bengio et al. 2003, "A Neural
                Probabilistic Language Model", JMLR 3, section 2
    Derivation  Let n run over all entries of ids, and S be the matrix (N, V) with Sₙᵥ = [idsₙ = v].
                Then out = S weight, and as for any matrix product

                    dweight = Sᵀ dout,   that is   dweightᵥ = Σ of doutₙ over all n with idsₙ = v

    In words    A row learns from every position where its token was; a token that did not occur
                learns nothing.
    """
    ids = array_module(weight).array(ids)  # a copy, because backward reads them again
    check_ids("embedding", ids, len(weight))

    def backward(dout):
        return None, add_up(dout, ids, weight.shape)

    return weight[ids], backward
