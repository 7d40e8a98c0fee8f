"""Exercise: write the forward pass of cross_entropy.

Check it with `python -m minigrad.exercises FOLDER cross_entropy_forward`.
FOLDER is where this file is.  For a hint add `--hint cross_entropy_forward`.
"""

import numpy as np


def cross_entropy(logits, targets):
    """out = mean over rows of −ln p[target],  where  p = softmax(logits)

    Shapes      logits (..., V)   targets (...), integers from 0 to V−1   out ()
                Rows whose target is `ignore_index` do not count; n is the number of the others.
                reduction "mean", or "sum", or "none": then out (...) has one loss per row
    """
    raise NotImplementedError  # return out
