"""Is the fake as strict as it claims, and does the real CuPy have everything that it has?

First its refusals, one by one.  Then the contract: every name and every keyword of the fake exists
in the real CuPy, which `pip install cupy-cuda12x` installs and which can be inspected without a
GPU.
"""

import ast
import contextlib
import copy
import importlib.util
import inspect
import json
import math
import operator
import re
import subprocess
import sys
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from fake_cupy import ledger, nccl, ndarray, streams

ROOT = Path(__file__).parents[1]


@pytest.fixture
def x():
    return fake_cupy.asarray(np.arange(6.0).reshape(2, 3))


# ---- mixing --------------------------------------------------------------------------------------

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.lt]
IN_PLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow]


@pytest.mark.parametrize("function", OPERATORS + IN_PLACE)
@pytest.mark.parametrize("other", [np.ones((2, 3)), np.ones(())])
def test_operators_refuse_numpys_arrays(function, other, x):
    """On either side, also arrays of a single entry; NumPy's scalars count as numbers."""
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        function(x, other)
    with pytest.raises(TypeError, match="Unsupported type|a function of NumPy"):
        function(other.copy(), x)
    assert function(x, np.float64(2)).dtype in (np.float64, bool)


@pytest.mark.parametrize(
    "function",
    [np.exp, np.sum, np.asarray, np.array, np.concatenate, np.isfinite, np.where,
     lambda a: a @ np.ones(3), lambda a: np.ones(2) @ a,
     lambda a: np.zeros((2, 3)).__setitem__(..., a)],
)  # fmt: skip
def test_numpys_functions_are_refused(function, x):
    """CuPy would handle some of them; we rely on none."""
    with pytest.raises(TypeError):
        function(x)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("exp", ()), ("maximum", (0,)), ("matmul", (np.ones((3, 2)),)), ("triu", ()),
        ("broadcast_to", ((2, 2, 3),)), ("moveaxis", (0, 1)), ("expand_dims", (0,)),
        ("zeros_like", ()), ("ascontiguousarray", ()),
    ],
)  # fmt: skip
def test_functions_refuse_numpys_arrays(name, arguments):
    """Functions of the fake take the fake's arrays only."""
    with pytest.raises(TypeError):
        getattr(fake_cupy, name)(np.ones((2, 3)), *arguments)


def test_assignment_refuses_numpys_arrays(x):
    """Neither x[...] = nor out= takes a NumPy array."""
    with pytest.raises(ValueError, match="non-scalar numpy.ndarray cannot be used for fill"):
        x[...] = np.ones((2, 3))
    with pytest.raises(TypeError):
        fake_cupy.matmul(x, x.T, out=np.empty((2, 2)))


# ---- what CuPy lacks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["errstate", "vecdot", "add.reduce", "linalg", "nonzero", "random"]
)
def test_only_what_the_project_uses(name):
    """Any other name raises AttributeError."""
    with pytest.raises(AttributeError):
        operator.attrgetter(name)(fake_cupy)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fake_cupy.exp(x, where=x > 0),
        lambda x: x.sum(initial=0),
        lambda x: x.max(initial=0),
        lambda x: x.mean(where=x > 0),
        lambda x: x.sum(out=x),
        lambda x: x.reshape(3, 2, order="F"),
        lambda x: fake_cupy.full(3, 1.0, device="gpu"),
        lambda x: fake_cupy.arange(3.5),
    ],
)
def test_keywords_that_cupy_lacks(call, x):
    """And keywords that the project does not use raise TypeError."""
    with pytest.raises(TypeError):
        call(x)


def test_no_index_no_imatmul(x):
    """A number on the GPU is no index, and @= makes a new array."""
    one = fake_cupy.arange(3).sum()
    for use in (lambda: [0] * 4 and list(range(9))[one], lambda: range(one), lambda: np.zeros(one)):
        with pytest.raises(TypeError):
            use()
    before = y = fake_cupy.ones((2, 2))
    y @= y
    assert y is not before and not hasattr(ndarray, "__imatmul__")
    with pytest.raises(TypeError):
        hash(x)


# ---- where CuPy differs --------------------------------------------------------------------------


def test_a_single_number_is_an_array(x):
    """A result of one entry is an array of shape (), never a number."""
    for one in (x.sum(), x.mean(), x.max(), x[1, 2], fake_cupy.exp(2.0), x.ravel() @ x.ravel()):
        assert type(one) is ndarray and one.shape == ()


def test_a_number_on_the_gpu_has_a_dtype():
    """0-d arrays and NumPy's scalars widen the other operand; Python's numbers do not."""
    x = fake_cupy.ones(2, np.float32)
    assert (x * 2.0).dtype == np.float32 and (x + 1).dtype == np.float32
    assert (x * np.float64(2)).dtype == (x * fake_cupy.ones(())).dtype == np.float64


def test_indices_wrap(x):
    """Those in arrays do; a plain number out of range is an error."""
    assert x[:, np.array([3, -4])].get().tolist() == [[0, 2], [3, 5]]
    assert x[..., fake_cupy.arange(7)[6:]].get().tolist() == [[0], [3]]
    assert x[np.array([5, 0]), np.array([4, 0])].get().tolist() == [4, 0]
    x[np.array([2])] = fake_cupy.zeros(3)
    assert x.get().tolist() == [[0, 0, 0], [3, 4, 5]]
    with pytest.raises(IndexError):
        x[2]


def test_a_single_number_has_no_axis():
    """NumPy accepts axes 0 and -1 of a 0-d array."""
    x = fake_cupy.ones(())
    for reduce in (ndarray.sum, ndarray.mean, ndarray.max, ndarray.min):
        assert reduce(x).item() == reduce(x, ()).item() == 1
        with pytest.raises(np.exceptions.AxisError):
            reduce(x, -1)
    with pytest.raises(TypeError, match="zero-dimensional arrays cannot be concatenated"):
        fake_cupy.concatenate([x, x])


def test_a_fraction_as_index_is_cut_off(x):
    """CuPy takes int() of every number that is an index, in reading and in writing."""
    assert x[1.9].get().tolist() == [3, 4, 5] and x[-0.5, np.float32(1.5)].item() == 1
    x[0, 2.5] = 7.0
    assert x[0].get().tolist() == [0, 1, 7]
    with pytest.raises(IndexError):
        x[2.0]


def test_integers_have_negative_powers():
    """0, 1 or −1, where NumPy raises an error; other powers are NumPy's."""
    integers = fake_cupy.asarray(np.array([-2, -1, 0, 1, 2]))
    assert (integers**-1).get().tolist() == [0, -1, 0, 1, 0]
    assert (integers**-2).get().tolist() == [0, 1, 0, 1, 0]
    assert (2**integers).get().tolist() == [0, 0, 1, 2, 4]
    assert (integers**integers).get().tolist() == [0, -1, 1, 1, 4]
    assert ((integers * 1.0) ** 2).get().tolist() == [4, 1, 0, 1, 4]
    assert (2.0**integers).get().tolist() == [0.25, 0.5, 1, 2, 4]


def test_a_condition_is_an_array(x):
    """`where` calls astype() of its condition, which Python's booleans lack; NumPy's have it."""
    with pytest.raises(AttributeError, match="'bool' object has no attribute 'astype'"):
        fake_cupy.where(True, x, 0)
    assert fake_cupy.where(np.bool_(False), x, 7.0).get().tolist() == [[7] * 3] * 2
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        fake_cupy.where(np.ones(3, bool), x, 0)
    assert fake_cupy.where(x > 2, 0, 1).dtype == np.int64
    assert fake_cupy.where(x > 2, x.astype(np.float32), 0).dtype == np.float32


def test_assigning_an_entry_twice_is_an_error(x):
    """With CuPy, either value could remain."""
    for index in (np.array([0, 2]), (np.array([0, 1, 0]), np.array([1, 1, 4]))):
        with pytest.raises(AssertionError, match="assigned twice"):
            x[index] = fake_cupy.ones(3)


def test_additions_come_in_any_order():
    """1 + 10²⁰ − 10²⁰ is 1 or 0, by the order."""
    values = fake_cupy.asarray(np.array([1.0, 1e20, -1e20] * 5))
    seen = set()
    for _ in range(20):
        total = fake_cupy.zeros(1)
        fake_cupy.add.at(total, fake_cupy.zeros(15, int), values)
        seen.add(total.item())
    assert len(seen) > 1
    with pytest.raises(TypeError, match="not every CuPy 14 adds int64"):
        fake_cupy.add.at(fake_cupy.zeros(1, int), fake_cupy.zeros(1, int), 1)


def test_fresh_memory_is_nonsense(x):
    """NaN, large integers, or True."""
    for fresh in (fake_cupy.empty(3), fake_cupy.empty_like(x)):
        assert np.isnan(fresh.get()).all()
    assert (fake_cupy.empty(3, np.int64).get() > 10**9).all()
    assert fake_cupy.empty(3, bool).get().all()


def test_no_warnings():
    """A GPU raises no warning for numbers that are not finite."""
    zero = fake_cupy.zeros(2)
    with np.errstate(all="raise"):
        assert np.isnan((zero / zero).get()).all() and np.isinf(fake_cupy.log(zero).get()).all()


def test_entry_by_entry_makes_contiguous_arrays(x):
    """Whatever the layout of the operand, unlike NumPy."""
    assert fake_cupy.exp(x.T).flags.c_contiguous and (x.T + 1).flags.c_contiguous


def test_views_share_and_copies_do_not(x):
    """Views share the memory, as in NumPy; copies and fancy indexing do not."""
    for view in (x.T, x.reshape(3, 2), x[1:], x.ravel(), x.swapaxes(0, 1)):
        view[...] = 7.0
        assert (x.get() == 7).any()
        x[...] = 0.0
    for other in (x.copy(), x.astype(np.float64), copy.copy(x), copy.deepcopy(x), x[np.array([0])]):
        other[...] = 7.0
        assert (x.get() == 0).all()
    with pytest.raises(TypeError):
        ndarray()


def test_a_view_knows_its_base(x):
    """The array that has the memory, also through several views; a copy has none."""
    assert x.base is None and x.T[1:].base is x and x.reshape(3, 2)[0].base is x
    assert x.copy().base is None and (x + 1).base is None and x.T.reshape(6).base is None
    assert fake_cupy.may_share_memory(x[0], x) and not fake_cupy.may_share_memory(x[0], x[1])


def test_astype_copies_unless_told(x):
    """copy=False returns the array itself where the dtype is right already."""
    assert x.astype(np.float64) is not x and x.astype(np.float64, copy=False) is x
    assert x.astype("float32", copy=False).dtype == np.float32


# ---- the ledger ----------------------------------------------------------------------------------

DOWN = [float, int, bool, str, repr, fake_cupy.asnumpy, ndarray.get, ndarray.item, "{:.1f}".format]
UP = [
    lambda x: fake_cupy.asarray(np.ones(2)),
    lambda x: fake_cupy.array([1, 2]),
    lambda x: x[[0]],
    lambda x: x[np.array([0])],
    lambda x: x.__setitem__(fake_cupy.arange(1), 2.0),
]
NEITHER = [
    lambda x: x + 1,
    lambda x: x[0],
    lambda x: x[fake_cupy.arange(1)],
    lambda x: len(x) and [*x],
    lambda x: x.__setitem__(0, 2.0),
    lambda x: fake_cupy.full(3, 1 / 3),
    lambda x: fake_cupy.asarray(x),
    lambda x: fake_cupy.triu(fake_cupy.full((2, 2), -math.inf), 1),
]


def counted(function, x):
    before = (ledger.uploads, ledger.downloads)
    function(x)
    return ledger.uploads - before[0], ledger.downloads - before[1]


@pytest.mark.parametrize("function", DOWN)
def test_downloads_are_counted(function):
    """Everything for which Python waits for the GPU counts once."""
    assert counted(function, fake_cupy.ones(())) == (0, 1)


@pytest.mark.parametrize("function", UP)
def test_uploads_are_counted(function):
    """Every copy to the GPU counts once."""
    assert counted(function, fake_cupy.ones(2)) == (1, 0)


@pytest.mark.parametrize("function", NEITHER)
def test_other_operations_are_not_counted(function):
    """What stays on the GPU counts as neither."""
    assert counted(function, fake_cupy.ones(2)) == (0, 0)


def test_a_mask_waits_for_the_gpu(x):
    """Python must know how many entries it selects."""
    assert counted(lambda x: x[x > 2], x) == (0, 1)
    assert counted(lambda x: x.__setitem__(x > 2, x[0, 0]), x) == (0, 1)


# ---- streams and graphs --------------------------------------------------------------------------


@contextlib.contextmanager
def capturing():
    """Capture on a new stream, in a pool of its own; yields what becomes [the graph]."""
    stream, graphs = fake_cupy.cuda.Stream(non_blocking=True), []
    stream.wait_event(fake_cupy.cuda.get_current_stream().record())
    with stream, fake_cupy.cuda.using_allocator(fake_cupy.cuda.MemoryPool().malloc):
        stream.begin_capture()
        try:
            yield graphs
        finally:
            graphs.append(stream.end_capture())
    fake_cupy.cuda.get_current_stream().wait_event(stream.record())


D2H = "the current stream is capturing, so D2H transfers are disallowed"
H2D = "the current stream is capturing, so H2D transfers are disallowed"
CUBLAS = "calling cuBLAS API during stream capture is currently unsupported"
SYNC = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"


@pytest.mark.parametrize(
    "words, call",
    [(D2H, function) for function in DOWN]
    + [(D2H, lambda x: fake_cupy.ones(3)[fake_cupy.ones(3) > 2])]
    + [(H2D, function) for function in UP]
    + [(H2D, lambda x: x.reshape(1).set(np.ones(1)))]
    + [(CUBLAS, lambda x: fake_cupy.ones((2, 2)) @ fake_cupy.ones((2, 2)))],
)
def test_a_capture_refuses(words, call):
    """In CuPy's words: cupy/cuda/memory.pyx, cupy_backends/cuda/libs/cublas.pyx of version 14.2."""
    x = fake_cupy.ones(())
    with capturing(), pytest.raises((RuntimeError, NotImplementedError), match=f"^{words}$"):
        call(x)


def test_waiting_ends_a_capture():
    """As with CUDA: the wait is refused, and so is the graph."""
    invalid = "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error"
    with pytest.raises(fake_cupy.CUDARuntimeError, match=invalid), capturing():
        with pytest.raises(fake_cupy.CUDARuntimeError, match=SYNC):
            fake_cupy.cuda.runtime.deviceSynchronize()


def test_the_default_stream_cannot_capture():
    """A graph cannot be made by hand either."""
    with pytest.raises(RuntimeError, match="^cannot capture on the default .legacy. stream$"):
        fake_cupy.cuda.get_current_stream().begin_capture()
    with pytest.raises(NotImplementedError, match="must be created via stream capture"):
        streams.Graph()


RECORDED = {  # everything that CuPy records, as functions of x (2, 3) and ids (2,)
    "ufunc": lambda x, ids: x * 2 + fake_cupy.exp(x),
    "comparison": lambda x, ids: x > 1,
    "in place": lambda x, ids: fake_cupy.exp(x, out=x.copy()),
    "sum": lambda x, ids: x.sum(0),
    "mean": lambda x, ids: x.mean(),
    "max": lambda x, ids: x.max(-1, keepdims=True),
    "astype": lambda x, ids: x.astype(np.float32),
    "copy": lambda x, ids: x.T.copy(),
    "reshape": lambda x, ids: x.T.reshape(6),
    "concatenate": lambda x, ids: fake_cupy.concatenate([x, x]),
    "stack": lambda x, ids: fake_cupy.stack([x, x]),
    "where": lambda x, ids: fake_cupy.where(x > 2, x, 0),
    "triu": lambda x, ids: fake_cupy.triu(x, 1),
    "made": lambda x, ids: fake_cupy.zeros(3) + fake_cupy.ones(3) + fake_cupy.arange(3),
    "full": lambda x, ids: fake_cupy.full((2, 2), x[0, 1], float),
    "like": lambda x, ids: fake_cupy.zeros_like(x) + fake_cupy.ones_like(x),
    "taken": lambda x, ids: x[ids],
    "assigned": lambda x, ids: assigned(x, ids),
    "added up": lambda x, ids: added_up(x, ids),
    "contiguous": lambda x, ids: fake_cupy.ascontiguousarray(x.T),
}


def assigned(x, ids):
    y = fake_cupy.zeros((9, 3))
    y[ids] = x
    y[4:6, 1:] = x[:, 1:]
    return y


def added_up(x, ids):
    total = fake_cupy.zeros((9, 3))
    fake_cupy.add.at(total, ids, x)
    return total


@pytest.mark.parametrize("name", RECORDED)
def test_a_replay_computes_what_was_recorded(name):
    """From the numbers, and the ids, that are in the arrays then; while capturing, nothing."""
    function = RECORDED[name]
    x, ids = fake_cupy.zeros((2, 3)), fake_cupy.zeros(2, int)
    with capturing() as graphs:
        out = function(x, ids)
    nonsense = out.get().copy()
    for numbers, where in (([[1, 2, 3], [4, 5, 6]], [0, 1]), ([[7, 0, -1], [2, 2, 9]], [1, -2])):
        x.set(np.array(numbers, float))
        ids.set(np.array(where))
        graphs[0].launch()
        right = function(x, ids).get()
        np.testing.assert_array_equal(out.get(), right)
        assert out.dtype == right.dtype and not np.array_equal(nonsense, right)


def test_numbers_are_recorded_by_value():
    """Of Python, and of NumPy: a replay has those of the capture."""
    x, step = fake_cupy.ones(3), 2
    with capturing() as graphs:
        y = x * step + fake_cupy.asarray(x[0])
    step = 5
    graphs[0].launch()
    assert y.get().tolist() == [3, 3, 3]


def test_memory_that_is_freed_is_nan():
    """A graph whose input is gone computes with NaN; its own memory is used again in order."""
    x = fake_cupy.ones(3)
    with capturing() as graphs:
        y = x * 2
        z = y * 2
        del y  # may be used again from here on
        w = fake_cupy.zeros(3) + z
    for _ in range(2):
        graphs[0].launch()
        assert z.get().tolist() == w.get().tolist() == [4, 4, 4]
    del x
    graphs[0].launch()
    assert np.isnan(w.get()).all()


def test_a_pool_uses_memory_again():
    """Of the same size, on the same stream; and every time it is full of NaN."""
    pool = fake_cupy.cuda.MemoryPool()
    with fake_cupy.cuda.using_allocator(pool.malloc):
        for n in (100, 90, 128):  # all of 1024 bytes
            x = fake_cupy.empty(n)
            assert np.isnan(x.get()).all()
            x[...] = 1.0
            del x
        assert pool._n_chunks == 1
        x = fake_cupy.zeros(100)
        y = x[2:]
        del x
        assert not y.get().any()  # it has the memory as long as there is a view
        with fake_cupy.cuda.Stream() as stream:
            stream.wait_event(fake_cupy.cuda.Stream.null.record())
            fake_cupy.zeros(100)
    assert pool._n_chunks == 2


def test_an_array_of_a_graph_is_in_its_pool():
    """Others could get memory of the common pool before the graph is launched."""
    stream = fake_cupy.cuda.Stream()
    with stream:
        stream.begin_capture()
        with pytest.raises(AssertionError, match="is in memory that others get as well"):
            fake_cupy.zeros(3)
        stream.end_capture()


def test_work_on_another_stream_is_not_recorded():
    """It would run at once, on arrays that hold nothing yet."""
    x = fake_cupy.ones(3)
    with capturing():
        with fake_cupy.cuda.Stream.null, pytest.raises(AssertionError, match="it is lost"):
            x += 1


def test_streams_wait_for_each_other():
    """Otherwise one reads what the other has not written yet."""
    x, stream = fake_cupy.ones(3), fake_cupy.cuda.Stream()
    x += 1
    with stream, pytest.raises(AssertionError, match="another stream may still be using"):
        x + 1
    stream.wait_event(fake_cupy.cuda.Stream.null.record())
    with stream:
        x += 1
    with pytest.raises(AssertionError, match="a download uses memory that another stream"):
        x.get()
    fake_cupy.cuda.get_current_stream().wait_event(stream.record())
    assert x.get().tolist() == [3, 3, 3]


def test_pinned_memory_is_read_later():
    """It may be written to when an event says that the copy is made."""
    here = np.frombuffer(fake_cupy.cuda.alloc_pinned_memory(32), np.float64, 4)
    there, event = fake_cupy.empty(4), fake_cupy.cuda.Event()
    event.synchronize()  # it was not recorded: there is nothing to wait for
    for value in (1, 2):
        here[...] = value
        there.set(here)
        event.record()
        event.synchronize()
        assert there.get().tolist() == [value] * 4
    there.set(here)
    here[0] = 7
    with pytest.raises(AssertionError, match="overwritten before the GPU had copied it"):
        event.record()
        event.synchronize()
    here[0] = 2
    event.synchronize()


def test_what_set_refuses(x):
    """Other shapes and dtypes, in CuPy's words."""
    with pytest.raises(TypeError, match="float32 array cannot be set to float64 array"):
        x.set(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="Shape mismatch. Old shape: .2, 3., new shape: .3,."):
        x.set(np.ones(3))
    with pytest.raises(TypeError, match="Only numpy.ndarray can be set"):
        x.set([1.0])


# ---- the contract --------------------------------------------------------------------------------

DUNDERS = "iter len getitem setitem float int bool array array_ufunc array_function copy deepcopy"
OPERATOR_NAMES = "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow rpow ipow"
OPERATOR_NAMES += " lt le gt ge eq ne neg abs invert matmul"


def names_of_the_fake():
    """Return {dotted name: its parameters, or None if it is no function} of the whole fake."""
    names = {}
    for name, thing in vars(fake_cupy).items():
        if name.startswith("_") or inspect.ismodule(thing) or thing is fake_cupy.ledger:
            continue
        if inspect.isfunction(thing):
            names[name] = [*inspect.signature(thing).parameters]
        elif isinstance(thing, fake_cupy.ufunc):
            names[name] = ["out", "casting", "dtype"]
        elif name not in ("CUDARuntimeError", "annotations"):
            names[name] = None
    for name, thing in vars(ndarray).items():
        if not name.startswith("_"):
            parameters = inspect.isfunction(thing) and [*inspect.signature(thing).parameters]
            names[f"ndarray.{name}"] = parameters or None
    names |= {f"ndarray.__{name}__": None for name in f"{DUNDERS} {OPERATOR_NAMES}".split()}
    names |= {f"cuda.runtime.{name}": None for name in vars(fake_cupy.cuda.runtime)}
    names |= {f"cuda.{name}": None for name in vars(fake_cupy.cuda)}
    names |= {f"cuda.Device.{name}": None for name in ("use", "pci_bus_id")}
    for kind in (streams.Stream, streams.Event):
        names |= methods_of(kind, f"cuda.{kind.__name__}")
    names |= methods_of(streams.Graph, "cuda.Graph")
    names |= {f"cuda.MemoryPool.{name}": None for name in ("malloc", "free_all_blocks")}
    names["add.at"] = None
    init = inspect.signature(fake_cupy.RawModule.__init__)
    names["RawModule"] = [*init.parameters][1:]
    names["RawModule.get_function"] = None
    return names


def methods_of(kind, label):
    """Return the same of the methods of a class, and of how it is made."""
    found = {f"{label}.{name}": [*inspect.signature(method).parameters][1:]
             for name, method in vars(kind).items()
             if inspect.isfunction(method) and not name.startswith("_")}  # fmt: skip
    if kind is not streams.Graph:  # which is not made by hand
        found[label] = [*inspect.signature(kind).parameters]
    return found


def names_of_nccl():
    """Return the same of fake_cupy/nccl.py."""
    names = {name: None for name in vars(nccl) if name[0] in "aN" or name == "get_unique_id"}
    for name, function in vars(nccl.NcclCommunicator).items():
        if name in ("__init__", "allReduce"):
            label = f"NcclCommunicator.{name}".removesuffix(".__init__")
            names[label] = [*inspect.signature(function).parameters][name == "__init__" :]
    return {f"cuda.nccl.{name}": parameters for name, parameters in names.items()}


REAL = """
import cupy, inspect, json, operator, re, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from cupy.cuda import nccl

def parameters(thing):
    "Return the names of its parameters, in order; from the docstring if it is compiled."
    try:
        return [*inspect.signature(thing).parameters]
    except (TypeError, ValueError):
        first = (thing.__doc__ or "").partition("\\n\\n")[0].partition(" ->")[0].replace("\\n", " ")
        inside = re.search(r"\\((.*)\\)", first)
        return [re.sub(r"[\\\\*]|=.*", "", part).split()[-1]
                for part in inside[1].split(",") if part.strip(" \\\\*/")] if inside else None

found = {}
for name in json.load(sys.stdin):
    try:
        found[name] = parameters(operator.attrgetter(name)(cupy))
    except AttributeError:
        pass
errors = {}
for name in ("cupy.zeros(3)", "cupy.cuda.runtime.getDeviceCount()"):
    try:
        eval(name)
    except Exception as error:
        errors[name] = [kind.__name__ for kind in type(error).__mro__]
print(json.dumps({
    "found": found,
    "nccl": nccl.available,
    "errors": errors,
    "driver": cupy.cuda.runtime.driverGetVersion(),
    "runtime error": cupy.cuda.runtime.CUDARuntimeError.__mro__[1].__name__,
    "out of memory": [kind.__name__ for kind in cupy.cuda.memory.OutOfMemoryError.__mro__],
    "absent": [n for n in ("__index__", "__imatmul__") if getattr(cupy.ndarray, n, None)],
    "lazy": type(cupy.RawModule(code="not compiled yet")).__name__,
}))
"""


@pytest.fixture(scope="module")
def real():
    """What inspection of the real CuPy finds, in a process of its own."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy, but no GPU: pip install cupy-cuda12x")
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        input=json.dumps([*names_of_the_fake(), *names_of_nccl()]),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return json.loads(done.stdout)


def test_every_name_is_cupys(real):
    """The real CuPy has every name that the fake has."""
    assert sorted(names_of_the_fake().keys() - real["found"].keys()) == []


def test_every_parameter_is_cupys(real):
    """The same names, in the same order where they may be positional."""
    for name, ours in names_of_the_fake().items():
        theirs = real["found"][name]
        if ours is None or theirs is None:
            continue
        if name == "matmul":  # the real one takes *args
            ours = [parameter for parameter in ours if parameter not in ("x1", "x2")]
        assert set(ours) <= set(theirs), f"{name}: {ours} of the real {theirs}"
        assert [p for p in theirs if p in ours] == ours, f"{name}: {ours} of the real {theirs}"


def test_nccl_is_cupys(real):
    """Names and parameters, where its library is installed: a package of its own."""
    if not real["nccl"]:
        pytest.skip("needs NCCL, but no GPU: pip install nvidia-nccl-cu12")
    for name, ours in names_of_nccl().items():
        theirs = real["found"][name]
        assert ours is None or [p for p in theirs if p in ours] == ours, f"{name}: {theirs}"


def test_enough_is_compared(real):
    """The parameters of most functions can be read, compiled ones included."""
    theirs = real["found"]
    for name in ("exp", "ndarray.sum", "ndarray.astype", "RawModule", "zeros", "asnumpy"):
        assert theirs[name], name
    unread = [name for name, ours in names_of_the_fake().items() if ours and theirs[name] is None]
    assert unread == []


def test_other_facts_that_the_fake_relies_on(real):
    """No index, no @=, lazy compilation, and the types of errors."""
    assert real["absent"] == [] and real["lazy"] == "RawModule"
    assert real["runtime error"] == "RuntimeError" and "MemoryError" in real["out of memory"]
    if real["driver"] == 0:
        assert len(real["errors"]) == 2
        assert all("CUDARuntimeError" in kinds for kinds in real["errors"].values())


def test_the_real_cupy_without_a_driver(real):
    """It can be imported; the self-tests and `python -m minigrad` report the missing driver."""
    if real["driver"]:
        pytest.skip("there is a driver here")
    train = [ROOT / "examples/train_shakespeare.py", "--device", "gpu"]
    for command, status in ((["-m", "minigrad"], 0), (train, 2)):
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, encoding="utf-8", cwd=ROOT
        )
        assert done.returncode == status
        assert "CuPy finds no NVIDIA driver: if this machine has" in done.stdout + done.stderr


def used_names():
    """Yield (name, file) of every `xp.name` in the source, whether a test runs it or not."""
    owners = ("xp", "cupy", "backend.cupy")
    for path in [*ROOT.glob("minigrad/**/*.py"), *ROOT.glob("gpt_numpy/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner in owners or re.match(r"array_module\([^()]*\)$", owner):
                    yield node.attr, path.name


def test_the_source_uses_no_other_name():
    """Also in lines that run only on a GPU."""
    found = dict(used_names())
    assert {"matmul", "RawModule", "may_share_memory", "full"} <= found.keys()
    assert {name: file for name, file in found.items() if not hasattr(fake_cupy, name)} == {}


def test_the_fake_offers_no_other_name():
    """An unused name could be wrong, and no test would notice."""
    paths = [*ROOT.glob("minigrad/**/*.py"), *ROOT.glob("gpt_numpy/**/*.py")]
    source = " ".join(path.read_text(encoding="utf-8") for path in paths)
    names = dict(used_names())
    for name in names_of_the_fake():
        owner, _, attribute = name.rpartition(".")
        if "__" not in name and name != "ufunc":
            used = attribute in names if not owner else f".{attribute}" in source
            assert used, name
