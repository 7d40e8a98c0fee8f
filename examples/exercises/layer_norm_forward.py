"""Exercise: write the forward pass of layer_norm.

Check it with `python -m minigrad.exercises FOLDER layer_norm_forward`.
FOLDER is where this file is.  For a hint add `--hint layer_norm_forward`.
"""

import numpy as np


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    """out = w ⊙ x̂ + b,  where  x̂ = (x − μ) r  and  r = (σ² + ε)^(−½)

    with μ = mean(x) and σ² = mean((x − μ)²) over the C entries of a row

    Shapes      x, x − μ (centred), x̂ (xhat), out (..., C)
                weight w (C,), or None for no scaling   bias b (C,), or None for no shift
                μ, σ² (var), r (rstd) (..., 1): one of each per row
    """
    raise NotImplementedError  # return out
