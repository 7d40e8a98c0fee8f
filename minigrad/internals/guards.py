"""Guards: refuse what would make a gradient wrong, before it does.

A closure that an op returns keeps arrays as they were in the forward pass.  If somebody writes into
one of them before backward() has run, the gradient is silently wrong.  Two things prevent that:

* Arrays are read-only while a Node may still read them (WriteLock).
* The parameters of an optimizer that updates them in place have a version, counted up at every
  write.  A Node notes the version that it read, and complains if that is no longer the current one.

CuPy has no read-only arrays, so on a GPU there are versions alone.
"""

import contextlib
import operator
import threading
import warnings
import weakref
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.backend import CPU, array_module, as_array, device_of, is_array

# ---- arrays that a Node may still read ---------------------------------------------------------

_n_locks: dict[int, int] = {}  # id of an array -> how many WriteLocks it has
_counting = threading.RLock()  # threads may share arrays; reentrant, because __del__ runs anywhere
_waiting: list[Any] = []  # views without a lock, read-only as long as the array they show is
one_thread_at_a_time = threading.RLock()  # while a gradient is added: threads may share leaves


class WriteLock:
    """Makes an array read-only for as long as this object lives.

    Each Node that reads the array holds the lock, so the array is writable again when the last of
    them has been replayed or dropped.  An array that was read-only before stays so.  Another view
    of the same memory, such as `a` for `a[0]`, is not covered.
    """

    __slots__ = ("__weakref__", "array", "locked")

    def __init__(self, array):
        self.array = array
        with _counting:
            n_others = _n_locks.get(id(array), 0)
            n_waiting = len(_waiting)
            _waiting[:] = [waiting for waiting in _waiting if waiting is not array]
            was_waiting = len(_waiting) < n_waiting
            self.locked = n_others > 0 or was_waiting or set_writable(array, False)
            if self.locked:
                _n_locks[id(array)] = n_others + 1

    def __del__(self):
        if not self.locked:
            return
        with _counting:
            _n_locks[id(self.array)] -= 1
            if not _n_locks[id(self.array)]:
                del _n_locks[id(self.array)]
                _waiting.insert(0, self.array)  # before what may be a view of it
                _waiting[:] = [array for array in _waiting if not unlocked(array)]


def unlocked(array):
    """Make an array writable again; return False if it is a view of one that is still read-only."""
    with contextlib.suppress(ValueError):
        set_writable(array, True)
        return True
    return False


NOTHING: tuple[tuple, tuple] = ((), ())  # one for all, because objects cost the garbage collector


def protect(inputs):
    """Keep the inputs of an op as they are: return (locks, [(parameter, the version read)])."""
    for x in inputs:
        node = getattr(x, "node", x)
        if node is None or node is x and is_array(x):
            return protect_leaves(inputs)
    return NOTHING


def protect_leaves(inputs):
    """Do the same where there are leaves or arrays among the inputs."""
    locks: list[WriteLock] = []
    versions: list[tuple[Any, int]] = []
    for x in inputs:
        if not hasattr(x, "node"):
            if is_array(x):
                locks.append(WriteLock(x))
                protect_shared(x, locks, versions)
        elif x.node is None:
            versions.append((x, x.version))
            if x.grad_buffer is None:  # otherwise an optimizer writes into it, and counts that
                locks.append(lock_of(x))
                protect_shared(x.data, locks, versions)
    return locks, versions


def lock_of(leaf):
    """Return the WriteLock of a leaf's array, the same one for all Nodes."""
    lock = leaf._lock and leaf._lock()
    if lock is None or lock.array is not leaf.data:
        check_float(leaf)
        lock = WriteLock(leaf.data)
        leaf._lock = weakref.ref(lock)
    return lock


def set_writable(array, writable):
    """Change whether an array can be written to; return whether that was a change.

    False on a GPU, whose arrays can always be written to.
    """
    if not isinstance(array, np.ndarray) or array.flags.writeable == writable:
        return False
    array.setflags(writable)  # type: ignore[call-arg]  # by name it takes four times as long
    return True


def is_writable(array):
    """Return whether an array can be written to."""
    return not isinstance(array, np.ndarray) or array.flags.writeable


# ---- parameters that an optimizer updates in place ---------------------------------------------

# id of a long vector -> the FlatParameters (fast/flat.py) whose parameters or gradients it holds
_flat_vectors: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


# id -> the gradient of a leaf; only those that backward() made
_gradients: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def register_flat(flat):
    """Note that an optimizer writes into flat.data, and backward() into flat.grad."""
    _flat_vectors[id(flat.data)] = _flat_vectors[id(flat.grad)] = flat


def forget_flat(flat):
    """Undo register_flat."""
    for vector in (flat.data, flat.grad):
        _flat_vectors.pop(id(vector), None)


def flat_behind(array):
    """Return the FlatParameters whose memory `array` shares, or None."""
    base = array.base  # None if it owns its memory
    while base is not None:
        if (flat := _flat_vectors.get(id(base))) is not None:
            return flat
        base = getattr(base, "base", getattr(base, "obj", None))  # `obj` of a memoryview
    return None


def gradient_behind(array):
    """Return the gradient of a leaf that `array` is or shows a part of, or None.

    Only those that backward() may add to in place are found, and none in an optimizer's vector.
    """
    return _gradients.get(id(array if array.base is None else array.base))


def protect_shared(array, locks, versions):
    """Add what notices a write into memory that `array` shares with parameters or gradients.

    Such an array is what detach() of a parameter returns, or a slice of its data.
    """
    if (grad := gradient_behind(array)) is not None:
        locks.append(WriteLock(grad))
    if (flat := flat_behind(array)) is None:
        return
    share_memory = array_module(array).may_share_memory
    for p, view, buffer in zip(flat.parameters, flat.views, flat.buffers, strict=True):
        if share_memory(view, array):
            versions.append((p, p.version))
        if share_memory(buffer, array):
            locks.append(WriteLock(buffer))


# ---- replaying a Node --------------------------------------------------------------------------


def check_node(node):
    """Raise RuntimeError if a Node was replayed before, or if what it read was overwritten."""
    if node.backward is None:
        raise RuntimeError(
            f"the step {node.op!r} was already replayed and its arrays are freed: call "
            "backward() once, on the sum of all losses that share it"
        )
    for leaf, version in node.protected[1]:
        if leaf.version != version:
            raise RuntimeError(
                f"{node.op}: an input of shape {leaf.shape} was overwritten, by an optimizer or "
                "load_state_dict(), after the forward pass that used it, and the gradient would "
                "be wrong: call backward() first"
            )


def check_tuple(node, grads):
    """Return what a backward returned; TypeError if that is no tuple or list."""
    if isinstance(grads, tuple | list):
        return grads
    raise TypeError(
        f"{node.op}: backward returned {in_words(grads)}: it must return a tuple with a gradient "
        "for each input, also for a single one: (dx,)"
    )


def check_pair(op, result):
    """Return what a page returned; TypeError if that is not (out, backward)."""
    if isinstance(result, tuple) and len(result) == 2:
        return result
    raise TypeError(
        f"{op}: an op must return its result and the function backward, as in `return out, "
        f"backward`; this one returned {in_words(result)}"
    )


def in_words(result):
    """Return "an array", "None", "a tuple of 3", "a float": what an op's author returned."""
    if result is None or is_array(result):
        return "None" if result is None else "an array"
    return f"a {type(result).__name__}" + (
        f" of {len(result)}" if isinstance(result, tuple) else ""
    )


def wrong_gradient(node, parent, d):
    """Return the error that a backward returned for a parent what is no gradient of its shape.

    A ValueError that there are too few or too many comes from zip(..., strict=True) in the tape.
    """
    if d is None:
        return RuntimeError(f"{node.op} has no derivative in one of its inputs")
    if not is_array(d):
        return RuntimeError(f"{node.op}: backward returned a {type(d).__name__}, not an array")
    return RuntimeError(f"{node.op}: gradient of shape {d.shape} for an input {parent.shape}")


def freed(x):
    """Return the error that backward() has already gone through the node of a result."""
    return RuntimeError(
        f"a Tensor of shape {x.shape} is used after backward() has replayed {x.node.op!r}, which "
        "made it: no gradient can pass there any more; go on with x.detach(), or with x.item() "
        "where a number will do"
    )


def check_dout(x, dout):
    """Return the gradient that x.backward(dout) starts from, like x; raise if there is none."""
    if not x.requires_grad:
        raise RuntimeError(
            "backward() has nothing to follow: no input required a gradient, or the tensor was "
            "made under no_grad()"
        )
    xp = array_module(x.data)
    if dout is None:
        if x.data.size != 1:
            raise RuntimeError(
                f"backward() alone needs one entry, this tensor has shape {x.shape}: reduce it to "
                "a loss, or pass dout"
            )
        return xp.ones_like(x.data)
    dout = dout.data if hasattr(dout, "node") else as_array(dout)
    one_device([x.data, dout] if dout.ndim else [x.data])
    dout = xp.asarray(dout, dtype=x.dtype)
    if dout.shape != x.shape:
        raise ValueError(f"dout has shape {dout.shape}, the tensor {x.shape}")
    if gradient_behind(dout) is not None or flat_behind(dout) is not None:
        return dout.copy()  # backward() may add to the gradient that it was given
    return dout


def add_gradient(leaf, d):
    """Add d to the gradient of a leaf.  The first d is copied, because its array may be shared."""
    with one_thread_at_a_time:
        grad = leaf._grad
        if grad is None:
            grad = new_grad(leaf, d)
            if d is not grad:  # a twin may have written d into the optimizer's array itself
                grad[...] = d
            leaf._grad = grad
        elif may_add_to(leaf, grad):
            grad += d
        else:  # somebody else made the array, or an op used it and may still read it
            leaf._grad = new_sum(grad + d)


def new_grad(leaf, d):
    """Return the array for a leaf's first gradient d: the one of its optimizer, or a new one."""
    check_float(leaf)
    buffer, x = leaf.grad_buffer, leaf.data
    if buffer is not None and flat_behind(buffer) and like(buffer, x):
        if d is buffer or is_writable(buffer) and not leaf.buffer_taken:
            return buffer
    return new_sum(array_module(x).empty_like(x))


def new_sum(grad):
    """Return the gradient of a leaf as an array, and remember that backward() may add to it."""
    grad = as_array(grad)  # a sum of 0-d arrays is a scalar of NumPy
    _gradients[id(grad)] = grad
    return grad


def may_add_to(leaf, grad):
    """Return whether backward() may add to the gradient of a leaf in place.

    That is, if backward() made the array or an optimizer did, and no Node reads it.
    """
    own = grad is leaf.grad_buffer or _gradients.get(id(grad)) is grad
    return own and is_writable(grad)


def grad_slot(array, *others):
    """Return where the gradient of `array` belongs, if it may be written there at once, or None.

    That is the optimizer's array for it, if `array` is the data of a parameter that has no gradient
    yet.  A backward that has written its result there returns the slot itself.  The `others` are
    inputs of the same op: if one of them is in the optimizer's vector, it could be the same
    parameter, whose two gradients have to be added.

    A slot is given away once, until zero_grad(): two threads may use the same parameter.
    """
    if (flat := flat_behind(array)) is None or any(flat_behind(x) is flat for x in others):
        return None
    p = flat.parameter_of.get(id(array))
    with one_thread_at_a_time:
        if p is None or p._grad is not None or p.buffer_taken or not is_writable(p.grad_buffer):
            return None
        p.buffer_taken = True
        return p.grad_buffer


# ---- what goes in and out of an op -------------------------------------------------------------


def one_device(arrays):
    """Return the name of the device that holds all arrays; ValueError if there are two."""
    if backend.cupy is None:
        return CPU
    devices = {device_of(x) for x in arrays if is_array(x)} or {CPU}
    if len(devices) > 1:
        raise ValueError(
            f"inputs on {' and '.join(sorted(devices))}: move them to one device, as in x.to('gpu')"
        )
    return devices.pop()


def check_dtype(op, names, arrays, out, recorded):
    """Return the result of an op as an array; TypeError if its dtype is not what was asked for.

    Two float dtypes do not mix, and integers do not widen a float silently.  Where no input is
    float64 the result is not either: a mean of integers is float32, as numbers and lists are.
    """
    if type(out) is not np.ndarray:
        out = as_array(out)
    dtype = out.dtype
    for x in arrays:
        if x is out:
            out = x.view()  # read-only by itself, where the op has changed nothing
        if getattr(x, "dtype", dtype) is not dtype:
            break
    else:  # as nearly always: all arrays, and the result, have one dtype
        return out
    if recorded and dtype.kind != "f":
        raise TypeError(
            f"{op}: the result is {dtype}, and only floating-point results have gradients"
        )
    dtypes = {x.dtype for x in arrays if is_array(x)}
    floats = {dtype for dtype in dtypes if dtype.kind == "f"}
    if out.dtype == np.float64 and not floats and not recorded:
        return out.astype(np.float32)
    widened = out.dtype.kind == "f" and out.dtype not in floats
    from_integers = any(d.kind in "iu" for d in dtypes) if floats else out.dtype == np.float16
    if len(floats) > 1 or widened and from_integers:
        given = named(names, arrays, "dtype")
        of_array = {
            n: x.dtype.kind
            for n, x in zip(input_names(names, arrays), arrays, strict=True)
            if is_array(x)
        }
        convert = min(of_array, key=lambda name: of_array[name] == "f")  # integers first
        raise TypeError(
            f"{op}: {given} would give {out.dtype}: convert one of them, as in "
            f"{convert}.astype('float32'), or a model by model.to(dtype='float32')"
        )
    return out


def refuse_negative_powers(x, y):
    """Raise ValueError for an integer to a negative integer power: CuPy returns 0, 1 or −1.

    To look at exponents in an array, Python waits for the GPU; no training step has such integers.
    """
    kinds = {x.dtype.kind if is_array(x) else np.min_scalar_type(x).kind for x in (x, y)}
    if kinds <= set("iub") and (y < 0 if isinstance(y, int) else (y < 0).any()):
        raise ValueError("Integers to negative integer powers are not allowed.")


def input_names(names, arrays):
    """Return a name for each input; arrays[0], arrays[1] and so on of an op that takes a list."""
    if len(names) == len(arrays):
        return names
    return [f"{names[0]}[{i}]" for i in range(len(arrays))]


def named(names, arrays, what):
    """Return the arrays among the inputs with one attribute each, such as "x (2, 3), y (4,)"."""
    pairs = zip(input_names(names, arrays), arrays, strict=True)
    return ", ".join(f"{name} {getattr(x, what)}" for name, x in pairs if is_array(x))


def like(x, y):
    """Return whether two arrays agree in shape, dtype and device."""
    return (x.shape, x.dtype, device_of(x)) == (y.shape, y.dtype, device_of(y))


# ---- attributes of a Tensor --------------------------------------------------------------------

get_data = operator.attrgetter("_data")


def set_data(x, data):
    """Set the data to an array; a Tensor, a list or a number becomes one.

    A new Tensor of the result of an op has no history; a warning says so.
    """
    if hasattr(data, "node"):
        if data.node is not None and not hasattr(x, "_data"):
            warnings.warn(
                f"Tensor() of the result of {data.node.op!r} has no history, so no gradient passes "
                "through it: use the result itself, or result.detach() if that is what you want",
                stacklevel=3,
            )
        data = data.data
    x._data = as_array(data)


def get_requires_grad(x):
    return x._requires_grad


def check_float(x):
    """Raise TypeError if a Tensor requires a gradient and has got integers or booleans as data."""
    if x._requires_grad and x.data.dtype.kind != "f":
        raise TypeError(f"only floating-point tensors have gradients, this is {x.dtype}")


def set_requires_grad(x, value):
    """Refuse a gradient for integers, and a change on the result of an op."""
    if value and x.dtype.kind != "f":
        raise TypeError(f"only floating-point tensors have gradients, this is {x.dtype}")
    if x.node is not None and not value:
        raise RuntimeError(
            "requires_grad can be switched off on leaves only; x.detach() returns a result without "
            "its history"
        )
    x._requires_grad = bool(value)


def get_grad(x):
    """Return the gradient; warn where it is asked of a result, which never has one."""
    if x._grad is None and x.node is not None:
        warnings.warn(
            "grad of the result of an op is always None: backward() fills the grad of leaves only, "
            "the Tensors that you made with requires_grad=True",
            stacklevel=2,
        )
    return x._grad


def set_grad(x, grad):
    """Set the gradient to an array or None; refuse another shape, which would broadcast."""
    if grad is not None:
        if type(grad) is not np.ndarray or grad.dtype != x.data.dtype:
            grad = as_array(grad.data if hasattr(grad, "node") else grad)
            grad = grad.astype(x.data.dtype, copy=False)
        if grad.shape != x.data.shape:
            raise ValueError(f"grad must have the shape {x.shape} of its tensor, not {grad.shape}")
    x._grad, x.buffer_taken = grad, False


def state_to_copy(x):
    """Return the attributes of a leaf for copy and pickle; RuntimeError for the result of an op."""
    if x.node is not None:
        raise RuntimeError(
            "only leaves can be copied or pickled, and this Tensor is the result of "
            f"{x.node.op!r}: copy x.detach() instead"
        )
    own = "_lock", "grad_buffer"  # a copy is in no optimizer's vector
    return {name: value for name, value in vars(x).items() if name not in own}
