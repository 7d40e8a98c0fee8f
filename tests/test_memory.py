"""The estimate of memory, compared with the memory that runs take."""

import tracemalloc

import numpy as np
import psutil
import pytest

import minigrad as mg
from gpt_numpy import GPT, GPTConfig, TrainConfig
from gpt_numpy.app import memory
from gpt_numpy.app.memory import estimate, machine_memory, n_parameters, refusal, size
from gpt_numpy.config import PRESETS
from gpt_numpy.data import eval_batch_size
from gpt_numpy.scale.gradients import gradients_of_sequences
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.train import adamw, evaluate
from minigrad.fast.arrays import CHUNK

pytestmark = pytest.mark.slow

GPT2 = TrainConfig(**PRESETS["gpt2"])
BABY = TrainConfig(**PRESETS["baby"])
SHAPES = [  # (V, settings)
    (65, {}),
    (65, {"dropout": 0.2, "bias": True}),
    (65, {"n_layer": 1, "batch_size": 40}),  # a fifth is in the last block's GELU
    (5000, {"n_layer": 2, "n_embd": 64}),  # most is for logits
    (65, {"n_layer": 2, "n_embd": 64, "block_size": 512, "batch_size": 4}),  # for probabilities
    (65, {"n_layer": 2, "n_embd": 64, "block_size": 512, "batch_size": 4, "dropout": 0.2}),
    (65, {"block_size": 16, "batch_size": 48, "accumulate": 2}),  # less than a block of queries
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [{}, {"n_layer": 3, "n_head": 3, "n_embd": 6, "block_size": 5}])
def test_parameters_are_counted(shape, bias):
    """The formula gives as many as the model has."""
    config = GPTConfig(vocab_size=11, bias=bias, **shape)
    assert n_parameters(config) == sum(p.data.size for p in GPT(config).parameters())


def test_gpt2_has_124_million():
    """With its vocabulary of 50,257."""
    assert n_parameters(GPT2.model(50257)) == 124_439_808


def peak(function, *arguments):
    """Return how many bytes NumPy and Python allocated at most during a call."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("V, settings", SHAPES)
def test_activations(V, settings):
    """One process computes a step's gradient: the estimate is within 2 %, as Python has objects."""
    config = TrainConfig(workers=1, **settings)
    mg.manual_seed(0)
    model = GPT(config.model(V)).train()
    optimizer = adamw(model, config)  # has the memory for all gradients
    assert optimizer.flat.grad.size == n_parameters(model.config)
    ids = np.random.default_rng(0).integers(V, size=10 * config.block_size)
    taken = peak(gradients_of_sequences, model, 1, 0, config.sequences_per_step, ids, config, 1)
    assert estimate(config, V, 1).activations == pytest.approx(taken, rel=0.02)


@pytest.mark.parametrize("V, settings", SHAPES)
def test_evaluation(V, settings):
    """Over several batches of rows: the estimate is within 2 %."""
    config = TrainConfig(workers=1, **settings)
    mg.manual_seed(0)
    model = GPT(config.model(V))
    ids = np.random.default_rng(0).integers(V, size=130 * config.block_size)
    taken = peak(evaluate, model, ids)
    assert estimate(config, V, 1).evaluation == pytest.approx(taken, rel=0.02)


@pytest.mark.parametrize("T, V, rows", [(64, 65, 64), (1024, 1000, 16), (1024, 50_257, 1)])
def test_evaluation_reads_fewer_rows_of_many_scores(T, V, rows):
    """64 windows, or as many as have 2²⁴ scores; one in any case."""
    assert (
        eval_batch_size(GPTConfig(vocab_size=V, block_size=T, n_layer=1, n_head=1, n_embd=1))
        == rows
    )


def test_state_is_four_vectors_and_one_more_for_each_other_process():
    """Weights, two moments and gradients, of 4 bytes a number."""
    vector = 4 * n_parameters(BABY.model(65))
    assert [estimate(BABY, 65, n).state // vector for n in (1, 2, 5)] == [4, 5, 8]


SCRATCH = 4 * memory.SCRATCH * CHUNK  # bytes of a process, beside what is in proportion to rows


def test_processes_share_a_batch():
    """Together they need what one would, but for scratch and if rows divide evenly."""
    config = TrainConfig(batch_size=12)
    one, two, five, many = (estimate(config, 65, n) for n in (1, 2, 5, 99))
    shared = one.activations - SCRATCH
    assert two.activations - 2 * SCRATCH == shared
    assert five.activations - 5 * SCRATCH == shared / 12 * 15  # three rows each
    assert many == estimate(config, 65, 12), "no more processes than rows"
    # A row of 64 tokens has fewer entries in GELU than a chunk.
    assert many.activations == shared + 12 * 4 * memory.SCRATCH * 64 * 4 * config.n_embd


def test_accumulation_costs_nothing():
    """A larger batch in the memory of a small one."""
    assert estimate(TrainConfig(accumulate=8), 65, 2) == estimate(TrainConfig(), 65, 2)


def test_total_is_what_there_is_at_the_same_time():
    """A process evaluates in the memory that training has freed; others keep theirs."""
    large, small = TrainConfig(batch_size=64), TrainConfig(batch_size=1)
    e = estimate(large, 65, 1)
    assert e.evaluation < e.activations
    assert e.total == e.state + e.activations + memory.FIRST
    e = estimate(small, 65, 1)
    assert e.evaluation > e.activations
    assert e.total == e.state + e.evaluation + memory.FIRST
    e = estimate(large, 65, 8)
    evaluating = e.activations * 7 / 8 + e.evaluation
    assert e.activations / 8 < e.evaluation
    assert e.total == e.state + evaluating + memory.FIRST + 7 * memory.OTHER


def test_vectors_are_there_twice_while_they_are_shared():
    """This is the peak of a large model with a small batch."""
    config = TrainConfig(n_embd=1024, batch_size=2, block_size=4)
    e = estimate(config, 65, 2)
    assert e.total == e.state + e.state / 5 * 4 + memory.FIRST + memory.OTHER


def test_ranks_of_one_machine_add_up():
    """Each has its own model; those on other machines only take some of the rows."""
    alone, ranks = Ranks(), Ranks()
    ranks.world_size, ranks.on_this_machine = 4, 2
    config = TrainConfig(batch_size=16)
    one, many = estimate(config, 65, 1, alone), estimate(config, 65, 1, ranks)
    assert many.state == 2 * one.state
    assert many.activations - 2 * SCRATCH == (one.activations - SCRATCH) / 2
    ranks.world_size = 17
    with pytest.raises(ValueError, match="17 ranks"):
        estimate(config, 65, 1, ranks)


def test_the_text_counts_once():
    """However many processes share it; once for each rank; a GPU does not hold it."""
    one, two = (
        estimate(BABY, 65, n, text=10**8).total - estimate(BABY, 65, n).total for n in (1, 2)
    )
    assert one == two == 10**8
    ranks = Ranks()
    ranks.world_size, ranks.on_this_machine = 4, 2
    many = [estimate(BABY, 65, 1, ranks, text=text).total for text in (0, 10**8)]
    assert many[1] - many[0] == 2 * 10**8
    assert estimate(BABY, 65, 1, device="gpu", text=10**8) == estimate(BABY, 65, 1, device="gpu")
    needed = estimate(BABY, 65, 1).total
    assert refusal(BABY, 65, 1, needed, text=10**8) and not refusal(BABY, 65, 1, needed)


def test_a_gpu_has_one_process_and_longer_blocks_of_queries():
    """--workers does not count there, and more probabilities are kept."""
    assert estimate(BABY, 65, 8, device="gpu") == estimate(BABY, 65, 1, device="gpu")
    cpu, gpu = estimate(BABY, 65, 1), estimate(BABY, 65, 1, device="gpu")
    assert gpu.state == cpu.state and gpu.activations > cpu.activations


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, 1000),
        ({"memory.max": "max\n"}, 1000),
        ({"memory.max": "400\n"}, 400),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1000),  # version 1: none
        ({"memory/memory.limit_in_bytes": "300\n"}, 300),
        ({"memory.max": "400\n", "memory/memory.limit_in_bytes": "300\n"}, 300),
    ],
)
def test_machine_memory_is_the_least_limit(files, expected, tmp_path, monkeypatch):
    """A container may have less than the machine."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"total": 1000}))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine_memory() == expected


def test_memory_of_this_machine():
    """It is more than nothing and at most what there is."""
    assert 0 < machine_memory() <= psutil.virtual_memory().total


def test_memory_of_a_gpu(fake_gpu):
    """All of it, used or not."""
    assert machine_memory("gpu") == fake_gpu.cuda.runtime.memGetInfo()[1]


def test_what_fits_is_not_refused():
    """Exactly, to the byte."""
    total = estimate(BABY, 65, 2).total
    assert refusal(BABY, 65, 2, total) is None
    assert refusal(BABY, 65, 2, total - 1) is not None


@pytest.mark.parametrize(
    "config, n_workers, gigabytes, flags",
    [
        # Activations: all of these are factors of their size.
        (BABY, 1, 2, "--batch-size (and raise --accumulate as much), --block-size, "
                     "--n-layer or --n-embd"),
        # The vectors, whose size does not depend on rows.
        (TrainConfig(n_layer=48, n_embd=1600), 1, 12, "--n-layer or --n-embd"),
        # As many gradients as processes.
        (TrainConfig(n_layer=48, n_embd=1600, batch_size=16), 16, 60,
         "--workers, --n-layer or --n-embd"),
        # T × T probabilities of 16 heads.
        (TrainConfig(n_embd=16, n_head=16, block_size=4096), 1, 4, "--block-size"),
        # No flag is enough by itself.
        (TrainConfig(n_layer=96, n_embd=12288, block_size=2048, n_head=96), 1, 1,
         "--batch-size (and raise --accumulate as much), --workers, --block-size, --n-layer and "
         "--n-embd"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_would_help(config, n_workers, gigabytes, flags):
    """It names every flag that is enough by itself, or all of them if none is."""
    text = refusal(config, 65, n_workers, gigabytes * 10**9)
    needed = size(estimate(config, 65, n_workers).total)
    assert (
        text == f"this run needs about {needed} and the machine has {gigabytes} GB: lower {flags}"
    )


def test_a_gpu_is_called_one():
    """The refusal says GPU, and does not name --workers."""
    text = refusal(BABY, 65, 1, 10**9, device="gpu")
    assert "and the GPU has 1 GB: lower --" in text and "--workers" not in text


@pytest.mark.parametrize("name", memory.LEVERS)
def test_lowered_settings_are_valid(name):
    """n_embd stays a multiple of n_head, and a step reads no fewer rows."""
    config = TrainConfig(n_head=3, n_embd=39, batch_size=12, accumulate=3, n_layer=1, workers=2)
    lower = memory.lowered(config, name)
    assert getattr(lower, name) <= getattr(config, name)
    assert lower.sequences_per_step >= config.sequences_per_step


@pytest.mark.parametrize(
    "n, text",
    [
        (0, "0 bytes"),
        (112_000_000, "112 MB"),
        (1_100_000_000, "1.1 GB"),
        (23.5e9, "23.5 GB"),
        (38_000_000_000, "38 GB"),
        (999_400_000, "999 MB"),
        (999_600_000, "1 GB"),
        (5e12, "5 TB"),
    ],
)
def test_size(n, text):
    """Three digits, and decimal units."""
    assert size(n) == text
