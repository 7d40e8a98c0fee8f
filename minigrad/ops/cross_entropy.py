"""Cross-entropy: how surprised the model is by what came next.

A logit is a score; softmax turns scores into probabilities.
"""

from minigrad.backend import accurate_sum, array_module, as_floats
from minigrad.internals.errors import check_shapes
from minigrad.ops.embedding import check_ids
from minigrad.tensor import op


@op
@check_shapes("logits (..., V)  targets (...)")
def cross_entropy(logits, targets, *, ignore_index=None, reduction="mean", label_smoothing=0.0):
    """out = mean over rows of −ln p[target],  where  p = softmax(logits)

    Shapes      logits (..., V)   targets (...), integers from 0 to V−1   out ()
                Rows whose target is `ignore_index` do not count; n is the number of the others.
                reduction "mean", or "sum", or "none": then out (...) has one loss per row
    Source      Shannon 1948, "A Mathematical Theory of Communication", section 6: entropy is the
                mean of −ln p, which came to be called the surprise at an event of probability p.
                Label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7
    Derivation  One row, with x its logits and t its target, has the loss

                    −ln pₜ = −ln (e^xₜ / Σᵢ e^xᵢ) = −xₜ + ln Σᵢ e^xᵢ

                With δⱼₜ = 1 if j = t and 0 otherwise,

                    ∂loss/∂xⱼ = −δⱼₜ + e^xⱼ / Σᵢ e^xᵢ = pⱼ − δⱼₜ

                and the mean over n rows gives each of them 1/n:

                    dlogits = (p − onehot(targets)) dout / n

                With label smoothing ε, the target is the distribution q that gives t the share
                1 − ε and spreads ε evenly over all V tokens: qⱼ = (1 − ε) δⱼₜ + ε/V.  The loss is
                −Σⱼ qⱼ ln pⱼ, which is linear in q, so  ∂loss/∂xⱼ = pⱼ − qⱼ.

    In words    The optimizer moves against the gradient: every score goes down by its probability,
                the right one also goes up by 1.  So the push is largest where the model was
                confident and wrong.

    Numerics    The largest logit is subtracted first, as in log_softmax: −xₜ and ln Σ eˣ change by
                the same amount, in opposite directions.
                Targets on the GPU are not checked (check_ids in embedding.py says why), and with
                `ignore_index` Python waits for the GPU to say how many rows count.
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
        if reduction == "none":
            dout = dout.reshape(-1)[counted][:, None]  # one per row
        elif reduction == "mean":
            dout = dout / n
        drows = p - label_smoothing / V
        drows[row, t] -= 1 - label_smoothing
        dlogits = xp.zeros(shape, dtype)  # rows that do not count stay 0
        drows *= dout
        dlogits.reshape(-1, V)[counted] = drows  # through a view of dlogits
        return dlogits, None

    return out, backward
