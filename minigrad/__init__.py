"""minigrad: a small reverse-mode autodiff engine over NumPy, to be read from top to bottom."""

from minigrad import nn, ops, optim, schedule
from minigrad.random import manual_seed
from minigrad.tensor import OPS, Tensor, no_grad

__all__ = ["OPS", "Tensor", "manual_seed", "nn", "no_grad", "ops", "optim", "schedule"]
