"""CuPy without a GPU, to run the project's GPU path anywhere: NumPy inside, CuPy's manners outside.

It is strict by construction:

* An array wraps NumPy's and is none itself.  What it is mixed with must be such an array, or a
  number; NumPy's arrays are refused in CuPy's own words, and NumPy's functions refuse it.
* There is what the project uses, and nothing else.  tests/test_fake_cupy.py holds every name and
  every keyword against the real CuPy, which can be imported without a driver.
* Where CuPy differs from NumPy, so does this: a result of one entry is an array, not a number, and
  cannot serve as a Python index; an index out of range wraps around; to assign to one place twice
  is undefined (here: an error); atomic additions come in any order; what a function of entries
  returns is contiguous.
* `ledger` counts copies to the GPU (uploads) and back, for which Python waits (downloads).
* Fresh memory is full of NaN, and of other nonsense where there is no NaN.

What it cannot show: races between threads, how tensor cores round, memory that runs out, whether a
driver takes a kernel, and speed.  (A kernel of ours is stood in for by the NumPy function that
specifies it; tests/test_kernels.py runs the CUDA source itself.)
"""

import builtins
import functools
import operator
import types

import numpy as np

from fake_cupy import kernels

__version__ = "fake"

inf = np.inf

ledger = types.SimpleNamespace(uploads=0, downloads=0)
_order = np.random.default_rng(0)  # in which atomic additions happen to come


def _host(x):
    """What is inside an operand: a NumPy array, or a number as it is."""
    if isinstance(x, ndarray):
        return x._array
    if isinstance(x, bool | int | float | np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _array_inside(x):
    """What is inside an argument that must be an array."""
    if not isinstance(x, ndarray):
        raise TypeError(f"Argument has incorrect type (expected cupy.ndarray, got {type(x)})")
    return x._array


def _device(result):
    """An array of the GPU for a result of NumPy's, also for a single number."""
    return ndarray._of(np.asarray(result))


def _upload(x, dtype=None):
    ledger.uploads += 1
    return np.array(x, dtype)


def _poison(array):
    """Fill fresh memory with what shows when it is read."""
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
    """A function entry by entry.  CuPy knows no `where=`, and takes no array of NumPy's."""

    def __init__(self, name):
        self._ufunc = getattr(np, name)

    @_quietly
    def __call__(self, *operands, out=None, casting="same_kind", dtype=None):
        operands = map(_host, operands)
        inside = None if out is None else _array_inside(out)
        result = self._ufunc(*operands, out=inside, casting=casting, dtype=dtype)
        return _device(np.array(result, order="C")) if out is None else out

    def at(self, a, indices, b):
        """Additions in any order, as CUDA's atomicAdd makes them, and of its types alone."""
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


class ndarray:
    """An array of the GPU."""

    __slots__ = ("__weakref__", "_array")

    @classmethod
    def _of(cls, array):
        self = cls.__new__(cls)
        self._array = array
        return self

    def __init__(self):
        raise TypeError("the project makes arrays by empty(), zeros() and so on")

    # ---- what NumPy must not do behind our back ----

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        for x in inputs:
            _host(x)  # which says what is wrong with a NumPy array
        raise TypeError(f"{ufunc.__name__}: NumPy's function for an array of CuPy's")

    def __array_function__(self, function, types, arguments, keywords):
        raise TypeError(f"{function.__name__}: NumPy's function for an array of CuPy's")

    # ---- what it is ----

    shape = property(lambda self: self._array.shape)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    dtype = property(lambda self: self._array.dtype)
    T = property(lambda self: _device(self._array.T))

    @property
    def flags(self):
        names = ("c_contiguous", "f_contiguous")
        return types.SimpleNamespace(**{name: getattr(self._array.flags, name) for name in names})

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- on its way to the CPU ----

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

    # ---- the same numbers in another form ----

    def reshape(self, *shape):
        return _device(self._array.reshape(*shape))

    def ravel(self):
        return _device(self._array.ravel())

    def transpose(self, *axes):
        return _device(self._array.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return _device(self._array.swapaxes(axis1, axis2))

    def copy(self):
        return _device(self._array.copy())

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def view(self, dtype=None):
        return _device(self._array.view(dtype))

    @_quietly
    def astype(self, dtype):
        return _device(self._array.astype(dtype))

    # ---- fewer numbers ----

    def sum(self, axis=None, *, keepdims=False):
        return _device(self._array.sum(axis, keepdims=keepdims))

    @_quietly
    def mean(self, axis=None, *, keepdims=False):
        return _device(self._array.mean(axis, keepdims=keepdims))

    def max(self, axis=None, *, keepdims=False):
        return _device(self._array.max(axis, keepdims=keepdims))

    def min(self, axis=None, *, keepdims=False):
        return _device(self._array.min(axis, keepdims=keepdims))

    def all(self):
        return _device(self._array.all())

    def any(self):
        return _device(self._array.any())

    # ---- indexing ----

    def _index(self, index):
        """The index for NumPy: arrays of the host go up, integers in arrays wrap around."""
        parts = [*index] if isinstance(index, tuple) else [index]
        for i, part in enumerate(parts):
            if isinstance(part, ndarray):
                parts[i] = part._array
            elif isinstance(part, list | np.ndarray | bool | np.bool_):
                parts[i] = _upload(part)
                if isinstance(part, list) and parts[i].size == 0:
                    parts[i] = parts[i].astype(np.int32)
            elif part is not None and part is not Ellipsis and not isinstance(part, slice):
                parts[i] = operator.index(part)

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
                    ledger.downloads += 1  # how many there are must be known to go on
                elif part.dtype.kind in "iu" and part.size and self.shape[axis]:
                    parts[i] = part % self.shape[axis]
            axis += length(part)
        return tuple(parts)

    def __getitem__(self, index):
        return _device(self._array[self._index(index)])

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
                raise AssertionError("what a place gets that is assigned twice is not defined")
        self._array[index] = _host(value)


def _binary(name, function, in_place=True):
    """The methods of an operator: x ∘ y, y ∘ x and x ∘= y."""

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


add, subtract, multiply = ufunc("add"), ufunc("subtract"), ufunc("multiply")
maximum, minimum, equal = ufunc("maximum"), ufunc("minimum"), ufunc("equal")
exp, log, sqrt, tanh, rint = (ufunc(name) for name in ("exp", "log", "sqrt", "tanh", "rint"))
isfinite, isinf, isnan = (ufunc(name) for name in ("isfinite", "isinf", "isnan"))

for _name, _function in {
    "add": add, "sub": subtract, "mul": multiply, "truediv": ufunc("true_divide"),
    "pow": ufunc("power"), "and": ufunc("bitwise_and"), "or": ufunc("bitwise_or"),
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
    return _device(np.ascontiguousarray(_array_inside(a)))


def asfortranarray(a):
    return _device(np.asfortranarray(_array_inside(a)))


def asnumpy(a):
    return ndarray.get(a)


# ---- functions of whole arrays -------------------------------------------------------------------


def concatenate(tup, axis=0):
    return _device(np.concatenate([_array_inside(a) for a in tup], axis))


def stack(tup, axis=0):
    return _device(np.stack([_array_inside(a) for a in tup], axis))


def moveaxis(a, source, destination):
    return _device(np.moveaxis(_array_inside(a), source, destination))


def expand_dims(a, axis):
    return _device(np.expand_dims(_array_inside(a), axis))


def broadcast_to(array, shape):
    return _device(np.broadcast_to(_array_inside(array), shape))


def take_along_axis(a, indices, axis):
    a, indices = _array_inside(a), _array_inside(indices)
    return _device(np.take_along_axis(a, indices % a.shape[axis], axis))


def triu(m, k=0):
    return _device(np.triu(_array_inside(m), k))


@_quietly
def where(condition, x=None, y=None):
    if x is None or y is None:
        raise NotImplementedError("where without values waits for the GPU: not used, not faked")
    return _device(np.where(_array_inside(condition).astype(bool), _host(x), _host(y)))


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


class RawKernel:
    """A kernel of ours: the arguments are held against its source, and NumPy does the work."""

    def __init__(self, code, name):
        self.name, self.parameters = name, kernels.parameters(code, name)

    def __call__(self, grid, block, args):
        assert all(type(n) is int and n > 0 for n in (*grid, *block)), "CUDA refuses such a grid"
        arguments = []
        for (name, dtype, is_array), x in zip(self.parameters, args, strict=True):
            right = ndarray if is_array else np.generic
            assert isinstance(x, right) and x.dtype == dtype, f"{self.name}: {name} is a {type(x)}"
            assert not is_array or x.flags.c_contiguous, f"{self.name}: {name} has gaps"
            arguments.append(x._array if is_array else x.item())
        getattr(kernels, self.name)(grid[0] * block[0], *arguments)


class CUDARuntimeError(RuntimeError):
    """What the driver answers if something fails."""


cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        deviceSynchronize=lambda: None,
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12080,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: {
            "name": b"no GPU, but NumPy", "totalGlobalMem": 2**34, "major": 0, "minor": 0
        },
        memGetInfo=lambda: (2**33, 2**34),
    ),
)  # fmt: skip
