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

Our kernels run from their CUDA source: see cuda_source.py.

It cannot show how tensor cores round, memory that runs out, whether a driver accepts a kernel, and
speed; and of races only those that show in one of two orders of threads.
"""

import builtins
import collections
import functools
import operator
import types
import warnings
import weakref

import numpy as np

from fake_cupy import cuda_source

__version__ = "fake"

inf, finfo = np.inf, np.finfo  # the real CuPy, too, imports these from NumPy

ledger = types.SimpleNamespace(
    uploads=0, downloads=0, launches=collections.Counter(), flops=0, bytes=0
)
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
    return array


def _upload(x, dtype=None):
    ledger.uploads += 1
    return np.array(x, dtype)


_memory: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # address -> its owner


def _memory_at(address, size):
    """Return `size` bytes at an address that an array's `data.ptr` led to, as a NumPy array."""
    for start, owner in _memory.items():
        if start <= address and address + size <= start + owner.nbytes:
            return owner.ravel("K").view(np.uint8)[address - start :][:size]
    raise AssertionError(f"{size} bytes at {address} are not in one array: out of bounds")


def _poison(array):
    """Fill fresh memory with numbers that show when they are read."""
    if array.dtype.kind == "f":
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
        operands = map(_host, operands)
        inside = None if out is None else _array_inside(out)
        result = self._ufunc(*operands, out=inside, casting=casting, dtype=dtype)
        return _device(np.array(result, order="C")) if out is None else out

    def at(self, a, indices, b):
        """Add in any order, as CUDA's atomicAdd does, and only dtypes that it has."""
        if self._ufunc is not np.add:
            raise NotImplementedError(f"at of {self._ufunc} is not faked")
        target = _array_inside(a)
        if target.dtype.name not in "int32 float16 float32 float64 uint32 uint64".split():
            raise TypeError(f"not every CuPy 14 adds {target.dtype}")
        places = np.arange(target.size).reshape(target.shape)[a._index(indices)]
        values = np.broadcast_to(_host(b), places.shape).ravel()
        order = _order.permutation(places.size)
        places = np.unravel_index(places.ravel()[order], target.shape)
        np.add.at(target, places, values[order])


class _Power(ufunc):
    """x ** y, where CuPy has a value for an integer to a negative integer power: 0, 1 or −1."""

    def __call__(self, x, y, out=None):
        base, exponent = _host(x), _host(y)
        negative = np.less(exponent, 0)
        if out is not None or np.result_type(base, exponent).kind == "f" or not np.any(negative):
            return super().__call__(x, y, out=out)
        of_minus_one = np.where(np.bitwise_and(exponent, 1), -1, 1)
        special = np.where(np.equal(base, -1), of_minus_one, np.equal(base, 1))
        return _device(np.where(negative, special, np.power(base, np.where(negative, 0, exponent))))


class ndarray:
    """An array of the GPU."""

    __slots__ = ("__weakref__", "_array", "base")

    @classmethod
    def _of(cls, array):
        self = cls.__new__(cls)
        self._array, self.base = array, None
        return self

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
    def flags(self):
        names = ("c_contiguous", "f_contiguous")
        return types.SimpleNamespace(**{name: getattr(self._array.flags, name) for name in names})

    @property
    def data(self):
        owner = self._array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        _memory[owner.ctypes.data] = owner
        return types.SimpleNamespace(ptr=self._array.ctypes.data)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- copies to the CPU ----

    def get(self):
        ledger.downloads += 1
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

    # ---- views and copies ----

    def reshape(self, *shape):
        return _device(self._array.reshape(*shape), self)

    def ravel(self):
        return _device(self._array.ravel(), self)

    def transpose(self, *axes):
        return _device(self._array.transpose(*axes), self)

    def swapaxes(self, axis1, axis2):
        return _device(self._array.swapaxes(axis1, axis2), self)

    def copy(self):
        return _device(self._array.copy())

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def view(self, dtype=None):
        return _device(self._array.view(dtype), self)

    @_quietly
    def astype(self, dtype, *, copy=True):
        if not copy and self.dtype == dtype:
            return self
        return _device(self._array.astype(dtype))

    # ---- reductions ----

    def _axis(self, axis):
        """The axis for NumPy, which accepts axes 0 and -1 of a single number; CuPy does not."""
        if axis is not None and self.ndim == 0 and axis != ():
            raise np.exceptions.AxisError(f"axis {axis} is out of bounds for array of dimension 0")
        return axis

    @_quietly
    def sum(self, axis=None, dtype=None, *, keepdims=False):
        return _device(self._array.sum(self._axis(axis), dtype, keepdims=keepdims))

    @_quietly
    def mean(self, axis=None, *, keepdims=False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Mean of empty slice"
            return _device(self._array.mean(self._axis(axis), keepdims=keepdims))

    def max(self, axis=None, *, keepdims=False):
        return _device(self._array.max(self._axis(axis), keepdims=keepdims))

    def min(self, axis=None, *, keepdims=False):
        return _device(self._array.min(self._axis(axis), keepdims=keepdims))

    def all(self):
        return _device(self._array.all())

    def any(self):
        return _device(self._array.any())

    # ---- indexing ----

    def _index(self, index):
        """Return the index for NumPy: host arrays are uploaded, integers in arrays wrap around."""
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

        def length(part):  # how many axes it takes
            if part is None or part is Ellipsis:
                return 0
            return part.ndim if isinstance(part, np.ndarray) and part.dtype.kind == "b" else 1

        axis, rest = 0, self.ndim - builtins.sum(map(length, parts))
        for i, part in enumerate(parts):
            if part is Ellipsis:
                axis += rest
            elif isinstance(part, np.ndarray):
                if part.dtype.kind == "b":
                    ledger.downloads += 1  # Python must know how many are selected
                elif part.dtype.kind in "iu" and part.size and self.shape[axis]:
                    parts[i] = part % self.shape[axis]
            axis += length(part)
        return tuple(parts)

    def __getitem__(self, index):
        return _device(self._array[self._index(index)], self)

    def __setitem__(self, index, value):
        index = self._index(index)
        selects = any(isinstance(part, np.ndarray) for part in index)
        if isinstance(value, np.ndarray) and not selects:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if selects:
            if not isinstance(value, ndarray):
                value = _device(_upload(value))
            places = np.arange(self.size).reshape(self.shape)[index]
            if np.unique(places).size < places.size:
                raise AssertionError("an entry that is assigned twice has an undefined value")
        self._array[index] = _host(value)


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
    return _poison(np.empty(shape, dtype))


def empty_like(prototype, dtype=None):
    return _poison(np.empty_like(_array_inside(prototype), dtype))


def zeros(shape, dtype=float):
    return _device(np.zeros(shape, dtype))


def zeros_like(a, dtype=None):
    return _device(np.zeros_like(_array_inside(a), dtype))


def ones(shape, dtype=float):
    return _device(np.ones(shape, dtype))


def ones_like(a, dtype=None):
    return _device(np.ones_like(_array_inside(a), dtype))


def full(shape, fill_value, dtype=None):
    return _device(np.full(shape, _host(fill_value), dtype))


def arange(start, stop=None, step=1, dtype=None):
    bounds = (start,) if stop is None else (start, stop, step)
    return _device(np.arange(*map(operator.index, bounds), dtype=dtype))


def array(obj, dtype=None):
    return _device(np.array(obj._array, dtype) if isinstance(obj, ndarray) else _upload(obj, dtype))


def asarray(a, dtype=None):
    return a if isinstance(a, ndarray) and dtype in (None, a.dtype) else array(a, dtype)


def ascontiguousarray(a):
    return _device(np.ascontiguousarray(_array_inside(a)), a)


def asfortranarray(a):
    return _device(np.asfortranarray(_array_inside(a)), a)


def asnumpy(a):
    return ndarray.get(a)


# ---- functions of whole arrays -------------------------------------------------------------------


def concatenate(tup, axis=0):
    arrays = [_array_inside(a) for a in tup]
    if any(a.ndim == 0 for a in arrays):  # NumPy raises a ValueError
        raise TypeError("zero-dimensional arrays cannot be concatenated")
    return _device(np.concatenate(arrays, axis))


def stack(tup, axis=0):
    return _device(np.stack([_array_inside(a) for a in tup], axis))


def moveaxis(a, source, destination):
    return _device(np.moveaxis(_array_inside(a), source, destination), a)


def expand_dims(a, axis):
    return _device(np.expand_dims(_array_inside(a), axis), a)


def broadcast_to(array, shape):
    return _device(np.broadcast_to(_array_inside(array), shape), array)


def may_share_memory(a, b):
    return np.may_share_memory(_array_inside(a), _array_inside(b))


def triu(m, k=0):
    return _device(np.triu(_array_inside(m), k))


def clip(a, a_min, a_max):
    return _device(np.array(np.clip(_array_inside(a), a_min, a_max), order="C"))


@_quietly
def where(condition, x=None, y=None):
    if x is None or y is None:
        raise NotImplementedError(
            "where without values waits for the GPU: it is not used, and not faked"
        )
    condition = condition.astype("?", copy=False)  # CuPy's own line: a Python bool has no astype
    return _device(np.where(_host(condition), _host(x), _host(y)))


@_quietly
def matmul(x1, x2, /, *, out=None):
    result = np.matmul(_array_inside(x1), _array_inside(x2))
    if out is None:
        return _device(result)
    if (result.shape, result.dtype) != (_array_inside(out).shape, out.dtype):
        raise ValueError("Output array has an invalid size or dtype")
    out._array[...] = result
    return out


def _matmul(self, other):
    return matmul(self, other) if isinstance(other, ndarray) else NotImplemented


ndarray.__matmul__ = _matmul  # type: ignore[attr-defined]


# ---- kernels and the driver ----------------------------------------------------------------------


class RawModule:
    """A CUDA source.  As with CuPy, it is compiled when a kernel is first asked for."""

    def __init__(self, code, *, options=()):
        self._code, self._options = code, tuple(options)

    def get_function(self, name):
        declared = cuda_source.parameters(self._code, self._options)
        assert name in declared, f"there is no kernel {name} in the source"
        compiled = cuda_source.library(self._code, self._options)
        function = getattr(compiled, f"run_{name}")
        return cuda_source.Function(name, declared[name], function, ledger, ndarray)


class CUDARuntimeError(RuntimeError):
    """Raised where the driver reports a failure."""


cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        deviceSynchronize=lambda: None,
        getDevice=lambda: 0,
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12080,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: {
            "name": b"no GPU, but NumPy", "totalGlobalMem": 2**34, "major": 9, "minor": 0
        },
        memGetInfo=lambda: (2**33, 2**34),
    ),
    get_current_stream=lambda: types.SimpleNamespace(ptr=0),
)  # fmt: skip
