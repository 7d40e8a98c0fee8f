"""Attention by blocks of queries, as on a CPU, with longer blocks."""

from minigrad import ops
from minigrad.fast import twin
from minigrad.fast.cpu.attention import in_blocks
from minigrad.fast.gpu.masks import dropout_mask

BLOCK = 256  # queries: short blocks would leave a GPU idle; a guess, not measured


@twin(ops.attention, "gpu")
def attention(q, k, v, *, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """Differs    from fast/cpu/attention.py: longer blocks, and the dropout mask from a kernel
    Declines      a mask, and shapes that the page refuses
    """
    return in_blocks(q, k, v, causal, mask, dropout, training, key, BLOCK, dropout_mask)
