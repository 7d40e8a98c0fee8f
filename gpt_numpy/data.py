"""Turn a sequence of token ids into batches: the text is its own label.

Every position in "The cat sat" is a question, and the answer is the next token:

    x    T  h  e     c  a  t     s  a
    y    h  e     c  a  t     s  a  t

x and y are the same window of the text, y moved by one.  The causal mask lets the model answer all
T questions of a window at once.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from gpt_numpy.config import GPTConfig
from gpt_numpy.corpus.large import Text, ids_of
from minigrad import Tensor, random

if TYPE_CHECKING:
    from gpt_numpy.tokenizer import Tokenizer

Batch = tuple[Tensor, Tensor]  # x and y, both (B, T), on the CPU; x.to("gpu") copies one there


def split(text: Text, validation: Text | None = None) -> tuple[Text, Text]:
    """Return (train, validation): the first 90 % of the characters and the rest, as in nanoGPT.

    With another text to validate on, the whole of `text` trains.
    """
    if validation is not None:
        return text, validation
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def encoded(
    tokenizer: "Tokenizer", text: Text, block_size: int, validation: Text | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of both parts of a text, in order.  They are split before they are encoded, so
    the validation text is the same for every tokenizer.

    The ids have the smallest integer type that holds the vocabulary.  Those of a text that is too
    large for memory are in a file (see corpus/large.py).

    Errors      ValueError if a part is shorter than a window of block_size and the token after it
    """
    train, held_out = (ids_of(tokenizer, part) for part in split(text, validation))
    if min(len(train), len(held_out)) <= block_size:
        raise ValueError(
            f"the text is too short: it has {len(train):,} tokens to train and "
            f"{len(held_out):,} to validate, and each needs at least {block_size + 1:,} "
            "(block_size + 1): give more text or a smaller --block-size"
        )
    return train, held_out


def windows(ids: np.ndarray, starts: Iterable[int], block_size: int) -> Batch:
    """Return the windows of `ids` that begin at `starts` (B,): x and y, int64 Tensors (B, T).

    They are copies, also of ids of a smaller integer type or in a file.
    """
    rows = np.array([ids[start : start + block_size + 1] for start in starts], np.int64)
    rows = rows.reshape(-1, block_size + 1)  # also if there are none
    return Tensor(rows[:, :-1].copy()), Tensor(rows[:, 1:].copy())


def all_windows(
    ids: np.ndarray,
    config: GPTConfig,
    batch_size: int | None = None,
    max_tokens: int | None = None,
) -> Iterator[Batch]:
    """Yield (x, y) batches of consecutive windows of `ids` (N,), for an evaluation.

    Every token but the first is predicted once.  A window has config.block_size tokens; the last
    one may be shorter, and is a batch of its own.

    batch_size  how many windows are read at once: eval_batch_size(config) if it is not given
    max_tokens  if there are more tokens to predict, yield only as many full windows as have
                max_tokens (at least one), evenly spaced from the first to the last token: always
                the same windows of the same text

    Errors      ValueError if there are fewer than 2 ids
    """
    T, n = config.block_size, len(ids) - 1  # how many tokens are predicted
    if n < 1:
        raise ValueError(f"a loss needs 2 tokens, one to predict the other; got {len(ids)}")
    batch_size = eval_batch_size(config) if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    starts, rest = np.arange(0, n // T * T, T), n % T
    if max_tokens is not None and n > max(max_tokens, T):
        starts, rest = np.linspace(0, n - T, max(1, max_tokens // T)).astype(int), 0
    for i in range(0, len(starts), batch_size):
        yield windows(ids, starts[i : i + batch_size], T)
    if rest:
        yield windows(ids, [n - rest], rest)


def eval_batch_size(config: GPTConfig) -> int:
    """Return how many windows an evaluation reads at once: 64, or fewer above 2²⁴ logits."""
    return max(1, min(64, 2**24 // (config.block_size * config.vocab_size)))


def check_length(ids: np.ndarray, block_size: int) -> None:
    """Raise ValueError if `ids` are not a vector (N,), or too short for one window."""
    if np.ndim(ids) != 1:
        raise ValueError(f"the ids of a text must have shape (N,), not {np.shape(ids)}")
    if len(ids) <= block_size:
        raise ValueError(
            f"{len(ids)} ids are too few for a window of {block_size} tokens and the token after it"
        )


def random_batch(
    ids: np.ndarray, batch_size: int, block_size: int, seed: int, step: int, row: int = 0
) -> Batch:
    """Return (x, y) of one batch: sequences row ... row + batch_size − 1 of the step.

    Where the window of a sequence begins is random, and depends on (seed, step, row) alone.
    """
    check_length(ids, block_size)
    starts = window_starts(len(ids), batch_size, block_size, seed, step, row)
    return windows(ids, starts, block_size)


def window_starts(
    n_ids: int, batch_size: int, block_size: int, seed: int, step: int, row: int = 0
) -> list[int]:
    """Return where the windows of random_batch() begin in a text of n_ids tokens."""
    keys = [(seed, step, 0, r) for r in range(row, row + batch_size)]
    rngs = [np.random.Generator(random.philox(key, random.BATCH)) for key in keys]
    return [int(rng.integers(n_ids - block_size)) for rng in rngs]


class DataLoader:
    """Batches for `for x, y in loader`: one iteration is one epoch, the text read once.

    ids (N,) integers;  x, y (B, T) integer Tensors, the last batch may have fewer rows.  The
    windows do not overlap; where the first one begins and the order they come in are drawn for each
    epoch, from (seed, epoch).
    """

    def __init__(self, ids: np.ndarray, batch_size: int, block_size: int, seed: int = 0):
        if batch_size < 1 or block_size < 1:
            raise ValueError(f"batch_size {batch_size} and block_size {block_size} must be above 0")
        check_length(ids, block_size)
        self.ids, self.batch_size, self.block_size = np.asarray(ids), batch_size, block_size
        self.seed, self.epoch = seed, 0

    def __iter__(self) -> Iterator[Batch]:
        generator = np.random.Generator(random.philox((self.seed, self.epoch, 1, 0), random.BATCH))
        self.epoch += 1
        T, last = self.block_size, len(self.ids) - 1 - self.block_size
        first = generator.integers(min(T, last + 1))
        starts = generator.permutation(np.arange(first, last + 1, T))
        for i in range(0, len(starts), self.batch_size):
            yield windows(self.ids, starts[i : i + self.batch_size], T)
