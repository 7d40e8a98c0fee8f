"""The tape: how plain array code learns to differentiate itself.

An op is a function of arrays that returns `(out, backward)`, where `backward(dout)` gives one
gradient per input from the gradient of the output.  `@op` lifts it to Tensors: it notes which
Tensors went in, and that closure.  `Tensor.backward` replays these notes, newest first.  That is
the chain rule.  (What dx, dout and the like mean stands in ops/__init__.py.)
"""

import contextlib
import functools
import heapq
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from minigrad.device import (
    array_module,
    as_array,
    device_of,
    is_array,
    one_device,
    set_writeable,
    to_device,
    to_host,
)
from minigrad.faults import named, one_dtype

# name -> op on Tensors; tests/test_ops.py checks every entry
OPS: dict[str, Callable[..., "Tensor"]] = {}
_clock = itertools.count()  # stamps each Step with the moment it was taken


class _Thread(threading.local):
    recording = True  # False inside `with no_grad():`, for this thread alone
    watch: Any = None  # what looks at every result inside `with detect_anomaly():`, see anomaly.py
    calls: Any = None  # the innermost call of a module that is under way, see Module.__call__


this_thread = _Thread()


class Step:
    """One applied op: its backward, and who is owed the gradients that this returns.

    `sources` has an entry per input: the Step that made it, the leaf Tensor itself, or None where
    no gradient is wanted.  A Step never holds the Tensors in between, so a value that no backward
    needs is freed as soon as the program lets go of it; and nothing points back, so no cycles.
    `readings` keeps the arrays of leaves as they are, until the Step is replayed or forgotten;
    `versions` tells, as (leaf, version), which numbers of those it was that the op has read.
    `place` is the call of a module inside which it was taken, see Module.__call__.
    """

    __slots__ = "backward note op place readings shape sources time versions".split()

    def __init__(self, op, sources, backward, shape, readings=(), versions=(), note=None):
        self.op, self.sources, self.backward, self.shape = op, sources, backward, shape
        self.readings, self.versions, self.note = readings, versions, note
        self.time, self.place = next(_clock), this_thread.calls

    def replay(self, dout):
        """What backward(dout) returns; this once, and only if no leaf has changed since."""
        if self.backward is None:
            raise RuntimeError(
                f"the step {self.op!r} was already replayed and its arrays are freed: call "
                "backward() once, on the sum of all losses that share it"
            )
        for leaf, version in self.versions:
            if leaf.version != version:
                raise RuntimeError(
                    f"{self.op}: an input of shape {leaf.shape} was overwritten, by an optimizer "
                    "or load_state_dict(), after the forward pass that used it, and the gradient "
                    "would be wrong: call backward() first"
                )
        gradients = self.backward(dout)
        if this_thread.watch is not None:
            this_thread.watch.backward(self, dout, gradients)
        return gradients

    def forget(self):
        """Free what the step held."""
        self.backward = self.note = self.place = None
        self.sources = self.readings = self.versions = ()


_readers: dict[int, int] = {}  # id of an array -> how many Readings keep it as it is


class Reading:
    """An array that steps may still read: nobody can write into it while this object lives.

    Every Step that has a use for it holds the Reading.  So the array can be written to again when
    the last of them is replayed, or gone.  (Not so what lies in the same memory under another name,
    `a` behind `a[0]`; and what CuPy holds has no such flag.)
    """

    __slots__ = ("__weakref__", "array", "locked")

    def __init__(self, array):
        n_others = _readers.get(id(array), 0)
        self.array, self.locked = array, n_others > 0 or set_writeable(array, False)
        if self.locked:
            _readers[id(array)] = n_others + 1

    def __del__(self):
        if not self.locked:
            return
        _readers[id(self.array)] -= 1
        if not _readers[id(self.array)]:
            del _readers[id(self.array)]
            with contextlib.suppress(ValueError):  # it lies in an array that others still read
                set_writeable(self.array, True)


class Tensor:
    """An array, `data`, that remembers where it came from.

    A Tensor that you make is a leaf: backward() leaves its gradient in `grad`.  One that an op made
    has a `step`, the record of that op.  Numbers and lists become float32; an array keeps its
    dtype and is not copied.

    What backward() may still need cannot be written to, lest the gradient be wrong: the result of
    an op that was recorded, and arrays that went into it, until backward() has passed or the result
    is gone.  NumPy then says that an array is read-only: assign another one instead (`x.data =
    x.data + 1`), or compute what needs no gradient under no_grad().  The parameters of an optimizer
    can be written to: it counts how often it has moved them, and backward() looks at that.
    """

    __array_ufunc__ = None  # `array + tensor` is ours to compute, not NumPy's entry by entry
    slot = None  # where the gradient goes, if it has a place in a long vector: see flat.py
    version = 0  # how often its array was overwritten
    _reading = None  # a weak reference to the Reading of `data`

    def __init__(self, data, requires_grad=False):
        self.data = as_array(data)
        self.grad: Any = None
        self.step = None
        self.requires_grad = requires_grad
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, this is {self.dtype}")

    def backward(self, dout=None):
        """Add d(self)/d(leaf), times `dout`, to `leaf.grad` of every leaf behind this tensor.

        dout    like self; may be left out where self has one entry: then it is 1

        Whatever consumes a tensor is newer than it.  So among the steps that still collect
        gradients the newest has already got all of its own, and goes next: no sorting of the graph
        beforehand, no recursion.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward() has nothing to follow: no input required a gradient, or the tensor "
                "was made under no_grad()"
            )
        if dout is None:
            if self.data.size != 1:
                raise RuntimeError(
                    f"backward() alone needs one entry, this tensor has shape {self.shape}: "
                    "reduce it to a loss, or pass dout"
                )
            dout = array_module(self.data).ones_like(self.data)
        else:
            dout = _as_operand(dout)
            one_device([self.data, dout])
            dout = array_module(self.data).asarray(dout, dtype=self.dtype)
        if dout.shape != self.shape:
            raise ValueError(f"dout has shape {dout.shape}, the tensor {self.shape}")

        collected = {}  # step -> the gradient of its output, as far as it has come in
        # (−time, step) of the same steps: heapq pops the smallest first
        newest: list[tuple[int, Step]] = []

        def deliver(source, d):
            if isinstance(source, Tensor):
                source._accumulate(d)
            elif source not in collected:
                collected[source] = d
                heapq.heappush(newest, (-source.time, source))
            else:  # never +=: `add` hands one and the same array to both of its inputs
                collected[source] = collected[source] + d

        deliver(self.step or self, dout)
        while newest:
            _, step = heapq.heappop(newest)
            gradients = step.replay(collected.pop(step))
            for source, d in zip(step.sources, gradients, strict=True):
                if source is None:
                    continue
                if d is None:
                    raise RuntimeError(f"{step.op} has no derivative in one of its inputs")
                if d.shape != source.shape:
                    raise RuntimeError(
                        f"{step.op}: gradient of shape {d.shape} for an input {source.shape}"
                    )
                deliver(source, d)
            step.forget()

    def _accumulate(self, d):
        """The first gradient is copied in, since others may hold `d` too; later ones add up."""
        if self.grad is not None:
            self.grad += d
        elif self.slot is not None and like(self.slot, self.data):
            self.slot[...] = d
            self.grad = self.slot
        else:
            self.grad = array_module(self.data).array(d, dtype=self.dtype)

    def reading(self):
        """The Reading of this leaf's array: the same one for all steps."""
        reading = self._reading and self._reading()
        if reading is None or reading.array is not self.data:
            reading = Reading(self.data)
            self._reading = weakref.ref(reading)
        return reading

    def overwrite(self, array):
        """Put other numbers into the array itself: a step that still reads it then says so."""
        self.version += 1
        locked = set_writeable(self.data, True)
        self.data[...] = array
        if locked:
            set_writeable(self.data, False)

    def __getstate__(self):
        """For copies, which no step reads."""
        return {name: value for name, value in vars(self).items() if name != "_reading"}

    # ---- what it is -------------------------------------------------------------------------

    @property
    def shape(self):
        return self.data.shape

    @property
    def ndim(self):
        return self.data.ndim

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def device(self):
        return device_of(self.data)

    def __len__(self):
        return len(self.data)

    def __bool__(self):
        if self.data.size != 1:
            raise ValueError(
                f"a Tensor of shape {self.shape} is neither true nor false: ask for x.data.any() "
                "or x.data.all(); `if x is not None` tells whether there is one"
            )
        return bool(self.data)

    def __repr__(self):
        gradient = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({self.data}{gradient})"

    def item(self):
        """The one entry as a Python number."""
        return self.data.item()

    def numpy(self):
        """The data as a NumPy array: the same memory where that is possible."""
        return to_host(self.data)

    def detach(self):
        """The same data as a leaf without a history."""
        return Tensor(self.data)

    def to(self, device):
        """This tensor on another device, as a leaf; itself where it is there already."""
        if device == self.device:
            return self
        return Tensor(to_device(self.data, device), self.requires_grad)

    # ---- operators: each calls the registry, so that imports point from ops to here -----------

    def __add__(self, other):
        return OPS["add"](self, other)

    def __radd__(self, other):
        return OPS["add"](other, self)

    def __sub__(self, other):
        return OPS["sub"](self, other)

    def __rsub__(self, other):
        return OPS["sub"](other, self)

    def __mul__(self, other):
        return OPS["mul"](self, other)

    def __rmul__(self, other):
        return OPS["mul"](other, self)

    def __truediv__(self, other):
        return OPS["div"](self, other)

    def __rtruediv__(self, other):
        return OPS["div"](other, self)

    def __pow__(self, other):
        return OPS["pow"](self, other)

    def __rpow__(self, other):
        return OPS["pow"](other, self)

    def __matmul__(self, other):
        return OPS["matmul"](self, other)

    def __rmatmul__(self, other):
        return OPS["matmul"](other, self)

    def __neg__(self):
        return OPS["neg"](self)

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(part.data if isinstance(part, Tensor) else part for part in parts)
        return OPS["getitem"](self, index=parts)

    def sum(self, axis=None, keepdims=False):
        return OPS["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims=False):
        return OPS["mean"](self, axis=axis, keepdims=keepdims)

    def max(self, axis=None, keepdims=False):
        return OPS["max"](self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape):
        return OPS["reshape"](self, shape=_unpack(shape))

    view = reshape  # PyTorch's name for it

    def transpose(self, *axes):
        return OPS["transpose"](self, axes=_unpack(axes) or None)

    @property
    def T(self):
        return self.transpose()


def like(x, y):
    """Whether two arrays agree in shape, dtype and device."""
    return (x.shape, x.dtype, device_of(x)) == (y.shape, y.dtype, device_of(y))


def _unpack(numbers):
    """`x.view(2, 3)` and `x.view((2, 3))` mean the same."""
    match numbers:
        case [[*inside]]:
            return inside
    return numbers


def op(array_op):
    """Lift `array_op(*inputs, **options) -> (out, backward)` to Tensors and enter it in OPS.

    The parameters before `*` are the inputs: Tensors, arrays, numbers or None, given by position
    or by name; `backward(dout)` returns an entry for each, None where there is no gradient.  An op
    of any number of inputs (`*arrays`) is called with one list of them.  The parameters after `*`
    are options.  Python numbers stay numbers, and so take their neighbour's dtype.
    """
    name, signature = array_op.__name__, inspect.signature(array_op)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    takes_a_list = inspect.Parameter.VAR_POSITIONAL in kinds
    n_inputs = len(kinds) - kinds.count(inspect.Parameter.KEYWORD_ONLY)
    names = [*signature.parameters][:n_inputs]
    find_fault = getattr(array_op, "find_fault", lambda **_: None)  # see faults.py

    @functools.wraps(array_op)
    def tensor_op(*inputs, **options):
        if takes_a_list:
            match inputs:
                case [[_, *_] as inputs]:  # a single list, and something in it
                    pass
                case _:
                    raise TypeError(f"{name}: give one list of tensors, {name}([x, y, ...])")
        elif len(inputs) != n_inputs:  # some were given by name or left out: put them in order
            bound = signature.bind(*inputs, **options)
            bound.apply_defaults()
            inputs, options = bound.args, bound.kwargs
        arrays = [_as_operand(x) for x in inputs]
        if not any(map(is_array, arrays)):  # numbers alone: they become what Tensor(x) makes them
            arrays = [x if x is None else as_array(x) for x in arrays]
        sources = [_source(x) for x in inputs] if this_thread.recording else []
        recorded = sources.count(None) < len(sources)
        readings: tuple = ()
        versions: tuple = ()
        if recorded:
            for x in inputs:
                if not isinstance(x, Tensor):
                    if is_array(x):
                        readings += (Reading(x),)
                elif x.step is None:
                    versions += ((x, x.version),)
                    if x.slot is None:  # else an optimizer moves it, and versions will do
                        readings += (x.reading(),)
        try:
            one_device(arrays)
            out, backward = array_op(*arrays, **options)
        except (ValueError, IndexError) as error:  # say whose error it is, where NumPy found it
            bound = signature.bind(*arrays, **options)
            bound.apply_defaults()
            fault = find_fault(**bound.arguments)
            if fault is None and str(error).startswith(f"{name}:"):
                raise
            fault = fault or f"{error} ({named(names, arrays, 'shape')})"
            raise type(error)(f"{name}: {fault}") from error
        result = Tensor(out)
        dtype = result.data.dtype
        for x in arrays:
            if getattr(x, "dtype", dtype) is not dtype:
                one_dtype(name, names, arrays, dtype)
        note = None
        if this_thread.watch is not None:
            note = this_thread.watch.forward(name, names, inputs, arrays, result.data)
        if recorded:
            set_writeable(result.data, False)
            result.requires_grad = True
            result.step = Step(name, sources, backward, result.data.shape, readings, versions, note)
        return result

    OPS[name] = tensor_op
    return tensor_op


def _source(x):
    """Who is owed the gradient of the input `x`: its step, itself as a leaf, or nobody."""
    if not (isinstance(x, Tensor) and x.requires_grad):
        return None
    if x.step is None:
        return x
    if x.step.backward is None:
        raise RuntimeError(
            f"a Tensor of shape {x.shape} is used after backward() has replayed {x.step.op!r}, "
            "which made it: no gradient can pass there any more; go on with x.detach(), or with "
            "x.item() where a number will do"
        )
    return x.step


def _as_operand(x):
    """What an op computes with: an array, a Python number or None."""
    if isinstance(x, Tensor):
        return x.data
    if is_array(x):
        # A single entry is a number: it brings no dtype.  (One on the GPU is waited for.)
        return x if x.ndim else x.item()
    return x if x is None or isinstance(x, int | float) else as_array(x)


@contextlib.contextmanager
def no_grad():
    """Run ops without recording them: for evaluation and sampling.  Also a decorator."""
    before, this_thread.recording = this_thread.recording, False
    try:
        yield
    finally:
        this_thread.recording = before
