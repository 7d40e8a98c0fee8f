"""Sampling: from scores to a token, again and again.

Three knobs on the probabilities of the next token.  Temperature divides the scores: below 1 the
likely becomes likelier, above 1 all become more alike.  Top-k keeps the k likeliest tokens.  Top-p
keeps the fewest that together have at least probability p (Holtzman et al. 2020, "The Curious Case
of Neural Text Degeneration", arXiv:1904.09751).  What is kept is scaled up to sum to 1.
"""

from collections.abc import Iterator

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


def stream(
    model,
    ids: Tensor | np.ndarray,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[np.ndarray]:
    """Continue the prompts ids (B, T), yielding the new ids (B,) of one position at a time.

    The model reads every token once (scale/decoder.py).  When block_size tokens are read and one
    more is to come, it forgets them and reads the last half again, block_size // 2 tokens, the new
    one among them; and of a longer prompt the last block_size.  It is the model as it is now, at
    the call.

    Row b draws from a generator of its own, (seed, b).  With a `seed` the text depends on nothing
    else; without one it goes on from `minigrad.manual_seed`.
    Raises ValueError or TypeError, at the call, for options and ids that make no sense.
    """
    ids = np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"a prompt must have shape (B, T) with at least one token, not {ids.shape}"
        )
    check_ids("a prompt", ids, model.config.vocab_size)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    probabilities(np.zeros((1, 1)), temperature, top_k, top_p)  # refuse bad options now
    seed, step, layer, _ = random.next_key() if seed is None else (random.check_seed(seed), 0, 0, 0)
    (B, T), size = ids.shape, model.config.block_size
    text = np.empty((B, T + max_new_tokens), np.int64)
    text[:, :T] = ids
    dice = [
        np.random.Generator(random.philox((seed, step, layer, row), random.SAMPLE))
        for row in range(B)
    ]
    with np.errstate(all="ignore"):
        reader = Reader(model, B)

    def tokens():
        first = max(0, T - size)  # of those that are not read yet
        for end in range(T, T + max_new_tokens):
            if reader.n + end - first > size:
                reader.forget()
                first = end - max(1, size // 2)
            with np.errstate(all="ignore"):  # probabilities() looks for what is not finite
                scores = to_numpy(reader.read(text[:, first:end]))  # (B, V)
            u = np.array([generator.random() for generator in dice])
            text[:, end] = draw(probabilities(scores, temperature, top_k, top_p), u)
            first = end
            yield text[:, end].copy()

    return tokens()


def generate(model, ids: Tensor | np.ndarray, max_new_tokens: int, **options) -> Tensor:
    """The prompts ids (B, T) and what `stream` adds to them: a Tensor (B, T + max_new_tokens)."""
    prompt = np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids)
    columns = [new[:, None] for new in stream(model, prompt, max_new_tokens, **options)]
    return Tensor(np.concatenate([prompt, *columns], axis=1))
