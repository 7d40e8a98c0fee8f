"""How much memory a run will need, told before it starts.

The weights and what goes with them, what a step's forward keeps for its backward; evaluation, which
keeps nothing but reads many rows at once; and speaking.  Numbers are float32, 4 bytes each.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil

import minigrad.device
from gpt_numpy.config import GPTConfig, TrainConfig
from gpt_numpy.ranks import Ranks
from gpt_numpy.train import rows_at_once
from minigrad.device import CPU, GPU
from minigrad.ops.attention import BLOCK

KEPT = {  # what a block keeps of each token until its backward, in vectors of C numbers
    "x̂ and out of both layer norms": 4,
    "q, k, v, q / √D and out of attention": 5,
    "x, slope and out of GELU, each of 4 C": 12,
}
MASKS = 2  # those of dropout after attention and after the MLP, likewise
UNDER_WAY = 5  # gradients that backward holds in the last block's MLP, less what it has freed there
# Bytes of Python, the libraries, the text and the figure, in the first process; and of each other,
# which shares the libraries' pages: measured as in benchmarks/memory.py, on train_shakespeare.py
# with a model of next to no weights.
FIRST, OTHER = 110_000_000, 42_000_000
CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use
LEVERS = {  # settings that save memory, and their flags; what changes the run least comes first
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
    """How many numbers a GPT learns.  The head is tied: its weights are the tokens' vectors."""
    C, L = config.n_embd, config.n_layer
    matrices = 4 * C * C + 8 * C * C  # q, k, v and proj of attention; the MLP's two
    norms = 2 * C
    biases = config.bias * (2 + 4 + 5) * C  # of norms, attention and MLP
    rows = config.vocab_size + config.block_size
    return rows * C + L * (matrices + norms + biases) + (1 + config.bias) * C


def numbers_per_token(config: GPTConfig, device: str = CPU) -> tuple[int, int]:
    """How many numbers each token takes at most: (in training, in evaluation)."""
    T, C, H, V = config.block_size, config.n_embd, config.n_head, config.vocab_size
    # Of the T × T probabilities of a head those to the end of a query's block: about a half.
    seen = H * min(T, (T + BLOCK[device]) // 2)
    block = sum(KEPT.values()) * C + seen
    if config.dropout:
        block += MASKS * C + H * T + seen  # attention's mask is whole, its dropped copy is not
    # Cross-entropy's p, the gradient of the logits and a product on its way there, beside the last
    # norm's x̂ and out; these are gone before the last block's backward starts.
    training = config.n_layer * block + max(2 * C + 3 * V, UNDER_WAY * C)
    if config.dropout:
        training += C
    # One block at a time: in its MLP, or in its attention.  At the end log-softmax has three arrays
    # of the logits' size.
    evaluation = max(15 * C, 8 * C + seen, 3 * V)
    return training, evaluation


def estimate(
    config: TrainConfig,
    vocab_size: int,
    n_workers: int,
    ranks: Ranks | None = None,
    device: str = CPU,
) -> Estimate:
    """The memory that train() and evaluate() take, within some 15 %; on a GPU this is untried.

    n_workers   how many processes share this rank's rows; a GPU has one, whatever it says
    Raises ValueError if there are fewer rows than ranks, as the run would.
    """
    ranks = ranks or Ranks()
    n_workers = n_workers if device == CPU else 1
    first, stop = ranks.rows(config.rows_per_step)
    n = min(n_workers, stop - first)
    rows = math.ceil(config.batch_size / (ranks.size * n_workers))  # of one process
    model = config.model(vocab_size)
    vector = 4 * n_parameters(model)
    training, evaluation = (4 * config.block_size * x for x in numbers_per_token(model, device))
    training, evaluation = rows * training, rows_at_once(model) * evaluation
    here = ranks.on_this_machine
    state, activations = here * (3 + n) * vector, here * n * training
    # To speak, a model copies its weights, and the tokens' vectors twice.
    speaking = vector + 4 * model.vocab_size * model.n_embd
    # A process keeps what it has freed, so the first evaluates in what it trained in; and before
    # there are activations, the vectors that are copied to shared memory are there twice.
    aside = max(evaluation, speaking)
    peak = max(activations + max(0, aside - training), (n > 1) * here * 4 * vector)
    return Estimate(state, activations, evaluation, state + peak + here * (FIRST + (n - 1) * OTHER))


def held(process: psutil.Process | None = None) -> int:
    """How many bytes a process (this one, if none is given) and its children hold now.

    Where the system tells (Linux), a page that several of them share counts once.
    """
    total = 0
    process = process or psutil.Process()
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            info = each.memory_full_info()
            total += getattr(info, "pss", info.uss)
    return total


def machine_memory(device: str = CPU) -> int:
    """How many bytes this process may use: the machine's, or fewer in a container; or the GPU's."""
    if device == GPU:
        return minigrad.device.cupy.cuda.runtime.memGetInfo()[1]
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
) -> str | None:
    """None if the run fits into `memory` bytes, else one line: why not, and what to turn down.

    Of the levers that may be moved it names every one an eighth of which would do alone; if there
    is none, all of them.
    """

    def need(settings):
        return estimate(settings, vocab_size, settings.workers, ranks, device).total

    config = replace(config, workers=n_workers)
    if need(config) <= memory:
        return None
    helpful = [name for name in levers if need(lowered(config, name)) <= memory]
    *others, last = [LEVERS[name] for name in helpful or levers]
    flags = f"{', '.join(others)} {'or' if helpful else 'and'} {last}" if others else last
    needed, there, whose = size(need(config)), size(memory), "GPU" if device == GPU else "machine"
    return f"this run needs about {needed} and the {whose} has {there}: lower {flags}"


def lowered(config: TrainConfig, name: str) -> TrainConfig:
    """The config with an eighth of that setting, or the least there is; as many rows in a step."""
    unit = config.n_head if name == "n_embd" else 1
    value = unit * max(1, getattr(config, name) // unit // 8)
    changes = {name: value}
    if name == "batch_size":
        changes["accumulate"] = math.ceil(config.rows_per_step / value)
    return replace(config, **changes)


def size(n_bytes: float) -> str:
    """Bytes in words: 112 MB, 1.1 GB, 38 GB; a GB is 10⁹ bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
