"""The CUDA kernels without a GPU: run on a CPU, and compiled for GPUs by NVRTC and nvcc.

On a CPU they run inside the fake CuPy, which is strict (fake_cupy/cuda_source.py): in two orders of
threads, with locked memory around every array.  That each twin computes what its page computes, in
every case of the table, is in test_gpu.py; here are shapes that the table lacks.
"""

import importlib.metadata
import json
import math
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rounding
from test_gpu import on_cpu, results, worst_error

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import data
from minigrad import Tensor, optim, random
from minigrad.backend import to_device, to_numpy
from minigrad.fast.gpu import launch as launch_module
from minigrad.fast.gpu import masks
from minigrad.fast.gpu import optim as gpu_optim
from minigrad.fast.gpu.column_sum import PARTS, ROWS, column_sum
from minigrad.fast.gpu.cross_entropy import SHORT
from minigrad.fast.gpu.launch import Strided, launch, sources
from minigrad.fast.gpu.layer_norm import PARTS as LAYER_NORM_PARTS
from minigrad.fast.gpu.layer_norm import ROWS as ROWS_OF_BLOCK
from minigrad.fast.gpu.layer_norm import shape_of
from minigrad.fast.gpu.windows import windows
from minigrad.tensor import OPS, TWINS
from minigrad.testing.cases import Case
from minigrad.testing.checks import record_twins

KERNELS = Path(launch_module.__file__).parent
FLOATS = [np.float32, np.float64]
IDS = np.random.default_rng(3).integers(0, 50, 2000) ** 2 // 50  # below 50, small ones often
DROPOUT = {"training": True, "key": (1337, 3, 2, 5)}


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.fixture
def planted(monkeypatch):
    """Return plant(kernel, right, wrong): put a mistake into the source of a kernel."""

    def plant(name, right, wrong):
        text = sources()[name]
        assert text.count(right) == 1, right
        changed = text.replace(right, wrong)
        monkeypatch.setattr(launch_module, "sources", lambda: {**sources(), name: changed})
        launch_module.kernel.cache_clear()

    return plant


# ---- starting them -------------------------------------------------------------------------------


def test_launch_checks_its_arguments(fake_gpu):
    """A kernel would read beyond an array, or the gaps in it, so launch() does not start it."""
    array = fake_gpu.zeros((4, 4))
    for bad in (array.T[1:], np.zeros(3), 3, 2.0):
        with pytest.raises(TypeError, match="column_sum_total: an argument must be"):
            launch("column_sum_total", 1, 32, bad)


@pytest.mark.parametrize(
    "grid, block", [((1, 2**16), 32), (2**31, 1), (1, 1025), (1, (32, 33)), (1, 0), (1, -1)]
)
def test_launch_checks_sizes(grid, block, fake_gpu):
    """CuPy checks none."""
    with pytest.raises(ValueError, match="column_sum_total: a (grid|block) of"):
        launch("column_sum_total", grid, block)


def test_nothing_to_do_is_no_launch(fake_gpu):
    """CuPy would start one block."""
    before = fake_gpu.ledger.launches.total()
    launch("column_sum_total", 0, 256)
    launch("column_sum_total", (3, 0), 256)
    assert fake_gpu.ledger.launches.total() == before


def test_views_are_passed_on_request(fake_gpu):
    """A kernel that knows the strides may read between the gaps."""
    x = fake_gpu.asarray(np.arange(128.0).reshape(2, 64))
    parts, out = x[:, 16:48], fake_gpu.empty(32, np.float32)
    launch("column_sum_total", 1, (32, 8), Strided(parts), out, *map(np.int32, (2, 32, 64)))
    np.testing.assert_array_equal(out.get(), x.get()[:, 16:48].sum(0))


def test_a_kernel_has_one_source():
    """Its name alone finds it."""
    found = [
        name
        for path in KERNELS.glob("*.cu")
        for name in re.findall(
            r"__global__ void(?: __launch.*\))? (\w+)\(", path.read_text(encoding="ascii")
        )
    ]
    assert sorted(found) == sorted(sources()) and len(found) == len({*found})


def test_a_kernel_is_compiled_once(fake_gpu):
    """One source with the same options makes one module."""
    before = launch_module.module.cache_info().misses
    for _ in range(2):
        column_sum(fake_gpu.zeros((2, 3)))
    assert launch_module.module.cache_info().misses == before + 1


# ---- column sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "n_rows, n", [(1, 1), (1, 33), (7, 32), (8, 31), (ROWS + 1, 65), (3 * ROWS, 2), (0, 5), (5, 0)]
)
def test_column_sum(n_rows, n, dtype, fake_gpu):
    """Exactly accurate_sum: the sum in float64, rounded once."""
    x = normal(n_rows, n, dtype=dtype)
    out = column_sum(to_device(x, "gpu"))
    exact = x.sum(0, dtype=np.longdouble)
    unit = np.finfo(np.float64).eps / 2
    error = (n_rows * unit * abs(x).sum(0) if n_rows else 0) + np.finfo(dtype).eps / 2 * abs(exact)
    assert out.dtype == dtype and out.shape == (n,)
    assert (abs(to_numpy(out) - exact) <= error).all()


def test_column_sum_of_many_rows(fake_gpu):
    """More than PARTS parts of ROWS rows: then the parts are longer."""
    x = fake_gpu.ones((ROWS * PARTS + 3, 1), np.float32)
    assert column_sum(x).get() == [ROWS * PARTS + 3]


def test_column_sum_of_a_view(fake_gpu):
    """It is made contiguous first."""
    x = normal(6, 10)
    out = column_sum(to_device(x, "gpu")[::2, 1::2])
    np.testing.assert_array_equal(to_numpy(out), x[::2, 1::2].sum(0, dtype=np.float64).astype("f"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_column_sum_hides_nothing(bad, fake_gpu):
    """One entry that is not finite makes its column so, and no other."""
    x = normal(20, 40)
    x[7, 33] = bad
    out = to_numpy(column_sum(to_device(x, "gpu")))
    np.testing.assert_equal(out[33], bad)
    assert np.isfinite(np.delete(out, 33)).all()


@pytest.mark.parametrize(
    "kernel, right, wrong",
    [
        ("column_sum_parts", "row += 8", "row += 7"),
        ("column_sum_parts", "k = 1; k < 8", "k = 2; k < 8"),
        ("column_sum_parts", "first + warp", "first"),
        ("column_sum_parts", "__syncthreads();\n    if (warp", "if (warp"),
        ("column_sum_parts", "* rows_of_part;", "* (rows_of_part - 1);"),
        ("column_sum_total", "parts, 0, n_parts, n", "parts, 0, n_parts - 1, n"),
    ],
)
def test_a_mistake_in_column_sum_is_caught(kernel, right, wrong, planted, fake_gpu):
    """A row left out or counted twice, a barrier missing."""
    planted(kernel, right, wrong)
    x = normal(ROWS + 40, 3)
    with pytest.raises(AssertionError):
        out = to_numpy(column_sum(to_device(x, "gpu")))
        np.testing.assert_allclose(out, x.sum(0, dtype=np.float64), rtol=1e-5)


# ---- dropout -------------------------------------------------------------------------------------

KEYS = [  # rows, entries of a row, p, (seed, step, layer, row)
    (3, 16, 0.5, (1, 2, 3, 4)),
    (7, 1001, 0.2, (1337, 5000, 12, 640)),
    (2, 1, 0.9, (2**64 - 1, 2**63, 2**40, 2**33)),
    (1, 5000, 0.0, (0, 0, 0, 0)),
    (5, 9, 1 - 2**-40, (5, 4, 3, 2)),  # p·2³² is rounded up to 2³²: nothing is kept
]


def check_mask(n_rows, size, p, key):
    """Compare a mask with NumPy's."""
    x = np.zeros((n_rows, size))
    keep = masks.keep_mask(to_device(x, "gpu"), p, key)
    np.testing.assert_array_equal(to_numpy(keep), random.keep_mask(x, p, key))


@pytest.mark.parametrize("n_rows, size, p, key", KEYS)
def test_dropout_keep(n_rows, size, p, key, fake_gpu):
    """Every bit is NumPy's."""
    check_mask(n_rows, size, p, key)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("m0 = 0xD2E7470EE14C6C93", "m0 = 0xD2E7470EE14C6C91"),
        ("group + 1;", "group;"),
        ("row + at.row, threshold);\n    for", "row, threshold);\n    for"),
        ("round < 10", "round < 9"),
        ("if (at.first + i < size)", "if (at.first + i < size + 1)"),
        ("bits >= threshold", "bits > threshold"),
        ("k0 = key[0], k1 = key[1]", "k0 = key[1], k1 = key[0]"),
    ],
)
def test_a_mistake_in_the_mask_is_caught(right, wrong, planted, fake_gpu):
    """Another constant, one round less, an entry too far: some case fails."""
    planted("dropout_keep", right, wrong)
    cases = [*KEYS]
    if right == "bits >= threshold":  # one number in 2³² shows this: take a drawn one
        bits = int(random.philox((1, 2, 3, 4), random.MASK).random_raw(1).view(np.uint32)[0])
        cases = [(1, 8, bits / 2**32, (1, 2, 3, 4))]
    with pytest.raises(AssertionError):
        for case in cases:
            check_mask(*case)


def test_the_key_is_uploaded_once(fake_gpu):
    """By the first kernel of a scope; again when the step changes; and never written to."""
    x = fake_gpu.zeros((2, 9))
    before = fake_gpu.ledger.uploads
    with random.rng_scope(5, 6):
        for _ in range(3):
            masks.keep_mask(x, 0.5)
    first = masks.device_key(5, 6)
    assert fake_gpu.ledger.uploads == before + 1 and first.get().tolist() == [5, 6]
    with random.rng_scope(5, 7):
        masks.keep_mask(x, 0.5)
    assert fake_gpu.ledger.uploads == before + 2 and first.get().tolist() == [5, 6]


def test_a_fixed_key_can_be_changed_in_memory(fake_gpu):
    """For a CUDA graph: the kernels' arguments stay the same, and the masks follow the key."""
    x = np.zeros((3, 20))
    there, key = to_device(x, "gpu"), fake_gpu.asarray(np.array([1, 2], np.uint64))
    for step in (2, 3):
        key[1] = np.uint64(step)
        with masks.fixed_key(key), random.rng_scope(77, 88, row=4):
            keep = masks.keep_mask(there, 0.5)
        right = random.keep_mask(x, 0.5, (1, step, 0, 4))
        np.testing.assert_array_equal(to_numpy(keep), right)
    assert masks.device_key(77, 88) is not key


# ---- twins, at the ends of warps, blocks and parts -----------------------------------------------

EDGES = [
    *[("gelu", Case([(n,)])) for n in (1, 3, 4, 5, 1023, 1025)],
    *[("layer_norm", Case([(3, C), (C,), (C,)])) for C in (1, 31, 33, 64, 512, 513, 4096)],
    *[("layer_norm", Case([(n, 40), (40,), (40,)])) for n in (1, 7, 8, 9)],
    ("layer_norm", Case([(ROWS_OF_BLOCK * LAYER_NORM_PARTS + 3, 2), (2,), (2,)])),
    ("layer_norm", Case([(LAYER_NORM_PARTS + 3, 513), (513,), (513,)])),  # a block a row
    ("layer_norm", Case([(2, 600)])),
    ("layer_norm", Case([(2, 600), None, (600,)])),
    *[("dropout", Case([(2, n), 0.3], DROPOUT)) for n in (1, 7, 8, 9, 2047, 2048, 2049)],
    ("dropout", Case([(3, 5, 7), 0.3], DROPOUT)),
    *[("cross_entropy", Case([(3, V), np.array([0, V - 1, V // 2])])) for V in (1, 31, 33)],
    *[("cross_entropy", Case([(2, V), np.array([V - 1, 0])])) for V in (SHORT, SHORT + 1, 3000)],
    *[("cross_entropy", Case([(n, 9), IDS[:n] % 9])) for n in (1, 7, 8, 9, 1025)],
    ("cross_entropy", Case([(3, SHORT + 7), np.arange(3)], {"label_smoothing": 0.2})),
    ("cross_entropy", Case([(3, SHORT + 7), np.arange(3)], {"ignore_index": 1})),
    *[("embedding", Case([IDS[:n], (50, 5)])) for n in (1, 8, 9, 256, 257, 600)],
    *[("embedding", Case([IDS[:20], (50, C)])) for C in (1, 33, 127, 128, 129)],
    ("embedding", Case([IDS[:40].reshape(5, 8).astype(np.uint8), (51, 3)])),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, case", EDGES)
def test_edges(name, case, fake_gpu, monkeypatch):
    """In float64 like the page; in float32 as near to it as rounding allows: see rounding.py."""
    with record_twins() as ran:
        assert worst_error(name, case, "contiguous") <= 1e-10
        single = results(name, case, "contiguous", np.float32, "gpu")
    assert ran == {name}
    counted = partial(results, name, case, "contiguous", np.float32, "cpu")
    _, n, bound = rounding.bounded(counted, len(case.inputs), np.float32, monkeypatch)
    for x, exact in zip(single, on_cpu(name, case, "contiguous", np.float64), strict=True):
        assert abs(x - exact).max(initial=0) <= bound, f"{n} steps"


ZEROS = [
    ("gelu", [(0,)], {}),
    ("layer_norm", [(0, 7), (7,), (7,)], {}),
    ("dropout", [(0, 7), 0.5], DROPOUT),
    ("dropout", [(3, 0), 0.5], DROPOUT),
    ("embedding", [np.zeros(0, int), (3, 2)], {}),
]


@pytest.mark.parametrize("name, inputs, options", ZEROS)
def test_nothing_at_all(name, inputs, options, fake_gpu):
    """No rows: the gradients of what rows share are 0."""
    with record_twins() as ran:
        assert worst_error(name, Case(inputs, options), "contiguous") == 0
    assert ran == {name}


BAD = [
    ("gelu", [(4, 40)], {}),
    ("layer_norm", [(4, 40), (40,), (40,)], {}),
    ("layer_norm", [(4, 600), (600,), (600,)], {}),
    ("dropout", [(4, 40), 0.5], DROPOUT),
    ("cross_entropy", [(4, 40), np.arange(4)], {"reduction": "none"}),
    ("cross_entropy", [(4, 40), np.arange(4)], {"label_smoothing": 0.2}),
    ("cross_entropy", [(4, SHORT + 1), np.arange(4)], {"reduction": "none"}),
    ("cross_entropy", [(4, 40), np.arange(4)], {"reduction": "none", "ignore_index": 2}),
]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name, inputs, options", BAD)
def test_what_is_not_finite_stays_where_it_is(name, inputs, options, bad, fake_gpu):
    """Out and gradients are finite in the same entries as the page's."""
    x = normal(*inputs[0])
    x[2, 17] = bad
    found = []
    for device in ("cpu", "gpu"):
        arrays = [x, *(normal(*y) if isinstance(y, tuple) else y for y in inputs[1:])]
        arrays = [to_device(y, device) if isinstance(y, np.ndarray) else y for y in arrays]
        with np.errstate(all="ignore"):
            op = OPS[name].__wrapped__ if device == "cpu" else TWINS[name, "gpu"]
            out, backward = op(*arrays, **options)
            grads = backward(to_device(normal(*out.shape), device))
        found.append([to_numpy(y) for y in (out, *grads) if y is not None])
    for right, ours in zip(*found, strict=True):
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(right))
        finite = np.isfinite(right)
        np.testing.assert_allclose(ours[finite], right[finite], rtol=1e-4, atol=1e-5)


def test_cross_entropy_of_no_row_is_nan(fake_gpu):
    """Where the page raises an error, for which Python would have to wait."""
    logits, targets = to_device(normal(3, 5), "gpu"), to_device(np.full(3, -100), "gpu")
    downloads = fake_gpu.ledger.downloads
    loss = F.cross_entropy(logits, targets, ignore_index=-100)
    assert fake_gpu.ledger.downloads == downloads and np.isnan(loss.item())
    total = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    assert total.item() == 0


def test_cross_entropy_of_no_token_is_nan(fake_gpu):
    """A target beyond the vocabulary; one below 0 counts from the end, as CuPy's indices do."""
    logits = to_device(normal(3, 5), "gpu")
    losses = [
        F.cross_entropy(logits, to_device(np.array(t), "gpu"), reduction="none").numpy()
        for t in ([0, 4, 5], [0, -1, -6])
    ]
    assert np.isnan(losses[0][2]) and np.isnan(losses[1][2])
    np.testing.assert_array_equal(losses[0][:2], losses[1][:2])


def test_an_embeddings_gradient_keeps_what_is_not_finite_apart(fake_gpu):
    """Only the entries that it is added to are affected."""
    ids, weight = np.array([3, 1, 3, 0]), normal(5, 40)
    _, backward = TWINS["embedding", "gpu"](to_device(ids, "gpu"), to_device(weight, "gpu"))
    dout = normal(4, 40)
    dout[2, 33] = np.nan
    dweight = to_numpy(backward(to_device(dout, "gpu"))[1])
    assert np.isnan(dweight[3, 33]) and np.isnan(dweight).sum() == 1
    assert not dweight[[2, 4]].any()


def test_embedding_reads_where_cupy_would(fake_gpu):
    """An id beyond the table wraps around, forward and backward."""
    weight = to_device(normal(5, 3), "gpu")
    found = []
    for ids in ([7, -1, 2, 2], [2, 4, 2, 2]):
        out, backward = TWINS["embedding", "gpu"](to_device(np.array(ids), "gpu"), weight)
        found.append([to_numpy(out), to_numpy(backward(to_device(normal(4, 3), "gpu"))[1])])
    for wrapped, right in zip(*found, strict=True):
        np.testing.assert_array_equal(wrapped, right)


def test_windows(fake_gpu):
    """The batch that gpt_numpy.data.windows makes on a CPU."""
    ids = np.random.default_rng(0).integers(0, 100, 700)
    for starts, length in (([0, 5, 699 - 300], 300), ([3], 1), (np.zeros(0, int), 4)):
        text, there = to_device(ids.astype(np.int32), "gpu"), to_device(np.array(starts), "gpu")
        pairs = zip(windows(text, there, length), data.windows(ids, starts, length), strict=True)
        for ours, right in pairs:
            assert ours.dtype == np.int64
            np.testing.assert_array_equal(to_numpy(ours), right.data)


# ---- the optimizer -------------------------------------------------------------------------------


def optimizers(sizes, dtype):
    """Return a fused AdamW on the CPU and one on the GPU, for the same parameters of two groups."""
    made = []
    for device in ("cpu", "gpu"):
        params = [Tensor(normal(n, dtype=dtype)).to(device) for n in sizes]
        for i, p in enumerate(params):
            p.requires_grad = True
            p.grad = to_device(normal(sizes[i], dtype=dtype) * 3, device)
        groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.5, "lr": 0.01}]
        made.append(optim.AdamW(groups, lr=0.1, fused=True))
    return made


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 4, 5), (4, 1021, 1), (2048, 7)])
def test_adamw(sizes, dtype, fake_gpu):
    """The same bits as on the CPU, where ranges begin between the groups of 4 too."""
    ours, theirs = (optimizers(sizes, dtype)[i] for i in (1, 0))
    before = fake_gpu.ledger.launches["adamw"], fake_gpu.ledger.uploads
    for _ in range(3):
        theirs.step()
        ours.step()
    assert fake_gpu.ledger.launches["adamw"] == before[0] + 3  # one for two groups
    assert fake_gpu.ledger.uploads == before[1] + 3
    for one, other in zip(ours.vectors(), theirs.vectors(), strict=True):
        np.testing.assert_array_equal(to_numpy(one), other)


def test_adamw_skips(fake_gpu):
    """Nothing changes once stop_unless_finite() has stopped."""
    ours = optimizers((3, 9), np.float32)[1]
    w, _, m, v = ours.vectors()
    before = to_numpy(w).copy()
    finite, nan = (Tensor(np.float32(x)).to("gpu") for x in (1, np.nan))
    ours.stop_unless_finite(1, finite, nan)
    ours.step()
    np.testing.assert_array_equal(to_numpy(w), before)
    assert not to_numpy(m).any() and not to_numpy(v).any()


def test_adamw_reads_its_numbers_from_memory(fake_gpu):
    """A CUDA graph changes them there."""
    ours, theirs = (optimizers((3, 9), np.float32)[i] for i in (1, 0))
    plan = ours.plan_step()
    numbers = np.array([gpu_optim.hyperparameters(r) for r in theirs.plan_step()], np.float32)
    gpu_optim.adamw_update(ours.vectors(), plan, hyper=to_device(numbers, "gpu"))
    theirs.steps = [0, 0]
    theirs.step()
    np.testing.assert_array_equal(to_numpy(ours.flat.data), theirs.flat.data)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 3, 4, 1025, 2 * 4 * 256 + 5])
def test_clip(n, dtype, fake_gpu, monkeypatch):
    """The norm is a sum in float64; the gradients are rounded once."""
    monkeypatch.setattr(gpu_optim, "PARTS", 2)  # blocks: they begin again with the longest vector
    g = normal(n, dtype=dtype)
    exact = math.sqrt(math.fsum(g.astype(np.float64) ** 2))
    for max_norm in (exact / 3, 2 * exact):
        there = to_device(g, "gpu")
        norm = gpu_optim.clip(there, max_norm)
        assert norm.dtype == np.float64 and abs(norm.item() - exact) <= n * 2**-53 * exact
        scale = min(1, max_norm / (norm.item() + 1e-6))
        np.testing.assert_array_equal(to_numpy(there), g * dtype(scale))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clip_hides_nothing(bad, fake_gpu):
    """As on the page: NaN makes all gradients NaN; beside an infinite one the others become 0."""
    for spoil in (0, 5):
        g = normal(6)
        g[spoil] = bad
        there = to_device(g, "gpu")
        norm = gpu_optim.clip(there, 1.0)
        np.testing.assert_equal(norm.item(), bad)
        assert np.isnan(to_numpy(there)).sum() == (6 if np.isnan(bad) else 1)


def test_clip_of_all_parameters_is_two_launches(fake_gpu):
    """Of some of them it goes one by one, with the same result."""
    ours = optimizers((3, 9), np.float64)[1]
    for p in ours.parameters:  # into the long vector
        p.grad, grad = None, p.grad
        p.accumulate_grad(grad)
    before = fake_gpu.ledger.launches.total()
    optim.clip_grad_norm(ours.parameters, 1.0)
    assert fake_gpu.ledger.launches.total() == before + 2
    np.testing.assert_allclose(np.linalg.norm(to_numpy(ours.flat.grad)), 1, rtol=1e-5)
    norm = optim.clip_grad_norm(ours.parameters[:1], 0.1)
    assert fake_gpu.ledger.launches.total() == before + 2
    np.testing.assert_allclose(np.linalg.norm(to_numpy(ours.parameters[0].grad)), 0.1, rtol=1e-4)
    assert norm.item() > 0.1


# ---- pages alone ---------------------------------------------------------------------------------


def test_plain_starts_no_kernel(fake_gpu):
    """Inside `with mg.plain():` CuPy's own functions do everything, the optimizer included."""
    ours = optimizers((3, 9), np.float32)[1]
    x = Tensor(normal(4, 40)).to("gpu")
    x.requires_grad = True
    before = fake_gpu.ledger.launches.total()
    with mg.plain():
        ones = Tensor(np.ones(40, np.float32)).to("gpu")
        y = F.dropout(F.gelu(F.layer_norm(x, ones)), 0.5, training=True)
        F.cross_entropy(y, to_device(np.arange(4), "gpu")).backward()
        optim.clip_grad_norm(ours.parameters, 1.0)
        ours.step()
    assert fake_gpu.ledger.launches.total() == before
    F.gelu(x)
    assert fake_gpu.ledger.launches.total() == before + 1


# ---- compiled for a GPU --------------------------------------------------------------------------

FILES = {  # file -> its source, with the prelude
    re.findall(r'#line 1 "(\w+\.cu)"', text)[-1]: text for text in sources().values()
}
DOUBLE: list = [(), ("-DDOUBLE",)]
OPTIONS: dict[str, list] = {  # file -> the options that it needs, if any
    "layer_norm.cu": [  # a block of warps, then a block a row
        shape_of(C, np.dtype(dtype))[2]
        for dtype, sizes in (("f4", (384, 512, 768, 4096)), ("f8", (384, 2048)))
        for C in sizes
    ],
    "flash_attention.cu": [(f"-DD={D}",) for D in (64, 128, 24)],
    "cross_entropy.cu": [
        (*options, *double)
        for options in (("-DTEAM=32", "-DROWS=8"), ("-DTEAM=256", "-DROWS=1"))
        for double in DOUBLE
    ],
}
COMPILED = [
    pytest.param(file, options, id=" ".join([file, *options]))
    for file in FILES
    for options in OPTIONS.get(file, DOUBLE)
]
ARCHITECTURES = ["sm_80", "sm_90"]  # an A100, an H100

NVRTC = """
import json, sys
from cuda import pathfinder
from cupy_backends.cuda.libs import nvrtc
library = pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path
source = sys.stdin.read()
options = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")
for more in json.loads(sys.argv[1]):
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*options, *more))
    except nvrtc.NVRTCError:
        sys.exit(f"{more}: {nvrtc.getProgramLog(program)}")
"""


def installed(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.stem)
def test_a_source_is_ascii(path):
    """CuPy writes it to a file in the machine's encoding, which may have no other characters."""
    assert path.read_bytes().isascii()


def nvrtc_compiles(source, *options):
    """Compile a source once with each of these lists of options."""
    return subprocess.run(
        [sys.executable, "-c", NVRTC, json.dumps(options)],
        input=source, capture_output=True, encoding="utf-8",
    )  # fmt: skip


needs_nvrtc = pytest.mark.skipif(
    not (
        (installed("cupy-cuda12x") and installed("nvidia-cuda-nvrtc-cu12"))
        or (installed("cupy-cuda13x") and installed("nvidia-cuda-nvrtc"))
    ),
    reason="needs CuPy and NVRTC, but no GPU: pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12",
)


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("file", FILES)
def test_nvrtc_compiles_it(file):
    """NVIDIA's compiler, which CuPy calls, accepts the source, and says nothing."""
    options = [
        [f"-arch={architecture}", *more]
        for architecture in ARCHITECTURES
        for more in OPTIONS.get(file, DOUBLE)
    ]
    done = nvrtc_compiles(FILES[file], *options)
    assert done.returncode == 0, done.stderr


@needs_nvrtc
def test_nvrtc_finds_a_mistake():
    """Otherwise the test above would show nothing."""
    wrong = FILES["column_sum.cu"].replace("threadIdx", "threadIndex")
    assert "column_sum.cu(" in nvrtc_compiles(wrong, ["-arch=sm_90"]).stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc, but no GPU")
@pytest.mark.parametrize("architecture", [pytest.param("sm_80", marks=pytest.mark.whole), "sm_90"])
@pytest.mark.parametrize("file, options", COMPILED)
def test_nothing_is_spilled(file, options, architecture, tmp_path):
    """All variables fit into registers: what does not would be kept in memory, and is slow."""
    (tmp_path / file).write_text(FILES[file], encoding="ascii")
    flags = [f"-arch={architecture}", "-std=c++17", "-ftz=true", "-cubin", "-Xptxas", "-v"]
    done = subprocess.run(
        ["nvcc", *flags, *options, "-o", tmp_path / "out.cubin", tmp_path / file],
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"Function properties for (\w+)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*?Used (\d+) registers",
        done.stderr,
    )
    assert {name for name, *_ in found} == {
        n for n, text in sources().items() if text == FILES[file]
    }
    for name, stores, loads, registers in found:
        print(f"{name}: {registers} registers")  # `pytest -rP` shows it
        assert (stores, loads) == ("0", "0"), f"{name}: {registers} registers, and spills"
