"""Cross-entropy: how surprised the model is by what came next."""

from minigrad.device import array_module
from minigrad.ops.embedding import check_ids
from minigrad.tensor import op


@op
def cross_entropy(logits, targets, *, ignore_index=None):
    """out = mean over rows of −ln p[target],  where  p = softmax(logits)

    Shapes      logits (..., V)   targets (...), integers from 0 to V−1   out ()
                Rows whose target is `ignore_index` do not count, neither in the sum nor in n.
    Source      Shannon 1948, "A Mathematical Theory of Communication": −ln p is the surprise, in
                nats, at an event of probability p
    Derivation  One row has the loss  −xₜ + ln Σ eˣ  with x its logits and t its target.  With
                δⱼₜ = 1 if j = t and 0 otherwise,

                    ∂loss/∂xⱼ = −δⱼₜ + eˣʲ / Σ eˣ = pⱼ − δⱼₜ

                and the mean over n rows hands each of them 1/n:

                    dlogits = (p − onehot(targets)) dout / n

    In words    Push down every score by the probability it was given, push the right one up by 1:
                the push is largest where the model was confident and wrong.

    Numerics    ln Σ eˣ with the largest logit taken out, as in log_softmax.
    """
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} are rows of V scores and need targets of shape "
            f"{logits.shape[:-1]}, not {targets.shape}"
        )
    xp = array_module(logits)
    counted = xp.ones(targets.size, bool)
    if ignore_index is not None:
        counted = targets.reshape(-1) != ignore_index
    rows = logits.reshape(-1, logits.shape[-1])[counted]  # (n, V)
    right = targets.reshape(-1)[counted]  # (n,)
    n = len(rows)
    if n == 0:
        raise ValueError("cross_entropy: no row has a target to be measured against")
    check_ids("cross_entropy", right, rows.shape[1])

    shifted = rows - rows.max(-1, keepdims=True)
    e = xp.exp(shifted)
    total = e.sum(-1, keepdims=True)  # (n, 1)
    every = xp.arange(n)
    out = (xp.log(total[:, 0]) - shifted[every, right]).mean()

    def backward(dout):
        drows = e / total  # p
        drows[every, right] -= 1
        drows *= dout / n
        dlogits = xp.zeros((counted.size, rows.shape[1]), rows.dtype)
        dlogits[counted] = drows
        return dlogits.reshape(logits.shape), None

    return out, backward
