"""Sampling: from scores to a token, again and again.

Three knobs on the probabilities of the next token.  Temperature divides the scores: below 1 the
likely becomes likelier, above 1 the probabilities approach each other.  Top-k keeps the k likeliest
tokens.  Top-p keeps the fewest that together have at least probability p (Holtzman et al. 2020,
"The Curious Case of Neural Text Degeneration", arXiv:1904.09751).  What is kept is scaled up to sum
to 1.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from gpt_numpy.scale.decoder import Reader
from minigrad import Tensor, random
from minigrad.backend import to_numpy
from minigrad.ops.embedding import check_ids

ROUNDING = 1e-6  # 0.4 + 0.3 + 0.2 is 0.9 to us, and a little less in floating point


def probabilities(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """The distribution that a token is drawn from: logits (B, V) → probabilities (B, V), float64.

    temperature   at least 0; 0 puts all on the likeliest token
    top_k         at least 1: how many tokens to keep;   top_p   0 < p ≤ 1: how much probability
    Temperature comes first, then top-k, then top-p of what top-k left; ties keep the smaller id.
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
    with np.errstate(over="ignore", invalid="ignore"):  # −∞ is welcome: e^−∞ is 0; NaN: see below
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


def draw(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The token at height u of the staircase of cumulative probabilities: p (B, V), u (B,) → (B,).

    u is uniform on [0, 1): the chance that it meets a stair is the stair's height, p of its token.
    """
    stairs = np.cumsum(p, -1)
    return (stairs <= u[:, None] * stairs[:, -1:]).sum(-1)  # how many end below; the last is ≈ 1


def penalized(logits: np.ndarray, text: np.ndarray, penalty: float) -> np.ndarray:
    """Make the tokens that a text has already less likely: logits (B, V), text (B, T) → (B, V).

    x of such a token becomes  x / penalty where x > 0,  x · penalty where x < 0,  once for each
    token, however often it occurs.  1 changes nothing; a penalty below 1 makes them likelier.

    Source      Keskar et al. 2019, "CTRL: A Conditional Transformer Language Model for Controllable
                Generation", arXiv:1909.05858, section 4.1, which divides alone: that would make a
                token with x < 0 likelier.  `transformers` multiplies those, and so do we.
    In words    Softmax does not change when a number is added to all scores, but this does: what it
                pays depends on where a model has its zero.
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

    The model reads every token once (scale/decoder.py).  When block_size tokens are read and one
    more is to come, it forgets them and reads the last half again, block_size // 2 tokens, the new
    one among them; and of a longer prompt the last block_size.  It is the model as it is now, at
    the call.

    Prompts in a list may have different lengths.  Those of one length are read together; the
    groups take turns, and each is what it would be without the others.

    Row b draws from a generator of its own, (seed, b).  With a `seed` the text depends on nothing
    else; without one it goes on from `minigrad.manual_seed`.  repetition_penalty: see penalized().
    Raises ValueError or TypeError, at the call, for options and ids that make no sense.
    """
    prompts = rows_of(ids)
    for prompt in prompts:
        check_ids("a prompt", prompt, model.config.vocab_size)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
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
        """The ids (B,) that follow the text (B, T), by the scores (B, V) for them."""
        if repetition_penalty != 1:
            logits = penalized(logits, text, repetition_penalty)
        u = np.array([rng.random() for rng in row_rngs])
        return draw(probabilities(logits, temperature, top_k, top_p), u)

    with np.errstate(all="ignore"):
        streams = [
            continued(
                Reader(model, len(rows)),
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


def continued(reader, ids, max_new_tokens, next_ids):
    """Yield the ids (B,) that next_ids chooses, for texts that begin with ids (B, T)."""
    (B, T), size = ids.shape, reader.positions.shape[0]
    text = np.empty((B, T + max_new_tokens), np.int64)
    text[:, :T] = ids
    first = max(0, T - size)  # of those that are not read yet
    for end in range(T, T + max_new_tokens):
        if reader.n + end - first > size:
            reader.forget()
            first = end - max(1, size // 2)
        with np.errstate(all="ignore"):  # probabilities() looks for what is not finite
            scores = to_numpy(reader.read(text[:, first:end]))  # (B, V)
        text[:, end] = next_ids(scores, text[:, :end])
        first = end
        yield text[:, end].copy()


def rows_of(ids) -> list[np.ndarray]:
    """The prompts, arrays (T,): the rows of ids (B, T), or of a list of lists; else ValueError."""
    if isinstance(ids, Tensor):
        ids = ids.numpy()
    if isinstance(ids, list | tuple) and len({np.shape(row) for row in ids}) > 1:
        rows = [np.asarray(row) for row in ids]
    else:
        ids = np.asarray(ids)
        rows = [*ids] if ids.ndim == 2 else []
    if not rows or any(row.ndim != 1 or row.size == 0 for row in rows):
        raise ValueError(
            "a prompt must have shape (B, T) with at least one token, not "
            + str(np.shape(ids) if isinstance(ids, np.ndarray) else [np.shape(row) for row in ids])
        )
    return rows


def generate(model, ids, max_new_tokens: int, **options) -> Tensor | list[Tensor]:
    """The prompts ids (B, T) and what `stream` adds to them: a Tensor (B, T + max_new_tokens).

    Of prompts with different lengths it is a list with a Tensor (T + max_new_tokens,) for each.
    """
    prompts = rows_of(ids)
    columns = [*stream(model, prompts, max_new_tokens, **options)]
    new = np.array(columns, np.int64).reshape(max_new_tokens, len(prompts)).T
    rows = [np.concatenate([p, n]) for p, n in zip(prompts, new, strict=True)]
    if len({len(row) for row in rows}) > 1:
        return [Tensor(row) for row in rows]
    return Tensor(np.stack(rows))
