"""Parameters laid end to end: what happens to all of them alike happens in a few long passes.

    weight (4, 2)   bias (4,)   ...
    ├────────────┬───────────┬─────┤      data   the numbers themselves
    ├────────────┼───────────┼─────┤      grad   their gradients

A parameter keeps its shape, but its `data` is now a view of the one vector, and backward() puts its
gradient into the same place of the other.  To add up gradients, to send them or to move the weights
is then an affair of vectors, whatever the model looks like; and it can be shared out at any entry.
"""

import itertools
import math

from minigrad.device import array_module, device_of
from minigrad.tensor import like


class Flat:
    """`data` and `grad`, vectors (N,), of which the parameters become views."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        kinds = {f"{p.dtype} on {p.device}" for p in self.parameters}
        if len(kinds) != 1:
            raise ValueError(f"parameters in one vector must be alike, these are {kinds}")
        self.shapes = [p.shape for p in self.parameters]
        ends = itertools.accumulate(map(math.prod, self.shapes), initial=0)
        self.places = [slice(*pair) for pair in itertools.pairwise(ends)]
        xp = array_module(self.parameters[0].data)
        data = xp.concatenate([p.data.ravel() for p in self.parameters])
        self.use(data, xp.zeros_like(data))

    def use(self, data, grad):
        """Let the parameters be views of these two vectors (N,), and take their numbers."""
        self.data, self.grad = data, grad
        self.views, self.slots = self.split(data), self.split(grad)
        for p, view, slot in zip(self.parameters, self.views, self.slots, strict=True):
            p.data, p.slot = view, slot

    def release(self):
        """Let go of all numbers, until use() gives others: the parameters are empty meanwhile."""
        for p in self.parameters:
            p.data, p.grad, p.slot = p.data.ravel()[:0].copy(), None, None
        self.data = self.grad = None
        self.views = self.slots = []

    def split(self, vector):
        """A vector (N,) as views in the shapes of the parameters."""
        places = zip(self.places, self.shapes, strict=True)
        return [vector[place].reshape(shape) for place, shape in places]

    def __setstate__(self, state):
        """Of a copy: views were copied as arrays of their own, and are made views again."""
        self.__dict__.update(state)
        if self.data is not None:
            self.use(self.data, self.grad)

    def gather(self):
        """Copy in what was assigned to a parameter since: `p.data = ...` or `p.grad = ...`."""
        arrays = zip(self.parameters, self.places, self.views, self.slots, strict=True)
        for p, place, view, slot in arrays:
            if p.data is not view:
                if not like(p.data, view):
                    raise RuntimeError(
                        f"a parameter {view.shape} of {view.dtype} on {device_of(view)} has become "
                        f"{p.shape} of {p.dtype} on {p.device}: convert or move a model first, "
                        "then make its optimizer"
                    )
                self.data[place] = p.data.ravel()  # `view` may be read-only: see Reading
                p.version += 1
                p.data = view
            if p.grad is not None and p.grad is not slot:
                slot[...] = p.grad
