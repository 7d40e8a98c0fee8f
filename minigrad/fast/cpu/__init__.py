"""The twins in NumPy; importing this attaches them.

Each docstring says how a twin differs from its page, and what it declines.  How much of a training
step it saves is measured by `python benchmarks/twins.py`.
"""

from minigrad.fast.cpu import attention, dropout, embedding, gelu, layer_norm, linear

__all__ = ["attention", "dropout", "embedding", "gelu", "layer_norm", "linear"]
