"""Error messages for shapes that do not fit.

A finder takes the arguments of an op by name and returns what is wrong with them, in one sentence,
or None.  The sentence names the operand as the op's signature does, its shape, and the axis that is
wrong.  Finders run only after NumPy has failed, except those that check_shapes is given.
"""

import functools
import inspect
import itertools
import math
import re

from minigrad.backend import array_module, is_array, to_numpy
from minigrad.internals.guards import named

EXPLAINED = (ValueError, IndexError, TypeError, AttributeError, OverflowError)


def explain_errors_with(find_fault):
    """Decorate an op: if NumPy fails in it, `explained` asks this finder why."""

    def decorate(array_op):
        array_op.find_fault = find_fault
        return array_op

    return decorate


def explained(error, page, arguments, arrays, options):
    """Return the error of an op, as the op's finder explains it; itself if the op did so already.

    page        the function that @op was given; it has a finder if explain_errors_with() set one
    """
    name, fault = arguments.op, None
    find_fault = getattr(page, "find_fault", None)
    if isinstance(error, TypeError | AttributeError):
        try:
            arguments.bind(arrays, options)
        except TypeError as misfit:  # an option that is missing, or that the op does not have
            return misfit
        takes_numbers = find_fault is elementwise_error
        for parameter, x in zip(arguments.names, arrays, strict=False):
            if is_array(x) or x is arguments.signature.parameters[parameter].default:
                continue
            if x is None or not takes_numbers:
                return TypeError(f"{name}: {parameter} must be an array, not {x!r}")
        return error if str(error).startswith(f"{name}:") else TypeError(f"{name}: {error}")
    if find_fault:
        fault = find_fault(**arguments.bind(arrays, options).arguments)
    if fault is None and str(error).startswith(f"{name}:"):
        return error
    fault = fault or f"{error} ({named(arguments.names, arrays, 'shape')})"
    try:
        return type(error)(f"{name}: {fault}")
    except TypeError:  # some errors want more than a text
        return ValueError(f"{name}: {fault}")


def check_shapes(expected, find_fault=None):
    """Decorate an op: its inputs must have the shapes of its docstring, as in "x (..., I)  w (I,)".

    Equal letters are equal lengths, and ... equal shapes.  A finder may look for more.
    """

    def decorate(array_op):
        name, signature = array_op.__name__, inspect.signature(array_op)
        names = re.findall(r"(\w+) \(", expected)

        @functools.wraps(array_op)
        def checked(*inputs, **options):
            given = dict(zip(signature.parameters, inputs, strict=False))
            fault = shape_mismatch(expected, **{name: given.get(name) for name in names})
            if not fault and find_fault:
                bound = signature.bind(*inputs, **options)
                bound.apply_defaults()
                fault = find_fault(**bound.arguments)
            if fault:
                raise ValueError(f"{name}: {fault}")
            return array_op(*inputs, **options)

        return checked

    return decorate


# ---- words ---------------------------------------------------------------------------------------


def shape_of(x):
    """Return the shape of an operand: () of a number."""
    return getattr(x, "shape", ())


def n_axes(n):
    """Return "1 axis", "2 axes"."""
    return f"{n} {'axis' if n == 1 else 'axes'}"


def disagree(a, x_shape, i, b, y_shape, j, where=""):
    """Return the message for operands named a and b: axis i of a is not as long as axis j of b."""
    return (
        f"{a} {x_shape} and {b} {y_shape} disagree{where}: "
        f"axis {i} of {a} has length {x_shape[i]}, axis {j} of {b} has {y_shape[j]}"
    )


def outside(name, shape, axis):
    """Return the message for an operand that has no such axis."""
    n = len(shape)
    return f"{name} {shape} has no axis {axis}: " + (
        f"count from {-n} to {n - 1}" * (n > 0) or "it has none"
    )


def broadcast_error(a, x_shape, b, y_shape, last=-1):
    """Return the message if operands do not broadcast, compared from axis `last` to the front."""
    for axis in range(last, -min(len(x_shape), len(y_shape)) - 1, -1):
        m, n = x_shape[axis], y_shape[axis]
        if m != n and 1 not in (m, n):
            return (
                f"{a} {x_shape} and {b} {y_shape} do not broadcast: "
                f"in axis {axis} their lengths are {m} and {n}, and neither is 1"
            )
    return None


def shape_mismatch(shapes, **operands):
    """Return the message if operands have not the shapes that an op's docstring gives.

    shapes      as in "x (..., I)  weight (O, I)": equal letters are equal lengths, and ... equal
                shapes.  An operand may be None.
    """
    seen: dict = {}  # letter -> (operand, its shape, the axis) where it came first
    for name, letters in re.findall(r"(\w+) \((.*?)\)", shapes):
        if operands[name] is None:
            continue
        shape, fixed = shape_of(operands[name]), re.findall(r"\w+", letters)
        n, open_front = len(fixed), letters.startswith("...")
        if len(shape) < n or (len(shape) > n and not open_front):
            return f"{name} {shape} must have {n_axes(n)}{' or more' * open_front}, ({letters})"
        front = len(shape) - n
        if open_front:
            other, other_shape, other_front = seen.setdefault("...", (name, shape, front))
            if front != other_front:
                there, here = other_shape[:other_front], shape[:front]
                return (
                    f"{other} {other_shape} and {name} {shape} disagree in their axes in front, "
                    f"...: {other} has {there} there, {name} has {here}"
                )
        axes = [(i, i) for i in range(front)]
        axes += [(c, i - n if open_front else i) for i, c in enumerate(fixed)]
        for letter, axis in axes:
            a, x_shape, i = seen.setdefault(letter, (name, shape, axis))
            if x_shape[i] != shape[axis]:
                where = f" in {letter}" if letter in fixed else ""
                return disagree(a, x_shape, i, name, shape, axis, where)
    return None


# ---- finders -------------------------------------------------------------------------------------


def elementwise_error(**operands):
    """Find two operands that do not broadcast against each other."""
    pairs = itertools.combinations(operands.items(), 2)
    faults = (broadcast_error(a, shape_of(x), b, shape_of(y)) for (a, x), (b, y) in pairs)
    return next(filter(None, faults), None)


def matmul_error(x, y):
    """Find a number, rows and columns of two lengths, or matrices that do not pair up."""
    x_shape, y_shape = shape_of(x), shape_of(y)
    for name, shape in (("x", x_shape), ("y", y_shape)):
        if not shape:
            return (
                f"x {x_shape} and y {y_shape}: {name} is a number, without an axis to sum over; "
                "multiply by * instead"
            )
    j = -2 if len(y_shape) > 1 else -1
    if x_shape[-1] != y_shape[j]:
        return disagree("x", x_shape, -1, "y", y_shape, j)
    return broadcast_error("x", x_shape, "y", y_shape, last=-3)


def axis_error(x, axis, **_):
    """Find an axis that does not exist, is named twice, or has no entries."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            return outside("x", x.shape, a)
    positive = [a % x.ndim for a in axes]
    for a in positive:
        if positive.count(a) > 1:
            return f"axis {axis} names axis {a} of x {x.shape} twice"
        if x.shape[a] == 0:
            return f"x {x.shape} has no entries along axis {a}"
    return None


def reshape_error(x, shape):
    """Find a new shape with more or fewer entries than x."""
    shape = tuple(shape) if hasattr(shape, "__len__") else (shape,)
    lengths = [n for n in shape if n >= 0]
    n_open = len(shape) - len(lengths)
    if n_open > 1:
        return f"shape {shape} leaves {n_open} lengths open, and only one may be -1"
    fault = f"x {x.shape} has {x.size} entries, shape {shape} "
    if n_open:
        return fault + f"needs a multiple of {math.prod(lengths)}"
    return fault + f"has {math.prod(lengths)}"


def permutation_error(x, axes):
    """Find axes that do not exist, are named twice, or are too many or too few."""
    axes = tuple(axes)
    if len(axes) != x.ndim:
        return f"x {x.shape} has {n_axes(x.ndim)}, axes {axes} names {len(axes)}: name each once"
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            return outside("x", x.shape, a)
    positive = [a % x.ndim for a in axes]
    twice = next(a for a in positive if positive.count(a) > 1)
    return f"axes {axes} names axis {twice} of x {x.shape} twice: name each once"


def index_error(x, index):
    """Find an index with too many parts, of a wrong type, or outside of its axis."""
    index = index if isinstance(index, tuple) else (index,)
    kinds = type(None), type(...), slice
    parts = [p if isinstance(p, kinds) else to_numpy(array_module(x).asarray(p)) for p in index]
    arrays = {f"index[{i}]": p for i, p in enumerate(parts) if not isinstance(p, kinds)}
    if any(p.dtype.kind not in "iub" for p in arrays.values()) or sum(p is ... for p in parts) > 1:
        return (
            f"x {x.shape} takes an index of integers, slices, one ..., None, and arrays of "
            "integers or booleans"
        )

    def n_taken(part):  # how many axes of x a part indexes: a mask as many as it has itself
        if isinstance(part, kinds):
            return int(isinstance(part, slice))
        return part.ndim if part.dtype.kind == "b" else 1

    total = sum(map(n_taken, parts))
    if total > x.ndim:
        return f"x {x.shape} has {n_axes(x.ndim)}, the index needs {total}"
    axis = 0
    for part in parts:
        if part is ...:
            axis += x.ndim - total
        elif not isinstance(part, kinds) and part.dtype.kind == "b":
            for i, n in enumerate(part.shape):
                if n != x.shape[axis + i]:
                    return disagree("x", x.shape, axis + i, "the mask", part.shape, i)
        elif not isinstance(part, kinds) and part.size:
            n = x.shape[axis]
            bad = part.min() if part.min() < -n else part.max()
            if not -n <= bad < n:
                return f"index {bad} is outside axis {axis} of x {x.shape}, which has length {n}"
        axis += n_taken(part)
    return elementwise_error(**arrays)


def concat_error(arrays, axis, new_axis=False):
    """Find arrays that cannot be joined along an axis that they have, or along a new one."""
    shapes = [shape_of(x) for x in arrays]
    first = shapes[0]
    for i, shape in enumerate(shapes):
        if len(shape) != len(first):
            return (
                f"arrays[0] {first} has {n_axes(len(first))}, arrays[{i}] {shape} has "
                f"{len(shape)}: all must have the same number"
            )
    if new_axis:
        n = len(first) + 1
        if not -n <= axis < n:
            return f"out, of {n_axes(n)}, has no axis {axis}: count from {-n} to {n - 1}"
    elif not first:
        return "arrays[0] () has no axis to join along: stack makes one"
    elif not -len(first) <= axis < len(first):
        return outside("arrays[0]", first, axis)
    for i, shape in enumerate(shapes):
        for j in range(len(first)):
            if shape[j] != first[j] and (new_axis or j != axis % len(first)):
                hint = "all must have one shape" if new_axis else f"only axis {axis} may differ"
                return disagree("arrays[0]", first, j, f"arrays[{i}]", shape, j) + f"; {hint}"
    return None


stack_error = functools.partial(concat_error, new_axis=True)


def layer_norm_error(x, **_):
    """Find rows without entries, which have no mean."""
    if x.shape[-1] == 0:
        return f"x {x.shape} has no entries along axis -1, and so no mean"
    return None


def attention_error(q, k, mask, causal, **_):
    """Find lengths that are too small for attention, or a mask that does not fit."""
    (B, H, T, D), N = q.shape, k.shape[2]
    if q.dtype.kind != "f":
        return f"q must hold floating-point numbers, not {q.dtype}"
    if D == 0:
        return f"q {q.shape} has no channels: D, its axis 3, must be at least 1"
    if N == 0:
        return f"k {k.shape} has no keys: N, its axis 2, must be at least 1"
    if causal and N < T:
        return (
            f"q {q.shape} has more queries than k {k.shape} has keys: T is {T} in axis 2 of q, N "
            f"is {N} in axis 2 of k, and causal queries are the last T of N positions"
        )
    if mask is None:
        return None
    scores = (B, H, T, N)
    if not is_array(mask) or mask.dtype.kind != "b":
        return "mask must be an array of booleans, True where a query may see a key"
    lengths = zip(mask.shape[::-1], scores[::-1], strict=False)
    if mask.ndim > 4 or any(m not in (1, n) for m, n in lengths):
        return f"mask {mask.shape} does not broadcast to the scores (B, H, T, N) = {scores}"
    return None
