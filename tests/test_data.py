"""Batches: every y is its x moved by one, and every draw a function of (seed, step, row)."""

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.data import DataLoader, all_windows, encoded, random_batch, split, windows
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer
from minigrad import Tensor

T = 8


def starts_of(x):
    """Where the windows x (B, T) of the text 0, 1, 2, ... begin."""
    return x.numpy()[:, 0].tolist()


def epoch_of(loader):
    """All windows' starts of one epoch, in their order."""
    return [start for x, _ in loader for start in starts_of(x)]


# ---- the task ------------------------------------------------------------------------------------


def test_the_text_is_its_own_label():
    """The lesson's sentence: [The] -> cat, [The, cat] -> sat, [The, cat, sat] -> on, ..."""
    words = ["The", "cat", "sat", "on", "the", "mat", "."]
    x, y = windows(np.arange(len(words)), [0], len(words) - 1)
    x, y = ([words[i] for i in ids.numpy()[0]] for ids in (x, y))
    assert [(x[: t + 1], y[t]) for t in range(3)] == [
        (["The"], "cat"),
        (["The", "cat"], "sat"),
        (["The", "cat", "sat"], "on"),
    ]
    assert (x[-1], y[-1]) == ("mat", ".")


def test_windows_are_slices_of_the_text():
    """Row b of x is ids[start_b : start_b + T], and y's the slice one further on."""
    ids = np.random.default_rng(0).integers(65, size=50)
    starts = [41, 0, 7]
    x, y = windows(ids, starts, T)
    for b, s in enumerate(starts):
        assert x.numpy()[b].tolist() == ids[s : s + T].tolist()
        assert y.numpy()[b].tolist() == ids[s + 1 : s + 1 + T].tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_windows_of_small_integers_are_int64_copies(dtype, tmp_path):
    """Also those of a memory-mapped file: nothing that a step does reaches the file."""
    np.save(tmp_path / "ids.npy", np.arange(100, dtype=dtype))
    for ids in (np.arange(100, dtype=dtype), np.load(tmp_path / "ids.npy", mmap_mode="r")):
        for pair, first in zip(windows(ids, [0, 80], T), (0, 1), strict=True):
            assert type(pair.data) is np.ndarray and pair.dtype == np.int64
            assert pair.data.flags.owndata and starts_of(pair) == [first, 80 + first]


# ---- evaluation ----------------------------------------------------------------------------------

CONFIG = GPTConfig(vocab_size=100, block_size=T, n_layer=1, n_head=1, n_embd=1)


@pytest.mark.parametrize("n", [2, T, T + 1, T + 2, 5 * T + 1, 5 * T + 4])
@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_all_windows_predict_every_token_once(n, batch_size):
    """In order; full windows come in batches, and a shorter one comes last."""
    batches = list(all_windows(np.arange(n), CONFIG, batch_size))
    x, y = (np.concatenate([pair[i].numpy().ravel() for pair in batches]) for i in (0, 1))
    assert (x.tolist(), y.tolist()) == ([*range(n - 1)], [*range(1, n)])
    *full, last = [x.shape for x, _ in batches]
    assert all(shape[1] == T for shape in full) and last[1] in (T, (n - 1) % T)
    assert all(shape[0] <= (batch_size or 64) for shape in (*full, last))


@pytest.mark.parametrize("n", [50, 51, 100, 1000])
@pytest.mark.parametrize("max_tokens", [1, T, 3 * T, 48, 49])
def test_a_sample_of_windows_is_evenly_spaced(n, max_tokens):
    """From the first token to the last, no token twice, at most max_tokens or one window."""
    starts = np.concatenate(
        [starts_of(x) for x, _ in all_windows(np.arange(n), CONFIG, 2, max_tokens)]
    )
    if n - 1 <= max_tokens:
        assert len(starts) == 7, "all of them, the shorter one too"
        return
    assert len(starts) == max(1, max_tokens // T) and starts[0] == 0
    gaps = np.diff(starts)
    assert len(gaps) == 0 or (starts[-1] == n - 1 - T and gaps.min() >= T)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_all_windows_of_one_token_are_refused():
    """A loss needs a token and the one after it."""
    with pytest.raises(ValueError, match="needs 2 tokens"):
        next(all_windows(np.arange(1), CONFIG))


# ---- split ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "n, n_train", [(1000, 900), (1001, 900), (1009, 908), (1_115_394, 1003854)]
)
def test_split_takes_the_last_tenth_to_validate(n, n_train):
    """In order, nothing lost; 1,003,854 of tiny Shakespeare's characters train, as in nanoGPT."""
    text = "".join(np.random.default_rng(0).choice([*"abc"], n))
    train, validation = split(text)
    assert len(train) == n_train and train + validation == text


def test_both_parts_are_encoded_apart():
    """No token reaches over the cut: what validates is the same text for every tokenizer."""
    text = "abababababababababab" * 5
    pairs = BPETokenizer.from_text(text, 257)
    train, validation = encoded(pairs, "x" + text, 3)
    assert len(pairs.encode("x" + text)) < len(train) + len(validation)
    assert pairs.decode(train) + pairs.decode(validation) == "x" + text
    assert (pairs.decode(train), pairs.decode(validation)) == split("x" + text)


def test_a_text_too_short_for_a_window_is_refused():
    """81 ids leave 9 to validate, just a window of 8 and the token after it; 80 leave 8."""
    tokenizer = CharTokenizer("a")
    encoded(tokenizer, "a" * 81, T)
    with pytest.raises(ValueError) as error:
        encoded(tokenizer, "a" * 80, T)
    message = str(error.value)
    assert "\n" not in message
    for part in ("too short", "72 tokens to train", "8 to validate", "at least 9", "--block"):
        assert part in message


# ---- random batches ------------------------------------------------------------------------------


def test_a_batch_needs_a_window():
    """NumPy would only say that high <= 0."""
    with pytest.raises(ValueError, match="8 ids are too few for a window of 8 tokens"):
        random_batch(np.arange(8), 2, 8, seed=0, step=1)
    with pytest.raises(ValueError, match=r"shape \(N,\), not \(3, 20\)"):
        random_batch(np.zeros((3, 20), int), 2, 2, seed=0, step=1)


def test_a_batch_is_a_pure_function_of_seed_step_and_row():
    """Rows 6 to 11 of a batch of 12 are the batch of 6 from row 6, whatever was drawn before."""
    ids = np.arange(1000)
    whole = random_batch(ids, 12, T, seed=3, step=5)
    random_batch(ids, 7, T, seed=3, step=4)
    part = random_batch(ids, 6, T, seed=3, step=5, row=6)
    for a, b in zip(whole, part, strict=True):
        assert isinstance(a, Tensor) and np.issubdtype(a.dtype, np.integer)
        assert a.shape == (12, T)
        np.testing.assert_array_equal(a.numpy()[6:], b.numpy())


@pytest.mark.parametrize("other", [{"seed": 4}, {"step": 6}, {"row": 12}])
def test_another_seed_step_or_row_is_another_batch(other):
    """All of the 12 windows in 100,000 ids are others."""
    place = {"seed": 3, "step": 5, "row": 0}
    ids = np.arange(100_000)
    x, _ = random_batch(ids, 12, T, **place)
    z, _ = random_batch(ids, 12, T, **place | other)
    assert not set(starts_of(x)) & set(starts_of(z))


def test_every_window_can_be_drawn_and_none_else():
    """Starts 0 to 4 of 5 + T ids come about equally often: y's last id is once the text's last."""
    ids = np.arange(5 + T)
    starts = []
    for step in range(100):
        x, y = random_batch(ids, 20, T, seed=0, step=step)
        np.testing.assert_array_equal(y.numpy(), x.numpy() + 1)
        starts += starts_of(x)
    counts = np.bincount(starts)
    assert len(counts) == 5
    assert (
        (counts - 400) ** 2 / 400
    ).sum() < 18.47  # chi-squared, 4 degrees: exceeded once in 1000


# ---- the loader ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(T + 1, 3 * T + 2), 103])
def test_an_epoch_reads_the_text_once(n):
    """No id stands in two windows, and fewer than 2T of the ids stand in none."""
    for seed in range(5):
        loader = DataLoader(np.arange(n), batch_size=3, block_size=T, seed=seed)
        batches = list(loader)
        x = np.concatenate([x.numpy() for x, _ in batches])
        y = np.concatenate([y.numpy() for _, y in batches])
        np.testing.assert_array_equal(y, x + 1)
        np.testing.assert_array_equal(x, x[:, :1] + np.arange(T))
        assert len(np.unique(x)) == x.size > 0
        assert n - x.size < 2 * T
        assert y.max() < n


def test_the_last_batch_is_smaller():
    """12 or 11 windows of 8 in 103 ids: two batches of 5 and the rest, all integer Tensors."""
    batches = list(DataLoader(np.arange(103), batch_size=5, block_size=T))
    *full, last = [x.shape for x, _ in batches]
    assert full == [(5, T), (5, T)]
    assert last in [(1, T), (2, T)]
    for pair in batches:
        for ids in pair:
            assert isinstance(ids, Tensor) and np.issubdtype(ids.dtype, np.integer)


def test_every_epoch_has_its_own_order_and_shift():
    """Twenty epochs, twenty orders; the first window begins at each place that it can."""
    loader = DataLoader(np.arange(1000), batch_size=16, block_size=T)
    epochs = [epoch_of(loader) for _ in range(200)]
    assert len({tuple(epoch) for epoch in epochs}) == 200
    assert all(epoch != sorted(epoch) for epoch in epochs)
    assert {min(epoch) for epoch in epochs} == set(range(T))


def test_a_seed_repeats_all_its_epochs():
    """Two loaders agree epoch by epoch, whatever the batch size; another seed differs."""
    first = DataLoader(np.arange(1000), batch_size=16, block_size=T, seed=7)
    again = DataLoader(np.arange(1000), batch_size=5, block_size=T, seed=7)
    other = DataLoader(np.arange(1000), batch_size=16, block_size=T, seed=8)
    for _ in range(3):
        epoch = epoch_of(first)
        assert epoch == epoch_of(again)
        assert epoch != epoch_of(other)


def test_a_loader_takes_a_list():
    """Ids need not be an array."""
    x, _ = next(iter(DataLoader(list(range(20)), batch_size=1, block_size=T)))
    assert x.shape == (1, T)


@pytest.mark.parametrize(
    "n, batch_size, block_size, message",
    [(8, 1, 8, "8 ids are too few"), (9, 0, 8, "batch_size 0"), (9, 1, 0, "block_size 0")],
)
def test_a_loader_without_a_batch_is_refused(n, batch_size, block_size, message):
    """When it is made, not when it is first read."""
    with pytest.raises(ValueError, match=message):
        DataLoader(np.arange(n), batch_size, block_size)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_evaluation_reads_at_least_one_window(batch_size):
    """A batch of none or fewer would leave windows out."""
    config = GPTConfig(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=2)
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, not {batch_size}"):
        next(all_windows(np.arange(9) % 3, config, batch_size))
