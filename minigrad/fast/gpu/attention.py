"""Attention: by tiles where flash_attention.cu can compute it, otherwise by blocks of queries."""

from minigrad import ops
from minigrad.fast import twin
from minigrad.fast.cpu.attention import in_blocks
from minigrad.fast.gpu.cublas import fits, gemm
from minigrad.fast.gpu.flash_attention import flash_attention, takes
from minigrad.fast.gpu.masks import dropout_mask

BLOCK = 256  # queries: short blocks would leave a GPU idle; a guess, not measured


@twin(ops.attention, "gpu")
def attention(q, k, v, *, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """Differs    float32 is computed by tiles: see flash_attention.py.  float64, and what else
                  those kernels do not take, goes by blocks as in fast/cpu/attention.py, but longer
                  ones, with products by cuBLAS, and the dropout mask from a kernel.
    Declines      a mask, and shapes that the page refuses
    """
    if mask is None and takes(q, k, v, causal):
        return flash_attention(q, k, v, causal, dropout if training else 0, key)
    matmul = gemm if fits(q, k, v) else None
    return in_blocks(q, k, v, causal, mask, dropout, training, key, BLOCK, dropout_mask, matmul)
