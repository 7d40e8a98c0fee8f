"""Sampling: turn the scores of a model into a token, again and again.

Three options change the probabilities of the next token.  Temperature divides the scores: below 1
likely tokens become likelier, above 1 the probabilities approach each other.  Top-k keeps the k
likeliest tokens.  Top-p keeps the smallest set of likeliest tokens whose probabilities sum to at
least p (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", arXiv:1904.09751).
The probabilities of the tokens that are kept are scaled up to sum to 1.
"""

import operator
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from gpt_numpy.scale.decoder import Decoder
from minigrad import Tensor, random
from minigrad.backend import to_numpy
from minigrad.ops.embedding import check_ids

ROUNDING = 1e-6  # 0.4 + 0.3 + 0.2 should reach top_p = 0.9, and is a little less in floating point


def probabilities(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """Return the distribution of the next token: logits (B, V) → probabilities (B, V), float64.

    temperature   at least 0; 0 gives the likeliest token probability 1
    top_k         at least 1: how many tokens to keep
    top_p         0 < p ≤ 1: how much probability to keep

    Temperature is applied first, then top-k, then top-p to the tokens that top-k left.  Of tokens
    with the same score, those with the smaller ids are kept.
    Raises ValueError for other options, FloatingPointError for scores that are not finite.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
    if temperature == 0:
        temperature, top_k = 1.0, 1
    logits = np.asarray(logits, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # −∞ is allowed: e^−∞ is 0
        p = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    total = p.sum(-1, keepdims=True)
    if not np.isfinite(total).all():
        raise FloatingPointError("the model is broken: its scores are not all finite numbers")
    p /= total
    if top_k is not None or top_p is not None:
        order = np.argsort(-logits, axis=-1, kind="stable")  # likeliest first
        ranked = np.take_along_axis(p, order, -1)
        if top_k is not None:
            ranked[:, top_k:] = 0
            ranked /= ranked.sum(-1, keepdims=True)
        if top_p is not None and top_p < 1:
            before = np.cumsum(ranked, -1) - ranked  # the probability of all likelier tokens
            ranked[(before >= top_p - ROUNDING) & (before > 0)] = 0  # the likeliest stays
            ranked /= ranked.sum(-1, keepdims=True)
        np.put_along_axis(p, order, ranked, -1)
    return p


def sample(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return tokens (B,) distributed as p (B, V), from numbers u (B,) uniform on [0, 1).

    The cumulative sums of p divide [0, 1) into one interval per token, as long as the token's
    probability.  So u falls into the interval of token i with probability pᵢ.
    """
    cdf = np.cumsum(p, -1)
    return (cdf <= u[:, None] * cdf[:, -1:]).sum(-1)  # how many intervals end before u


def penalized(logits: np.ndarray, text: np.ndarray, penalty: float) -> np.ndarray:
    """Make the tokens that occur in a text less likely: logits (B, V), text (B, T) → (B, V).

    The score x of such a token becomes x / penalty where x > 0, and x · penalty where x < 0, once
    for each token, however often it occurs.  1 changes nothing; a penalty below 1 makes them
    likelier.

    Source      Keskar et al. 2019, "CTRL: A Conditional Transformer Language Model for Controllable
                Generation", arXiv:1909.05858, section 4.1.  The paper always divides, which makes a
                token with x < 0 likelier.  `transformers` multiplies there, and so do we.
    In words    Softmax ignores a number that is added to all scores.  The penalty does not, so its
                strength depends on where the scores of a model have their zero.
    """
    logits = np.asarray(logits, np.float64)
    old = np.take_along_axis(logits, text, -1)  # (B, T)
    new = logits.copy()
    np.put_along_axis(new, text, np.where(old < 0, old * penalty, old / penalty), -1)
    return new


def stream(
    model,
    ids: Tensor | np.ndarray | Sequence[np.ndarray | Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    repetition_penalty: float = 1.0,
) -> Iterator[np.ndarray]:
    """Continue the prompts ids (B, T), yielding the new ids (B,) of one position at a time.

    The decoder takes in every token once (scale/decoder.py).  When block_size tokens are in and
    another one follows, it starts again from the last block_size // 2 tokens, the new one included.
    Of a longer prompt it takes in the last block_size tokens.  The weights are those at the call.

    Prompts in a list may have different lengths.  Those of one length form a batch.  The text of
    each prompt is the same as without the others.

    Row b has its own random generator, (seed, b).  With a `seed` the text depends on nothing else;
    without one the seed follows from `minigrad.manual_seed`.  repetition_penalty: see penalized().
    Raises ValueError or TypeError, at the call, for invalid options and ids.
    """
    prompts = rows_of(ids)
    for prompt in prompts:
        check_ids("a prompt", prompt, model.config.vocab_size)
    if not 0 <= operator.index(max_new_tokens) < 2**31:
        raise ValueError(f"max_new_tokens must be from 0 to 2^31 - 1, not {max_new_tokens}")
    if not 0 < repetition_penalty < np.inf:
        raise ValueError(f"repetition_penalty must be above 0, not {repetition_penalty}")
    probabilities(np.zeros((1, 1)), temperature, top_k, top_p)  # refuse bad options now
    seed, step, layer, _ = random.next_key() if seed is None else (random.check_seed(seed), 0, 0, 0)
    rngs = [
        np.random.Generator(random.philox((seed, step, layer, row), random.SAMPLE))
        for row in range(len(prompts))
    ]
    groups: dict[int, list[int]] = {}  # length -> rows
    for row, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(row)

    def next_ids(logits, text, row_rngs):
        """Sample the ids (B,) that follow the text (B, T), from their scores (B, V)."""
        if repetition_penalty != 1:
            logits = penalized(logits, text, repetition_penalty)
        u = np.array([rng.random() for rng in row_rngs])
        return sample(probabilities(logits, temperature, top_k, top_p), u)

    with np.errstate(all="ignore"):
        streams = [
            continued(
                Decoder(model, len(rows)),
                np.stack([prompts[row] for row in rows]),
                max_new_tokens,
                partial(next_ids, row_rngs=[rngs[row] for row in rows]),
            )
            for rows in groups.values()
        ]

    def tokens():
        for columns in zip(*streams, strict=True):
            new = np.empty(len(prompts), np.int64)
            for rows, column in zip(groups.values(), columns, strict=True):
                new[rows] = column
            yield new

    return tokens()


def continued(decoder, ids, max_new_tokens, next_ids):
    """Yield the ids (B,) that next_ids samples, for texts that begin with ids (B, T)."""
    (B, T), size = ids.shape, decoder.positions.shape[0]
    text = np.empty((B, T + max_new_tokens), np.int64)
    text[:, :T] = ids
    first = max(0, T - size)  # the first token that the decoder has not taken in
    for end in range(T, T + max_new_tokens):
        if decoder.length + end - first > size:
            decoder.reset()
            first = end - max(1, size // 2)
        with np.errstate(all="ignore"):  # probabilities() refuses what is not finite
            scores = to_numpy(decoder.forward(text[:, first:end]))  # (B, V)
        text[:, end] = next_ids(scores, text[:, :end])
        first = end
        yield text[:, end].copy()


def rows_of(ids) -> list[np.ndarray]:
    """Return the prompts, arrays (T,): the rows of ids (B, T), or of a list of lists."""
    if isinstance(ids, Tensor):
        ids = ids.numpy()
    try:
        if isinstance(ids, list | tuple) and len({np.shape(row) for row in ids}) > 1:
            rows = [np.asarray(row) for row in ids]
        else:
            ids = np.asarray(ids)
            rows = [*ids] if ids.ndim == 2 else []
    except ValueError as error:  # a list of lists of lists, of different lengths
        raise ValueError(f"a prompt must be a list of ids, not {ids}") from error
    if not rows or any(row.ndim != 1 or row.size == 0 for row in rows):
        raise ValueError(
            "a prompt must have shape (B, T) with at least one token, not "
            + str(np.shape(ids) if isinstance(ids, np.ndarray) else [np.shape(row) for row in ids])
        )
    return [row.astype(np.int64, copy=False) if row.dtype.kind == "u" else row for row in rows]


def generate(model, ids, max_new_tokens: int, **options) -> Tensor | list[Tensor]:
    """Return the prompts ids (B, T) with what `stream` adds: a Tensor (B, T + max_new_tokens).

    For prompts of different lengths, return a list with one Tensor (T + max_new_tokens,) for each.
    """
    prompts = rows_of(ids)
    columns = [*stream(model, prompts, max_new_tokens, **options)]
    new = np.array(columns, np.int64).reshape(max_new_tokens, len(prompts)).T
    rows = [np.concatenate([p, n]) for p, n in zip(prompts, new, strict=True)]
    if len({len(row) for row in rows}) > 1:
        return [Tensor(row) for row in rows]
    return Tensor(np.stack(rows))
