"""Ops that move entries and change none; their backward moves the gradients back."""

import copy
import itertools

from minigrad.backend import add_up, array_module
from minigrad.internals.errors import (
    concat_error,
    explain_errors_with,
    index_error,
    permutation_error,
    reshape_error,
    stack_error,
)
from minigrad.tensor import op


@op
@explain_errors_with(reshape_error)
def reshape(x, *, shape):
    """out = the entries of x, in the same order, in another shape

    Shapes      out `shape`, of as many entries as x; one length may be −1, meaning what remains
    Source      the identity map: only the index of each entry changes
    Derivation  outᵢ = xᵢ in reading order, so  dxᵢ = doutᵢ:  dout in the shape of x
    """
    before = x.shape

    def backward(dout):
        return (dout.reshape(before),)

    return x.reshape(shape), backward


@op
@explain_errors_with(permutation_error)
def transpose(x, *, axes=None):
    """out = x with its axes in another order: axis i of out is axis `axes[i]` of x

    Shapes      out.shape[i] = x.shape[axes[i]]; without `axes` the order is reversed, as in NumPy
    Source      a permutation matrix P has the inverse Pᵀ
    Derivation  Read x and out as vectors of their entries:  out = P x, so  dx = Pᵀ dout = P⁻¹ dout,
                the axes in the order that undoes it
    """
    axes = range(x.ndim)[::-1] if axes is None else axes
    out = x.transpose(tuple(axes))  # an error where axes are no permutation
    axes = [a % x.ndim for a in axes]  # −1 is the last
    inverse = [axes.index(i) for i in range(x.ndim)]  # where axis i of x went

    def backward(dout):
        return (dout.transpose(inverse),)

    return out, backward


def parts_of(index):
    """Return the parts of an index; IndexError for a fraction, which CuPy would cut off."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(hasattr(part, "__float__") and not hasattr(part, "__index__") for part in parts):
        raise IndexError("a fraction is no index")
    return parts


@op
@explain_errors_with(index_error)
def getitem(x, *, index):
    """out = x[index]

    Shapes      as NumPy's indexing: numbers, slices, ..., None, arrays of integers or booleans
    Source      a selection matrix S, one 1 per row: out = S x, both read as vectors
    Derivation  dx = Sᵀ dout:  every entry of dout is added to the entry of x that it was read from.
                An array of integers may name an entry twice; then both contributions add up.
    """
    xp, shape, parts = array_module(x), x.shape, parts_of(index)
    may_repeat = any(hasattr(part, "__len__") for part in parts)  # an array or a list
    if may_repeat:  # copies, for backward reads them again
        index = copy.deepcopy(parts)

    def backward(dout):
        if may_repeat:
            return (add_up(dout, index, shape),)
        dx = xp.zeros(shape, dout.dtype)
        dx[index] = dout  # each entry at most once, so setting is adding to 0
        return (dx,)

    return x[index], backward


@op
@explain_errors_with(concat_error)
def concat(*arrays, axis=0):
    """out = the arrays, one after another along an axis: concat([x, y], axis=0)

    Shapes      the same but for `axis`, where the lengths of the arrays add up to that of out
    Source      a stack of identity maps
    Derivation  Each array fills a slice of out, and gets that slice of dout
    """
    xp = array_module(arrays[0])
    if not all(array.ndim for array in arrays):  # for which CuPy has another type of error
        raise ValueError("concat: a single entry has no axis to join along")
    out = xp.concatenate(arrays, axis)
    ends = [0, *itertools.accumulate(array.shape[axis] for array in arrays)]

    def backward(dout):
        along = xp.moveaxis(dout, axis, 0)
        slices = [along[a:b] for a, b in itertools.pairwise(ends)]
        return [xp.moveaxis(part, 0, axis) for part in slices]

    return out, backward


@op
@explain_errors_with(stack_error)
def stack(*arrays, axis=0):
    """out = the arrays side by side along a new axis: stack([x, y], axis=0)

    Shapes      all the same; out has one axis more, as long as there are arrays
    Source      a stack of identity maps
    Derivation  Array i is out at index i of the new axis, and gets dout at that index
    """
    xp = array_module(arrays[0])

    def backward(dout):
        return [*xp.moveaxis(dout, axis, 0)]

    return xp.stack(arrays, axis), backward
