"""Layer normalization: give each token's vector mean 0 and variance 1, then scale and shift it.

In a Transformer each layer adds its output to a running sum, the residual stream, so the scale of
that sum grows with depth.  A layer works best if its inputs always have the same scale, so what it
reads is normalized first.  A row of x, below, is the vector of one token.
"""

from minigrad.backend import accurate_sum
from minigrad.internals.errors import check_shapes, layer_norm_error
from minigrad.tensor import op


@op
@check_shapes("x (..., C)  weight (C,)  bias (C,)", layer_norm_error)  # refuses other shapes
def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    """out = w ⊙ x̂ + b,  where  x̂ = (x − μ) r  and  r = (σ² + ε)^(−½)

    with μ = mean(x) and σ² = mean((x − μ)²) over the C entries of a row

    Shapes      x, x − μ (centred), x̂ (xhat), out (..., C)
                weight w (C,), or None for no scaling   bias b (C,), or None for no shift
                μ, σ² (var), r (rstd) (..., 1): one of each per row
    Source      Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv:1607.06450, section 3
    Derivation  Let dz be the gradient of the loss with respect to z, whatever z is.  Take one row.
                Each entry is part of the row's mean and variance, so when xⱼ moves, all of x̂ moves.
                With δᵢⱼ = 1 if i = j and 0 otherwise,

                    ∂μ/∂xⱼ  = 1/C
                    ∂σ²/∂xⱼ = 2 Σᵢ (xᵢ − μ) (δᵢⱼ − 1/C) / C
                            = 2 (xⱼ − μ) / C           since Σᵢ (xᵢ − μ) = 0
                    ∂r/∂xⱼ  = −½ r³ ∂σ²/∂xⱼ = −r² x̂ⱼ / C

                By the product rule

                    ∂x̂ᵢ/∂xⱼ = (δᵢⱼ − 1/C) r + (xᵢ − μ) ∂r/∂xⱼ      and (xᵢ − μ) r = x̂ᵢ, so
                            = r (δᵢⱼ − 1/C − x̂ᵢ x̂ⱼ / C)

                Since out = w ⊙ x̂ + b,  dx̂ = dout ⊙ w (or dout, without w).  In Σᵢ dx̂ᵢ ∂x̂ᵢ/∂xⱼ,
                which is dxⱼ, the three terms sum to dx̂ⱼ, Σᵢ dx̂ᵢ / C and x̂ⱼ Σᵢ dx̂ᵢ x̂ᵢ / C, so

                    dx = r (dx̂ − mean(dx̂) − x̂ mean(dx̂ ⊙ x̂))

                Since out = w ⊙ x̂ + b, and all rows share w and b,  dw = Σ dout ⊙ x̂  and
                db = Σ dout,  summed over the rows.

    In words    Adding a constant to a row does not change out.  Neither, up to ε, does stretching
                the row about its mean, which moves x along x̂.  A small move m changes the loss by
                Σ dx ⊙ m, and that must be 0 for these two.  So the parts of dx̂ along (1, ..., 1)
                and along x̂ must be removed.  Subtracting mean(dx̂) removes the first, and
                subtracting x̂ mean(dx̂ ⊙ x̂) the second, because mean(x̂) = 0 and, up to ε,
                mean(x̂ ⊙ x̂) = 1.  A move m at right angles to both leaves μ and σ as they are, and
                moves x̂ by r m: that is the factor r.

    Numerics    The variance is the mean of (x − μ)².  The formula mean(x²) − μ² loses digits; in
                float32 it loses all of them once μ² is about 10⁷ σ².  In a nearly constant row even
                the rounding of μ can exceed σ.  So the mean is subtracted twice: what is left after
                the first time is small, and its mean is nearly exact.  (Without rounding that mean
                is 0, and the derivation holds.)  accurate_sum adds up float32 in float64, because
                there may be very many rows, and rounds the sum to float32.  A difference x − μ
                beyond 10¹⁹ has a square beyond float32, and the row becomes 0.
    """
    centred = x - x.mean(-1, keepdims=True)
    centred = centred - centred.mean(-1, keepdims=True)  # removes the rounding error of the first
    var = (centred * centred).mean(-1, keepdims=True)  # (..., 1); divides by C, not C − 1
    rstd = (var + eps) ** -0.5  # (..., 1)
    xhat = centred * rstd
    out = xhat if weight is None else xhat * weight  # if it is xhat: the tape makes it read-only
    out = out if bias is None else out + bias

    def backward(dout):  # keeps xhat, rstd and weight; x itself is not needed again
        row_axes = tuple(range(dout.ndim - 1))  # every axis but the last; none, if x is one row
        dxhat = dout if weight is None else dout * weight
        along_ones = dxhat.mean(-1, keepdims=True)  # mean(dx̂)
        along_xhat = (dxhat * xhat).mean(-1, keepdims=True)  # mean(dx̂ ⊙ x̂)
        dx = rstd * (dxhat - along_ones - xhat * along_xhat)
        dweight = None if weight is None else accurate_sum(dout * xhat, row_axes)
        dbias = None if bias is None else accurate_sum(dout, row_axes)
        return dx, dweight, dbias

    return out, backward
