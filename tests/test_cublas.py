"""Matrix products through cuBLAS: every layout, both precisions, and what is refused.

On any machine the fake cuBLAS of fake_cupy/cublas.py computes, which checks every argument; on a
GPU (`pytest -m gpu`) the real one.
"""

import contextlib
import ctypes
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import types

import fake_cupy
import fake_cupy.cublas
import numpy as np
import pytest

import minigrad as mg
import minigrad.ops as F
from minigrad.backend import array_module, to_device, to_numpy
from minigrad.fast.gpu import cublas
from minigrad.fast.gpu.cublas import fits, gemm
from minigrad.internals import cublas as loading
from minigrad.internals.hooks import PRECISIONS, this_thread
from minigrad.tensor import TWINS, Tensor
from minigrad.testing.checks import strided

U = {"float32": 2.0**-24, "float64": 2.0**-53}  # half the distance from 1 to the next number
TF32 = 2.0**-10  # by less than this part of it a factor is rounded, or cut off


@pytest.fixture(autouse=True)
def at_float32():
    """Begin at the default precision, whatever a test before has left."""
    assert this_thread.precision == "float32"


@pytest.fixture(params=PRECISIONS)
def precision(request, gpu):
    """Each precision that the GPU has."""
    if request.param not in loading.precisions():
        pytest.skip("this GPU has no tensor cores for tf32")
    return request.param


def random(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def bound(a, b, precision="float32", c=0):
    """Return by how much each entry of a @ b + c may be off.

    On its way a product of two factors is rounded once itself and in K sums, the last of them with
    c; each rounding multiplies it by 1 + e with |e| <= 2 u (a GPU may cut sums off, which costs
    twice as much as rounding them).  In tf32 each of its factors was rounded before.  (Higham 2002,
    "Accuracy and Stability of Numerical Algorithms", section 3.1.)
    """
    factors = (1 + TF32) ** 2 if precision == "tf32" and a.dtype == np.float32 else 1
    growth = factors * (1 + 2 * U[a.dtype.name]) ** (a.shape[-1] + 1)
    return (growth - 1) * (abs(a.astype(float)) @ abs(b.astype(float)) + abs(c))


def check(found, a, b, precision="float32", c=0):
    """Compare an array on the GPU with the product a @ b + c in float64."""
    a, b = to_numpy(a), to_numpy(b)
    exact = a.astype(float) @ b.astype(float) + c
    assert found.shape == exact.shape and found.dtype == a.dtype
    assert (abs(to_numpy(found) - exact) <= bound(a, b, precision, c)).all()


# ---- one matrix ----------------------------------------------------------------------------------

SIZES = [(1, 1, 1), (1, 5, 3), (4, 1, 3), (4, 5, 1), (16, 8, 32), (7, 130, 65)]  # M, K, N


def apart(x):
    """Return x as a part of longer rows, which hold NaN."""
    xp = array_module(x)
    wide = xp.full((*x.shape[:-1], x.shape[-1] + 3), np.nan, x.dtype)
    wide[..., 1:-2] = x
    return wide[..., 1:-2]


def flipped(x):
    return x.swapaxes(-1, -2)


LAYOUTS = {
    "rows": lambda x: x.copy(),
    "columns": lambda x: flipped(flipped(x).copy()),
    "rows apart": apart,
    "columns apart": lambda x: flipped(apart(flipped(x))),
}
COPIED = {"every other": strided, "backwards": lambda x: x[..., ::-1].copy()[..., ::-1]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("of_b", LAYOUTS | COPIED)
@pytest.mark.parametrize("of_a", LAYOUTS | COPIED)
def test_operands_of_every_layout(of_a, of_b, dtype, precision, gpu):
    """Rows or columns contiguous, with gaps between them, or neither."""
    lay = LAYOUTS | COPIED
    for m, k, n in SIZES:
        a, b = random(m, k, dtype=dtype), random(k, n, dtype=dtype)
        laid = lay[of_a](to_device(a, "gpu")), lay[of_b](to_device(b, "gpu"))
        check(gemm(*laid, precision=precision), a, b, precision)
        for x, before in zip(laid, (a, b), strict=True):
            np.testing.assert_array_equal(to_numpy(x), before)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("of_out", LAYOUTS)
def test_results_of_every_layout(of_out, dtype, accumulate, precision, gpu):
    """Written to, or added to, where they are; the gaps between rows keep their NaN."""
    for (m, k, n), of_a in itertools.product(SIZES, ("rows", "columns")):
        a, b, c = random(m, k, dtype=dtype), random(k, n, dtype=dtype), random(m, n, dtype=dtype)
        out = LAYOUTS[of_out](to_device(c if accumulate else c * np.nan, "gpu"))
        laid = LAYOUTS[of_a](to_device(a, "gpu"))
        found = gemm(laid, to_device(b, "gpu"), out, accumulate, precision)
        assert found is out
        check(out, a, b, precision, c if accumulate else 0)
        if "apart" in of_out:
            rows = out if of_out == "rows apart" else out.T
            assert np.isnan(to_numpy(rows.base)).sum() == rows.base.size - out.size


@pytest.mark.parametrize(
    "shape, steps, found",
    [
        ((4, 5), (5, 1), (5, cublas.N)),
        ((4, 5), (9, 1), (9, cublas.N)),
        ((4, 5), (4, 1), None),  # rows overlap
        ((4, 5), (1, 4), (4, cublas.T)),
        ((4, 5), (1, 9), (9, cublas.T)),
        ((4, 5), (1, 3), None),  # columns overlap
        ((4, 5), (0, 1), None),  # one row, four times
        ((4, 5), (1, 0), None),
        ((4, 5), (10, 2), None),
        ((4, 5), (-5, 1), None),
        ((1, 5), (0, 1), (5, cublas.N)),  # the step to another row, or column, does not matter
        ((1, 5), (0, 7), (7, cublas.T)),
        ((4, 1), (3, 0), (3, cublas.N)),
        ((4, 1), (1, 0), (1, cublas.N)),
        ((4, 1), (0, 1), None),
        ((1, 1), (0, 0), (1, cublas.N)),
    ],
)
def test_layouts(shape, steps, found):
    """The leading dimension, and by rows or by columns; entries of 8 bytes."""
    strides = tuple(8 * step for step in steps)
    x = types.SimpleNamespace(shape=(3, *shape), strides=(800, *strides), itemsize=8)
    assert cublas.layout(x) == found


def test_rounding_shows(gpu):
    """tf32 is further off than float32 may be, and by no more than its own bound."""
    if "tf32" not in loading.precisions():
        pytest.skip("this GPU has no tensor cores for tf32")
    a, b = random(64, 96), random(96, 80)
    found = to_numpy(gemm(to_device(a, "gpu"), to_device(b, "gpu"), precision="tf32"))
    off = abs(found - a.astype(float) @ b.astype(float))
    assert (off > bound(a, b)).any() and (off <= bound(a, b, "tf32")).all()


def test_numbers_of_ten_bits_are_exact(precision, gpu):
    """Whole numbers up to 2¹⁰ are not rounded, and neither are sums of their products below 2²⁴."""
    draw = np.random.default_rng(0)
    a, b = (draw.integers(-1023, 1024, shape).astype(np.float32) for shape in ((9, 15), (15, 6)))
    found = gemm(to_device(a, "gpu"), to_device(b, "gpu"), precision=precision)
    np.testing.assert_array_equal(to_numpy(found), a @ b)


def test_what_is_not_finite(precision, gpu):
    """NaN and infinity in an operand reach their row of the result, and no other."""
    a, b = random(5, 7), random(7, 4)
    a[1, 2], a[3, 3], a[4, 0] = np.nan, np.inf, 2.0**127
    with np.errstate(all="ignore"):
        right = a @ b
        found = to_numpy(gemm(to_device(a, "gpu"), to_device(b, "gpu"), precision=precision))
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    np.testing.assert_array_equal(found[3], right[3])
    out = to_device(np.full((5, 4), np.nan, np.float32), "gpu")
    assert np.isnan(to_numpy(gemm(to_device(a, "gpu"), to_device(b, "gpu"), out, True))).all()


@pytest.mark.parametrize("m, k, n", [(0, 3, 2), (2, 3, 0), (2, 0, 3), (0, 0, 0)])
def test_without_entries(m, k, n, gpu):
    """A sum of nothing is 0; with `accumulate` the result stays."""
    a, b = to_device(random(m, k), "gpu"), to_device(random(k, n), "gpu")
    assert not to_numpy(gemm(a, b)).any() and gemm(a, b).shape == (m, n)
    for accumulate in (False, True):
        out = to_device(np.ones((m, n), np.float32), "gpu")
        assert (to_numpy(gemm(a, b, out, accumulate)) == (accumulate or k > 0)).all()


# ---- batches -------------------------------------------------------------------------------------

BATCHES = [  # the axes in front of a and of b
    ((3,), (3,)),
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((2, 3), ()),
    ((), (4,)),
    ((1,), (1,)),
    ((0,), (1,)),
    ((2, 3, 2), (2, 1, 2)),
]


@pytest.mark.parametrize("of_a", ["rows", "columns", "rows apart", "every other"])
@pytest.mark.parametrize("front_a, front_b", BATCHES)
def test_batches(front_a, front_b, of_a, precision, gpu):
    """The axes in front broadcast."""
    a, b = random(*front_a, 4, 5), random(*front_b, 5, 6)
    laid = (LAYOUTS | COPIED)[of_a](to_device(a, "gpu"))
    for of_b in ("rows", "columns"):
        found = gemm(laid, LAYOUTS[of_b](to_device(b, "gpu")), precision=precision)
        check(found, a, b, precision)


def test_a_batch_from_the_last_to_the_first(precision, gpu):
    """cuBLAS goes forward only: such operands are copied."""
    a, b = random(3, 4, 5), random(3, 5, 6)
    found = gemm(to_device(a, "gpu")[::-1], to_device(b, "gpu"), precision=precision)
    check(found, a[::-1], b, precision)


B, H, M, D = 3, 2, 5, 4


def heads(x, i):
    """Return part i of three of x (B, M, 3 H D) as (B, H, M, D), as a model does: a view."""
    part = x[:, :, i * H * D : (i + 1) * H * D]
    return part.reshape(B, M, H, D).transpose(0, 2, 1, 3)


def test_heads_where_they_are(precision, gpu):
    """The scores of every head, and their product with v written to where heads are joined."""
    qkv = to_device(random(B, M, 3 * H * D), "gpu")
    q, k, v = (heads(qkv, i) for i in range(3))
    scores = gemm(q, flipped(k), precision=precision)
    check(scores, q, flipped(k), precision)
    joined = to_device(np.full((B, M, H, D), np.nan, np.float32), "gpu")
    out = joined.transpose(0, 2, 1, 3)
    assert gemm(scores, v, out, precision=precision) is out
    check(out, scores, v, precision)
    gemm(flipped(scores), v, out, True, precision)
    first = to_numpy(scores).astype(float) @ to_numpy(v).astype(float)
    twice = bound(to_numpy(scores), to_numpy(v), precision)
    right = first + to_numpy(flipped(scores)).astype(float) @ to_numpy(v).astype(float)
    more = bound(to_numpy(flipped(scores)), to_numpy(v), precision, abs(first) + twice)
    assert (abs(to_numpy(out) - right) <= twice + more).all()


@pytest.mark.parametrize(
    "make, calls",
    [
        (lambda xp: (xp.ones((2, 3, 4, 5)), xp.ones((2, 3, 5, 6))), 1),  # 6 matrices in a row
        (lambda xp: (xp.ones((2, 3, 4, 5)), xp.ones((5, 6))), 1),
        (lambda xp: (xp.ones((2, 3, 4, 5))[:, None], xp.ones((2, 3, 5, 6))[:, None]), 1),
        (lambda xp: (xp.ones((2, 3, 4, 5)), xp.ones((3, 5, 6))), 2),
        (lambda xp: (heads(xp.ones((B, M, 24)), 0), flipped(heads(xp.ones((B, M, 24)), 1))), H),
        (lambda xp: (xp.ones((4, 5)), xp.ones((5, 6))), 1),
        (lambda xp: (xp.ones((0, 4, 5)), xp.ones((5, 6))), 0),
    ],
)
def test_calls_are_few(make, calls, fake_gpu):
    """One for a batch with one step between its matrices; else the longest axis is one call."""
    a, b = make(fake_gpu)
    before = fake_gpu.ledger.launches["cublas"]
    gemm(a, b)
    assert fake_gpu.ledger.launches["cublas"] - before == calls


def test_flops_and_bytes_are_counted(fake_gpu):
    """Of the matrices that cuBLAS reads and writes."""
    ledger = fake_gpu.ledger
    before = ledger.flops, ledger.bytes
    out = gemm(fake_gpu.ones((3, 4, 5)), fake_gpu.ones((3, 5, 6)))
    gemm(fake_gpu.ones((3, 4, 5)), fake_gpu.ones((3, 5, 6)), out, accumulate=True)
    assert ledger.flops - before[0] == 2 * (2 * 3 * 4 * 5 * 6)
    assert ledger.bytes - before[1] == 8 * 3 * (2 * (4 * 5 + 5 * 6) + 3 * (4 * 6))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "b", [random(4, 6), random(2, 5, 6, dtype=np.float64)], ids=["length", "dtype"]
)
def test_operands_that_do_not_fit(b, gpu):
    """cuBLAS would read beyond them, or read one dtype as another."""
    words = r"gemm: \(4, 5\) of float32 and .* do not fit: axis -1 of the first must be as long"
    with pytest.raises(ValueError, match=words):
        gemm(to_device(random(4, 5), "gpu"), to_device(b, "gpu"))


def test_a_result_that_does_not_fit(gpu):
    """Of another shape or dtype, or with gaps within its rows and its columns."""
    a, b = to_device(random(4, 5), "gpu"), to_device(random(5, 6), "gpu")
    for out in (random(4, 5), random(4, 6, dtype=np.float64), random(6, 4), random(1, 4, 6)):
        with pytest.raises(ValueError, match=r"gemm: out must be \(4, 6\) of float32"):
            gemm(a, b, to_device(out, "gpu"))
    with pytest.raises(ValueError, match="with contiguous rows or columns, it is"):
        gemm(a, b, strided(to_device(random(4, 6), "gpu")))


def test_lengths_beyond_32_bits(monkeypatch, fake_gpu):
    """cuBLAS takes lengths as 32-bit integers, and ctypes would cut longer ones off."""
    monkeypatch.setattr(cublas, "LONGEST", 7)
    with pytest.raises(ValueError, match=r"gemm: \(2, 8\) @ \(8, 2\) has lengths that do not fit"):
        gemm(fake_gpu.ones((2, 8)), fake_gpu.ones((8, 2)))
    gemm(fake_gpu.ones((2, 7)), fake_gpu.ones((7, 2)))


def test_a_failure_is_explained(monkeypatch, fake_gpu):
    """In cuBLAS's words, with what it was to do."""
    a = fake_gpu.ones((2, 2), np.float32)
    gemm(a, a)
    loading.library().handles.clear()
    words = r"multiply \(2, 2\) by \(2, 2\) in float32: CUBLAS_STATUS_NOT_INITIALIZED, the library"
    with pytest.raises(RuntimeError, match=f"^cuBLAS cannot {words}"):
        gemm(a, a)


# ---- the library, the handle and its stream ------------------------------------------------------


def test_each_stream_has_a_workspace(monkeypatch, fake_gpu):
    """It is set after the stream, and the same one when a stream is used again."""
    a = fake_gpu.ones((2, 2))
    library = loading.library()
    seen = []

    def use(stream):
        now = types.SimpleNamespace(ptr=stream)
        monkeypatch.setattr(fake_gpu.cuda, "get_current_stream", lambda: now)
        gemm(a, a)
        [state] = library.handles.values()
        assert state["stream"] == stream
        seen.append(state["workspace"])

    for stream in (0, 7, 7, 0):
        use(stream)
    assert seen[0] == seen[3] != seen[1] == seen[2]


def test_each_thread_and_each_gpu_has_a_handle(monkeypatch, fake_gpu):
    """cuBLAS does not let threads share one."""
    a = fake_gpu.ones((2, 2))
    handles = loading.library().handles
    gemm(a, a)
    gemm(a, a)
    assert len(handles) == 1
    thread = threading.Thread(target=gemm, args=(a, a))
    thread.start()
    thread.join()
    monkeypatch.setattr(fake_gpu.cuda.runtime, "getDevice", lambda: 1)
    gemm(a, a)
    assert len(handles) == 3


def missing(error):
    def load():
        raise error

    return load


@pytest.mark.parametrize(
    "error, words",
    [
        (ImportError('Failure finding "libcublas.so.12"'), 'Failure finding "libcublas.so.12"'),
        (OSError("libcublas.so.12: cannot open shared object file"), "libcublas.so.12: cannot"),
        (AttributeError("undefined symbol: cublasCreate_v2"), "undefined symbol"),
    ],
)
def test_without_the_library_cupy_multiplies(error, words, monkeypatch, fake_gpu):
    """The twins decline, the pages run, and the reason is known."""
    monkeypatch.setattr(loading, "load", missing(error))
    loading.library.cache_clear()
    assert loading.why_not().startswith(words)
    x, w = (Tensor(random(3, 4)).to("gpu") for _ in range(2))
    for name, inputs in (("linear", (x, w)), ("matmul", (x, w.T))):
        assert TWINS[name, "gpu"](*[t.data for t in inputs]) is NotImplemented
        check(mg.OPS[name](*inputs).data, x.data, w.data.T)


def test_it_takes_one_float_dtype_alone(fake_gpu):
    """Integers, float16 and mixtures are for the pages."""
    single, double, half = (fake_gpu.zeros((2, 2), dtype) for dtype in ("f4", "f8", "f2"))
    integers = fake_gpu.zeros((2, 2), "i8")
    assert fits(single, single, None) and fits(double, double)
    for arrays in ((single, double), (half, half), (integers, integers), (single, integers)):
        assert not fits(*arrays)


def test_the_version(gpu):
    """Three numbers."""
    version = loading.version()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version), version


REAL = """
import cupy, re
from minigrad.fast.gpu.cublas import Handle
from minigrad.internals import cublas
cublas.init_gpu = lambda: cupy
assert not cublas.why_not(), cublas.why_not()
print(cublas.version())
try:
    Handle()
except RuntimeError as error:
    print(error)
"""


def test_the_real_library_without_a_gpu():
    """Its functions are found through CuPy's module, and a failure comes back in words."""
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, encoding="utf-8")
    if "Failure finding" in done.stderr or "No module named 'cupy'" in done.stderr:
        pytest.skip("needs CuPy and cuBLAS, but no GPU: pip install cupy-cuda12x[ctk]")
    assert done.returncode == 0, done.stderr
    version, *failure = done.stdout.splitlines()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    without = "cuBLAS cannot start: CUBLAS_STATUS_NOT_INITIALIZED, the library was not initialized"
    assert failure in ([], [without])  # with a GPU there is none


# ---- the twins -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "product",
    [F.linear, lambda x, w: x @ w.T, lambda x, w: x @ x.transpose(0, 2, 1)],
    ids=["linear", "one matrix", "a batch"],
)
def test_the_twins_multiply_by_cublas_alone(product, monkeypatch, fake_gpu):
    """One call a product, forward and backward; CuPy, which cannot be recorded, has none."""
    monkeypatch.setattr(fake_cupy, "matmul", None)
    monkeypatch.setattr(fake_cupy.ndarray, "__matmul__", None)
    x, w = Tensor(random(2, 3, 4)).to("gpu"), Tensor(random(5, 4)).to("gpu")
    x.requires_grad = w.requires_grad = True
    launches = fake_gpu.ledger.launches
    before = launches["cublas"]
    out = product(x, w)
    assert launches["cublas"] == before + 1
    out.backward(out.data * 2)
    assert launches["cublas"] == before + 3


@pytest.mark.parametrize("bias", [False, True])
def test_linear_within_its_rounding(bias, precision, gpu):
    """out, dx and dW are products at the precision that is set; the bias is one more term."""
    x, w, dout = random(6, 33), random(17, 33), random(6, 17)
    b = random(17) if bias else None
    leaves = [Tensor(array).to("gpu") for array in (x, w, b) if array is not None]
    for leaf in leaves:
        leaf.requires_grad = True
    with mg.precision(precision):
        out = F.linear(*leaves)
        out.backward(to_device(dout, "gpu"))
    check(out.data, x, w.T, precision, 0 if b is None else b)
    check(leaves[0].grad, dout, w, precision)
    check(leaves[1].grad, dout.T, x, precision)


# ---- the precision -------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch, fake_gpu):
    """Return a list that gets the cublasComputeType_t of every product from here on."""
    seen = []
    gemm = loading.library().cublasGemmStridedBatchedEx
    right = gemm.function

    def watched(*arguments):
        seen.append(arguments[-2])
        return right(*arguments)

    watched.__name__ = right.__name__
    monkeypatch.setattr(gemm, "function", watched)
    return seen


def test_a_product_has_the_precision_of_its_context(computed):
    """Nested, after an error, in backward; other threads keep theirs; float64 has its own."""
    x = Tensor(random(3, 3)).to("gpu")
    x.requires_grad = True
    x @ x
    with mg.precision("tf32"):
        out = x @ x
        with mg.precision("float32"):
            x @ x
        thread = threading.Thread(target=lambda: x @ x)
        thread.start()
        thread.join()
        gemm(x.data, x.data, precision="float32")
        x.detach().astype("float64") @ x.detach().astype("float64")
    with contextlib.suppress(ZeroDivisionError), mg.precision("tf32"):
        1 / 0  # noqa: B018
    out.sum().backward()
    assert computed == [68, 77, 68, 68, 68, 70, 68, 68]


@pytest.mark.parametrize("name", ["bf16", "float16", "", None])
def test_other_precisions_are_refused(name):
    """With the names that there are."""
    with pytest.raises(ValueError, match="there is no precision .*: choose float32 or tf32"):
        with mg.precision(name):
            pass


# ---- the training command ------------------------------------------------------------------------

ON_GPU = ["--device", "gpu", "--preset", "laptop"]


def kept(run):
    """Return the precision that train_config.json has."""
    path = run.folder / "train_config.json"
    return json.loads(path.read_text(encoding="utf-8"))["precision"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, name, kind", [([], "tf32", 77), (["--precision", "float32"], "float32", 68)]
)
def test_a_run_has_one_precision(flags, name, kind, train, computed):
    """In training, evaluation and sampling; its head and its settings say which."""
    run = train("run", *ON_GPU, *flags)
    assert run.status == 0, run.err
    assert set(computed) == {kind} and this_thread.precision == "float32"
    [line] = [line for line in run.lines if line.startswith("precision: ")]
    assert line == f"precision: {name}, products by cuBLAS 12.9.0" and kept(run) == name
    assert f"--precision {name}" in (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_on_a_cpu_says_nothing_of_it(train):
    """There is nothing to choose."""
    run = train("run", "--device", "cpu")
    assert run.status == 0 and kept(run) == "float32"
    assert "precision" not in "\n".join(run.lines)


@pytest.mark.slow
def test_a_run_keeps_its_precision(train, stop_at, computed):
    """When it is resumed, unless a flag says otherwise; then a line says so."""
    stop_at(2, signal.SIGTERM)
    assert train("run", *ON_GPU, "--precision", "float32").status == 143
    stop_at(4, signal.SIGTERM)
    assert train("run", "--resume").status == 143
    assert set(computed) == {68}
    computed.clear()
    run = train("run", "--resume", "--precision", "tf32")
    assert (run.status, kept(run), set(computed)) == (0, "tf32", {77})
    notes = [line.strip() for line in run.lines]
    assert "precision changes from float32 to tf32" in notes
    assert "the factors of matrix products are now rounded differently" in notes
    assert not [note for note in notes if "another order" in note]


@pytest.mark.slow
def test_a_run_in_tf32_goes_on_where_there_is_none(train, stop_at, monkeypatch, fake_gpu):
    """On a CPU, or on an older GPU: in float32, and a line says so; asked for, it is refused."""
    stop_at(2, signal.SIGTERM)
    assert train("run", *ON_GPU).status == 143
    refused = train("run", "--resume", "--device", "cpu", "--precision", "tf32")
    words = "--precision tf32 is not possible, because the device is cpu: leave it out\n"
    assert refused.status == 2 and refused.err.endswith(words)
    stop_at(4, signal.SIGTERM)
    old = fake_gpu.cuda.runtime.getDeviceProperties(0) | {"major": 7, "minor": 5}
    monkeypatch.setattr(fake_gpu.cuda.runtime, "getDeviceProperties", lambda device: old)
    refused = train("run", "--resume", "--precision", "tf32")
    words = "because the tensor cores of this GPU are older than compute capability 8.0: leave"
    assert refused.status == 2 and words in refused.err and refused.err.count("\n") == 1
    run = train("run", "--resume")
    assert run.status == 143 and kept(run) == "float32"
    assert "precision changes from tf32 to float32" in [line.strip() for line in run.lines]
    assert train("run", "--resume", "--device", "cpu").status == 0


@pytest.mark.slow
def test_a_run_without_cublas(train, monkeypatch, fake_gpu):
    """CuPy multiplies, in float32, and the head says so; tf32 is refused."""
    monkeypatch.setattr(loading, "load", missing(ImportError("Failure finding libcublas")))
    loading.library.cache_clear()
    run = train("run", *ON_GPU)
    head = "precision: float32, products by CuPy, because cuBLAS cannot be called: Failure finding"
    assert run.status == 0 and any(line.startswith(head) for line in run.lines)
    refused = train("other", *ON_GPU, "--precision", "tf32")
    assert refused.status == 2 and "because cuBLAS cannot be called: Failure" in refused.err


def test_precisions_that_are_not_offered(train):
    """One line, also when a run is resumed; --help names those that there are."""
    for flags in (["--precision", "bf16"], ["--resume", "--precision", "fp8"]):
        run = train("run", *flags)
        assert run.status == 2 and not run.folder.exists()
        assert re.fullmatch(
            r"train_shakespeare: there is no precision '\w+': choose float32 or tf32\n", run.err
        )
    out = "\n".join(train("run", "--help").lines)
    assert "--precision {float32,tf32}" in out and "bf16" not in out


# ---- the fake is strict --------------------------------------------------------------------------


def call(fake_gpu, **changes):
    """Call the fake cuBLAS for (2, 3) @ (3, 4) by columns, with other arguments where they are."""
    a, b, c = (fake_gpu.ones(n, np.float32) for n in (6, 12, 8))
    library, one = loading.library(), ctypes.byref(ctypes.c_float(1))
    arguments = {
        "handle": cublas.current_handle(), "flag_a": 0, "flag_b": 0, "m": 2, "n": 4, "k": 3,
        "alpha": one, "a": a.data.ptr, "type_a": 0, "lda": 2, "step_a": 0,
        "b": b.data.ptr, "type_b": 0, "ldb": 3, "step_b": 0,
        "beta": one, "c": c.data.ptr, "type_c": 0, "ldc": 2, "step_c": 0,
        "count": 1, "compute": 68, "algorithm": -1,
    }  # fmt: skip
    return library.cublasGemmStridedBatchedEx(*(arguments | changes).values()), c


def test_the_fake_computes(fake_gpu):
    """α A B + β C."""
    status, c = call(fake_gpu)
    assert status == 0 and (c.get() == 4).all()


REFUSED = [  # arguments, and the status, or what the fake says
    ({"lda": 1}, 7),
    ({"ldb": 2}, 7),
    ({"flag_a": 1}, 7),  # then lda must be k
    ({"ldc": 1}, 7),
    ({"flag_a": 2}, 7),
    ({"compute": 64}, 7),
    ({"type_b": 1}, 15),
    ({"compute": 70}, 15),
    ({"handle": 99}, 1),
    ({"lda": 3}, "out of bounds"),
    ({"ldb": 4}, "out of bounds"),
    ({"ldc": 3}, "out of bounds"),
    ({"count": 2, "step_a": 0, "step_b": 0, "step_c": 0}, "results of a batch overlap"),
    ({"count": 2, "step_c": 8}, "out of bounds"),
    ({"n": 0}, "nothing to compute"),
    ({"m": 2**31 + 2}, "does not fit into c_int"),
    ({"m": 2.0}, "is no integer"),
    ({"beta": ctypes.byref(ctypes.c_double(1))}, "have the type of the sums"),
]


@pytest.mark.parametrize("changes, expected", REFUSED)
def test_the_fake_refuses(changes, expected, fake_gpu):
    """As cuBLAS does, by a status; and, by an assertion, what cuBLAS would not notice."""
    if isinstance(expected, int):
        assert call(fake_gpu, **changes)[0] == expected
    else:
        with pytest.raises(AssertionError, match=expected):
            call(fake_gpu, **changes)


def test_the_fake_refuses_what_it_would_read_again(fake_gpu):
    """A result over an operand, and a handle whose workspace a new stream has taken away."""
    x = fake_gpu.ones((2, 2), np.float32)
    with pytest.raises(AssertionError, match="a result overlaps an operand"):
        gemm(x, x, x)
    loading.library().cublasSetStream_v2(cublas.current_handle(), 5)
    with pytest.raises(AssertionError, match="the workspace is cuBLAS's own"):
        gemm(x, x)


def test_the_fake_wants_declared_types(fake_gpu):
    """Without them ctypes would pass an address as a 32-bit integer."""
    library = fake_cupy.cublas.Library()
    with pytest.raises(AssertionError, match="the types of its arguments are not right"):
        library.cublasGetStatusName(0)


def test_the_fake_rounds_to_ten_bits():
    """To the nearest, ties away from zero; ten bits stay as they are, and so does NaN."""
    ulp = 2.0**-10
    before = np.array([1, 1 + ulp / 2, 1 + ulp / 2 - 2**-23, 1 + ulp, -1 - ulp / 2], np.float32)
    after = [1, 1 + ulp, 1, 1 + ulp, -1 - ulp]
    assert fake_cupy.cublas.tf32(before).tolist() == after
    special = np.array([np.nan, np.inf, -np.inf, 0], np.float32)
    np.testing.assert_array_equal(fake_cupy.cublas.tf32(special), special)
