"""Exercise: write the backward of cross_entropy.

Check it with `python -m minigrad.exercises FOLDER cross_entropy`.
FOLDER is where this file is.  For a hint add `--hint cross_entropy`.

xp is NumPy (CuPy on a GPU).
The imported functions have docstrings: try help(accurate_sum).
"""

from minigrad.backend import accurate_sum, array_module, as_floats
from minigrad.ops.embedding import check_ids


def cross_entropy(logits, targets, *, ignore_index=None, reduction="mean", label_smoothing=0.0):
    """out = mean over rows of −ln p[target],  where  p = softmax(logits)

    Shapes      logits (..., V)   targets (...), integers from 0 to V−1   out ()
                Rows whose target is `ignore_index` do not count; n is the number of the others.
                reduction "mean", or "sum", or "none": then out (...) has one loss per row
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is from 0 to 1, not {label_smoothing}")
    xp, logits = array_module(logits), as_floats(logits)
    targets = xp.array(targets)  # a copy, because backward reads them again
    shape, dtype, V = logits.shape, logits.dtype, logits.shape[-1]
    counted = slice(None) if ignore_index is None else targets.reshape(-1) != ignore_index
    rows = logits.reshape(targets.size, V)[counted]  # (n, V)
    t = targets.reshape(-1)[counted]  # (n,)
    n = len(rows)
    if n == 0 and reduction == "mean":
        raise ValueError(
            f"cross_entropy: no row of logits {shape} has a target to be measured against"
        )
    check_ids("cross_entropy", t, V)

    shifted = rows - rows.max(-1, keepdims=True)
    p = xp.exp(shifted)
    total = p.sum(-1, keepdims=True)  # (n, 1)
    p /= total
    row = xp.arange(n)
    losses = xp.log(total[:, 0]) - shifted[row, t]  # −ln p[t], (n,)
    if label_smoothing:
        spread_loss = xp.log(total[:, 0]) - shifted.mean(-1)  # the mean of −ln p over all tokens
        losses = (1 - label_smoothing) * losses + label_smoothing * spread_loss

    if reduction == "none":
        out = xp.zeros(targets.shape, dtype)
        out.reshape(-1)[counted] = losses  # through a view of out
    else:
        out = accurate_sum(losses) / (n if reduction == "mean" else 1)

    def backward(dout):
        raise NotImplementedError  # return dlogits, None

    return out, backward
