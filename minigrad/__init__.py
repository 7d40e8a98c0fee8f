"""minigrad: a small reverse-mode autodiff engine over NumPy, to be read from top to bottom."""

# First, for it leads to NumPy by few imports: from a deeper one Python 3.11 loads it half as fast.
from minigrad.tensor import OPS, Tensor, no_grad

# isort: split
import minigrad.fast.adamw
import minigrad.fast.cpu
import minigrad.fast.gpu
from minigrad import nn, ops, optim, schedule
from minigrad.fast import plain, precision
from minigrad.random import manual_seed
from minigrad.tools.anomaly import detect_anomaly
from minigrad.tools.draw import draw
from minigrad.tools.profiler import Profiler

Stopwatch = Profiler  # its name in version 0.1

__all__ = [
    "OPS",
    "Profiler",
    "Stopwatch",
    "Tensor",
    "detect_anomaly",
    "draw",
    "manual_seed",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "plain",
    "precision",
    "schedule",
]
