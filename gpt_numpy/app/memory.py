"""Estimate how much memory a run will need, before it starts.

It needs memory for the weights, gradients and moments; for what the forward pass of a step keeps
until the backward pass; for evaluation, which keeps nothing but reads many sequences at once; and
for sampling.  Numbers are float32, 4 bytes each.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil

from gpt_numpy.config import GPTConfig, TrainConfig
from gpt_numpy.data import eval_batch_size
from gpt_numpy.scale.ranks import Ranks
from minigrad.backend import CPU, GPU
from minigrad.fast.arrays import CHUNK
from minigrad.fast.cpu import attention as cpu_attention
from minigrad.fast.gpu import attention as gpu_attention
from minigrad.internals.gpu import init_gpu

BLOCK = {CPU: cpu_attention.BLOCK, GPU: gpu_attention.BLOCK}  # queries that attention takes at once
KEPT = {  # what a block of the model keeps of each token until its backward, in units of C numbers
    "x̂ and out of both layer norms": 4,
    "q, k, v, q / √D and out of attention": 5,
    "out and the derivative of GELU, each of 4 C": 8,
}
MASKS = 2  # masks of dropout after attention and after the MLP, C integers each
# In the last block's GELU there are also its input, of 4 C numbers, and the residual stream before
# and after attention.
UNDER_WAY = 6
SCRATCH = 2  # arrays that GELU computes with: of a chunk on a CPU, of all its entries on a GPU
# Bytes of Python, the libraries and the figure, in the first process; and of each other,
# which shares the pages of the libraries: measured as in benchmarks/memory.py, on
# train_shakespeare.py with a model of next to no weights.
FIRST, OTHER = 110_000_000, 42_000_000
CGROUP = Path("/sys/fs/cgroup")  # where Linux keeps the limits of a container
LEVERS = {  # settings that save memory, and their flags; those that change the run least come first
    "batch_size": "--batch-size (and raise --accumulate as much)",
    "workers": "--workers",
    "block_size": "--block-size",
    "n_layer": "--n-layer",
    "n_embd": "--n-embd",
}


class Estimate(NamedTuple):
    """Bytes at most, of all processes on this machine together."""

    state: int  # weights, Adam's two moments, and a gradient vector for every process
    activations: int  # what the forward of a micro-batch keeps, in all processes
    evaluation: int  # what an evaluation holds, in the first process
    total: int


def n_parameters(config: GPTConfig) -> int:
    """Return how many numbers a GPT learns.  The output layer reuses the token embedding matrix."""
    C, L = config.n_embd, config.n_layer
    matrices = 4 * C * C + 8 * C * C  # q, k, v and proj of attention; the MLP's two
    norms = 2 * C
    biases = config.bias * (2 + 4 + 5) * C  # of norms, attention and MLP
    rows = config.vocab_size + config.block_size
    return rows * C + L * (matrices + norms + biases) + (1 + config.bias) * C


def numbers_per_token(config: GPTConfig, device: str = CPU) -> tuple[int, int]:
    """Return how many numbers each token takes at most, without SCRATCH: (training, evaluation)."""
    T, C, H, V = config.block_size, config.n_embd, config.n_head, config.vocab_size
    # Of the T × T probabilities of a head those to the end of a query's block: about a half.
    seen = H * min(T, (T + BLOCK[device]) // 2)
    block = sum(KEPT.values()) * C + seen
    if config.dropout:
        # In attention the mask is a float32 for every pair of tokens; its product with P is causal.
        block += MASKS * C + H * T + seen
    # At the loss there are three arrays of the logits' size, in the forward pass (logits, shifted
    # logits, p) and in the backward pass (p, dlogits, their difference), and the last norm's x̂ and
    # out.  These are freed before the backward pass comes to the last block.
    training = config.n_layer * block + max(2 * C + 3 * V, UNDER_WAY * C)
    if config.dropout:
        training += C
    # One block at a time: in its MLP, or in its attention.  At the end log-softmax has three arrays
    # of the logits' size.
    evaluation = max(15 * C, 8 * C + seen, 3 * V)
    return training, evaluation


def scratch(config: GPTConfig, n_tokens: int, device: str = CPU) -> int:
    """Return how many numbers GELU uses while it computes on so many tokens."""
    entries = 4 * config.n_embd * n_tokens
    return SCRATCH * (min(CHUNK, entries) if device == CPU else entries)


def estimate(
    config: TrainConfig,
    vocab_size: int,
    n_workers: int,
    ranks: Ranks | None = None,
    device: str = CPU,
    text: int = 0,
) -> Estimate:
    """Return the memory that train() and evaluate() take, within some 15 %; unmeasured on a GPU.

    n_workers   how many processes share this rank's sequences; on a GPU always 1
    text        bytes of the text and its ids, which all processes of a rank share

    Raises ValueError if there are fewer sequences than ranks, as the run would.
    """
    ranks = ranks or Ranks()
    n_workers = n_workers if device == CPU else 1
    first, stop = ranks.sequences(config.sequences_per_step)
    n = min(n_workers, stop - first)
    rows = math.ceil(config.batch_size / (ranks.world_size * n_workers))  # of one process
    model = config.model(vocab_size)
    vector = 4 * n_parameters(model)
    training, evaluation = (
        4 * (n_tokens * per_token + scratch(model, n_tokens, device))
        for n_tokens, per_token in zip(
            (config.block_size * rows, config.block_size * eval_batch_size(model)),
            numbers_per_token(model, device),
            strict=True,
        )
    )
    here = ranks.on_this_machine if device == CPU else ranks.on_this_gpu
    state, activations = here * (3 + n) * vector, here * n * training
    # To sample, a model copies its weights, and the token embeddings twice.
    sampling = vector + 4 * model.vocab_size * model.n_embd
    # A process keeps the memory that it has freed, so the first process evaluates in the memory
    # that it trained in.  And before there are activations, there are two copies of the vectors,
    # while they are copied to shared memory.
    aside = max(evaluation, sampling)
    if device == CPU or not config.graph:  # a recorded step gives nothing of its memory away
        aside = max(0, aside - training)
    peak = max(activations + aside, (n > 1) * here * 4 * vector)
    processes = here * (FIRST + (n - 1) * OTHER + text * (device == CPU))
    return Estimate(state, activations, evaluation, state + peak + processes)


def memory_in_use(process: psutil.Process | None = None) -> int:
    """Return how many bytes a process (by default this one) and its children use now.

    On Linux, a page that several of them share counts once.
    """
    total = 0
    process = process or psutil.Process()
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            info = each.memory_full_info()
            total += getattr(info, "pss", info.uss)
    return total


def machine_memory(device: str = CPU) -> int:
    """Return how many bytes there are: of the machine, of its container if less, or of the GPU."""
    if device == GPU:
        return init_gpu().cuda.runtime.memGetInfo()[1]
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of cgroups version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            limits.append(int((CGROUP / name).read_text()))
    return min(limits)


def refusal(
    config: TrainConfig,
    vocab_size: int,
    n_workers: int,
    memory: int,
    ranks: Ranks | None = None,
    device: str = CPU,
    levers: Iterable[str] = tuple(LEVERS),
    text: int = 0,
) -> str | None:
    """Return None if the run fits into `memory` bytes, else one line: why not, and what to lower.

    The line names every lever that would be enough if lowered to an eighth, or all if none is.
    """

    def need(settings):
        return estimate(settings, vocab_size, settings.workers, ranks, device, text).total

    config = replace(config, workers=n_workers)
    if need(config) <= memory:
        return None
    helpful = [name for name in levers if need(lowered(config, name)) <= memory]
    *others, last = [LEVERS[name] for name in helpful or levers]
    flags = f"{', '.join(others)} {'or' if helpful else 'and'} {last}" if others else last
    needed, there, whose = size(need(config)), size(memory), "GPU" if device == GPU else "machine"
    return f"this run needs about {needed} and the {whose} has {there}: lower {flags}"


def lowered(config: TrainConfig, name: str) -> TrainConfig:
    """Return the config with an eighth of a setting, or its minimum; a step keeps its sequences."""
    unit = config.n_head if name == "n_embd" else 1
    value = unit * max(1, getattr(config, name) // unit // 8)
    changes = {name: value}
    if name == "batch_size":
        changes["accumulate"] = math.ceil(config.sequences_per_step / value)
    return replace(config, **changes)


def size(n_bytes: float) -> str:
    """Return bytes in words: 112 MB, 1.1 GB, 38 GB; a GB is 10⁹ bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
