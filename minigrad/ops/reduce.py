"""Ops that make many entries into one: sum, mean and max over some axes or over all.

The entries that become one are a group.  `axis` is None (all), a number or a tuple of numbers,
as in NumPy; with `keepdims` the axes stay, with length 1.
"""

from minigrad.device import array_module
from minigrad.faults import explained, no_axis
from minigrad.tensor import op


def spread(out, shape, axis, keepdims):
    """`out`, one entry per group, seen (through a view) at every entry of the group in `shape`."""
    xp = array_module(out)
    if not keepdims and shape:  # a number has no axis to lose
        out = xp.expand_dims(out, tuple(range(len(shape))) if axis is None else axis)
    return xp.broadcast_to(out, shape)


@op
@explained(no_axis)
def sum(x, *, axis=None, keepdims=False):
    """out = Σ x,  over the entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    Source      the sum rule
    Derivation  Each xᵢ stands in the sum once:  ∂out/∂xᵢ = 1,  so  dxᵢ = dout
    """
    shape = x.shape

    def backward(dout):
        return (spread(dout, shape, axis, keepdims),)

    return x.sum(axis, keepdims=keepdims), backward


@op
@explained(no_axis)
def mean(x, *, axis=None, keepdims=False):
    """out = (Σ x) / n,  over the n entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    Source      the sum rule
    Derivation  ∂out/∂xᵢ = 1/n,  so  dxᵢ = dout / n
    """
    out = x.mean(axis, keepdims=keepdims)
    shape = x.shape
    n = x.size // out.size if out.size else 1  # nothing to divide

    def backward(dout):
        return (spread(dout / n, shape, axis, keepdims),)

    return out, backward


@op
@explained(no_axis)
def max(x, *, axis=None, keepdims=False):
    """out = max x,  over the entries of each group

    Shapes      out like x without `axis` (with length 1 there, if keepdims)
    Source      Danskin's theorem: the slope of a maximum is that of the branch that attains it
    Derivation  Where one entry is the largest, out moves with it alone:  ∂out/∂xᵢ = [xᵢ = out].
                Where n of them tie (`ties`), any share among them is a subgradient, and equal
                shares are the symmetric one:  dxᵢ = dout [xᵢ = out] / n
    """
    out = x.max(axis, keepdims=keepdims)

    def backward(dout):
        largest = x == spread(out, x.shape, axis, keepdims)
        ties = largest.sum(axis, keepdims=keepdims).astype(x.dtype)  # not integers, which widen
        return (spread(dout / ties, x.shape, axis, keepdims) * largest,)

    return out, backward
