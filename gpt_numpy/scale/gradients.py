"""The gradient of some of a step's sequences, for processes that share the step."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

import minigrad.ops as F
from gpt_numpy.config import TrainConfig
from gpt_numpy.data import Batch, random_batch
from gpt_numpy.model import GPT
from minigrad import Tensor, detect_anomaly, random


def accumulate_gradients(
    model: GPT,
    batches: Iterable[Batch],
    n_tokens: int,
    seed: int = 0,
    step: int = 0,
    first: int = 0,
    one: Any = None,
) -> Tensor:
    """Add up the gradients of (the sum of all losses in `batches`) / n_tokens; return that loss.

    batches     pairs (x, y) of integer Tensors (B, T), of any sizes
    n_tokens    how many tokens the step has: the result is this part's share of the mean
    first       the index of the first sequence within the step: dropout masks depend on it
    one         an array () that is 1, for backward() to start from; by default it makes its own

    The mean over all tokens is the sum over batches of (their mean) · (their share of the tokens).
    The derivative of a sum is the sum of the derivatives, and backward() adds to the gradients.  So
    reading one batch after another gives the gradient of them all, in the memory of one.
    """
    losses = []
    for x, y in batches:
        with random.rng_scope(seed, step, first):
            loss = F.cross_entropy(model(x), y.to(model.device))
            if y.size != n_tokens:  # a division by 1 would be five kernels of a GPU
                loss = loss / (n_tokens / y.size)
        loss.backward(one)
        losses.append(loss.detach())
        first += len(x)
    return sum(losses[1:], start=losses[0])


def gradients_of_sequences(
    model: GPT, step: int, first: int, stop: int, ids: np.ndarray, config: TrainConfig, n_parts: int
) -> Tensor:
    """Accumulate the gradients of the sequences first ... stop − 1 of a step, one of n_parts of it.

    They are read batch_size / n_parts at a time (rounded up), so that all parts together hold about
    one batch.
    """
    size = math.ceil(config.batch_size / n_parts)
    batches = (
        random_batch(ids, min(size, stop - i), config.block_size, config.seed, step, i)
        for i in range(first, stop, size)
    )
    return accumulate_gradients(model, batches, config.tokens_per_step, config.seed, step, first)


def find_anomaly(replay: Callable[[], object]) -> str:
    """Compute a step's gradients again and check every op.

    Return the description of the first op whose result is not finite, or "".
    """
    try:
        with detect_anomaly():
            replay()
    except FloatingPointError as error:
        return str(error)
    return ""


def not_finite(
    model: GPT, ids: np.ndarray, config: TrainConfig, step: int, found: str | None = None
) -> FloatingPointError:
    """Return the error of a step whose loss or gradient is not finite, and drop all gradients.

    found   what find_anomaly() has found, if it was called already
    """
    if found is None:
        sequences = 0, config.sequences_per_step
        found = find_anomaly(
            partial(gradients_of_sequences, model, step, *sequences, ids, config, n_parts=1)
        )
    for p in model.parameters():
        p.grad = None
    return FloatingPointError(NOT_FINITE.format(step, found or OVERFLOW))


NOT_FINITE = (
    "step {}: the loss or its gradient is not finite. The weights were not updated. First seen "
    "in:\n{}\nA lower --lr or a longer --warmup-steps usually helps."
)
OVERFLOW = "no single op: the sum of all gradients, or the square of its norm, overflows"
