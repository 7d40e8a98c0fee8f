"""Two judges who know nothing of each other: finite differences, and PyTorch where it is installed.

Both take a case in float64 under a random cotangent `dout`.  Never under ones: the gradient of
softmax(x).sum() is exactly zero, and a broken backward would pass.  For the same reason a case
whose gradient should be zero is refused: it proves nothing.

A judge returns the worst relative error that it saw, and raises AssertionError above its tolerance.
"""

from collections.abc import Callable

import numpy as np

from minigrad import random
from minigrad.gradcheck import slope
from minigrad.proof.cases import ROW, SEED, STEP, Positive, Same
from minigrad.tensor import OPS, Tensor, no_grad


def strided(array):
    """The same entries, with gaps between them."""
    wide = np.zeros([2 * n for n in array.shape], array.dtype)
    every_other: tuple = (..., *[slice(None, None, 2)] * array.ndim)
    view = wide[every_other]
    view[...] = array
    return view


LAYOUTS: dict[str, Callable] = {
    "contiguous": np.ascontiguousarray,
    "transposed": np.asfortranarray,
    "strided": strided,
}


def prepare(name, case, layout="contiguous", dtype=np.float64):
    """A case made concrete: (inputs, leaves, run, draw).

    inputs   what the op, or the module, is called with
    leaves   the Tensors that are owed a gradient: some of the inputs, then a module's parameters
    run()    the output, from the leaves as they then are
    draw     a shape -> a random array: numbers that float32 holds exactly, in `dtype`
    """
    rng = np.random.default_rng([*LAYOUTS].index(layout))

    def lay(array):
        array = LAYOUTS[layout](array).reshape(array.shape)
        array.flags.writeable = False  # an op that writes into its input, or into dout, fails
        return array

    def draw(shape):
        positive = isinstance(shape, Positive)
        numbers = rng.uniform(0.5, 2, shape) if positive else rng.standard_normal(shape)
        return lay(np.asarray(numbers, np.float32).astype(dtype))

    inputs: list = []
    leaves: list[Tensor] = []
    for x in case.inputs:
        if isinstance(x, Same):
            x = inputs[x]
        elif isinstance(x, tuple) or (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
            array = draw(x) if isinstance(x, tuple) else lay(x.astype(np.float32).astype(dtype))
            x = Tensor(array, requires_grad=True)
            leaves.append(x)
        elif isinstance(x, np.ndarray):
            x = lay(x)
        inputs.append(x)

    if case.build is None:
        function, options = OPS[name], case.options
    else:
        function, options = case.build(**case.options), {}
        for parameter in function.parameters():
            parameter.data = draw(parameter.shape)
            leaves.append(parameter)

    def run():
        with random.at(SEED, STEP, ROW):  # the same dropout mask every time
            if name in ("concat", "stack"):
                return function(inputs, **options)
            return function(*inputs, **options)

    return inputs, leaves, run, draw


def by_finite_differences(name, case, layout="contiguous", tolerance=1e-7):
    """Each leaf moves along a random direction: does the loss Σ dout ⊙ out move as foretold?

    It foretells the slope Σ dx ⊙ d.  Over directions d of standard normal entries this spreads
    about 0 by ‖dx‖, so the error is relative to ‖dx‖.  For the tolerance see gradcheck.slope: a
    loss of up to 100 ‖dx‖ rounds by 10⁻¹⁴ ‖dx‖, and the step of 10⁻⁶ divides that.
    """
    _, leaves, run, draw = prepare(name, case, layout)
    out = run()
    dout = draw(out.shape)
    out.backward(dout)

    @no_grad()
    def loss():
        return float((dout * run().data).sum())

    worst = 0.0
    for i, x in enumerate(leaves):
        if 0 in (x.data.size, out.data.size):
            continue  # nothing moves
        direction = draw(x.shape)
        foretold, seen = float((x.grad * direction).sum()), slope(loss, x, direction)
        assert abs(seen) > 1e-6, f"{name}: d{i} is zero, which checks nothing"
        error = abs(foretold - seen) / np.linalg.norm(x.grad)
        assert error <= tolerance, (
            f"{name}: d{i}: along a random direction backward foretells a slope of {foretold:.9g}, "
            f"finite differences see {seen:.9g}"
        )
        worst = max(worst, error)
    return worst


def by_pytorch(name, case, layout="contiguous", tolerance=1e-12, zero_is_fine=False):
    """The output and every gradient are PyTorch's, relative to the largest entry of each.

    For the tolerance: float64 rounds at 10⁻¹⁶, and the sums are short.
    """
    import torch

    from minigrad.proof.pytorch import REFERENCES

    inputs, leaves, run, draw = prepare(name, case, layout)
    twins = {x: torch.tensor(x.data, requires_grad=True) for x in leaves}
    parameters = [x for x in leaves if x not in inputs]
    theirs = [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in inputs + parameters]
    theirs = [twins[x] if isinstance(x, Tensor) else x for x in theirs]

    out, reference = run(), REFERENCES[name](*theirs, **case.options)
    dout = draw(out.shape)
    out.backward(dout)
    gradients = torch.autograd.grad(reference, list(twins.values()), torch.tensor(dout))

    def compare(ours, theirs, what):
        theirs = theirs.detach().numpy()
        assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch's {theirs.shape}"
        size = abs(theirs).max(initial=0)
        error = abs(ours - theirs).max(initial=0) / (size or 1)
        assert error <= tolerance, f"{what}: off by {error:.3g} of PyTorch's largest entry"
        return float(error)

    worst = compare(out.data, reference, f"{name}: out")
    for i, (x, d) in enumerate(zip(leaves, gradients, strict=True)):
        if not zero_is_fine and 0 not in (x.data.size, dout.size):
            assert abs(d).max() > 1e-3, f"{name}: d{i} is zero, which checks nothing"
        worst = max(worst, compare(x.grad, d, f"{name}: d{i}"))
    return worst
