"""Layer normalization: give each token's vector mean 0 and variance 1, then scale and shift it.

Layer upon layer adds to a vector, and the sums would grow; the next layer wants inputs of one size.
"""

from minigrad.device import array_module, dots
from minigrad.faults import misfit
from minigrad.tensor import op


@op
def layer_norm(x, weight, bias=None, *, eps=1e-5):
    """out = w ⊙ x̂ + b,  where  x̂ = (x − μ) r  and  r = (σ² + ε)^(−½)

    with μ = mean(x) and σ² = mean((x − μ)²) over the C entries of a row

    Shapes      x, x̂ (xhat), out (..., C)   weight w (C,)   bias b (C,) or None
                μ, r (rstd) (..., 1)   σ² (var) (...,)
    Source      Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv:1607.06450, section 3
    Derivation  Take one row.  Each entry stands in the row's mean and variance too, so when xⱼ
                moves, all of x̂ moves.  With δᵢⱼ = 1 if i = j and 0 otherwise,

                    ∂μ/∂xⱼ  = 1/C
                    ∂σ²/∂xⱼ = 2 Σᵢ (xᵢ − μ) (δᵢⱼ − 1/C) / C
                            = 2 (xⱼ − μ) / C           since Σᵢ (xᵢ − μ) = 0
                    ∂r/∂xⱼ  = −½ r³ ∂σ²/∂xⱼ = −r² x̂ⱼ / C

                By the product rule

                    ∂x̂ᵢ/∂xⱼ = (δᵢⱼ − 1/C) r + (xᵢ − μ) ∂r/∂xⱼ      and (xᵢ − μ) r = x̂ᵢ, so
                            = r (δᵢⱼ − 1/C − x̂ᵢ x̂ⱼ / C)

                Let dx̂ = dout ⊙ w be the gradient of x̂.  Then dxⱼ = Σᵢ dx̂ᵢ ∂x̂ᵢ/∂xⱼ reads

                    dx = r (dx̂ − mean(dx̂) − x̂ mean(dx̂ ⊙ x̂))

                and w and b, which all rows share:  dw = Σ dout ⊙ x̂,  db = Σ dout,  over the rows.

    In words    Adding a constant to a row, or stretching it (up to ε), does not change out.  So dx
                must have no part in those two directions: subtracting mean(dx̂) removes the part
                along (1, ..., 1), and subtracting x̂ mean(dx̂ ⊙ x̂) the part along x̂.

    Numerics    The variance in two passes.  mean(x²) − μ² is quicker, and loses every digit where
                the mean is large beside the deviation.
    """
    if not x.ndim or not x.shape[-1:] == weight.shape == (weight if bias is None else bias).shape:
        fault = misfit("x (..., C)  weight (C,)  bias (C,)", x=x, weight=weight, bias=bias)
        raise ValueError(f"layer_norm: {fault}")
    xp = array_module(x)
    C = x.shape[-1]
    if C == 0:
        raise ValueError(f"layer_norm: x {x.shape} has no entries along axis -1, and so no mean")
    average = xp.full(C, 1 / C, x.dtype)  # a product with it is the mean of a row, quickly
    xhat = x - (x @ average)[..., None]  # at first x − μ
    var = dots(xhat, xhat) / C  # (...,); divides by C, not C − 1
    rstd = ((var + eps) ** -0.5)[..., None]  # (..., 1)
    xhat *= rstd
    out = xhat * weight
    if bias is not None:
        out += bias

    def backward(dout):  # keeps xhat and rstd alive; x itself is not needed again
        rows = tuple(range(dout.ndim - 1))  # every axis but the last
        dweight = (dout * xhat).sum(rows)
        dbias = None if bias is None else dout.sum(rows)
        dx = dout * weight  # at first dx̂
        shift = (dx @ average)[..., None]  # mean(dx̂)
        stretch = dots(dx, xhat)[..., None] / C  # mean(dx̂ ⊙ x̂)
        dx -= shift
        dx -= xhat * stretch
        dx *= rstd
        return dx, dweight, dbias

    return out, backward
