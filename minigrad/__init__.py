"""minigrad: a small reverse-mode autodiff engine over NumPy, to be read from top to bottom."""

# First, for it leads to NumPy by few imports: from a deeper one Python 3.11 loads it half as fast.
from minigrad.tensor import OPS, Tensor, no_grad

# isort: split
from minigrad import nn, ops, optim, schedule
from minigrad.anomaly import detect_anomaly
from minigrad.draw import draw
from minigrad.random import manual_seed
from minigrad.stopwatch import Stopwatch

__all__ = [
    "OPS",
    "Stopwatch",
    "Tensor",
    "detect_anomaly",
    "draw",
    "manual_seed",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "schedule",
]
