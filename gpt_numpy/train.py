"""Training, read straight through: START HERE to follow one step from top to bottom.

    batch → model → cross-entropy → backward → clip → AdamW, at the rate that the schedule says

The loss is −ln of the probability that the model gave to the token that really came next, averaged
over all tokens, in nats (the unit of natural logarithms).  Its gradient tells every weight which
way the loss rises; clip limits how long it may be; AdamW moves the weights the other way.

`train` is a generator: it does the arithmetic and hands over what happened, a step at a time.
Whoever iterates may print, measure, save, or stop.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

import minigrad.ops as F
from gpt_numpy.config import TrainConfig
from gpt_numpy.data import Batch, all_windows, random_batch
from gpt_numpy.model import GPT
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.scale.workers import Workers
from minigrad import Tensor, detect_anomaly, random
from minigrad.backend import CPU, array_module, device_of, to_numpy
from minigrad.fast.adamw import FusedAdamW
from minigrad.internals.malloc import tune_malloc
from minigrad.ops.embedding import check_ids
from minigrad.optim import AdamW
from minigrad.schedule import warmup_cosine

Watch = Callable[[Iterator[Batch]], Iterator[Batch]]


class StepResult(NamedTuple):
    step: int  # counted from 1
    loss: Tensor  # mean over the step's whole batch, nats per token, before the weights moved
    lr: float
    grad_norm: Tensor  # before clipping


def adamw(model: GPT, config: TrainConfig) -> FusedAdamW:
    """Return the optimizer of a run.  Its moments are part of the run's state."""
    groups = model.parameter_groups(config.weight_decay)
    optimizer = AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
    assert isinstance(optimizer, FusedAdamW)
    return optimizer


def train(
    model: GPT,
    ids: np.ndarray,
    config: TrainConfig,
    ranks: Ranks | None = None,
    optimizer: FusedAdamW | None = None,
    done: int = 0,
) -> Iterator[StepResult]:
    """Move the weights of `model` config.steps times; yield a StepResult after each.

    ids (N,), the training text;  config, a TrainConfig;  ranks, Ranks.of_mpirun() if several share
    the work: each calls this with a model, a text and a config that are the same, and all of them
    stop at the same step.  Until it ends, change the weights in place only: processes share them.
    (Where Python starts these afresh, on macOS, Windows and from 3.14 on everywhere, a script that
    calls this needs the line `if __name__ == "__main__":`.)

    done        how many of the steps were made before: with the model and the `optimizer`, from
                adamw(), as they were then, the run goes on as if it had never been stopped; for
                what is random in a step depends on the seed and the step's number alone

    It runs where the model is.  On a GPU nothing is read back between steps, so Python runs ahead;
    loss.item() and grad_norm.item() wait for the GPU.
    Raises FloatingPointError, which names an op, if a loss or a gradient is not finite.  From that
    step on no weight is moved.  On a GPU the error comes when a step is logged or evaluated, and at
    the last; until then optimizer.stopped_at() tells.
    """
    ranks = ranks or Ranks()
    check_ids("train", ids, model.config.vocab_size)
    model.train()
    tune_malloc()  # a step allocates what the last one freed
    optimizer = optimizer or adamw(model, config)
    rows = ranks.sequences(config.sequences_per_step)
    n = config.workers if model.device == CPU else 1  # a GPU shares the work out over its own cores
    # work(model, step, first, stop) is gradients_of_sequences with its other arguments filled in.
    work = partial(gradients_of_sequences, ids=ids, config=config, n_parts=ranks.world_size * n)
    team = Workers(model, optimizer, work, rows, n, ranks.on_this_machine)
    with team as workers:
        for step in range(done + 1, config.steps + 1):
            lr = warmup_cosine(step, config.warmup_steps, config.steps, config.lr, config.min_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with np.errstate(all="ignore"):  # what is not finite is looked for below
                loss = workers.gradients(step)  # forward and backward: accumulate_gradients, below
                loss = ranks.all_reduce(optimizer.flat.grad, loss)
                grad_norm = optimizer.clip_grad_norm(config.grad_clip)
            if bad_step := not_finite(step, loss, grad_norm, optimizer, config):
                optimizer.zero_grad()
                found = ranks.first(anomaly_of(partial(work, model, bad_step, *rows)))
                raise FloatingPointError(NOT_FINITE.format(bad_step, found or TOO_LONG))
            workers.move(optimizer.plan_step(), optimizer.skips())
            optimizer.zero_grad()
            yield StepResult(step, loss, lr, grad_norm)


def not_finite(step, loss, grad_norm, optimizer, config):
    """The first step whose loss or gradient is not finite, as far as one can tell; else 0."""
    if device_of(loss.data) == CPU:
        return 0 if math.isfinite(loss.item() + grad_norm.item()) else step
    optimizer.stop_unless_finite(step, loss, grad_norm)  # the GPU looks: we need not wait for it
    logged = step % config.log_every == 0 or step % config.eval_every == 0
    return optimizer.stopped_at() if logged or step == config.steps else 0


def anomaly_of(replay):
    """Compute a step's gradients once more, watching every op; say which one spoiled them."""
    try:
        with detect_anomaly():
            replay()
    except FloatingPointError as error:
        return str(error)
    return ""


NOT_FINITE = (
    "step {}: the loss or its gradient is not finite, and the weights were not moved; it began "
    "here:\n{}\nMost often a lower --lr helps, or a longer --warmup-steps."
)
TOO_LONG = "no op by itself, but the gradients of all rows together are too long for their dtype"


def accumulate_gradients(
    model: GPT, batches: Iterable[Batch], n_tokens: int, seed: int = 0, step: int = 0, row: int = 0
) -> Tensor:
    """Add up the gradients of (the sum of all losses in `batches`) / n_tokens; return that loss.

    batches     pairs (x, y) of integer Tensors (B, T), of any sizes
    n_tokens    how many tokens there are in all: then the result is the mean over them
    row         the place of the first row in the step's whole batch: dropout masks go by it

    The mean over all tokens is the sum over batches of (their mean) · (their share of the tokens).
    A derivative goes through a sum term by term, and backward() adds to the gradients.  So reading
    the batches one after another gives the gradient of them all at once, in the memory of one.
    """
    losses = []
    for x, y in batches:
        x, y = x.to(model.device), y.to(model.device)
        with random.rng_scope(seed, step, row):
            loss = F.cross_entropy(model(x), y) * (y.data.size / n_tokens)
        loss.backward()
        losses.append(loss.detach())
        row += len(x)
    return sum(losses[1:], start=losses[0])


def gradients_of_sequences(
    model: GPT, step: int, first: int, stop: int, ids: np.ndarray, config: TrainConfig, n_parts: int
) -> Tensor:
    """One of n_parts of a step: the rows from `first` up to but without `stop` of its whole batch.

    They are read batch_size / n_parts at a time (rounded up): all parts together hold one batch.
    """
    size = math.ceil(config.batch_size / n_parts)
    batches = (
        random_batch(ids, min(size, stop - row), config.block_size, config.seed, step, row)
        for row in range(first, stop, size)
    )
    return accumulate_gradients(model, batches, config.tokens_per_step, config.seed, step, first)


def evaluate(
    model: GPT,
    ids: np.ndarray,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    watch: Watch = iter,
) -> float:
    """Return the mean loss over `ids` (N,), in nats per token: of every token but the first.

    The text is cut into windows of block_size, one after another, the last one shorter, and
    batch_size of them are read at once: eval_batch_size(), if it is not given.

    max_tokens  read only so many tokens, in windows that are evenly spaced: see all_windows()
    watch       watch(batches) yields the same batches, and may show progress or raise an error
    """
    total, n = 0.0, 0
    for losses in token_losses(model, ids, batch_size, max_tokens, watch):
        total += losses.sum(dtype=np.float64)
        n += losses.size
    return float(total / n)


def loss_by_position(
    model: GPT, ids: np.ndarray, batch_size: int | None = None, max_tokens: int | None = None
) -> np.ndarray:
    """Return the mean loss at each place (T,) of a full window of `ids`, which falls as the context
    grows.
    """
    T = model.config.block_size
    losses = token_losses(model, ids, batch_size, max_tokens)
    return np.concatenate([loss for loss in losses if loss.shape[1] == T]).mean(0, dtype=np.float64)


def token_losses(
    model: GPT,
    ids: np.ndarray,
    batch_size: int | None,
    max_tokens: int | None = None,
    watch: Watch = iter,
) -> Iterator[np.ndarray]:
    """Yield −ln p of the tokens in all_windows(), an array (B, T) a batch, dropout off."""
    with model.eval_mode(), np.errstate(all="ignore"):  # weights that blew up: training's matter
        for x, y in watch(all_windows(ids, model.config, batch_size, max_tokens)):
            logp = F.log_softmax(model(x)).data  # (B, T, V)
            targets = y.to(model.device).data[..., None]
            picked = array_module(logp).take_along_axis(logp, targets, -1)[..., 0]
            losses = to_numpy(-picked)
            del logp, picked  # (B, T, V) may be large, and the next ones need the room
            yield losses
