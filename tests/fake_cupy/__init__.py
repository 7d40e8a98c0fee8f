"""CuPy without a GPU: NumPy computes, behind CuPy's interface, to test the GPU path on any machine.

It is strict:

* An array wraps a NumPy array and is not one itself.  Other operands must be such arrays or
  numbers.  NumPy's arrays are refused with CuPy's own messages, and NumPy's functions refuse it.
* It has the names that the project uses, and no others.  tests/test_fake_cupy.py compares every
  name and every keyword with the real CuPy, which can be imported without a driver.
* Where CuPy differs from NumPy, so does the fake.  A result of one entry is an array, not a number,
  and cannot be a Python index.  An index out of range wraps around.  Assigning to one entry twice
  is undefined (here: an error).  Atomic additions come in any order.  The result of an elementwise
  function is contiguous.  A single number has no axis, and cannot be concatenated.  A fraction as
  index is cut off, and an integer has negative powers.
* `ledger` counts copies to the GPU (uploads) and back, for which Python waits (downloads); launches
  of our kernels by name, and the bytes of the arrays that they are given.  Calls of cuBLAS count
  too: see cublas.py.
* Fresh memory is full of NaN, or of other nonsense if the dtype has no NaN.

Our kernels run from their CUDA source: see cuda_source.py.  Streams, and CUDA graphs, which record
what is computed and do it again: see streams.py.

It cannot show how tensor cores round, memory that runs out, whether a driver accepts a kernel or a
graph, and speed; and of races only those that show in one of two orders of threads.
"""

import builtins
import collections
import functools
import math
import operator
import os
import types
import warnings
import weakref

import numpy as np

from fake_cupy import cuda_source, streams
from fake_cupy.streams import CUDARuntimeError

__version__ = "fake"

inf, finfo = np.inf, np.finfo  # the real CuPy, too, imports these from NumPy

ledger = types.SimpleNamespace(
    uploads=0, downloads=0, launches=collections.Counter(), flops=0, bytes=0, arrays=0, replays=0,
    synchronizations=0,
)  # fmt: skip
_order = np.random.default_rng(0)  # the order of atomic additions


def _host(x):
    """Return the NumPy array inside an operand, or a number as it is."""
    if isinstance(x, ndarray):
        return x._array
    if isinstance(x, bool | int | float | np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _array_inside(x):
    """Return the NumPy array inside an argument that must be an array."""
    if not isinstance(x, ndarray):
        raise TypeError(f"Argument has incorrect type (expected cupy.ndarray, got {type(x)})")
    return x._array


def _device(result, owner=None):
    """Return a GPU array for a result of NumPy, also for a single number.

    If it shares the memory of `owner`, it is a view, whose base is the array that has the memory.
    """
    array = ndarray._of(np.asarray(result))
    if owner is not None and np.may_share_memory(array._array, owner._array):
        array.base = owner if owner.base is None else owner.base
    else:
        ledger.arrays += 1
    return array


def _fresh(shape, dtype, order=None):
    """Return a new array of the current pool; `order` are its axes from the outermost in memory."""
    dtype, shape = np.dtype(dtype), shape if isinstance(shape, tuple) else (shape,)
    memory = streams.allocate(math.prod(shape) * dtype.itemsize)
    if memory is None:
        return _poison(np.empty(shape, dtype))
    order = range(len(shape)) if order is None else order
    flat = memory.array[: math.prod(shape) * dtype.itemsize].view(dtype)
    within = flat.reshape([shape[axis] for axis in order]).transpose(np.argsort([*order]))
    array = _poison(within)
    array._memory = memory
    if streams.is_capturing():
        streams.submit("free", lambda: streams.poison(memory.array), [])
    return array


def _compute(name, function, *operands):
    """Return a new array for the result of NumPy that `function()` returns: a kernel of CuPy's."""
    if not streams.in_use():
        return _device(function())
    result = np.asarray(function())  # of arrays full of NaN while a stream captures
    order = sorted(range(result.ndim), key=lambda axis: -result.strides[axis])
    out = _fresh(result.shape, result.dtype, order)
    target = out._array
    _work(name, lambda: np.copyto(target, function()), *operands, out)
    return out


def _work(name, function, *arrays):
    """Call a function that reads and writes these arrays, or record it."""
    if not streams.in_use():
        function()
        return
    arrays = [x for x in arrays if isinstance(x, ndarray)]
    streams.submit(name, function, [_memory_of(x) for x in arrays], _sum_of_bytes(arrays))


def _sum_of_bytes(arrays):
    """Return the bytes of the entries of arrays; an entry that is repeated by a stride 0 is one."""
    return builtins.sum(
        x.itemsize * math.prod(n for n, step in zip(x.shape, x.strides, strict=True) if step)
        for x in arrays
    )


def _memory_of(x):
    """Return the Memory that an array is in."""
    owner = x if x.base is None else x.base
    if owner._memory is None:
        owner._memory = streams.Memory(owner._array)
    return owner._memory


def _upload(x, dtype=None):
    streams.refuse(RuntimeError("the current stream is capturing, so H2D transfers are disallowed"))
    ledger.uploads += 1
    return np.array(x, dtype)


def _download(x):
    """Wait for an array."""
    streams.refuse(RuntimeError("the current stream is capturing, so D2H transfers are disallowed"))
    _work("a download", lambda: None, x)
    ledger.downloads += 1


_owners: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # address -> ndarray


def _owner_at(address, size):
    """Return the array that has `size` bytes at an address that some array's `data.ptr` led to."""
    for start, owner in _owners.items():
        if start <= address and address + size <= start + owner._array.nbytes:
            return owner
    raise AssertionError(f"{size} bytes at {address} are not in one array: out of bounds")


def _memory_at(address, size):
    """Return those bytes as a NumPy array."""
    owner = _owner_at(address, size)._array
    begin = address - owner.ctypes.data
    return owner.ravel("K").view(np.uint8)[begin : begin + size]


def _poison(array):
    """Fill fresh memory with numbers that show when they are read."""
    if not streams.poisoning:
        pass
    elif array.dtype.kind == "f":
        array[...] = np.nan
    elif array.dtype.kind == "b":
        array[...] = True
    else:
        array[...] = np.iinfo(array.dtype).max // 3
    return _device(array)


def _quietly(function):
    """A GPU raises no floating-point warnings."""

    @functools.wraps(function)
    def quiet(*arguments, **keywords):
        with np.errstate(all="ignore"):
            return function(*arguments, **keywords)

    return quiet


class ufunc:
    """An elementwise function.  CuPy has no `where=`, and takes no NumPy array."""

    def __init__(self, name):
        self._ufunc = getattr(np, name)

    @_quietly
    def __call__(self, *operands, out=None, casting="same_kind", dtype=None):
        inside = [_host(x) for x in operands]
        target = None if out is None else _array_inside(out)
        name, compute = self._ufunc.__name__, functools.partial(self._ufunc, *inside)
        if out is not None:
            compute = _quietly(functools.partial(compute, out=target, casting=casting, dtype=dtype))
            _work(name, compute, *operands, out)
            return out
        compute = _quietly(functools.partial(compute, casting=casting, dtype=dtype))
        if streams.is_capturing():  # without computing
            shape = np.broadcast_shapes(*map(np.shape, inside))
            few = [x[(slice(0),) * x.ndim] if isinstance(x, np.ndarray) else x for x in inside]
            out = _fresh(shape, self._ufunc(*few, casting=casting, dtype=dtype).dtype)
            target = out._array
            _work(name, lambda: np.copyto(target, compute()), *operands, out)
            return out
        return _compute(name, lambda: np.array(compute(), order="C"), *operands)

    def at(self, a, indices, b):
        """Add in any order, as CUDA's atomicAdd does, and only dtypes that it has."""
        if self._ufunc is not np.add:
            raise NotImplementedError(f"at of {self._ufunc} is not faked")
        target = _array_inside(a)
        if target.dtype.name not in "int32 float16 float32 float64 uint32 uint64".split():
            raise TypeError(f"not every CuPy 14 adds {target.dtype}")
        parts, inside = a._parts(indices), _host(b)

        def add_up():
            places = np.arange(target.size).reshape(target.shape)[_wrapped(target.shape, parts)]
            values = np.broadcast_to(inside, places.shape).ravel()
            order = _order.permutation(places.size)
            places = np.unravel_index(places.ravel()[order], target.shape)
            np.add.at(target, places, values[order])

        _work("add.at", add_up, a, b, *(indices if isinstance(indices, tuple) else (indices,)))


class _Power(ufunc):
    """x ** y, where CuPy has a value for an integer to a negative integer power: 0, 1 or −1."""

    def __call__(self, x, y, out=None):
        base, exponent = _host(x), _host(y)
        negative = np.less(exponent, 0)
        if out is not None or np.result_type(base, exponent).kind == "f" or not np.any(negative):
            return super().__call__(x, y, out=out)
        assert not streams.is_capturing(), "not faked"
        of_minus_one = np.where(np.bitwise_and(exponent, 1), -1, 1)
        special = np.where(np.equal(base, -1), of_minus_one, np.equal(base, 1))
        return _device(np.where(negative, special, np.power(base, np.where(negative, 0, exponent))))


class ndarray:
    """An array of the GPU."""

    __slots__ = ("__weakref__", "_array", "_memory", "base")

    @classmethod
    def _of(cls, array):
        self = cls.__new__(cls)
        self._array, self.base, self._memory = array, None, None
        return self

    def __del__(self):
        if getattr(self, "_memory", None) is not None:
            self._memory.free()

    def __init__(self):
        raise TypeError("the project makes arrays by empty(), zeros() and so on")

    # ---- what NumPy must not do silently ----

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        for x in inputs:
            _host(x)  # which says what is wrong with a NumPy array
        raise TypeError(f"{ufunc.__name__}: a function of NumPy for an array of CuPy")

    def __array_function__(self, function, types, arguments, keywords):
        raise TypeError(f"{function.__name__}: a function of NumPy for an array of CuPy")

    # ---- attributes ----

    shape = property(lambda self: self._array.shape)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    dtype = property(lambda self: self._array.dtype)
    itemsize = property(lambda self: self._array.itemsize)
    strides = property(lambda self: self._array.strides)
    T = property(lambda self: _device(self._array.T, self))

    @property
    def __cuda_array_interface__(self):
        """What an MPI that reaches the GPU asks for; the address is one of the CPU's memory."""
        here = self._array.__array_interface__
        return {name: here[name] for name in ("data", "shape", "typestr")} | {"version": 3}

    @property
    def flags(self):
        names = ("c_contiguous", "f_contiguous")
        return types.SimpleNamespace(**{name: getattr(self._array.flags, name) for name in names})

    @property
    def data(self):
        owner = self if self.base is None else self.base
        _owners[owner._array.ctypes.data] = owner
        return types.SimpleNamespace(ptr=self._array.ctypes.data)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- copies to the CPU ----

    def get(self):
        _download(self)
        return self._array.copy()

    def item(self):
        return self.get().item()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, form):
        return format(self.get(), form)

    # ---- copies to the GPU ----

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        assert stream is None and self.flags.c_contiguous and arr.flags.c_contiguous, "not faked"
        streams.refuse(
            RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        )
        ledger.uploads += 1
        _work("an upload", lambda: streams.upload(self._array, arr), self)

    # ---- views and copies ----

    def reshape(self, *shape):
        array = self._array
        result = array.reshape(*shape)
        if np.may_share_memory(result, array) or not array.size:
            return _device(result, self)
        return _compute("reshape", lambda: array.reshape(*shape), self)

    def ravel(self):
        if self.flags.c_contiguous:
            return self.reshape(-1)
        array = self._array
        return _compute("ravel", lambda: array.flatten(), self)

    def transpose(self, *axes):
        return _device(self._array.transpose(*axes), self)

    def swapaxes(self, axis1, axis2):
        return _device(self._array.swapaxes(axis1, axis2), self)

    def copy(self):
        return _compute("copy", self._array.copy, self)

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def view(self, dtype=None):
        array = self._array
        return _device(array.view() if dtype is None else array.view(dtype), self)

    @_quietly
    def astype(self, dtype, *, copy=True):
        if not copy and self.dtype == dtype:
            return self
        array = self._array
        return _compute("astype", _quietly(lambda: array.astype(dtype)), self)

    # ---- reductions ----

    def _axis(self, axis):
        """The axis for NumPy, which accepts axes 0 and -1 of a single number; CuPy does not."""
        if axis is not None and self.ndim == 0 and axis != ():
            raise np.exceptions.AxisError(f"axis {axis} is out of bounds for array of dimension 0")
        return axis

    def _reduced(self, name, axis=None, **options):
        """A GPU raises no warning, not even for a mean of nothing."""
        compute = functools.partial(getattr(self._array, name), self._axis(axis), **options)

        @_quietly
        def quiet():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "Mean of empty slice"
                return compute()

        return _compute(name, quiet, self)

    def sum(self, axis=None, dtype=None, *, keepdims=False):
        return self._reduced("sum", axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis=None, *, keepdims=False):
        return self._reduced("mean", axis, keepdims=keepdims)

    def max(self, axis=None, *, keepdims=False):
        return self._reduced("max", axis, keepdims=keepdims)

    def min(self, axis=None, *, keepdims=False):
        return self._reduced("min", axis, keepdims=keepdims)

    def all(self):
        return self._reduced("all")

    def any(self):
        return self._reduced("any")

    # ---- indexing ----

    def _parts(self, index):
        """Return the parts of an index as NumPy has them; host arrays are uploaded."""
        parts = [*index] if isinstance(index, tuple) else [index]
        for i, part in enumerate(parts):
            if isinstance(part, ndarray):
                parts[i] = part._array
            elif isinstance(part, list | np.ndarray | bool | np.bool_):
                parts[i] = _upload(part)
                if isinstance(part, list) and parts[i].size == 0:
                    parts[i] = parts[i].astype(np.int32)
            elif part is not None and part is not Ellipsis and not isinstance(part, slice):
                parts[i] = int(part)  # CuPy cuts a fraction off
            if isinstance(parts[i], np.ndarray) and parts[i].dtype.kind == "b":
                _download(self)  # Python must know how many are selected
        return parts

    def __getitem__(self, index):
        array, parts = self._array, self._parts(index)
        if not _selects(parts):
            whole = () if Ellipsis in parts else (Ellipsis,)  # one entry, too, is a view
            return _device(array[(*parts, *whole)], self)
        arrays = index if isinstance(index, tuple) else (index,)
        return _compute("take", lambda: array[_wrapped(array.shape, parts)], self, *arrays)

    def __setitem__(self, index, value):
        array, parts = self._array, self._parts(index)
        if isinstance(value, np.ndarray) and not _selects(parts):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if _selects(parts) and not isinstance(value, ndarray):
            value = _device(_upload(value))
        inside = _host(value)

        def assign():
            where = _wrapped(array.shape, parts)
            if _selects(parts):
                places = np.arange(array.size).reshape(array.shape)[where]
                if np.unique(places).size < places.size:
                    raise AssertionError("an entry that is assigned twice has an undefined value")
            array[where] = inside

        if parts and not _selects(parts):  # the entries that change
            self = self[index]
        _work("assign", assign, self, value, *(index if isinstance(index, tuple) else (index,)))


def _selects(parts):
    """Return whether there are arrays among the parts of an index."""
    return builtins.any(isinstance(part, np.ndarray) for part in parts)


def _wrapped(shape, parts):
    """Return the index for NumPy: integers in arrays that are out of range wrap around."""

    def length(part):  # how many axes it takes
        if part is None or part is Ellipsis:
            return 0
        return part.ndim if isinstance(part, np.ndarray) and part.dtype.kind == "b" else 1

    parts = [*parts]
    axis, rest = 0, len(shape) - builtins.sum(map(length, parts))
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis += rest
        elif isinstance(part, np.ndarray) and part.dtype.kind in "iu":
            if part.size and shape[axis]:
                parts[i] = part % shape[axis]
        axis += length(part)
    return tuple(parts)


def _binary(name, function, in_place=True):
    """Add the methods of an operator to ndarray: x ∘ y, y ∘ x and x ∘= y."""

    def forward(self, other):
        if getattr(other, "__array_ufunc__", ...) is None:
            return NotImplemented
        return function(self, other)

    def backward(self, other):
        return function(other, self)

    def assign(self, other):
        return function(self, other, out=self)

    setattr(ndarray, f"__{name}__", forward)
    if in_place:
        setattr(ndarray, f"__r{name}__", backward)
        setattr(ndarray, f"__i{name}__", assign)


add, divide = map(ufunc, ("add", "divide"))
maximum, minimum, abs = map(ufunc, ("maximum", "minimum", "absolute"))
equal, greater, less = map(ufunc, ("equal", "greater", "less"))
greater_equal, less_equal = map(ufunc, ("greater_equal", "less_equal"))
exp, log, sqrt, tanh, rint = (ufunc(name) for name in ("exp", "log", "sqrt", "tanh", "rint"))
isfinite, isinf, isnan = (ufunc(name) for name in ("isfinite", "isinf", "isnan"))

for _name, _function in {
    "add": add, "sub": ufunc("subtract"), "mul": ufunc("multiply"), "truediv": ufunc("true_divide"),
    "pow": _Power("power"), "and": ufunc("bitwise_and"), "or": ufunc("bitwise_or"),
}.items():  # fmt: skip
    _binary(_name, _function)
for _name, _function in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}.items():  # fmt: skip
    _binary(_name, ufunc(_function), in_place=False)

ndarray.__neg__ = lambda self: ufunc("negative")(self)  # type: ignore[attr-defined]
ndarray.__abs__ = lambda self: ufunc("absolute")(self)  # type: ignore[attr-defined]
ndarray.__invert__ = lambda self: ufunc("invert")(self)  # type: ignore[attr-defined]
ndarray.__hash__ = None  # type: ignore[assignment]


# ---- making arrays -------------------------------------------------------------------------------


def empty(shape, dtype=float):
    return _fresh(shape, dtype)


def empty_like(prototype, dtype=None):
    array = _array_inside(prototype)
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    return _fresh(array.shape, dtype or array.dtype, order)


def zeros(shape, dtype=float):
    return _compute("zeros", lambda: np.zeros(shape, dtype))


def zeros_like(a, dtype=None):
    return _like("zeros", np.zeros_like, a, dtype)


def ones(shape, dtype=float):
    return _compute("ones", lambda: np.ones(shape, dtype))


def ones_like(a, dtype=None):
    return _like("ones", np.ones_like, a, dtype)


def _like(name, make, prototype, dtype):
    array = _array_inside(prototype)
    return _compute(name, lambda: make(array, dtype))


def full(shape, fill_value, dtype=None):
    value = _host(fill_value)
    return _compute("full", lambda: np.full(shape, value, dtype), fill_value)


def arange(start, stop=None, step=1, dtype=None):
    bounds = (start,) if stop is None else (start, stop, step)
    return _compute("arange", lambda: np.arange(*map(operator.index, bounds), dtype=dtype))


def array(obj, dtype=None):
    if not isinstance(obj, ndarray):
        return _device(_upload(obj, dtype))
    inside = obj._array
    return _compute("array", lambda: np.array(inside, dtype), obj)


def asarray(a, dtype=None):
    return a if isinstance(a, ndarray) and dtype in (None, a.dtype) else array(a, dtype)


def ascontiguousarray(a):
    return _contiguous(np.ascontiguousarray, a)


def asfortranarray(a):
    return _contiguous(np.asfortranarray, a)


def _contiguous(function, a):
    array = _array_inside(a)
    if np.may_share_memory(function(array), array):
        return _device(function(array), a)
    return _compute("copy", lambda: function(array), a)


def asnumpy(a):
    return ndarray.get(a)


# ---- functions of whole arrays -------------------------------------------------------------------


def concatenate(tup, axis=0):
    arrays = [_array_inside(a) for a in tup]
    if builtins.any(a.ndim == 0 for a in arrays):  # NumPy raises a ValueError
        raise TypeError("zero-dimensional arrays cannot be concatenated")
    return _compute("concatenate", lambda: np.concatenate(arrays, axis), *tup)


def stack(tup, axis=0):
    arrays = [_array_inside(a) for a in tup]
    return _compute("stack", lambda: np.stack(arrays, axis), *tup)


def moveaxis(a, source, destination):
    return _device(np.moveaxis(_array_inside(a), source, destination), a)


def expand_dims(a, axis):
    return _device(np.expand_dims(_array_inside(a), axis), a)


def broadcast_to(array, shape):
    return _device(np.broadcast_to(_array_inside(array), shape), array)


def may_share_memory(a, b):
    return np.may_share_memory(_array_inside(a), _array_inside(b))


def triu(m, k=0):
    array = _array_inside(m)
    return _compute("triu", lambda: np.triu(array, k), m)


def clip(a, a_min, a_max):
    array = _array_inside(a)
    return _compute("clip", lambda: np.array(np.clip(array, a_min, a_max), order="C"), a)


def where(condition, x=None, y=None):
    if x is None or y is None:
        raise NotImplementedError(
            "where without values waits for the GPU: it is not used, and not faked"
        )
    condition = condition.astype("?", copy=False)  # CuPy's own line: a Python bool has no astype
    inside = [_host(operand) for operand in (condition, x, y)]
    return _compute("where", _quietly(lambda: np.where(*inside)), condition, x, y)


def matmul(x1, x2, /, *, out=None):
    streams.refuse(
        NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    )
    factors = _array_inside(x1), _array_inside(x2)
    compute = _quietly(lambda: np.matmul(*factors))
    if out is None:
        return _compute("matmul", compute, x1, x2)
    target = _array_inside(out)
    result = compute()
    if (result.shape, result.dtype) != (target.shape, target.dtype):
        raise ValueError("Output array has an invalid size or dtype")
    _work("matmul", lambda: np.copyto(target, compute()), x1, x2, out)
    return out


def _matmul(self, other):
    return matmul(self, other) if isinstance(other, ndarray) else NotImplemented


ndarray.__matmul__ = _matmul  # type: ignore[attr-defined]


get_default_memory_pool = streams.get_default_memory_pool


# ---- kernels and the driver ----------------------------------------------------------------------


def _launch(name, function, arrays, n_bytes, flops=0):
    """Launch a kernel of ours, or a product of cuBLAS: what is launched at once is counted."""
    if not streams.is_capturing():
        ledger.launches[name] += 1
        ledger.bytes += n_bytes
        ledger.flops += flops
    streams.submit(name, function, [_memory_of(x) for x in arrays], n_bytes)


class RawModule:
    """A CUDA source.  As with CuPy, it is compiled when a kernel is first asked for."""

    def __init__(self, code, *, options=()):
        self._code, self._options = code, tuple(options)

    def get_function(self, name):
        declared = cuda_source.parameters(self._code, self._options)
        assert name in declared, f"there is no kernel {name} in the source"
        compiled = cuda_source.library(self._code, self._options)
        function = getattr(compiled, f"run_{name}")
        return cuda_source.Function(name, declared[name], function, _launch, ndarray)


class _Device:
    """One of the machine's GPUs, of which there are as many as FAKE_CUPY_DEVICES says.

    Where FAKE_CUPY_ADDRESS is set, there is one, with this address.
    """

    current = 0

    def __init__(self, device):
        self.id = device
        self.pci_bus_id = os.environ.get("FAKE_CUPY_ADDRESS", f"0000:{device:02X}:00.0")

    def use(self):
        assert 0 <= self.id < cuda.runtime.getDeviceCount()
        _Device.current = self.id


cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        deviceSynchronize=lambda: streams.wait(ledger),
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12080,
        getDevice=lambda: _Device.current,
        getDeviceCount=lambda: int(os.environ.get("FAKE_CUPY_DEVICES", 1)),
        getDeviceProperties=lambda device: {
            "name": b"no GPU, but NumPy", "totalGlobalMem": 2**34, "major": 9, "minor": 0
        },
        memGetInfo=lambda: (2**33, 2**34),
    ),
    Device=_Device,
    get_current_stream=streams.get_current_stream,
    Stream=streams.Stream,
    Event=streams.Event,
    MemoryPool=streams.MemoryPool,
    using_allocator=streams.using_allocator,
    alloc_pinned_memory=streams.alloc_pinned_memory,
)  # fmt: skip
