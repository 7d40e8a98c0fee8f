"""Randomness is a pure function of (seed, step, layer, row, use).

The first tests compare that function bit by bit with NumPy's Philox, called as the specification
says.  The others check the consequences: any order, any batch and any thread gives the same.
"""

import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minigrad import manual_seed, random
from minigrad.random import (
    BATCH,
    MASK,
    SAMPLE,
    WEIGHT,
    dropout_mask,
    keep_mask,
    next_key,
    philox,
    rng_scope,
)

ROOT = Path(__file__).parents[1]
KEY = (1337, 3, 2, 5)  # seed, step, layer, row


def words(seed, step, layer, row, n):
    """Return the first n 32-bit integers of dropout's stream: 64-bit words, the low half first."""
    bits = np.random.Philox(key=seed + (step << 64), counter=(layer << 64) + (row << 128))
    halves = []
    while len(halves) < n:
        word = int(bits.random_raw())
        halves += [word & 0xFFFFFFFF, word >> 32]
    return np.array(halves[:n])


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 7), (3,), (1, 2, 3, 4)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_the_mask_is_what_its_docstring_says(shape, p):
    """Row b keeps entry i if integer i of its own stream is at least p·2³²."""
    seed, step, layer, row = KEY
    keep = keep_mask(np.zeros(shape), p, KEY)
    mask = dropout_mask(np.zeros(shape), p, KEY)
    assert (keep.shape, keep.dtype, mask.shape) == (shape, bool, shape)
    for b in range(shape[0]):
        expected = words(seed, step, layer, row + b, keep[b].size) >= p * 2**32
        np.testing.assert_array_equal(keep[b].ravel(), expected)
        np.testing.assert_array_equal(mask[b].ravel(), expected / (1 - p))


@pytest.mark.parametrize("i", range(4))
def test_the_threshold_itself_is_kept(i):
    """The comparison is ≥, not >: they differ only if an integer of the stream is exactly p·2³²."""
    stream = words(*KEY, 4)
    mask = dropout_mask(np.zeros((1, 4)), stream[i] / 2**32, KEY)
    np.testing.assert_array_equal(mask[0] > 0, stream >= stream[i])


@pytest.mark.parametrize("use", [MASK, BATCH, WEIGHT, SAMPLE])
def test_philox_gets_a_key_and_a_counter(use):
    """key = (seed, step), counter = (0, layer, row, use), 64 bits each, lowest first."""
    seed, step, layer, row = KEY
    expected = np.random.Philox(
        key=seed + (step << 64), counter=(layer << 64) + (row << 128) + (use << 192)
    )
    np.testing.assert_array_equal(philox(KEY, use).random_raw(8), expected.random_raw(8))


def test_the_stream_is_the_published_one():
    """Philox4x64-10 of zeros gives the test vector in its authors' library, Random123."""
    bits = np.random.Philox(key=0, counter=2**256 - 1)  # NumPy counts up before it draws
    assert [hex(int(w)) for w in bits.random_raw(4)] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_mask_has_the_dtype_of_x(dtype):
    """The entries that it keeps do not depend on the dtype."""
    x = np.ones((3, 8), dtype)
    mask = dropout_mask(x, 0.5, KEY)
    assert mask.dtype == dtype
    np.testing.assert_array_equal(mask, dropout_mask(np.ones((3, 8)), 0.5, KEY))


def test_drawing_order_does_not_matter():
    """There is no history: a key gives the same mask, whatever was drawn before it."""
    x = np.zeros((2, 16))
    keys = [(1, step, layer, 0) for step in range(3) for layer in range(3)]
    forwards = {key: dropout_mask(x, 0.5, key) for key in keys}
    for key in reversed(keys):
        np.testing.assert_array_equal(dropout_mask(x, 0.5, key), forwards[key])


def test_a_row_does_not_know_its_batch():
    """A batch can be split: rows 2 and 3, drawn from row 2 on, are rows 2 and 3 of the whole."""
    seed, step, layer, _ = KEY
    x = np.zeros((6, 4, 5))
    whole = dropout_mask(x, 0.5, (seed, step, layer, 0))
    np.testing.assert_array_equal(dropout_mask(x[2:4], 0.5, (seed, step, layer, 2)), whole[2:4])
    with rng_scope(seed, step):
        first = dropout_mask(x, 0.5)
    with rng_scope(seed, step, row=2):
        np.testing.assert_array_equal(dropout_mask(x[2:4], 0.5), first[2:4])


def test_streams_differ():
    """Another seed, step, layer, row or use gives other bits, and so do two of them swapped."""
    keys = [(1, 2, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3), (9, 2, 3, 4), (1, 9, 3, 4),
            (1, 2, 9, 4), (1, 2, 3, 9), (0, 0, 0, 0)]  # fmt: skip
    streams = {tuple(philox(k, use).random_raw(2)) for k in keys for use in range(4)}
    assert len(streams) == 4 * len(keys)
    masks = {dropout_mask(np.zeros((2, 64)), 0.5, key).tobytes() for key in keys}
    assert len(masks) == len(keys)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9])
def test_the_keep_rate(p):
    """n draws keep n (1 − p), to four standard deviations √(n p (1 − p)); the mask's mean is 1."""
    n = 100_000
    mask = dropout_mask(np.zeros((10, n // 10)), p, KEY)
    sigma = math.sqrt(p * (1 - p) / n)
    assert abs((mask > 0).mean() - (1 - p)) < 4 * sigma
    assert abs(mask.mean() - 1) < 4 * sigma / (1 - p)


def test_p_of_zero_keeps_all():
    """With p = 0 the mask is ones."""
    np.testing.assert_array_equal(dropout_mask(np.zeros((2, 9)), 0.0, KEY), np.ones((2, 9)))


@pytest.mark.parametrize("p", [-0.5, 1.0, 2, math.nan])
def test_p_out_of_bounds(p):
    """1/(1 − p) needs p below 1."""
    for draw in (dropout_mask, keep_mask):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            draw(np.zeros((2, 2)), p, KEY)


# ---- the running key -----------------------------------------------------------------------------


def test_layers_count_on():
    """A draw without a key gets the next layer of the running key."""
    with rng_scope(7, 8, row=9):
        assert [next_key() for _ in range(3)] == [(7, 8, 0, 9), (7, 8, 1, 9), (7, 8, 2, 9)]


def test_manual_seed_starts_over():
    """The same seed gives the same draws; another seed gives others."""
    draws = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        draws.append((random.normal((3,), 1.0), random.uniform((3,), 1.0), next_key()))
    np.testing.assert_array_equal(draws[0][:2], draws[1][:2])
    assert draws[0][2] == (1, 0, 2, 0)
    assert (draws[0][0] != draws[2][0]).all()


def test_rng_scope_restores_the_running_key():
    """Also with one scope inside another, and after an exception."""
    manual_seed(5)
    next_key()
    with rng_scope(1, 2):
        next_key()
        with pytest.raises(KeyError), rng_scope(3, 4, row=5):
            next_key()
            raise KeyError
        assert next_key() == (1, 2, 1, 0)
    assert next_key() == (5, 0, 1, 0)


def test_an_explicit_key_leaves_the_running_key_alone():
    """A mask with a key of its own does not count as a layer."""
    manual_seed(5)
    dropout_mask(np.zeros((2, 2)), 0.5, KEY)
    assert next_key() == (5, 0, 0, 0)


def test_the_running_key_is_per_thread():
    """A thread that seeds or draws does not affect another; it starts from the last seed given."""
    manual_seed(5)
    seen = []

    def other():
        seen.append(next_key())
        manual_seed(6)
        with rng_scope(7, 8):
            seen.append(next_key())
        seen.append(next_key())

    with rng_scope(1, 2):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert next_key() == (1, 2, 0, 0)
    assert next_key() == (5, 0, 0, 0)
    assert seen == [(5, 0, 2**32, 0), (7, 8, 0, 0), (6, 0, 0, 0)]


def test_threads_draw_other_numbers():
    """And the same ones again after the same seed."""
    draws = []
    for _ in range(2):
        manual_seed(3)
        draws.append(random.normal((4,), 1.0))
        for _ in range(2):
            thread = threading.Thread(target=lambda: draws.append(random.normal((4,), 1.0)))
            thread.start()
            thread.join()
    assert len({draw.tobytes() for draw in draws[:3]}) == 3
    np.testing.assert_array_equal(draws[:3], draws[3:])


@pytest.mark.parametrize("start", [manual_seed, lambda seed: rng_scope(seed, 0).__enter__()])
@pytest.mark.parametrize("seed", [-1, 2**64, 2**100])
def test_a_seed_has_64_bits(seed, start):
    """A seed that Philox cannot take is refused at once, and the running key does not change."""
    manual_seed(5)
    with pytest.raises(ValueError, match=f"from 0 to 2.64 - 1, not {seed}"):
        start(seed)
    assert next_key() == (5, 0, 0, 0)


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_of_64_bits_is_used_in_full(seed):
    """No bit is lost on the way into Philox."""
    bits = np.random.Philox(key=seed, counter=0).random_raw(4)
    np.testing.assert_array_equal(philox((seed, 0, 0, 0), MASK).random_raw(4), bits)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1, np.int32(7), np.uint64(2**64 - 1)])
def test_every_integer_of_64_bits_is_a_seed(seed):
    manual_seed(seed)
    assert next_key() == (seed, 0, 0, 0)
    with rng_scope(seed, 1):
        assert next_key() == (seed, 1, 0, 0)


@pytest.mark.parametrize("seed", [1.0, "1", None, 0.0])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="the seed must be an integer, not"):
        manual_seed(seed)


def test_the_seed_is_0_until_one_is_given():
    """In a process that has just started."""
    program = "from minigrad import random; print(random.next_key())"
    run = [sys.executable, "-c", program]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out == "(0, 0, 0, 0)\n"


def test_a_scope_leaves_nothing_behind_in_a_new_thread():
    """Whose running key has no step and row of its own yet."""
    manual_seed(5)
    seen = []

    def other():
        with rng_scope(1, 2, row=3):
            pass
        seen.append(next_key())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [(5, 0, 2**32, 0)]


@pytest.mark.parametrize("kind, bound", [("normal", 0.5), ("uniform", 3.0)])
def test_initial_weights_have_bits_of_their_own(kind, bound):
    """Those of the use WEIGHT, whatever the other numbers are."""
    manual_seed(9)
    draw = getattr(random, kind)((5,), bound)
    generator = np.random.Generator(philox((9, 0, 0, 0), WEIGHT))
    if kind == "normal":
        expected = bound * generator.standard_normal(5)
    else:
        expected = generator.uniform(-bound, bound, 5)
    np.testing.assert_array_equal(draw, expected.astype(np.float32))


def test_initial_weights():
    """float32, of the given shape and spread."""
    manual_seed(1)
    normal = random.normal((100, 1000), 0.02)
    uniform = random.uniform((100, 1000), 0.5)
    assert normal.dtype == uniform.dtype == np.float32
    assert normal.shape == uniform.shape == (100, 1000)
    # four standard errors of a standard deviation estimated from n = 10⁵: σ·4/√(2n)
    assert abs(normal.std() / 0.02 - 1) < 4 / math.sqrt(2e5)
    assert -0.5 <= uniform.min() < -0.499 and 0.499 < uniform.max() <= 0.5
