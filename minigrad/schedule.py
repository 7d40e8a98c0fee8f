"""The learning-rate schedule: up while the gradients are still wild, then gently down."""

import math


def warmup_cosine(step, warmup_steps, max_steps, max_lr, min_lr):
    """Return the learning rate at `step`: a straight line up, then half a cosine down.

        min_lr                                        from max_steps on, else
        max_lr · step / warmup_steps                  while step < warmup_steps, else
        min_lr + ½ (1 + cos πz) (max_lr − min_lr)     z = (step − warmup_steps)
                                                          / (max_steps − warmup_steps)

    The first gradients come from random weights, and Adam's averages from few samples, so steps
    are small until both mean something.  The last steps settle, and must be small too.  Steps are
    counted from 1; the first has a rate above 0.

    Sources: Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, equation 5; the warm-up as in
    Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 5.3.
    """
    if step >= max_steps:
        return min_lr
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    z = (step - warmup_steps) / (max_steps - warmup_steps)
    return min_lr + 0.5 * (1 + math.cos(math.pi * z)) * (max_lr - min_lr)
