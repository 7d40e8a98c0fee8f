"""Exercise: write the backward of layer_norm.

Check it with `python -m minigrad.exercises FOLDER layer_norm`.
FOLDER is where this file is.  For a hint add `--hint layer_norm`.

The imported functions have docstrings: try help(accurate_sum).
"""

from minigrad.backend import accurate_sum


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    """out = w ⊙ x̂ + b,  where  x̂ = (x − μ) r  and  r = (σ² + ε)^(−½)

    with μ = mean(x) and σ² = mean((x − μ)²) over the C entries of a row

    Shapes      x, x − μ (centred), x̂ (xhat), out (..., C)
                weight w (C,), or None for no scaling   bias b (C,), or None for no shift
                μ, σ² (var), r (rstd) (..., 1): one of each per row
    """
    centred = x - x.mean(-1, keepdims=True)
    centred = centred - centred.mean(-1, keepdims=True)  # removes the rounding error of the first
    var = (centred * centred).mean(-1, keepdims=True)  # (..., 1); divides by C, not C − 1
    rstd = (var + eps) ** -0.5  # (..., 1)
    xhat = centred * rstd
    out = xhat if weight is None else xhat * weight  # if it is xhat: the tape makes it read-only
    out = out if bias is None else out + bias

    def backward(dout):
        raise NotImplementedError  # return dx, dweight, dbias

    return out, backward
