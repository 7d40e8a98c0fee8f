"""The twins in CUDA, through CuPy and cuBLAS; importing this attaches them, and needs neither."""

from minigrad.fast.gpu import (
    add_up,
    attention,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
    linear,
    matmul,
)

__all__ = [
    "add_up",
    "attention",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "matmul",
]
