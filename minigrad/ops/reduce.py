"""Ops that turn many entries into one: sum, mean, var and max, over some axes or over all.

The entries that become one are a group.  `axis` is None (all), a number or a tuple of numbers,
as in NumPy; with `keepdims` the axes stay, with length 1.
"""

import math

from minigrad.backend import accurate_sum, array_module, axis_of
from minigrad.internals.errors import axis_error, explain_errors_with
from minigrad.tensor import op


def spread(out, shape, axis, keepdims):
    """Return `out`, one entry per group, as a view that repeats it over the group in `shape`."""
    xp = array_module(out)
    if not keepdims and shape:  # a number has no axis to lose
        out = xp.expand_dims(out, tuple(range(len(shape))) if axis is None else axis)
    return xp.broadcast_to(out, shape)


def group_size(shape, axis):
    """Return how many entries of an array of this shape become one."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.prod(shape[a] for a in axes) if shape else 1


@op
@explain_errors_with(axis_error)
def sum(x, *, axis=None, keepdims=False):
    """out = Σ x,  over the entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    Source      the sum rule
    Derivation  Each xᵢ is in the sum once:  ∂out/∂xᵢ = 1,  so  dxᵢ = dout
    """
    shape = x.shape

    def backward(dout):
        return (spread(dout, shape, axis, keepdims),)

    return accurate_sum(x, axis, keepdims), backward


@op
@explain_errors_with(axis_error)
def mean(x, *, axis=None, keepdims=False):
    """out = (Σ x) / n,  over the n entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    Source      the sum rule
    Derivation  ∂out/∂xᵢ = 1/n,  so  dxᵢ = dout / n
    """
    total = accurate_sum(x, axis, keepdims)
    shape = x.shape
    n = group_size(shape, axis)

    def backward(dout):
        return (spread(dout / n, shape, axis, keepdims),)

    return total / n, backward


@op
@explain_errors_with(axis_error)
def var(x, *, axis=None, keepdims=False, correction=0):
    """out = Σ (x − μ)² / (n − correction),  where  μ = (Σ x) / n,  over the n entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
                correction 0 gives the mean square, as in NumPy and in layer norm; 1 the estimate
                from a sample, PyTorch's default
    Source      the chain rule
    Derivation  With δᵢⱼ = 1 if i = j and 0 otherwise,  ∂(xᵢ − μ)/∂xⱼ = δᵢⱼ − 1/n,  so

                    ∂out/∂xⱼ = 2 Σᵢ (xᵢ − μ) (δᵢⱼ − 1/n) / (n − correction)
                             = 2 (xⱼ − μ) / (n − correction)        since Σᵢ (xᵢ − μ) = 0

                dxⱼ = dout · 2 (xⱼ − μ) / (n − correction)

    Numerics    Two passes, and the mean subtracted twice, for the reasons given in layer_norm.
    """
    total = accurate_sum(x, axis, keepdims=True)
    n = group_size(x.shape, axis)
    if n <= correction:
        raise ValueError(
            f"var: the groups of x {x.shape} have n = {n}, and n - correction must be above 0"
        )
    centred = x - total / n
    centred = centred - accurate_sum(centred, axis, keepdims=True) / n
    out = accurate_sum(centred * centred, axis, keepdims) / (n - correction)

    def backward(dout):
        return (spread(dout, x.shape, axis, keepdims) * centred * (2 / (n - correction)),)

    return out, backward


@op
@explain_errors_with(axis_error)
def max(x, *, axis=None, keepdims=False):
    """out = max x,  over the entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    Source      Danskin's theorem: the slope of a maximum is that of the branch that attains it
    Derivation  Where one entry is the largest, out moves with it alone:  ∂out/∂xᵢ = [xᵢ = out].
                Where n of them tie (`ties`), any share among them is a subgradient, and equal
                shares are the symmetric one:  dxᵢ = dout [xᵢ = out] / n
    Numerics    A NaN in the group is its maximum, although NaN does not equal itself.
    """
    xp, axis = array_module(x), axis_of(x, axis)
    out = x.max(axis, keepdims=keepdims)

    def backward(dout):
        largest = (x == spread(out, x.shape, axis, keepdims)) | xp.isnan(x)
        ties = largest.sum(axis, keepdims=keepdims).astype(x.dtype)  # not integers, which widen
        share = spread(dout / ties, x.shape, axis, keepdims)
        return (xp.where(largest, share, 0),)

    return out, backward
