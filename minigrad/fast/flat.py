"""All parameters as one vector, so that what is done to each is done in a few long passes.

    weight (4, 2)   bias (4,)   ...
    ├────────────┬───────────┬─────┤      data   the parameters themselves
    ├────────────┼───────────┼─────┤      grad   their gradients

A parameter keeps its shape, but its `data` is now a view of one vector, and backward() writes its
gradient into the same range of the other.  Adding up gradients, sending them and updating the
weights are then operations on vectors, whatever the model looks like, and can be split anywhere.
"""

import itertools
import math
from typing import Any

from minigrad.backend import array_module, device_of
from minigrad.internals import guards
from minigrad.internals.guards import like


class FlatParameters:
    """`data` and `grad`, vectors (N,); the parameters become views of them."""

    data: Any
    grad: Any

    def __init__(self, parameters):
        self.parameters = list(parameters)
        kinds = {f"{p.dtype} on {p.device}" for p in self.parameters}
        if len(kinds) != 1:
            raise ValueError(
                f"parameters in one vector must have one dtype and device, not {kinds}"
            )
        self.shapes = [p.shape for p in self.parameters]
        ends = itertools.accumulate(map(math.prod, self.shapes), initial=0)
        self.slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        self.data = self.grad = None
        self.join()

    def join(self):
        """Make the parameters views of a new vector, with the numbers that are in them."""
        xp = array_module(self.parameters[0].data)
        data = xp.concatenate([p.data.ravel() for p in self.parameters])
        self.bind(data, xp.zeros_like(data))

    def bind(self, data, grad):
        """Make the parameters views of two vectors (N,), with the numbers that are in these."""
        guards.forget_flat(self)
        self.data, self.grad = data, grad
        guards.register_flat(self)
        self.views, self.buffers = self.split(data), self.split(grad)
        self.parameter_of = dict(zip(map(id, self.views), self.parameters, strict=True))
        for p, view, buffer in zip(self.parameters, self.views, self.buffers, strict=True):
            p.data, p.grad_buffer = view, buffer

    def unbind(self):
        """Drop all numbers, until bind() provides others: the parameters are empty meanwhile."""
        guards.forget_flat(self)
        for p in self.parameters:
            p.data, p.grad, p.grad_buffer = p.data.ravel()[:0].copy(), None, None
        self.data = self.grad = None
        self.views, self.buffers, self.parameter_of = [], [], {}

    def split(self, vector):
        """Return a vector (N,) as views in the shapes of the parameters."""
        pairs = zip(self.slices, self.shapes, strict=True)
        return [vector[where].reshape(shape) for where, shape in pairs]

    def __getstate__(self):
        """Leave out the vectors and their views: a copy joins the parameters that came with it."""
        without = dict(vars(self), data=None, grad=None, views=[], buffers=[], parameter_of={})
        return without | {"bound": self.data is not None}

    def __setstate__(self, state):
        """Restore a copy."""
        bound = state.pop("bound")
        self.__dict__.update(state)
        if bound:
            self.join()

    def sync(self):
        """Copy in what was assigned to a parameter since, by `p.data = ...` or `p.grad = ...`."""
        arrays = zip(self.parameters, self.slices, self.views, self.buffers, strict=True)
        for p, where, view, buffer in arrays:
            if p.data is not view:
                if not like(p.data, view):
                    raise RuntimeError(
                        f"a parameter {view.shape} of {view.dtype} on {device_of(view)} has become "
                        f"{p.shape} of {p.dtype} on {p.device}: convert or move a model first, "
                        "then make its optimizer"
                    )
                self.data[where] = p.data.ravel()  # the view may be read-only: see guards.WriteLock
                p.version += 1
                p.data = view
            if p.grad is not None and p.grad is not buffer:
                if not guards.is_writable(buffer):
                    raise RuntimeError(
                        f"the gradient of a parameter {p.shape} is still read by a graph that has "
                        "not run backward yet: call its backward() before step()"
                    )
                buffer[...] = p.grad
                p.grad = buffer
