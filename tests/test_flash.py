"""Attention by tiles: flash_attention.cu, run on a CPU inside the fake CuPy as in test_kernels.py.

The fake makes every launch in two orders of threads and blocks, and fails unless both give the same
bits.  The cases of the table, which are smaller than a tile, are in test_gpu.py.
"""

import platform
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rounding
import torch
from fake_cupy import cuda_source
from fake_cupy.cuda_source import FLAGS
from test_gpu import on_cpu, results

from minigrad import random
from minigrad.backend import to_device, to_numpy
from minigrad.fast.gpu import flash_attention as flash
from minigrad.fast.gpu import launch as launch_module
from minigrad.fast.gpu.launch import sources
from minigrad.fast.gpu.masks import fixed_key
from minigrad.ops.attention import attention as attention_op
from minigrad.testing.cases import Case
from minigrad.testing.checks import record_twins

f32 = np.float32
page = attention_op.__wrapped__
KEY = (1337, 3, 2, 5)
DROPOUT = {"dropout": 0.3, "training": True, "key": KEY}
OPTIONS = [{}, {"causal": False}, DROPOUT, DROPOUT | {"causal": False}]
SHAPES = [  # T, N, D: around the tile's 64, or 32 where D is above 64; D in 8 lanes unevenly
    *[(T, T, 64) for T in (1, 7, 63, 64, 65, 130)],
    *[(1, 129, 64), (7, 130, 64), (65, 128, 64)],
    *[(65, 65, 16), (66, 197, 16), (7, 65, 24), (130, 130, 24)],
    *[(1, 33, 100), (33, 70, 100), (31, 31, 128), (32, 32, 128), (65, 99, 128)],
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(f32)


def heads(B, H, n, D, seed=0):
    """Return a random array (B, H, n, D) that lies in memory as (B, n, H, D), as in the model."""
    return normal(B, n, H, D, seed=seed).transpose(0, 2, 1, 3)


def there(*arrays):
    return [to_device(x, "gpu") for x in arrays]


def on_gpu(arrays, dout, **options):
    """Return [out, dq, dk, dv] of the kernels, as NumPy arrays."""
    q, k, v, dout = there(*arrays, dout)
    causal, dropout = options.get("causal", True), options.get("dropout", 0)
    assert flash.takes(q, k, v, causal)
    out, backward = flash.flash_attention(q, k, v, causal, dropout, options.get("key"))
    return [to_numpy(x) for x in (out, *backward(dout))]


def on_page(arrays, dout, dtype=np.float64, **options):
    """Return [out, dq, dk, dv] of the page."""
    out, backward = page(*[x.astype(dtype) for x in arrays], **options)
    return [out, *backward(dout.astype(dtype))]


def check(case, monkeypatch):
    """Compare the kernels with the page in float64, by the roundings that float32 takes."""
    with record_twins() as ran:
        ours = results("attention", case, "contiguous", f32, "gpu")
    assert ran == {"attention"}
    counted = partial(results, "attention", case, "contiguous", f32, "cpu")
    _, n, bound = rounding.bounded(counted, 3, f32, monkeypatch)
    exact = on_cpu("attention", case, "contiguous", np.float64)
    for name, x, right in zip(("out", "dq", "dk", "dv"), ours, exact, strict=True):
        assert x.dtype == f32 and np.isfinite(x).all()
        assert abs(x - right).max(initial=0) <= bound, f"{name}: {n} steps"


@pytest.fixture
def launched(fake_gpu):
    """Return a function that returns how often each kernel has run since it was called last."""

    def since():
        found = {name: n for name, n in fake_gpu.ledger.launches.items() if n}
        fake_gpu.ledger.launches.clear()
        return found

    since()
    return since


# ---- in NumPy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("p", [0, 0.3])
@pytest.mark.parametrize("T, N, R", [(1, 1, 2), (5, 5, 2), (5, 8, 3), (3, 9, 4), (4, 4, 9)])
def test_in_tiles(T, N, R, p, causal, monkeypatch):
    """The module's NumPy is its page: each of the two is off by its roundings at most."""
    q, k, v, dout = (normal(n, 4, seed=i).astype(float) for i, n in enumerate((T, N, N, T)))
    M = random.dropout_mask(np.empty((1, 1, T, N)), p, KEY)[0, 0]
    out, backward = flash.in_tiles(q, k, v, M, causal, R)
    arrays, options = [x[None, None] for x in (q, k, v)], {"causal": causal}
    if p:
        options |= {"dropout": p, "training": True, "key": KEY}
    counted = partial(results, "attention", Case(arrays, options), "contiguous", float, "cpu")
    _, _, bound = rounding.bounded(counted, 3, np.float64, monkeypatch)
    right = on_page(arrays, dout[None, None], **options)
    for x, y in zip([out, *backward(dout)], right, strict=True):
        assert abs(x - y[0, 0]).max() <= 2 * bound


# ---- the kernels ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=["causal", "all", "causal drop", "all drop"])
@pytest.mark.parametrize("T, N, D", SHAPES)
def test_shapes(T, N, D, options, fake_gpu, monkeypatch):
    """Whole tiles and parts of them, with other positions before the queries, with dropout."""
    check(Case([(1, 2, T, D), (1, 2, N, D), (1, 2, N, D)], options), monkeypatch)


def test_several_rows_and_fewer_keys(fake_gpu, monkeypatch):
    """A batch; and more queries than keys, which only causal attention refuses."""
    check(Case([(3, 2, 70, 16)] * 3, DROPOUT), monkeypatch)
    check(Case([(2, 1, 70, 16), (2, 1, 3, 16), (2, 1, 3, 16)], {"causal": False}), monkeypatch)


@pytest.mark.parametrize("D, T", [(64, 65), (128, 40)])
def test_large_scores(D, T, fake_gpu, monkeypatch):
    """Up to 10⁴ in size, where e^s alone would overflow: all results are finite."""
    q, k, v = (normal(1, 2, T, D, seed=i).astype(float) for i in range(3))
    largest = abs(q @ k.swapaxes(2, 3)).max() / np.sqrt(D)
    check(Case([(q * (1e4 / largest)).astype(f32), k.astype(f32), v.astype(f32)]), monkeypatch)


@pytest.fixture
def contracted(fake_gpu, monkeypatch):
    """Compute a * b + c with one rounding, as a GPU does and g++ does not."""
    if platform.machine() != "x86_64" or " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor that has such an instruction, and g++'s flag for it")
    monkeypatch.setattr(cuda_source, "FLAGS", [*FLAGS, "-mfma", "-ffp-contract=fast"])
    caches = cuda_source.library, launch_module.module, launch_module.kernel
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_equal_scores_of_any_size(contracted):
    """Some 10⁵: out is the mean of v, off by the roundings of two sums of N terms and a quotient.

    That m is rounded must not matter: it is the same number for the terms of every tile.
    """
    N, D = 300, 16
    q, v = normal(1, 1, 1, D) * f32(1e5), normal(1, 1, N, D, seed=1)
    k = np.broadcast_to(normal(1, 1, 1, D), v.shape)
    out = on_gpu((q, k, v), q, causal=False)[0]
    bound = (2 * N + 2) * 2.0**-24 * abs(v).max()
    assert abs(out - v.astype(float).mean(2, keepdims=True)).max() <= bound


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_pytorchs(causal, fake_gpu, monkeypatch):
    """PyTorch's own attention, in float64."""
    shape = (2, 2, 70, 64)
    *arrays, dout = (normal(*shape, seed=i) for i in range(4))
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in arrays]
    out = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=causal)
    grads = torch.autograd.grad(out, theirs, torch.tensor(dout, dtype=torch.float64))
    case = Case(arrays, {"causal": causal})
    counted = partial(results, "attention", case, "contiguous", f32, "cpu")
    _, _, bound = rounding.bounded(counted, 3, f32, monkeypatch)
    ours = on_gpu(arrays, dout, causal=causal)
    for x, right in zip(ours, [out.detach(), *grads], strict=True):
        assert abs(x - right.numpy()).max() <= bound


def test_kernels_run_on_nothing(launched):
    """No rows: no launch.  No queries: gradients of 0 for the keys."""
    none = on_gpu([normal(0, 2, 5, 16)] * 3, normal(0, 2, 5, 16))
    assert all(x.shape == (0, 2, 5, 16) for x in none) and launched() == {}
    out, dq, dk, dv = on_gpu([normal(1, 2, n, 16) for n in (0, 5, 5)], normal(1, 2, 0, 16))
    assert out.size == dq.size == 0 and not dk.any() and not dv.any()


# ---- layout in memory ----------------------------------------------------------------------------


@pytest.fixture
def no_copies(monkeypatch):
    """Fail if an array is copied for a kernel."""
    monkeypatch.setattr(flash, "contiguous", lambda x: pytest.fail("a copy"))


def equal(ours, right):
    """Whether two lists of arrays have the same bits."""
    return all(np.array_equal(x, y) for x, y in zip(ours, right, strict=True))


def test_heads_are_read_where_they_are(no_copies, launched):
    """As transposes, and as slices of one product (B, T, 3 C); so are results, to be joined."""
    B, H, T, D = 2, 3, 66, 16
    arrays = [heads(B, H, T, D, seed) for seed in range(4)]
    qkv = np.stack(arrays[:3], axis=2)  # (B, H, 3, T, D): not yet one product
    qkv = np.ascontiguousarray(qkv.transpose(0, 3, 2, 1, 4)).reshape(B, T, 3 * H * D)
    x = to_device(qkv, "gpu").reshape(B, T, 3, H, D)
    q, k, v = (x[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    assert not q.flags.c_contiguous
    dout = to_device(arrays[3].transpose(0, 2, 1, 3), "gpu").transpose(0, 2, 1, 3)
    out, backward = flash.flash_attention(q, k, v, True, 0, None)
    found = [out, *backward(dout)]
    assert launched() == dict.fromkeys(
        ["flash_forward", "flash_backward_query", "flash_backward_key"], 1
    )
    assert all(x.transpose(0, 2, 1, 3).flags.c_contiguous for x in found)
    contiguous = [np.ascontiguousarray(x) for x in arrays]
    assert equal(map(to_numpy, found), on_gpu(contiguous[:3], contiguous[3]))


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: np.repeat(x, 2, -1)[..., ::2],  # gaps
        lambda x: np.concatenate([x[..., :4], x], -1)[..., 1:17][..., ::-1],  # backwards
        lambda x: np.pad(x, [(0, 0)] * 3 + [(1, 3)])[..., 1:-3],  # not at a multiple of 16 bytes
        lambda x: np.pad(x, [(0, 0)] * 3 + [(0, 1)])[..., :-1],  # rows are not, but for the first
        lambda x: x[:, :, ::-1],  # from the last row to the first: no copy is needed
        np.asfortranarray,
        lambda x: np.broadcast_to(x[:, :1, :1], x.shape),
    ],
)
def test_other_layouts(layout, fake_gpu):
    """The same bits from any layout, through a copy if the kernels cannot read it."""
    arrays = [layout(normal(2, 2, 9, 16, seed=seed)) for seed in range(4)]
    on_device = [fake_gpu._device(x) for x in arrays]  # to_device() would change the layout
    out, backward = flash.flash_attention(*on_device[:3], True, 0, None)
    found = [to_numpy(x) for x in (out, *backward(on_device[3]))]
    contiguous = [np.ascontiguousarray(x) for x in arrays]
    assert equal(found, on_gpu(contiguous[:3], contiguous[3]))


@pytest.mark.parametrize(
    "dtypes, shapes, causal",
    [
        ("float64 float64 float64", [(1, 1, 3, 8)] * 3, True),
        ("float32 float32 float64", [(1, 1, 3, 8)] * 3, True),
        ("float32 float32 float32", [(1, 1, 3, 6)] * 3, True),
        ("float32 float32 float32", [(1, 1, 3, 132)] * 3, True),
        ("float32 float32 float32", [(1, 1, 3, 0)] * 3, True),
        ("float32 float32 float32", [(1, 3, 8)] * 3, True),
        ("float32 float32 float32", [(1, 1, 3, 8), (1, 1, 2, 8), (1, 1, 2, 8)], True),
        ("float32 float32 float32", [(1, 1, 3, 8), (1, 1, 0, 8), (1, 1, 0, 8)], False),
        ("float32 float32 float32", [(1, 1, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8)], True),
        ("float32 float32 float32", [(1, 1, 3, 8), (1, 1, 3, 8), (1, 1, 4, 8)], True),
        ("float32 float32 float32", [(2**16, 1, 1, 4)] * 3, True),
    ],
)
def test_what_the_kernels_do_not_take(dtypes, shapes, causal):
    """float64, a D that is not 4, 8, ..., 128, too large a batch, and what the page refuses."""
    arrays = [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes.split(), strict=True)]
    assert not flash.takes(*arrays, causal)


# ---- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T, N", [(64, 64), (37, 61), (5, 63)])
def test_the_mask_is_the_pages(T, N, causal, fake_gpu):
    """Bit for bit, in out and in dv, also where a group of 8 entries is in two rows of P.

    Scores of 0 make all weights of a row equal, and v = I makes out the row itself, p̃.
    """
    B, H, D = 2, 3, 64
    q, k = np.zeros((B, H, T, D), f32), np.zeros((B, H, N, D), f32)
    v = np.broadcast_to(np.eye(N, D, dtype=f32), k.shape)
    dout = np.broadcast_to(np.eye(T, D, dtype=f32), q.shape)
    out, _, _, dv = on_gpu((q, k, v), dout, causal=causal, dropout=0.3, key=KEY)
    keep = random.keep_mask(np.empty((B, H, T, N)), 0.3, KEY)
    sees = np.arange(N) <= np.arange(N - T, N)[:, None] if causal else np.ones((T, N), bool)
    np.testing.assert_array_equal(out[..., :N] != 0, keep & sees)
    np.testing.assert_array_equal(dv[..., :T].swapaxes(2, 3) != 0, keep & sees)
    right = (keep & sees) / sees.sum(-1, keepdims=True) / 0.7
    np.testing.assert_allclose(out[..., :N], right, rtol=4 * 2**-23)  # 1/0.7, 1/l, their product


def test_seed_and_step_are_read_from_memory(fake_gpu):
    """As in the replay of a CUDA graph, whose arguments stay as they were."""
    arrays, dout = [normal(1, 2, 9, 16, seed=i) for i in range(3)], normal(1, 2, 9, 16, seed=3)
    array = to_device(np.array([8, 9], np.uint64), "gpu")
    with fixed_key(array):
        found = on_gpu(arrays, dout, **DROPOUT)
    assert equal(found, on_gpu(arrays, dout, **DROPOUT | {"key": (8, 9, *KEY[2:])}))
    assert not equal(found, on_gpu(arrays, dout, **DROPOUT))


def test_backward_uses_the_mask_of_its_forward(fake_gpu):
    """Also when another step has begun, and the key in memory has changed."""
    q, k, v, dout = there(*[normal(1, 2, 9, 16, seed=i) for i in range(4)])
    array = to_device(np.array([8, 9], np.uint64), "gpu")
    with fixed_key(array):
        out, backward = flash.flash_attention(q, k, v, True, 0.3, KEY)
        array[...] = to_device(np.array([1, 2], np.uint64), "gpu")
        grads = backward(dout)
    right = on_gpu(map(to_numpy, (q, k, v)), to_numpy(dout), dropout=0.3, key=(8, 9, *KEY[2:]))
    assert equal([to_numpy(x) for x in (out, *grads)], right)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_impossible_dropout_is_refused(p, fake_gpu):
    q = to_device(normal(1, 1, 2, 16), "gpu")
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        flash.flash_attention(q, q, q, True, p, KEY)


# ---- what is not finite --------------------------------------------------------------------------


def test_scores_of_minus_infinity_alone(fake_gpu):
    """A query that sees nothing else gets 0, and so do its gradients; as on the page."""
    q, v, dout = (normal(1, 1, 6, 4, seed=i) for i in range(3))
    q = abs(q)
    k = np.full_like(q, -np.inf)
    k[:, :, 3:] = 0.5  # from query 3 on some scores are numbers
    with np.errstate(invalid="ignore"):  # 0 times infinity, in dq and dk alone
        ours = on_gpu((q, k, v), dout)
        right = on_page((q, k, v), dout)
    for x, y in ((ours[0], right[0]), (ours[3], right[3])):  # out and dv
        assert np.isfinite(y).all()
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert not ours[0][:, :, :3].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", range(4), ids=["q", "k", "v", "dout"])
def test_bad_numbers_spread_as_on_the_page(which, bad, fake_gpu, monkeypatch):
    """Within a tile the same results are not finite, and the others are what they are."""
    arrays = [normal(1, 2, 40, 16, seed=i) for i in range(4)]
    counted = partial(results, "attention", Case(arrays[:3]), "contiguous", f32, "cpu")
    _, _, bound = rounding.bounded(counted, 3, f32, monkeypatch)
    arrays[which][0, 1, 20, 3] = bad
    with np.errstate(invalid="ignore"):
        exact = on_page(arrays[:3], arrays[3])
    for x, right in zip(on_gpu(arrays[:3], arrays[3]), exact, strict=True):
        finite = np.isfinite(right)
        np.testing.assert_array_equal(np.isfinite(x), finite)
        assert abs(x[finite] - right[finite]).max(initial=0) <= bound


def test_later_tiles_do_no_harm(fake_gpu):
    """Whatever is in keys and values that a tile of queries cannot see: the same bits."""
    arrays, dout = [heads(1, 2, 130, 16, seed=i) for i in range(3)], heads(1, 2, 130, 16, seed=3)
    before = on_gpu(arrays, dout)
    for bad in (np.nan, np.inf, 1e30):
        spoiled = [x.copy() for x in arrays]
        for x in spoiled[1:]:
            x[:, :, 128:] = bad
        after = on_gpu(spoiled, dout)
        assert equal([x[:, :, :128] for x in before[:2]], [x[:, :, :128] for x in after[:2]])


# ---- mistakes ------------------------------------------------------------------------------------

MISTAKES = [  # right, wrong: each occurs once
    ("min(first + own.row + 8 * i + ahead, N - 1);  // the", "first + own.row + 8 * i + ahead; //"),
    ("            l[i] *= shrink;\n", ""),
    ("y.x *= shrink, ", ""),
    ("m[i] + log2f(l[i])", "m[i]"),
    ("        __syncthreads();  // the keys have been read: their tile is free\n", ""),
    ("load_tile(douts, dOut, first, T);  // and", "//"),
    ("last = t < T ? t + ahead : -1;", "last = t < T ? N : -1;"),
    ("max(0, first - ahead) / R * R", "(first + R) / R * R"),
    ("rescale * ds[i][j] - deltas[8 * j]", "ds[i][j] - deltas[8 * j]"),
    ("if (kept) drop_queries(p, mask, start, first, T);", ""),
    ("8 * k < entry % 8 + 8", "8 * k < 8"),
    ("own.column / 4 + 2 * j", "own.column / 4 + j"),
]


@pytest.mark.slow
@pytest.mark.parametrize("right, wrong", MISTAKES)
def test_a_mistake_is_noticed(right, wrong, fake_gpu, monkeypatch):
    """Each of these, planted into the source, fails one of the checks above."""
    text = sources()["flash_forward"]
    assert text.count(right) == 1
    names = [name for name, other in sources().items() if other == text]
    changed = {**sources(), **dict.fromkeys(names, text.replace(right, wrong))}
    monkeypatch.setattr(launch_module, "sources", lambda: changed)
    launch_module.kernel.cache_clear()
    with pytest.raises(AssertionError):
        for options in OPTIONS:
            check(Case([(1, 2, 66, 16), (1, 2, 131, 16), (1, 2, 131, 16)], options), monkeypatch)
