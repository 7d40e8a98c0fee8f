"""Cross-entropy in two kernels forward, and one backward."""

import numpy as np

from minigrad import ops
from minigrad.backend import array_module, is_array
from minigrad.fast import twin
from minigrad.fast.gpu.launch import contiguous, launch, of_dtype
from minigrad.ops.embedding import check_ids

SHORT = 1024  # logits: so many are read by one warp, more by a block; not measured
TEAM = 256  # threads of that block
ROWS = 8  # rows of a block whose warps have one each


@twin(ops.cross_entropy, "gpu")
def cross_entropy(logits, targets, *, ignore_index=None, reduction="mean", label_smoothing=0.0):
    """Differs    The probabilities are not kept: backward computes them again, from the logits and
                  two numbers of each row.  Python never waits: the mean over no rows at all is
                  NaN, as in PyTorch, where the page raises an error.  The loss of a target that
                  is no token is NaN.
    Declines      integers, no rows, no tokens, and what the page refuses
    """
    if (
        logits.dtype.kind != "f"
        or logits.size == 0
        or not is_array(targets)
        or logits.shape[:-1] != targets.shape
        or reduction not in ("mean", "sum", "none")
        or not 0 <= label_smoothing <= 1
    ):
        return NotImplemented
    check_ids("cross_entropy", targets, logits.shape[-1])
    xp, dtype, V = array_module(logits), logits.dtype, logits.shape[-1]
    logits = contiguous(logits)
    # astype copies, because backward reads the targets again.
    targets = contiguous(targets.astype(np.int64))
    N, whole_block = targets.size, V > SHORT
    block = (TEAM, 1) if whole_block else (32, ROWS)
    options = (*of_dtype(dtype), f"-DTEAM={block[0]}", f"-DROWS={block[1]}")
    grid, sizes = -(-N // block[1]), (np.int32(N), np.int32(V))
    ignored = np.bool_(ignore_index is not None), np.int64(ignore_index or 0)
    smoothing = dtype.type(label_smoothing)

    losses = xp.empty(targets.shape, dtype)
    maxima, totals = xp.empty(N, dtype), xp.empty(N, dtype)
    arrays = logits, targets, losses, maxima, totals
    launch("cross_entropy_forward", grid, block, *arrays, *sizes, *ignored, smoothing,
           options=options)  # fmt: skip
    out, n = losses, None
    if reduction != "none":
        out, n = xp.empty((), dtype), xp.empty((), dtype)
        numbers = sizes[0], *ignored, np.bool_(reduction == "mean")
        launch("cross_entropy_reduce", 1, 1024, losses, targets, out, n, *numbers, options=options)

    def backward(dout):
        dout, dlogits = contiguous(dout), xp.empty(logits.shape, dtype)
        arrays = logits, targets, maxima, totals, dout, n, dlogits
        launch("cross_entropy_backward", grid, block, *arrays, *sizes, *ignored, smoothing,
               options=options)  # fmt: skip
        return dlogits, None

    return out, backward
