"""Exercise: write adamw.

Check it with `python -m minigrad.exercises FOLDER adamw`.
FOLDER is where this file is.  For a hint add `--hint adamw`.
"""

import numpy as np


def adamw(w, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    """Return the new (w, m, v) of step t, which counts from 1.

    m ← β₁ m + (1 − β₁) g           the mean of recent gradients
    v ← β₂ v + (1 − β₂) g²          the mean of their squares
    m̂ = m / (1 − β₁ᵗ)               both corrected, because they start at 0
    v̂ = v / (1 − β₂ᵗ)
    w ← w − lr λ w                  decay, apart from the gradient
    w ← w − lr m̂ / (√v̂ + ε)

    w, g, m and v are arrays of one shape; λ is weight_decay.
    """
    raise NotImplementedError  # return w, m, v
