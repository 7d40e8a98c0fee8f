"""The operators and methods of a Tensor: those that compute call the op of that name."""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

from minigrad.backend import device_of, is_array, requires_grad, to_device, to_numpy
from minigrad.internals import errors, guards
from minigrad.internals.hooks import this_thread

# name -> op on Tensors, filled by @op.  It is here so that imports point from the ops to the tape.
OPS: dict[str, Any] = {}


def name_of(page):
    """Return the name of an op: its own, or "module.name" if minigrad.ops has one of that name.

    For `x + y` stays the `add` of minigrad.ops, and a twin in fast/ is one of the op there.
    """
    before = OPS.get(page.__name__)
    if before is None or before.__module__ == page.__module__:
        return page.__name__
    is_taken = before.__module__.startswith("minigrad.ops.")
    return f"{page.__module__}.{page.__name__}" if is_taken else page.__name__


def binary(name, reflected=False):
    """Return a method that calls the op `name` with self and another operand."""
    if reflected:
        return lambda self, other: OPS[name](other, self)
    return lambda self, other: OPS[name](self, other)


def comparison(symbol, compare):
    """Return a method that compares entry by entry: a boolean Tensor without a gradient."""

    def method(self, other):
        if other is None:
            return NotImplemented  # Python then compares identities
        y = comparable(other, self.dtype)
        if y is NotImplemented:
            return NotImplemented  # Python then compares identities, or raises TypeError for <
        return type(self)(entry_by_entry(symbol, compare, self.data, y))

    return method


def logical(symbol, combine):
    """Return a method that combines two boolean Tensors entry by entry."""

    def method(self, other):
        y = comparable(other, self.dtype)
        if not is_boolean(self.data) or not is_boolean(y):
            raise TypeError(
                f"{symbol}: both sides must be booleans, as comparisons return them; {symbol} "
                f"binds more tightly than they do, so write (x > 0) {symbol} (x < 1)"
            )
        return type(self)(entry_by_entry(symbol, combine, self.data, y))

    return method


def entry_by_entry(symbol, function, x, y):
    """Return function(x, y); ValueError if they do not broadcast or are on two devices."""
    try:
        guards.one_device([x, y])
    except ValueError as error:
        raise ValueError(f"{symbol}: {error}") from None
    if fault := errors.elementwise_error(x=x, y=y):
        raise ValueError(f"{symbol}: {fault}")
    with np.errstate(over="ignore"):  # a number that is too large for the dtype of x becomes ∞
        return function(x, y)


def is_boolean(x):
    """Return whether `x` is an array of booleans, or True or False."""
    return isinstance(x, bool) or (is_array(x) and x.dtype.kind == "b")


def comparable(other, dtype):
    """Return what a Tensor of this dtype is compared with; NotImplemented if that is no number.

    As in arithmetic, a single number brings no dtype: Tensor(0.1) == np.float64(0.1) is true.
    """
    if isinstance(other, Operators):
        return other.data
    if isinstance(other, int | float) and not is_array(other):
        return other
    if isinstance(other, list | tuple):
        try:
            other = np.asarray(other)
        except ValueError:  # lists of different lengths in a list
            return NotImplemented
        if dtype.kind == "f" and other.dtype.kind in "fiub":
            other = other.astype(dtype)
    if is_array(other):
        if other.dtype.kind not in "fiub":
            return NotImplemented
        return other if other.ndim else other.item()
    return float(other) if isinstance(other, Real) else NotImplemented


# What np.NAME(x) calls as x.NAME(), and the functions whose result has no gradient to lose.
METHODS = {"sum", "mean", "max", "var", "any", "all", "reshape", "transpose", "squeeze"}
NO_GRADIENT = {"array_equal", "allclose", "isclose", "shape", "ndim", "size", "argmax", "argmin"}
NO_GRADIENT |= {"argsort", "zeros_like", "ones_like", "empty_like", "full_like", "array_repr"}
NO_GRADIENT |= {"array_str", "array2string", "may_share_memory", "shares_memory", "save", "savez"}


def data_of(x):
    """Return `x` with the data in place of Tensors, also inside of lists and dicts."""
    if isinstance(x, Operators):
        return to_numpy(x.data)
    if isinstance(x, dict):
        return {key: data_of(value) for key, value in x.items()}
    return type(x)(map(data_of, x)) if type(x) in (list, tuple) else x


def in_place(name):
    """Return a method for `x += y` and the like: for a leaf that requires a gradient, an update."""

    def method(self, other):
        if self.node is not None or not self.requires_grad:
            return OPS[name](self, other)  # Python then binds x to the new Tensor
        if this_thread.recording:
            raise RuntimeError(
                "a leaf that requires a gradient is updated in place under no_grad() alone; for a "
                "new Tensor write x = x + y"
            )
        return self.copy_(OPS[name](self, other))

    return method


class Operators:
    """What Tensor inherits: its attributes, conversions, operators and methods."""

    data: Any
    node: Any
    requires_grad: Any
    grad_buffer: Any
    version: int
    _lock: Any = None  # a weak reference to the WriteLock of data
    # NumPy then leaves `array + tensor` to Tensor, and refuses np.exp(tensor), which would lose the
    # gradient: "operand 'Tensor' does not support ufuncs".  F.exp is the op.
    __array_ufunc__ = None

    # ---- attributes ----------------------------------------------------------------------------

    @property
    def shape(self):
        return self.data.shape

    @property
    def ndim(self):
        return self.data.ndim

    @property
    def size(self):
        """The number of entries."""
        return self.data.size

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def device(self):
        """ "cpu" or "gpu"."""
        return device_of(self.data)

    # ---- conversions ---------------------------------------------------------------------------

    def item(self):
        """Return the one entry as a Python number."""
        return self.data.item()

    def numpy(self):
        """Return the data as a NumPy array, the same memory where that is possible."""
        return to_numpy(self.data)

    def __array__(self, dtype=None, copy=None):
        """np.asarray(x) returns the data.  No gradient passes through NumPy's own functions."""
        return np.array(to_numpy(self.data), dtype, copy=copy)

    def __array_function__(self, function, types, args, options):
        """np.sum(x) is x.sum(); other functions of NumPy are refused where a gradient would end."""
        name = function.__name__
        if name in METHODS and isinstance(args[0] if args else None, Operators):
            return getattr(args[0], name)(*args[1:], **options)
        if (
            name not in NO_GRADIENT
            and this_thread.recording
            and requires_grad((*args, *options.values()))
        ):
            raise TypeError(
                f"np.{name} of a Tensor would lose its gradient: use an op of minigrad.ops, or "
                "x.numpy() if you want no gradient"
            )
        return function(*data_of(args), **data_of(options))

    def _leaf(self, data, requires_grad=False):
        """Return a new Tensor."""
        make: Any = type(self)
        return make(data, requires_grad)

    def detach(self):
        """Return the same data as a leaf without a history."""
        return self._leaf(self.data)

    def to(self, device):
        """Return this tensor on another device, as a leaf; itself if it is there already.

        RuntimeError for the result of an op that wants a gradient: none passes to another device.
        """
        if device == self.device:
            return self
        if self.node is not None and this_thread.recording:
            raise RuntimeError(
                "to: no gradient passes to another device: move the inputs before you compute, or "
                "take x.detach().to(...)"
            )
        return self._leaf(to_device(self.data, device), self.requires_grad)

    def astype(self, dtype):
        """Return a leaf with the data converted; RuntimeError if a gradient would be lost.

        No gradient passes through a conversion: convert before you compute.  (Integers and
        booleans have none.)  model.to(dtype="float16") converts a whole model.
        """
        if self.requires_grad and this_thread.recording and np.dtype(dtype).kind == "f":
            raise RuntimeError(
                "astype: no gradient passes through a conversion: convert before you compute, a "
                "model by model.to(dtype=...), or take x.detach().astype(...)"
            )
        return self._leaf(self.data.astype(dtype))

    def copy_(self, array):
        """Replace the data by a copy of `array`, which has the same shape.

        Where an optimizer updates data in place, so does this; a graph that has read the old data
        then refuses to run backward.
        """
        new = array.data if isinstance(array, Operators) else array
        new = to_device(new if is_array(new) else np.asarray(new), self.device)
        if new.shape != self.shape:
            raise ValueError(f"copy_: the Tensor has shape {self.shape}, was given {new.shape}")
        if self.node is not None:
            raise RuntimeError("copy_: the result of an op cannot be replaced, only leaves can")
        if self.grad_buffer is None or guards.flat_behind(self.data) is None:
            self.data = new.astype(self.dtype)
            return self
        self.version += 1
        locked = guards.set_writable(self.data, True)
        self.data[...] = new
        if locked:
            guards.set_writable(self.data, False)
        return self

    def __float__(self):
        return float(self._entry())

    def __int__(self):
        return int(self._entry())

    def __index__(self):
        """For range(n), items[n] and x[:n]: one integer."""
        return operator.index(self.data.item() if self.size == 1 else self.data)

    def __bool__(self):
        if self.data.size != 1:
            raise ValueError(
                f"a Tensor of shape {self.shape} is neither true nor false: ask for x.any() or "
                "x.all(); `if x is not None` tests whether there is one"
            )
        return bool(self.data)

    def _entry(self):
        if self.data.size != 1:
            raise TypeError(f"only a Tensor of one entry is a number, this has shape {self.shape}")
        return self.data.item()

    def __format__(self, spec):
        """f"{x:.3f}" formats the number of a Tensor of shape (), and the text of any other."""
        if self.data.ndim == 0 and spec:
            return format(self.data.item(), spec)
        try:
            return format(str(self), spec)
        except ValueError:
            raise ValueError(
                f"a Tensor of shape {self.shape} has no format {spec!r}: x.item() is the number of "
                "one entry, and NumPy formats x.data"
            ) from None

    def __repr__(self):
        gradient = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({self.data}{gradient})"

    def __len__(self):
        if self.data.ndim == 0:
            raise TypeError("a Tensor of shape () has no length")
        return len(self.data)

    def __iter__(self):
        if self.data.ndim == 0:
            raise TypeError("a Tensor of shape () cannot be iterated over; x.item() is its number")
        return (self[i] for i in range(len(self.data)))

    def __contains__(self, value):
        """`value in x`: whether any entry is equal to it."""
        equal = self == value
        return isinstance(equal, Operators) and bool(equal.any())

    def __getstate__(self):
        """For deep copies and pickles, of leaves alone."""
        return guards.state_to_copy(self)

    def __copy__(self):
        """Return a leaf that shares the data, and has a gradient of its own."""
        twin = type(self).__new__(type(self))
        vars(twin).update(guards.state_to_copy(self) | {"_grad": None})
        return twin

    # ---- operators -----------------------------------------------------------------------------

    __add__, __radd__ = binary("add"), binary("add", reflected=True)
    __sub__, __rsub__ = binary("sub"), binary("sub", reflected=True)
    __mul__, __rmul__ = binary("mul"), binary("mul", reflected=True)
    __truediv__, __rtruediv__ = binary("div"), binary("div", reflected=True)
    __pow__, __rpow__ = binary("pow"), binary("pow", reflected=True)
    __matmul__, __rmatmul__ = binary("matmul"), binary("matmul", reflected=True)

    __iadd__, __isub__ = in_place("add"), in_place("sub")
    __imul__, __itruediv__ = in_place("mul"), in_place("div")
    __ipow__ = in_place("pow")

    __eq__ = comparison("==", operator.eq)
    __ne__ = comparison("!=", operator.ne)
    __lt__ = comparison("<", operator.lt)
    __le__ = comparison("<=", operator.le)
    __gt__ = comparison(">", operator.gt)
    __ge__ = comparison(">=", operator.ge)
    __hash__ = object.__hash__  # by identity, so that Tensors can be keys of a dict

    __and__ = __rand__ = logical("&", operator.and_)
    __or__ = __ror__ = logical("|", operator.or_)
    __xor__ = __rxor__ = logical("^", operator.xor)

    def __invert__(self):
        """Return the opposite of a boolean Tensor."""
        return self ^ True

    def __pos__(self):
        return self

    def __neg__(self):
        return OPS["neg"](self)

    def __abs__(self):
        return OPS["abs"](self)

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(part.data if isinstance(part, Operators) else part for part in parts)
        return OPS["getitem"](self, index=parts)

    # ---- methods -------------------------------------------------------------------------------

    def sum(self, axis=None, keepdims=False, **numpys):
        refuse_options("sum", numpys)
        return OPS["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims=False, **numpys):
        refuse_options("mean", numpys)
        return OPS["mean"](self, axis=axis, keepdims=keepdims)

    def max(self, axis=None, keepdims=False, **numpys):
        refuse_options("max", numpys)
        return OPS["max"](self, axis=axis, keepdims=keepdims)

    def var(self, axis=None, keepdims=False, correction=0, **numpys):
        correction = numpys.pop("ddof", correction)
        refuse_options("var", numpys)
        return OPS["var"](self, axis=axis, keepdims=keepdims, correction=correction)

    def any(self, axis=None, keepdims=False, **numpys):
        """Return whether any entry is true, without a gradient."""
        refuse_options("any", numpys)
        return self._leaf(self.data.any(axis, keepdims=keepdims))

    def all(self, axis=None, keepdims=False, **numpys):
        """Return whether all entries are true, without a gradient."""
        refuse_options("all", numpys)
        return self._leaf(self.data.all(axis, keepdims=keepdims))

    def reshape(self, *shape, order="C"):
        if order != "C":
            raise ValueError(f"reshape: Tensors are read in the order 'C', not {order!r}")
        return OPS["reshape"](self, shape=unpack(shape))

    view = reshape  # PyTorch's name for it

    def flatten(self, start_axis=0, end_axis=-1):
        """Join the axes from start_axis to end_axis, both included, into one."""
        n = max(1, self.ndim)
        if not (-n <= start_axis < n and -n <= end_axis < n) or start_axis % n > end_axis % n:
            raise ValueError(
                f"flatten: x {self.shape} has no axes from {start_axis} to {end_axis} in this order"
            )
        start, end = start_axis % n, end_axis % n
        n_joined = math.prod(self.shape[start : end + 1])
        return self.reshape(*self.shape[:start], n_joined, *self.shape[end + 1 :])

    def squeeze(self, axis=None):
        """Drop all axes of length 1, or one that is named, or several."""
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        for a in axes:
            if not -self.ndim <= a < self.ndim:
                raise IndexError(f"squeeze: {errors.outside('x', self.shape, a)}")
            if axis is not None and self.shape[a] != 1:
                raise ValueError(
                    f"squeeze: axis {a} of x {self.shape} has length {self.shape[a]}, not 1"
                )
        dropped = {a % self.ndim for a in axes if self.shape[a] == 1}
        return self.reshape([n for i, n in enumerate(self.shape) if i not in dropped])

    def transpose(self, *axes):
        return OPS["transpose"](self, axes=None if axes == (None,) else unpack(axes) or None)

    @property
    def T(self):
        return self.transpose()


def unpack(numbers):
    """Return the numbers of x.view(2, 3) or x.view((2, 3)), which mean the same."""
    match numbers:
        case [[*inside]]:
            return inside
    return numbers


def refuse_options(name, options):
    """Refuse options other than dtype=None and out=None, which np.sum(x) gives to x.sum()."""
    for option, value in options.items():
        if option not in ("dtype", "out") or value is not None:
            raise TypeError(f"{name}: Tensors take axis and keepdims, and no {option}={value!r}")
