"""The twins in CUDA, through CuPy; importing this attaches them, and needs no CuPy.

linear uses the twin of fast/cpu/, which CuPy runs as it is.
"""

from minigrad.fast.gpu import (
    add_up,
    attention,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
)

__all__ = ["add_up", "attention", "cross_entropy", "dropout", "embedding", "gelu", "layer_norm"]
