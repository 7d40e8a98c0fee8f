"""Sampling: from scores to a token, again and again.

Three knobs on the probabilities of the next token.  Temperature divides the scores: below 1 the
likely becomes likelier, above 1 all become more alike.  Top-k keeps the k likeliest tokens.  Top-p
keeps the fewest that together have probability p (Holtzman et al. 2020, "The Curious Case of
Neural Text Degeneration", arXiv:1904.09751).  What is kept is scaled up to sum to 1.
"""

from collections.abc import Iterator

import numpy as np

from minigrad import Tensor, random

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
    order = np.argsort(-logits, axis=-1, kind="stable")  # likeliest first
    ranked = np.take_along_axis(logits, order, -1)
    p = np.exp((ranked - ranked[:, :1]) / temperature)
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(-1, keepdims=True)
    if top_p is not None and top_p < 1:
        before = np.cumsum(p, -1) - p  # the probability of all likelier tokens
        p[(before >= top_p - ROUNDING) & (before > 0)] = 0  # the likeliest stays in any case
        p /= p.sum(-1, keepdims=True)
    out = np.empty_like(p)
    np.put_along_axis(out, order, p, -1)
    return out


def draw(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The token at height u of the staircase of cumulated probabilities: p (B, V), u (B,) → (B,).

    u is uniform on [0, 1): the chance that it meets a stair is the stair's height, p of its token.
    """
    stairs = np.cumsum(p, -1)
    return (stairs <= u[:, None] * stairs[:, -1:]).sum(-1)


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

    The model sees the last block_size tokens.  With a `seed` the text depends on nothing else;
    without one it goes on from `minigrad.manual_seed`.
    """
    ids = np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"a prompt must have shape (B, T) with at least one token, not {ids.shape}"
        )
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    probabilities(np.zeros((1, 1)), temperature, top_k, top_p)  # refuse bad options now
    key = random.next_key() if seed is None else (random.check_seed(seed), 0, 0, 0)

    def tokens(ids):
        for i in range(max_new_tokens):
            with model.evaluating():
                logits = model(ids[:, -model.config.block_size :])[:, -1].numpy()  # (B, V)
            generator = np.random.Generator(random.philox((*key[:3], i), random.SAMPLE))
            new = draw(probabilities(logits, temperature, top_k, top_p), generator.random(len(ids)))
            ids = np.concatenate([ids, new[:, None]], axis=1)
            yield new

    return tokens(ids)


def generate(model, ids: Tensor | np.ndarray, max_new_tokens: int, **options) -> Tensor:
    """The prompts ids (B, T) and what `stream` adds to them: a Tensor (B, T + max_new_tokens)."""
    prompt = np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids)
    columns = [new[:, None] for new in stream(model, prompt, max_new_tokens, **options)]
    return Tensor(np.concatenate([prompt, *columns], axis=1))
