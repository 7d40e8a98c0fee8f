"""Cross-entropy: how surprised the model is by what came next.

A logit is a score: softmax makes probabilities of them.
"""

from minigrad.device import array_module
from minigrad.faults import misfit
from minigrad.ops.embedding import check_ids
from minigrad.tensor import op


@op
def cross_entropy(logits, targets, *, ignore_index=None):
    """out = mean over rows of −ln p[target],  where  p = softmax(logits)

    Shapes      logits (..., V)   targets (...), integers from 0 to V−1   out ()
                Rows whose target is `ignore_index` do not count; n is the number of the others.
    Source      Shannon 1948, "A Mathematical Theory of Communication", section 6: entropy is the
                mean of −ln p, which came to be called the surprise at an event of probability p
    Derivation  One row, with x its logits and t its target, has the loss

                    −ln pₜ = −ln (e^xₜ / Σᵢ e^xᵢ) = −xₜ + ln Σᵢ e^xᵢ

                With δⱼₜ = 1 if j = t and 0 otherwise,

                    ∂loss/∂xⱼ = −δⱼₜ + e^xⱼ / Σᵢ e^xᵢ = pⱼ − δⱼₜ

                and the mean over n rows hands each of them 1/n:

                    dlogits = (p − onehot(targets)) dout / n

    In words    The optimizer moves against the gradient: every score goes down by its probability,
                the right one also goes up by 1.  So the push is largest where the model was
                confident and wrong.

    Numerics    The largest logit is subtracted first, as in log_softmax: −xₜ and ln Σ eˣ change by
                the same, in opposite directions.
                Targets on the GPU are not checked (check_ids in embedding.py says why), and with
                `ignore_index` Python waits for the GPU to say how many rows count.
    """
    xp = array_module(logits)
    targets = xp.array(targets)  # a copy, for backward reads them again
    if not logits.ndim or targets.shape != logits.shape[:-1]:
        fault = misfit("logits (..., V)  targets (...)", logits=logits, targets=targets)
        raise ValueError(f"cross_entropy: {fault}")
    shape, V = logits.shape, logits.shape[-1]
    logits, targets = logits.reshape(-1, V), targets.reshape(-1)
    counted = slice(None) if ignore_index is None else targets != ignore_index
    rows, targets = logits[counted], targets[counted]  # (n, V), (n,)
    n = len(rows)
    if n == 0:
        raise ValueError(
            f"cross_entropy: no row of logits {shape} has a target to be measured against"
        )
    check_ids("cross_entropy", targets, V)

    shifted = rows - rows.max(-1, keepdims=True)
    p = xp.exp(shifted)  # at first without its denominator
    total = p.sum(-1, keepdims=True)  # (n, 1)
    p /= total
    row = xp.arange(n)
    out = (xp.log(total[:, 0]) - shifted[row, targets]).mean()

    def backward(dout):
        p[row, targets] -= 1  # in place: a step is replayed once, and nobody else has p
        dlogits = xp.zeros(shape, p.dtype)  # rows that do not count stay 0
        dlogits.reshape(-1, V)[counted] = p * (dout / n)  # through a view of dlogits
        return dlogits, None

    return out, backward
