"""Comparisons, conversions and methods of a Tensor: what they return, and what they refuse.

The values of ops are test_ops.py's subject.  Here the question is whether a Tensor behaves in
Python and NumPy as PyTorch's CPU tensors do.
"""

import operator
import warnings

import numpy as np
import pytest
import torch

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor


def test_an_integer_is_an_index():
    """As in PyTorch; a fraction and several integers are none."""
    n = Tensor(np.array([2]))
    assert [*range(n)] == [0, 1] and "abc"[n] == "c"
    np.testing.assert_array_equal(np.arange(5)[:n], [0, 1])
    np.testing.assert_array_equal(Tensor([1.0, 2.0, 3.0])[:n].data, [1, 2])
    for wrong in (Tensor(2.0), Tensor(np.array([1, 2]))):
        with pytest.raises(TypeError):
            range(wrong)


def test_plus_x():
    """It is x."""
    x = Tensor([1.0])
    assert +x is x


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# ---- comparisons ---------------------------------------------------------------------------------

COMPARE = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
VALUES = [[1.0, 2.0, 3.0], [2.0, 2.0, np.nan]]
OTHERS = {  # what a Tensor of shape (2, 3) is compared with
    "a number": 2,
    "a fraction": 2.0,
    "a bool": True,
    "a NumPy number": np.float64(2.0),
    "a NumPy integer": np.int64(2),
    "an array": np.array([2.0, 2.0, np.nan]),
    "a column": np.array([[2.0], [1.0]]),
    "integers": np.array([1, 2, 3]),
    "a list": [1.0, 2.0, 3.0],
    "no axis": np.array(2.0),
    "a larger array": np.full((2, 2, 3), 2.0),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("compare", COMPARE, ids=lambda compare: compare.__name__)
def test_a_comparison_is_entry_by_entry(compare, other):
    """A boolean Tensor without a gradient, with the Tensor on either side, as in NumPy."""
    x = leaf(VALUES)
    for ours, expected in (
        (compare(x, other), compare(x.data, np.asarray(other))),
        (compare(other, x), compare(np.asarray(other), x.data)),
        (compare(x, Tensor(np.asarray(other))), compare(x.data, np.asarray(other))),
    ):
        assert isinstance(ours, Tensor) and ours.dtype == bool and not ours.requires_grad
        np.testing.assert_array_equal(ours.data, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, bool])
def test_a_comparison_of_every_dtype(dtype):
    """Also of integers and booleans, and of integers that no int64 holds."""
    x = Tensor(np.array([0, 1], dtype))
    np.testing.assert_array_equal((x == 1).data, [False, True])
    if dtype is not bool:
        np.testing.assert_array_equal((x < 2**70).data, [True, True])
        np.testing.assert_array_equal((x > -(2**70)).data, [True, True])


def test_a_single_number_brings_no_dtype_to_a_comparison():
    """As in arithmetic: a float32 0.1 is equal to 0.1, whichever type of number says it."""
    x = Tensor([0.1])
    for tenth in (0.1, np.float64(0.1), np.array(0.1), [0.1], (0.1,)):
        assert bool(x == tenth) and bool(tenth == x)
    assert bool(leaf([0.1]) == [0.1])
    assert not bool(x == np.array([0.1]))  # an array has a dtype, and 0.1 is another number in it


NO_NUMBERS = {
    "None": None,
    "a text": "a",
    "texts": ["a", "b"],
    "an array of texts": np.array(["a", "b"]),
    "an object": object(),
    "a dict": {1: 2},
    "lists of two lengths": [[1.0], [1.0, 2.0]],
    "a complex number": 1j,
    "a class": Tensor,
}


@pytest.mark.parametrize("other", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_is_not_equal(other):
    """== is False, != is True and < is a TypeError, as for other Python objects."""
    x = leaf([1.0, 2.0])
    assert (x == other) is False and (x != other) is True
    assert (other == x) is False and (other != x) is True
    for compare in COMPARE[2:]:
        with pytest.raises(TypeError, match="not supported between"):
            compare(x, other)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (0,)])
def test_a_comparison_of_shapes_that_do_not_fit(shape):
    """Is an error that names both, never a single False."""
    x = leaf([1.0, 2.0])
    if shape == (2, 2):
        assert (x == np.zeros(shape)).shape == (2, 2)
        return
    for other in (np.zeros(shape), Tensor(np.zeros(shape)), list(np.zeros(shape))):
        with pytest.raises(ValueError, match=rf"^==: x \(2,\) and y \({shape[0]},\) do not broad"):
            x == other  # noqa: B015
        with pytest.raises(ValueError, match=r"^<: x \(2,\) and y"):
            x < other  # noqa: B015


def test_a_comparison_of_two_devices(fake_gpu):
    """Is refused in the words of the ops; on one device it is made there."""
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"^==: inputs on cpu and gpu: move them to one device"):
        x == x.to("gpu")  # noqa: B015
    equal = x.to("gpu") == 1.0
    assert equal.device == "gpu" and equal.numpy().tolist() == [True, False]


def test_where_follows_a_comparison():
    """The condition of where and the index of x[...] may be what a comparison returned."""
    x = leaf([0.0, 2.0])
    F.where(x == 0, 1.0, x).sum().backward()
    np.testing.assert_array_equal(F.where(x == 0, 1.0, x).data, [1.0, 2.0])
    np.testing.assert_array_equal(x.grad, [0.0, 1.0])
    np.testing.assert_array_equal(x[x > 1].data, [2.0])
    np.testing.assert_array_equal(np.array([5, 6])[x > 1], [6])


def test_booleans_combine():
    """&, |, ^ and ~ as in NumPy; any() and all() reduce."""
    x = leaf([0.0, 1.0, 2.0])
    low, high = x < 1.5, x > 0.5
    for combine in (operator.and_, operator.or_, operator.xor):
        expected = combine(low.data, high.data)
        for ours in (combine(low, high), combine(low, high.data), combine(low.data, high)):
            assert isinstance(ours, Tensor)
            np.testing.assert_array_equal(ours.data, expected)
    np.testing.assert_array_equal((~low).data, ~low.data)
    assert low.any() and not low.all() and np.any(low) and not np.all(low)
    np.testing.assert_array_equal(Tensor(np.eye(2)).all(0).data, [False, False])
    np.testing.assert_array_equal(Tensor(np.eye(2)).any(1, keepdims=True).data, [[True], [True]])


@pytest.mark.parametrize(
    "combine",
    [
        lambda x: x & x,
        lambda x: (x > 0) & x,
        lambda x: (x > 0) | 1,
        lambda x: ~x,
        lambda x: x > 0 & x,
        lambda x: (x > 0) ^ "a",
    ],
)
def test_what_is_no_boolean_is_not_combined(combine):
    """The message says where the parentheses belong: x > 0 & x < 1 is another expression."""
    with pytest.raises(TypeError, match=r"must be booleans.*write \(x > 0\) . \(x < 1\)"):
        combine(leaf([1.0, 2.0]))


# ---- membership and identity ---------------------------------------------------------------------


def test_in():
    """Asks whether any entry is equal; what is no number is in no Tensor."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert 2.0 in x and 5 not in x and np.float32(3) in x and Tensor(4.0) in x and x in x
    assert [1.0, 9.0] in x  # 1.0 is where the list has 1.0
    assert 3.0 in leaf(3.0) and 2.0 not in leaf(3.0) and np.nan not in leaf([np.nan])
    assert 1.0 not in leaf([])
    for other in (None, "a", object()):
        assert other not in x
    with pytest.raises(ValueError, match=r"do not broadcast"):
        [1.0, 2.0, 3.0] in x  # noqa: B015


def test_tensors_are_keys():
    """By identity: equal entries do not make two tensors one key."""
    x, y = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    names = {x: "x", y: "y"}
    assert (names[x], names[y], len({x, y, x})) == ("x", "y", 2)
    assert x in {x} and y not in {x} and hash(x) != hash(y)
    assert [x, y].index(x) == 0
    with pytest.raises(ValueError, match="neither true nor false"):
        [x, y].index(y)  # a list asks x == y


# ---- conversions ---------------------------------------------------------------------------------


def test_numpy_reads_a_tensor():
    """As an array of its dtype, in the same memory; a copy where one is asked for."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert np.asarray(x) is x.data and np.shares_memory(np.array(x, copy=False), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(x, np.float32, copy=False)
    assert np.array([x, x]).shape == (2, 2, 2) and np.array([x, x]).dtype == np.float64
    assert np.array([leaf(1.0), leaf(2.0)]).tolist() == [1.0, 2.0]
    assert np.array_equal(x, x.data) and np.allclose(x, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(x, x.data)
    assert torch.from_numpy(np.array(x)).tolist() == x.data.tolist()
    assert isinstance(np.asarray(x * 2), np.ndarray)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "var"])
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": 1, "keepdims": True}])
def test_numpys_reductions_are_the_ops(name, options):
    """np.sum(x) is x.sum(), with its gradient."""
    x, y = leaf(VALUES[:1] * 2), leaf(VALUES[:1] * 2)
    ours, expected = getattr(np, name)(x, **options), getattr(y, name)(**options)
    assert isinstance(ours, Tensor) and ours.requires_grad
    np.testing.assert_array_equal(ours.data, expected.data)
    for out in (ours, expected):
        out.sum().backward()
    np.testing.assert_array_equal(x.grad, y.grad)


def test_numpy_changes_shapes_by_the_ops():
    """np.reshape, np.transpose and np.squeeze return Tensors that pass gradients on."""
    x = leaf(np.arange(6.0).reshape(1, 2, 3))
    outs = np.reshape(x, (3, 2)), np.transpose(x), np.transpose(x, (0, 2, 1)), np.squeeze(x)
    assert [out.shape for out in outs] == [(3, 2), (3, 2, 1), (1, 3, 2), (2, 3)]
    for out in outs:
        x.grad = None
        (out * 2.0).sum().backward()
        np.testing.assert_array_equal(x.grad, np.full((1, 2, 3), 2.0))
    with pytest.raises(ValueError, match="^reshape: Tensors are read in the order 'C', not 'F'"):
        np.reshape(x, (3, 2), order="F")


def test_ddof_is_correction():
    """np.var(x, ddof=1) and x.var(correction=1) divide by n − 1."""
    x = leaf([1.0, 2.0, 6.0])
    assert np.var(x, ddof=1).item() == x.var(correction=1).item() == np.var(x.data, ddof=1) == 7


@pytest.mark.parametrize(
    "call, option",
    [
        (lambda x: x.sum(dim=0), "dim=0"),
        (lambda x: x.mean(dtype="float64"), "dtype='float64'"),
        (lambda x: np.sum(x, dtype=float), "dtype="),
        (lambda x: np.max(x, initial=0), "initial=0"),
        (lambda x: np.mean(x, out=np.zeros(())), "out="),
        (lambda x: np.var(x, where=[True, False]), "where="),
        (lambda x: x.any(dim=0), "dim=0"),
        (lambda x: x.all(dim=0), "dim=0"),
    ],
)
def test_options_of_numpy_and_pytorch_that_reductions_refuse(call, option):
    """In words that name the option, and not silently."""
    with pytest.raises(TypeError, match=f"Tensors take axis and keepdims, and no {option}"):
        call(leaf([1.0, 2.0]))


@pytest.mark.parametrize("function", [np.exp, np.isnan, np.add.reduce, np.sign])
def test_numpys_functions_of_entries_are_refused(function):
    """np.exp(x) would lose the gradient.  F.exp is the op, and x.data the array."""
    with pytest.raises(TypeError, match="operand 'Tensor' does not support ufuncs"):
        function(leaf([1.0, 2.0]))


def test_a_number():
    """float(), int() and item() of one entry, whatever the shape around it; not of several."""
    for shape in ((), (1,), (1, 1)):
        x = leaf(np.full(shape, 3.7))
        assert (float(x), int(x), x.item(), bool(x)) == (3.7, 3, 3.7, True)
    assert type(float(Tensor(np.array(2)))) is float and type(int(leaf(2.0))) is int
    assert float((leaf([2.0]) * 2).sum()) == 4.0
    for shape in ((2,), (0,), (2, 1)):
        for convert in (float, int):
            with pytest.raises(TypeError, match=r"only a Tensor of one entry is a number, this"):
                convert(leaf(np.zeros(shape)))
        with pytest.raises(ValueError, match="neither true nor false"):
            bool(leaf(np.zeros(shape)))


def test_format():
    """f"{x:.3f}" is the number of a Tensor of shape (); any other Tensor is a text."""
    x = leaf(1.25)
    assert (f"{x:.3f}", f"{x:8.1e}", f"{Tensor(np.array(7)):03d}") == ("1.250", " 1.2e+00", "007")
    assert f"{x}" == str(x) == "Tensor(1.25, requires_grad=True)"
    rows = leaf([1.0, 2.0])
    assert f"{rows:>40}" == str(rows).rjust(40) and f"{rows}" == str(rows)
    with pytest.raises(ValueError, match=r"a Tensor of shape \(2,\) has no format '.3f'"):
        f"{rows:.3f}"


def test_iteration():
    """Over the first axis, with gradients; a Tensor of shape () has none."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    first, second = x
    (first * 2.0 + second).sum().backward()
    np.testing.assert_array_equal(x.grad, [[2.0, 2.0], [1.0, 1.0]])
    assert len(x) == 2 and [row.shape for row in reversed(x)] == [(2,), (2,)]
    assert sum(leaf([1.0, 2.0])).item() == 3 and max(leaf([1.0, 5.0, 2.0])).item() == 5
    assert list(leaf([])) == [] and list(leaf(np.zeros((0, 2)))) == []
    assert [x.item() for x in sorted(leaf([2.0, 1.0]))] == [1.0, 2.0]
    for use in (iter, list, sum, tuple, lambda x: [*x], lambda x: max(x)):
        with pytest.raises(TypeError, match=r"shape \(\) cannot be iterated over.*x.item\(\)"):
            use(leaf(3.0))
    with pytest.raises(TypeError, match=r"shape \(\) has no length"):
        len(leaf(3.0))


def test_a_tensor_of_a_tensor():
    """The same array without a history, and requires_grad as it is asked for."""
    x = leaf([1.0, 2.0])
    for source, warns in ((x, False), (x.detach(), False), (x * 2, True)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            y = Tensor(source)
        assert y.data is source.data and y.node is None and not y.requires_grad
        # The warning points at the line that makes the Tensor.
        assert [w.filename for w in said] == [__file__] * warns
        assert all("result of 'mul' has no history" in str(w.message) for w in said)
    assert Tensor(x, requires_grad=True).requires_grad
    x.data = x * 3  # in words, and no new Tensor
    np.testing.assert_array_equal(x.data, [3, 6])
    with pytest.raises(TypeError, match="only floating-point"):
        Tensor(Tensor(np.arange(2)), requires_grad=True)


@pytest.mark.parametrize(
    "use",
    [
        Tensor,
        lambda tensors: leaf([1.0, 2.0]) + tensors,
        lambda tensors: F.linear(tensors, np.ones((1, 2))),
        lambda tensors: F.stack([leaf([1.0, 2.0]), tensors]),
        lambda tensors: (leaf([1.0, 2.0]) * 2).backward(tensors),
        lambda tensors: Tensor([tensors, [1.0, 2.0]]),
    ],
)
def test_a_list_of_tensors_would_lose_their_gradients(use):
    """It is refused with the op that joins them; without gradients it is a list of numbers."""
    for kind in (list, tuple):
        with pytest.raises(TypeError, match=r"lose their gradients: F.stack\(\[...\]\) joins"):
            use(kind([leaf(1.0), leaf(2.0)]))
    if use is Tensor:
        np.testing.assert_array_equal(Tensor([Tensor(1.0), Tensor(2.0)]).data, [1.0, 2.0])
        np.testing.assert_array_equal(Tensor([]).data, [])


@pytest.mark.parametrize(
    "data, kind",
    [(None, TypeError), ([1, None], TypeError), ("3", TypeError), (["3"], TypeError),
     (1j, TypeError), ({1: 2}, TypeError), ([[1], [1, 2]], ValueError)],
)  # fmt: skip
def test_what_is_no_number_makes_no_tensor(data, kind):
    """NumPy would read None as NaN and "3" as 3."""
    with pytest.raises(kind, match="real numbers|inhomogeneous"):
        Tensor(data)


def test_numbers_of_any_size_make_a_tensor():
    """A Python integer may exceed 64 bits."""
    assert Tensor(2**70).data == np.float32(2**70)
    assert Tensor([2**40, 0.5]).data.tolist() == [2.0**40, 0.5]


# ---- dtypes --------------------------------------------------------------------------------------

INTEGERS = np.arange(1, 4)
NO_FLOAT64_IN = {
    "stack": lambda: F.stack([leaf(1.0, np.float32), 1.0]),
    "stack, numbers alone": lambda: F.stack([1.0, 2.0]),
    "stack, a NumPy number": lambda: F.stack([1, np.float64(2.0)]),
    "stack, an integer array": lambda: F.stack([np.arange(2)[0], 0.5]),
    "concat, lists": lambda: F.concat([[1], [2.5]]),
    "where, numbers": lambda: F.where(np.array([True, False]), 1.0, 0.0),
    "where, a Tensor": lambda: F.where(Tensor([1.0]) > 0, 1.0, 0.0),
    "mean": lambda: F.mean(INTEGERS),
    "var": lambda: F.var(INTEGERS),
    "mean of booleans": lambda: Tensor([1.0, 2.0]).__gt__(1).mean(),
    "exp": lambda: F.exp(INTEGERS),
    "sqrt": lambda: F.sqrt(INTEGERS),
    "log": lambda: F.log(INTEGERS),
    "sigmoid": lambda: F.sigmoid(INTEGERS),
    "tanh": lambda: F.tanh(INTEGERS),
    "gelu": lambda: F.gelu(INTEGERS),
    "softmax": lambda: F.softmax(INTEGERS),
    "log_softmax": lambda: F.log_softmax(INTEGERS),
    "layer_norm": lambda: F.layer_norm(INTEGERS),
    "cross_entropy": lambda: F.cross_entropy(INTEGERS, 1),
    "dropout": lambda: F.dropout(INTEGERS, 0.5, training=True, key=(0, 0, 0, 0)),
    "div": lambda: Tensor(INTEGERS) / 2,
    "div of integers": lambda: Tensor(INTEGERS) / INTEGERS,
    "pow": lambda: Tensor(INTEGERS) ** 0.5,
    "add": lambda: Tensor(INTEGERS) + 0.5,
    "mul by a NumPy number": lambda: np.float64(0.5) * Tensor(INTEGERS),
    "maximum": lambda: F.maximum(INTEGERS, 0.5),
    "clip": lambda: F.clip(INTEGERS, 0.5, 1.5),
    "numbers alone": lambda: F.mul(2.0, 3),
}


@pytest.mark.parametrize("make", NO_FLOAT64_IN.values(), ids=NO_FLOAT64_IN)
@pytest.mark.parametrize("pages", [False, True], ids=["twins", "pages"])
def test_no_float64_out_of_no_float64_in(make, pages):
    """What integers and numbers become is float32, as Tensor(number) is."""
    if not pages:
        assert make().dtype == np.float32
    else:
        with mg.plain():
            assert make().dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool])
def test_short_integers_do_not_become_float16(dtype):
    """NumPy's exp of an int8 is a float16, in which exp(12) overflows."""
    with pytest.raises(TypeError, match="^exp: x .* would give float16: convert"):
        F.exp(np.ones(2, dtype))
    assert F.exp(Tensor(np.ones(2, dtype)).astype("float32")).dtype == np.float32


def test_ids_and_targets_stay_integers():
    """As numbers, NumPy numbers, lists, nested lists, tuples and Tensors; and in a module."""
    weight, logits = leaf(np.arange(8.0).reshape(4, 2)), leaf(np.zeros((2, 3)))
    for ids in (3, np.int64(3), np.array(3), Tensor(np.array(3))):
        np.testing.assert_array_equal(F.embedding(ids, weight).data, [6.0, 7.0])
    for ids in ([3, 0], (3, 0), np.array([3, 0]), [np.int32(3), 0], Tensor(np.array([3, 0]))):
        np.testing.assert_array_equal(F.embedding(ids, weight).data, [[6.0, 7.0], [0.0, 1.0]])
        targets = [abs(int(i) - 1) for i in ids]
        assert F.cross_entropy(logits, targets).item() == pytest.approx(np.log(3))
    assert F.embedding([[3], [0]], weight).shape == (2, 1, 2)
    assert F.embedding([], weight).shape == (0, 2) and F.embedding([[]], weight).shape == (1, 0, 2)
    assert F.embedding(weight=weight, ids=[1]).shape == (1, 2)
    assert mg.nn.Embedding(4, 2)([1, 2]).shape == (2, 2)
    for ids in ([0.5], [True], np.zeros(2), Tensor([1.0]), np.zeros(0)):
        with pytest.raises(TypeError, match="embedding: ids must be an array of integers, not"):
            F.embedding(ids, weight)


def test_astype():
    """A leaf with the data converted.  Where a gradient would be lost it is an error."""
    x = leaf([1.5, -2.5])
    assert x.astype(int).data.tolist() == [1, -2] and not x.astype("int64").requires_grad
    assert (x > 0).astype("float32").data.tolist() == [1.0, 0.0]
    assert Tensor([1.0]).astype(np.float16).dtype == np.float16
    for tensor in (x, x * 2):
        with pytest.raises(RuntimeError, match=r"^astype: no gradient.*x.detach\(\).astype"):
            tensor.astype("float32")
        with mg.no_grad():
            assert tensor.astype("float32").dtype == np.float32
        assert not tensor.detach().astype("float32").requires_grad


def test_results_stay_on_their_device(fake_gpu):
    """A leaf moves, as another leaf; a gradient would not follow a result."""
    x = leaf([1.0, 2.0])
    moved = x.to("gpu")
    assert moved.device == "gpu" and moved.requires_grad and moved.node is None
    with pytest.raises(RuntimeError, match=r"^to: no gradient passes.*x.detach\(\).to"):
        (moved * 2).to("cpu")
    assert (moved * 2).detach().to("cpu").numpy().tolist() == [2.0, 4.0]
    with mg.no_grad():
        assert (moved * 2).to("cpu").numpy().tolist() == [2.0, 4.0]
    with pytest.raises(ValueError, match="there is no device 'tpu'"):
        x.to("tpu")


# ---- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (2, 1, 3, 1), (0, 1), (1, 1)])
def test_squeeze(shape):
    """All axes of length 1, or the named ones, as in NumPy; and gradients pass."""
    x = leaf(np.ones(shape))
    assert x.squeeze().shape == np.squeeze(x.data).shape
    ones = [i for i, n in enumerate(shape) if n == 1]
    for axis in [*ones, *[i - len(shape) for i in ones], tuple(ones)]:
        assert x.squeeze(axis).shape == np.squeeze(x.data, axis).shape
    x.squeeze().sum().backward()
    np.testing.assert_array_equal(x.grad, np.ones(shape))


@pytest.mark.parametrize(
    "shape, axis, kind, words",
    [
        ((2, 1), 0, ValueError, "squeeze: axis 0 of x (2, 1) has length 2, not 1"),
        ((2, 1), 2, IndexError, "squeeze: x (2, 1) has no axis 2: count from -2 to 1"),
        ((), 0, IndexError, "squeeze: x () has no axis 0: it has none"),
        ((1, 0), (0, 1), ValueError, "squeeze: axis 1 of x (1, 0) has length 0, not 1"),
    ],
)
def test_what_squeeze_refuses(shape, axis, kind, words):
    """An axis that is not there, or not of length 1."""
    with pytest.raises(kind) as caught:
        leaf(np.ones(shape)).squeeze(axis)
    assert str(caught.value) == words


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0, 3), (2, 3, 4, 5)])
def test_flatten(shape):
    """As torch.flatten, for all pairs of axes; and gradients pass."""
    x, twin = leaf(np.ones(shape)), torch.ones(shape)
    assert x.flatten().shape == tuple(twin.flatten().shape)
    n = max(1, len(shape))
    for start in range(-n, n):
        for end in range(-n, n):
            if start % n <= end % n:
                assert x.flatten(start, end).shape == tuple(twin.flatten(start, end).shape)
            else:
                with pytest.raises(ValueError, match="^flatten: x .* has no axes from"):
                    x.flatten(start, end)
    with pytest.raises(ValueError, match=f"^flatten: x .* has no axes from 0 to {n}"):
        x.flatten(0, n)
    x.flatten().sum().backward()
    np.testing.assert_array_equal(x.grad, np.ones(shape))


def test_size():
    """The number of entries."""
    assert [leaf(np.ones(shape)).size for shape in [(), (0, 3), (2, 3)]] == [1, 0, 6]


# ---- copy_ ---------------------------------------------------------------------------------------


def test_copy_replaces_the_data():
    """By a copy, in the dtype of the Tensor, from an array, a list or a Tensor."""
    x, array = leaf([1.0, 2.0], np.float32), np.array([3.0, 4.0])
    assert x.copy_(array) is x and x.dtype == np.float32
    array[:] = 0
    np.testing.assert_array_equal(x.data, [3.0, 4.0])
    np.testing.assert_array_equal(x.copy_([5, 6]).data, [5.0, 6.0])
    np.testing.assert_array_equal(x.copy_(Tensor([7.0, 8.0])).data, [7.0, 8.0])


@pytest.mark.parametrize("fused", [False, True])
def test_copy_takes_the_same_shape(fused):
    """And no other, although it would broadcast; and only a leaf can be replaced."""
    x = leaf([1.0, 2.0])
    optimizer = mg.optim.AdamW([x], lr=0.1, fused=fused)
    assert optimizer.param_groups
    for array in (np.ones(1), np.ones((1, 2)), 1.0, np.ones(3)):
        with pytest.raises(ValueError, match=r"^copy_: the Tensor has shape \(2,\), was given"):
            x.copy_(array)
    np.testing.assert_array_equal(x.data, [1.0, 2.0])
    with pytest.raises(RuntimeError, match="only leaves"):
        (x * 2).copy_(np.ones(2))


# ---- updates in place, and NumPy's functions -----------------------------------------------------

UPDATES = {
    "+=": (operator.iadd, [1.5, 2.5]),
    "-=": (operator.isub, [0.5, 1.5]),
    "*=": (operator.imul, [0.5, 1.0]),
    "/=": (operator.itruediv, [2.0, 4.0]),
}


@pytest.mark.parametrize("symbol", UPDATES)
@pytest.mark.parametrize("fused", [False, True])
def test_a_parameter_is_updated_in_place(symbol, fused):
    """Under no_grad() `p -= y` changes p itself; while ops are recorded it is refused."""
    update, right = UPDATES[symbol]
    p = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    mg.optim.AdamW([p], lr=0.1, fused=fused)
    with pytest.raises(RuntimeError, match=r"under no_grad\(\) alone"):
        update(p, 0.5)
    with mg.no_grad():
        assert update(p, np.array([0.5, 0.5])) is p
    np.testing.assert_array_equal(p.data, right)
    assert p.requires_grad and p.node is None


def test_other_tensors_are_bound_anew():
    """`loss += x` is loss = loss + x, for results and for leaves without a gradient."""
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    total = first = Tensor(np.zeros(2))
    total += x
    total += x
    total.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [2, 2])
    np.testing.assert_array_equal(first.data, [0, 0])


@pytest.mark.parametrize(
    "function",
    [
        np.std,
        np.min,
        np.prod,
        lambda x: np.where(True, x, 0),
        lambda x: np.clip(x, 0, 2),
        lambda x: np.concatenate([x, x]),
        lambda x: np.stack([np.zeros(2), x]),
        lambda x: np.dot(a=np.ones(2), b=x),
        np.cumsum,
    ],
)
def test_numpys_functions_refuse_to_lose_a_gradient(function):
    """As PyTorch does; without a gradient, or under no_grad(), they work on the data."""
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with pytest.raises(TypeError, match="would lose its gradient: use an op of minigrad.ops"):
        function(x)
    with mg.no_grad():
        np.testing.assert_array_equal(function(x), function(x.numpy()))
    np.testing.assert_array_equal(function(x.detach()), function(x.numpy()))


def test_numpys_functions_without_a_gradient():
    """Comparing, and asking for a shape, has no gradient to lose."""
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    assert np.array_equal(x, [1, 2]) and np.allclose(x, x) and np.shape(x) == (2,)
    assert np.argmax(x) == 1


def test_an_option_brings_no_dtype():
    """A NumPy number as an option is a number."""
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    eps, one = np.float64(1e-5), np.float64(1)
    assert F.layer_norm(x, eps=eps).dtype == F.var(x, correction=one).dtype == np.float32
    loss = F.cross_entropy(x, [0, 1], label_smoothing=np.float64(0.1))
    assert loss.dtype == np.float32
    loss.backward()
    assert x.grad.dtype == np.float32
