"""Matrix product: rows times columns, over any number of matrices at once."""

from minigrad.backend import array_module
from minigrad.internals.errors import explain_errors_with, matmul_error
from minigrad.ops.elementwise import unbroadcast
from minigrad.tensor import op


@op
@explain_errors_with(matmul_error)
def matmul(x, y):
    """out = x y,  that is  outᵢⱼ = Σₖ xᵢₖ yₖⱼ

    Shapes      x (..., M, K)   y (..., K, N)   out (..., M, N); the axes in front broadcast.
                A vector x (K,) is a single row, a vector y (K,) a single column, as in NumPy;
                out then lacks that axis.
    Source      the product rule; Giles 2008, "An extended collection of matrix derivative results
                for forward and reverse mode algorithmic differentiation", section 2.2.2
    Derivation  xᵢₖ meets yₖⱼ in outᵢⱼ, for every j:   dxᵢₖ = Σⱼ doutᵢⱼ yₖⱼ,   dx = dout yᵀ
                yₖⱼ meets xᵢₖ in outᵢⱼ, for every i:   dyₖⱼ = Σᵢ xᵢₖ doutᵢⱼ,   dy = xᵀ dout
                Where one matrix met several others, its gradients add up: unbroadcast.
    """
    xp = array_module(x)

    def backward(dout):
        rows, columns = x, y  # as matrices, with dout to match
        if y.ndim == 1:
            columns, dout = y[:, None], xp.expand_dims(dout, -1)
        if x.ndim == 1:
            rows, dout = x[None, :], xp.expand_dims(dout, -2)
        dx = unbroadcast(dout @ columns.swapaxes(-1, -2), rows.shape)
        dy = unbroadcast(rows.swapaxes(-1, -2) @ dout, columns.shape)
        return dx.reshape(x.shape), dy.reshape(y.shape)

    return x @ y, backward
