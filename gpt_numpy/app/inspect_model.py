"""Inspect a model: its attention, the surprisal of each token, and the loss by position."""

from typing import NamedTuple

import numpy as np

import minigrad.ops as F
from gpt_numpy.data import all_windows, windows
from minigrad import Tensor
from minigrad.backend import array_module, to_numpy


def attention_maps(model, ids: np.ndarray) -> np.ndarray:
    """Return P of every head: ids (T,) → (L, H, T, T), L layers; row t has the weights of query t.

    F.attention does not keep P.  So this calls the blocks again, and writes out the formula (see
    minigrad/ops/attention.py).
    """
    maps = []
    with model.eval_mode(), np.errstate(all="ignore"):
        ids = Tensor(np.asarray(ids)[None]).to(model.device)  # (1, T)
        positions = array_module(ids.data).arange(ids.shape[1])
        earlier = positions <= positions[:, None]  # (T, T)
        x = model.wte(ids) + model.wpe(positions)
        for block in model.h:
            normed, attn = block.ln_1(x), block.attn
            q, k = attn.heads(attn.query(normed)), attn.heads(attn.key(normed))  # (1, H, T, D)
            scores = q @ k.transpose(0, 1, 3, 2) * q.shape[-1] ** -0.5
            p = F.softmax(F.where(earlier, scores, -np.inf))
            maps.append(p.numpy()[0])
            x = block(x)
    return np.stack(maps)


def loss_by_position(
    model, ids: np.ndarray, batch_size: int | None = None, max_tokens: int | None = None
) -> np.ndarray:
    """Return the mean loss at each position (T,) of a full window of `ids`: see all_windows().

    It falls with the position, as the model sees more context.
    """
    T = model.config.block_size
    losses = []
    with model.eval_mode(), np.errstate(all="ignore"):
        for x, y in all_windows(ids, model.config, batch_size, max_tokens):
            if x.shape[1] == T:
                loss = F.cross_entropy(model(x), y.to(model.device), reduction="none")
                losses.append(loss.numpy())
    return np.concatenate(losses).mean(0, dtype=np.float64)


class Surprise(NamedTuple):
    """What a model expected at every token of a text but the first, N in all."""

    losses: np.ndarray  # (N,), −ln p of the token that came
    guesses: np.ndarray  # (N, k), the ids of the likeliest tokens, the likeliest first
    probabilities: np.ndarray  # (N, k), theirs


def surprise(model, ids: np.ndarray, k: int = 3) -> Surprise:
    """Return the surprisal of each of ids (N + 1,) but the first, and the model's best guesses.

    Windows overlap by half, so after the first half window every token has at least half a window
    of context.
    """
    n, T = len(ids) - 1, min(model.config.block_size, len(ids) - 1)
    stride = (T + 1) // 2
    starts = [*range(0, n - T, stride), n - T]
    with model.eval_mode(), np.errstate(all="ignore"):
        x, _ = windows(ids, starts, T)
        logp = to_numpy(F.log_softmax(model(x)).data)  # (B, T, V)
    rows = np.empty((n, logp.shape[-1]), logp.dtype)
    for start, row in zip(reversed(starts), reversed(logp), strict=True):
        fresh = T - stride if start else 0  # the window before has more context for the first ones
        rows[start + fresh : start + T] = row[fresh:]
    guesses = np.argsort(-rows, -1, kind="stable")[:, :k]
    return Surprise(
        losses=-rows[np.arange(n), ids[1:]],
        guesses=guesses,
        probabilities=np.exp(np.take_along_axis(rows, guesses, -1)),
    )
