"""What to say when shapes do not fit.  Nothing here runs before an op has failed.

A finder takes the arguments of an op by name, and returns what is wrong with them in one sentence,
or None.  It names an operand as the op's signature does, its shape, and the axis to blame.
"""

import functools
import itertools
import math
import re

from minigrad.device import array_module, is_array, to_host


def explained(find_fault):
    """A decorator: an error of shapes in this op is told in the words of a finder (by @op)."""

    def decorate(array_op):
        array_op.find_fault = find_fault
        return array_op

    return decorate


# ---- for all ops ---------------------------------------------------------------------------------


def input_names(names, arrays):
    """A name for each input: of an op that takes a list, arrays[0], arrays[1] and so on."""
    if len(names) == len(arrays):
        return names
    return [f"{names[0]}[{i}]" for i in range(len(arrays))]


def named(names, arrays, what):
    """The arrays among the inputs of an op, each with its attribute `what`: "x (2, 3), y (4,)"."""
    pairs = zip(input_names(names, arrays), arrays, strict=True)
    return ", ".join(f"{name} {getattr(x, what)}" for name, x in pairs if is_array(x))


def one_dtype(op_name, names, arrays, result):
    """Raise TypeError where the inputs' dtypes differ so that one would widen another silently."""
    dtypes = {x.dtype for x in arrays if is_array(x)}
    floats = {dtype for dtype in dtypes if dtype.kind == "f"}
    widened = result.kind == "f" and result not in floats and any(d.kind in "iu" for d in dtypes)
    if len(floats) > 1 or floats and widened:
        raise TypeError(
            f"{op_name}: {named(names, arrays, 'dtype')} would give {result}: convert one of them, "
            "as in Tensor(x.data.astype('float32')), or a model by model.to(dtype='float32')"
        )


# ---- words ---------------------------------------------------------------------------------------


def shape_of(x):
    """The shape of an operand: () of a number."""
    return getattr(x, "shape", ())


def n_axes(n):
    """1 axis, 2 axes."""
    return f"{n} {'axis' if n == 1 else 'axes'}"


def disagree(a, x_shape, i, b, y_shape, j, where=""):
    """Operands named a and b, whose axes i and j should be equally long."""
    return (
        f"{a} {x_shape} and {b} {y_shape} disagree{where}: "
        f"axis {i} of {a} has length {x_shape[i]}, axis {j} of {b} has {y_shape[j]}"
    )


def outside(name, shape, axis):
    """The operand has no such axis."""
    n = len(shape)
    return f"{name} {shape} has no axis {axis}: " + (
        f"count from {-n} to {n - 1}" * (n > 0) or "it has none"
    )


def clash(a, x_shape, b, y_shape, last=-1):
    """Operands that do not broadcast, looked at from axis `last` to the front; None if they do."""
    for axis in range(last, -min(len(x_shape), len(y_shape)) - 1, -1):
        m, n = x_shape[axis], y_shape[axis]
        if m != n and 1 not in (m, n):
            return (
                f"{a} {x_shape} and {b} {y_shape} do not broadcast: "
                f"in axis {axis} their lengths are {m} and {n}, and neither is 1"
            )
    return None


def misfit(shapes, **operands):
    """Whose shape is not the one in the docstring: shapes = "x (..., I)  weight (O, I)", say.

    Equal letters stand for equal lengths, and ... for equal shapes.  An operand may be None.
    """
    seen: dict = {}  # letter -> (operand, its shape, the axis) where it came first
    for name, letters in re.findall(r"(\w+) \((.*?)\)", shapes):
        if operands[name] is None:
            continue
        shape, fixed = operands[name].shape, re.findall(r"\w+", letters)
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
        places = [(i, i) for i in range(front)]
        places += [(c, i - n if open_front else i) for i, c in enumerate(fixed)]
        for letter, axis in places:
            a, x_shape, i = seen.setdefault(letter, (name, shape, axis))
            if x_shape[i] != shape[axis]:
                where = f" in {letter}" if letter in fixed else ""
                return disagree(a, x_shape, i, name, shape, axis, where)
    return None


# ---- finders -------------------------------------------------------------------------------------


def no_broadcast(**operands):
    """Two operands that do not broadcast against each other."""
    pairs = itertools.combinations(operands.items(), 2)
    faults = (clash(a, shape_of(x), b, shape_of(y)) for (a, x), (b, y) in pairs)
    return next(filter(None, faults), None)


def no_product(x, y):
    """A number, rows and columns of two lengths, or matrices that do not pair up."""
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
    return clash("x", x_shape, "y", y_shape, last=-3)


def no_axis(x, axis, **_):
    """An axis that is not there, is named twice, or has no entry to be the largest."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            return outside("x", x.shape, a)
    places = [a % x.ndim for a in axes]
    for place in places:
        if places.count(place) > 1:
            return f"axis {axis} names axis {place} of x {x.shape} twice"
        if x.shape[place] == 0:
            return f"x {x.shape} has no entries along axis {place}, and so no largest"
    return None


def no_reshape(x, shape):
    """Entries that are too many or too few for the new shape."""
    shape = tuple(shape) if hasattr(shape, "__len__") else (shape,)
    lengths = [n for n in shape if n >= 0]
    n_open = len(shape) - len(lengths)
    if n_open > 1:
        return f"shape {shape} leaves {n_open} lengths open, and only one may be -1"
    fault = f"x {x.shape} has {x.size} entries, shape {shape} "
    if n_open:
        return fault + f"needs a multiple of {math.prod(lengths)}"
    return fault + f"has {math.prod(lengths)}"


def no_permutation(x, axes):
    """Axes that are too many or too few, not there, or named twice."""
    axes = tuple(axes)
    if len(axes) != x.ndim:
        return f"x {x.shape} has {n_axes(x.ndim)}, axes {axes} names {len(axes)}: name each once"
    for a in axes:
        if not -x.ndim <= a < x.ndim:
            return outside("x", x.shape, a)
    places = [a % x.ndim for a in axes]
    twice = next(place for place in places if places.count(place) > 1)
    return f"axes {axes} names axis {twice} of x {x.shape} twice: name each once"


def no_entry(x, index):
    """An index with too many parts, or one that points outside."""
    index = index if isinstance(index, tuple) else (index,)
    kinds = type(None), type(...), slice
    parts = [p if isinstance(p, kinds) else to_host(array_module(x).asarray(p)) for p in index]
    arrays = {f"index[{i}]": p for i, p in enumerate(parts) if not isinstance(p, kinds)}
    if any(p.dtype.kind not in "iub" for p in arrays.values()) or sum(p is ... for p in parts) > 1:
        return (
            f"x {x.shape} takes an index of integers, slices, one ..., None, and arrays of "
            "integers or booleans"
        )

    def n_taken(part):  # how many axes of x a part speaks of; an array of booleans of all its own
        if isinstance(part, kinds):
            return int(isinstance(part, slice))
        return part.ndim if part.dtype.kind == "b" else 1

    total = sum(map(n_taken, parts))
    if total > x.ndim:
        return f"x {x.shape} has {n_axes(x.ndim)}, the index is made for {total}"
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
    return no_broadcast(**arrays)


def no_row(arrays, axis, new_axis=False):
    """Arrays that cannot be joined along an axis that they have, or along a new one."""
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
                hint = "all must be alike" if new_axis else f"only axis {axis} may differ"
                return disagree("arrays[0]", first, j, f"arrays[{i}]", shape, j) + f"; {hint}"
    return None


no_stack = functools.partial(no_row, new_axis=True)
