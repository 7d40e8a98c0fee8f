"""A training step that is recorded and replayed computes what the step itself does, bit for bit.

On the fake CuPy, which records and replays as CUDA does (fake_cupy/streams.py): a capture computes
nothing, a replay has the addresses and numbers of the capture, and memory that was freed is NaN.
"""

import contextlib
import functools
import itertools
import json
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from command import metrics_of, without_times
from fake_cupy import cuda_source, streams

import gpt_numpy.scale.graph
import gpt_numpy.scale.train
import minigrad as mg
from gpt_numpy import GPT, GPTConfig, TrainConfig
from gpt_numpy.app.memory import estimate
from gpt_numpy.app.trainer import PROFILED
from gpt_numpy.config import PRESETS
from gpt_numpy.hf.checkpoint import read_arrays
from gpt_numpy.scale.graph import FIRST, Numbers, StepGraph, why_no_graph
from gpt_numpy.scale.train import train
from gpt_numpy.train import adamw
from minigrad import Tensor, backend
from minigrad.fast.gpu.launch import sources

pytestmark = pytest.mark.slow

V = 11
IDS = np.cumsum(np.random.default_rng(0).integers(1, 3, size=2000)) % V  # one of two may come next
SHAPE = {"batch_size": 2, "block_size": 8, "workers": 1}
RUN = SHAPE | {"warmup_steps": 5, "lr": 1e-2, "log_every": 7}


def model_on(device="gpu", **options):
    mg.manual_seed(3)
    shape = {"vocab_size": V, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 16}
    return GPT(GPTConfig(**shape | {"dropout": 0.2, "bias": True} | options)).to(device)


def training(graph, steps, model=None, optimizer=None, start_step=0, **options):
    """Return (the model, its optimizer, the steps) of a run."""
    model = model or model_on()
    config = TrainConfig(**RUN | options, steps=steps, graph=graph)
    optimizer = optimizer or adamw(model, config)
    return model, optimizer, train(model, IDS, config, None, optimizer, start_step)


def state(model, optimizer):
    """Return every number that the next step depends on."""
    moments = {f"{key} {i}": x for i, s in optimizer.state_dict()["state"].items()
               for key, x in s.items()}  # fmt: skip
    return model.state_dict() | moments


def trained(graph, steps, change=lambda *_: None, **options):
    """Train, and return ([(loss, gradient norm, learning rate), ...], state).

    change(step, model, optimizer) is called after every step.
    """
    model, optimizer, results = training(graph, steps, **options)
    found = []
    for result in results:
        found.append((result.loss.item(), result.grad_norm.item(), result.lr))
        change(result.step, model, optimizer)
    return found, state(model, optimizer)


@functools.cache
def eager():
    """Return what trained() does, launch by launch, for a run of STEPS."""
    return trained(False, STEPS)


def assert_same(ours, right):
    """The losses and norms of all steps, and every number of the state, to the last bit."""
    assert ours[0] == right[0]
    assert ours[1].keys() == right[1].keys()
    for name, array in right[1].items():
        np.testing.assert_array_equal(ours[1][name], array, name)


@pytest.fixture(autouse=True)
def kernels_run_once(monkeypatch):
    """Kernels are tested elsewhere: here there are many launches."""
    monkeypatch.setattr(cuda_source, "thorough", False)


@pytest.fixture
def replays(fake_gpu):
    """Return a function that says how many graphs were launched since the last call."""
    seen = [fake_gpu.ledger.replays]

    def since():
        seen.append(fake_gpu.ledger.replays)
        return seen[-1] - seen[-2]

    return since


EAGER = FIRST + 1  # steps that are computed before the first replay; the last of them is recorded
STEPS = 16


# ---- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accumulate, precision",
    [
        (1, "tf32"),
        (2, "float32"),
        pytest.param(1, "float32", marks=pytest.mark.whole),
        pytest.param(2, "tf32", marks=pytest.mark.whole),
    ],
)
def test_a_hundred_steps_are_the_same_bits(accumulate, precision, replays):
    """With dropout, clipping, and a learning rate that changes in every step."""
    with mg.precision(precision):
        right = trained(False, 100, accumulate=accumulate)
        assert replays() == 0
        assert_same(trained(True, 100, accumulate=accumulate), right)
    assert replays() == 100 - EAGER
    losses = [loss for loss, _, _ in right[0]]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5  # it has learned


def test_a_few_steps_on_any_gpu(gpu):
    """The same bits, on the fake and on a real card."""
    assert_same(trained(True, 12), trained(False, 12))


def test_it_is_the_page_that_is_replayed(replays):
    """train.py itself, on a CPU, has the same losses but for rounding: some 1e-7 a step."""
    from gpt_numpy.train import train as page

    config = TrainConfig(**RUN, steps=12)
    right = [(r.loss.item(), r.grad_norm.item()) for r in page(model_on("cpu"), IDS, config)]
    ours = [(loss, norm) for loss, norm, _ in trained(True, 12)[0]]
    np.testing.assert_allclose(ours, right, atol=1e-5)
    assert replays() == 12 - EAGER


@pytest.mark.parametrize("dropout, n_losses", [(0.2, 9), (0.0, 1)])
def test_masks_differ_from_step_to_step(dropout, n_losses, monkeypatch, replays):
    """The same windows, and weights that move very little: losses differ by the masks alone."""
    starts = functools.partial(gpt_numpy.scale.graph.window_starts, step=1)
    for module in (gpt_numpy.scale.graph, gpt_numpy.data):
        monkeypatch.setattr(module, "window_starts", lambda *a: starts(*a[:4], row=(*a, 0)[5]))
    options = {"lr": 1e-30, "min_lr": 0, "weight_decay": 0, "model": model_on(dropout=dropout)}
    losses, _ = trained(True, EAGER + 9, **options)
    assert len({loss for loss, _, _ in losses[EAGER:]}) == n_losses
    assert replays() == 9


def test_options_of_the_optimizer_arrive(replays):
    """A learning rate, decay and betas that a program changes between steps."""

    def change(step, model, optimizer):
        optimizer.param_groups[0]["weight_decay"] = 0.1 * step
        for group in optimizer.param_groups:
            group["betas"] = (0.9 - 0.01 * step, 0.99)

    right = trained(False, STEPS, change)
    assert_same(trained(True, STEPS, change), right)
    assert replays() == STEPS - EAGER and right[0] != eager()[0]


def test_a_parameter_that_no_loss_uses(replays):
    """Its gradient is 0 in every step, and it decays."""

    def run(graph):
        model = model_on()
        unused = Tensor(np.ones((2, 2), np.float32)).to("gpu")
        unused.requires_grad = True
        model.unused = unused  # becomes a parameter
        found = trained(graph, STEPS, model=model)
        assert 0 < unused.numpy().max() < 1
        return found

    assert_same(run(True), run(False))
    assert replays() == STEPS - EAGER


def test_what_was_yielded_stays(replays):
    """Losses and norms of all steps are looked at after the last one."""
    right = [(loss, norm) for loss, norm, _ in eager()[0]]
    results = [*training(True, STEPS)[2]]
    assert [(r.loss.item(), r.grad_norm.item()) for r in results] == right
    assert replays() == STEPS - EAGER


def test_a_run_that_was_resumed_is_the_same(replays):
    """At a step that was replayed, with a model and an optimizer that are new."""
    model, optimizer, steps = training(True, STEPS)
    first = [*itertools.islice(steps, 9)]
    steps.close()
    other = model_on()
    other.load_state_dict(model.state_dict())
    restored = adamw(other, TrainConfig(**RUN))
    restored.load_state_dict(optimizer.state_dict())
    rest = trained(True, STEPS, model=other, optimizer=restored, start_step=9)
    before = [(r.loss.item(), r.grad_norm.item(), r.lr) for r in first]
    assert_same((before + rest[0], rest[1]), eager())
    assert replays() == (9 - EAGER) + (STEPS - 9 - EAGER)


def broken_at(spoiled, graph, steps, **options):
    """Return (the error, the state and found step after each step) of a run whose weights become
    infinite after step `spoiled` - 1.
    """
    model, optimizer, results = training(graph, steps, **options)
    seen = []
    with pytest.raises(FloatingPointError) as error:
        for result in results:
            if result.step == spoiled - 1:
                model.ln_f.weight.data[0] = np.inf
            seen.append((optimizer.stopped_at(), state(model, optimizer)))
    return str(error.value), seen


@pytest.mark.parametrize("spoiled", [EAGER - 1, EAGER, EAGER + 1, EAGER + 3])
def test_a_loss_that_is_not_finite_stops_the_run(spoiled, fake_gpu):
    """No later step changes a weight; the error is raised at the next step that is logged."""
    words, right = broken_at(spoiled, False, 20)
    found, ours = broken_at(spoiled, True, 20)
    assert found == words and words.startswith(f"step {spoiled}: the loss or its gradient is not")
    assert "layer_norm, forward, in ln_f: received Inf in weight" in words
    assert len(ours) == len(right) == (6 if spoiled <= 7 else 13)
    for i, ((step, mine), (right_step, theirs)) in enumerate(zip(ours, right, strict=True), 1):
        assert step == right_step == (spoiled if i >= spoiled else 0)
        for name, array in theirs.items():
            if "step" not in name:
                np.testing.assert_array_equal(mine[name], array, f"{name} after step {i}")


# ---- what is not recorded ------------------------------------------------------------------------


def test_tools_see_the_ops(replays):
    """Steps under a profiler or detect_anomaly() are computed op by op; the others are replayed."""
    model, optimizer, steps = training(True, STEPS)
    found, profiler = [], mg.Profiler()
    for n in range(1, STEPS + 1):
        context = {2: profiler, 8: profiler, 10: mg.detect_anomaly(), 12: mg.plain()}.get(n)
        with context or contextlib.nullcontext():
            result = next(steps)
        if n != 12:  # the pages round differently
            found.append((result.loss.item(), result.grad_norm.item(), result.lr))
        if n == 11:
            assert found == eager()[0][:11] and replays() == 11 - EAGER - 3
    assert replays() == 3  # the page of AdamW has made a new array, so that 13 was recorded
    assert "linear" in profiler.table() and profiler.n_runs == 2


def test_an_evaluation_does_not_disturb(replays):
    """Evaluating and sampling between steps, in which arrays are made and dropped."""

    def change(step, model, optimizer):
        gpt_numpy.train.evaluate(model, IDS[:100], 3)
        model.generate(IDS[:4].reshape(1, 4), 5, seed=step)

    assert_same(trained(True, STEPS, change), eager())
    assert replays() == STEPS - EAGER


def other_dropout(step, model, optimizer):
    if step == 8:
        model.dropout.p = 0.5


def other_data(step, model, optimizer):
    if step == 8:
        weight = model.h[0].mlp.fc.weight
        weight.data = weight.data * 2


def other_groups(step, model, optimizer):
    if step == 8:  # now both are updated as one range
        optimizer.param_groups[0]["weight_decay"] = 0.0


@pytest.mark.parametrize(
    "change, recorded",
    [(other_dropout, 2), (other_data, 1), (other_groups, 2)],
)
def test_what_a_program_changes_counts(change, recorded, monkeypatch, replays):
    """New numbers are found where the old ones were; otherwise the step is recorded again."""
    captures = []
    begin = streams.Stream.begin_capture
    monkeypatch.setattr(
        streams.Stream, "begin_capture", lambda self: captures.append(1) or begin(self)
    )
    right = trained(False, STEPS, change)
    assert_same(trained(True, STEPS, change), right)
    assert len(captures) == recorded and right[0] != eager()[0]
    assert replays() == STEPS - EAGER - (recorded - 1)


def test_another_precision_is_recorded_again(replays):
    """As it is an argument of every product."""

    def run(graph):
        model, optimizer, steps = training(graph, 14)
        found = []
        for n in range(14):
            with mg.precision("tf32" if n >= 8 else "float32"):
                result = next(steps)
            found.append((result.loss.item(), result.grad_norm.item(), result.lr))
        return found, state(model, optimizer)

    assert_same(run(True), run(False))
    assert replays() == 14 - EAGER - 1


def test_a_step_that_cannot_be_recorded_is_computed(monkeypatch, replays):
    """If CUDA refuses something: a warning, and the run goes on without a graph."""
    accumulate = gpt_numpy.scale.graph.accumulate_gradients

    def with_a_look(*arguments, **options):
        loss = accumulate(*arguments, **options)
        loss.item()
        return loss

    monkeypatch.setattr(gpt_numpy.scale.graph, "accumulate_gradients", with_a_look)
    with pytest.warns(RuntimeWarning, match="^graph: off, .*capturing, so D2H transfers are") as w:
        assert_same(trained(True, STEPS), eager())
    assert len(w) == 1 and replays() == 0


@pytest.mark.parametrize(
    "reason, config, options",
    [
        ("", {}, {}),
        ("the device is cpu", {}, {"device": "cpu"}),
        ("--no-graph", {"graph": False}, {}),
        ("several ranks share a step", {}, {"world_size": 2}),
        ("a text of 268,435,457 tokens does not stay on the GPU", {}, {"n_ids": 2**28 + 1}),
    ],
)
def test_why_there_is_no_graph(reason, config, options, fake_gpu):
    """In the words of the run's first lines."""
    arguments = {"device": "gpu", "n_ids": 2**28} | options
    assert why_no_graph(TrainConfig(**config, workers=1), **arguments) == reason
    with mg.plain():
        assert why_no_graph(TrainConfig(workers=1), "gpu", 1) == "MINIGRAD_PLAIN=1"


def test_without_cublas_there_is_no_graph(monkeypatch, fake_gpu):
    """What CuPy multiplies cannot be recorded."""
    monkeypatch.setattr(gpt_numpy.scale.graph, "why_not", lambda: "no such file")
    config = TrainConfig(workers=1)
    assert why_no_graph(config, "gpu", 1) == "cuBLAS cannot be called: no such file"


# ---- what a step costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_replayed_step_waits_for_nothing(accumulate, fake_gpu):
    """One upload, one launch, and the copies of loss and norm; no download, no waiting."""
    _, _, steps = training(True, 16, accumulate=accumulate, log_every=10**6, eval_every=10**6)
    streams._in_flight.clear()  # of other tests
    results = [*itertools.islice(steps, EAGER + 1)]
    ledger = fake_gpu.ledger
    for _ in range(16 - EAGER - 2):
        before = {**vars(ledger), "launches": ledger.launches.total()}
        results.append(next(steps))
        assert ledger.replays == before["replays"] + 1
        assert ledger.uploads == before["uploads"] + 1
        assert len(streams._in_flight) == 2  # from pinned memory: Python does not wait for it
        assert ledger.downloads == before["downloads"]
        assert ledger.synchronizations == before["synchronizations"]
        assert ledger.launches.total() == before["launches"]
        assert ledger.arrays == before["arrays"] + 2


def recorded(model, config, ids=IDS):
    """Return a StepGraph that has recorded a step."""
    graph = StepGraph(model.train(), ids, config, adamw(model, config))
    graph.n_first = FIRST
    assert graph.step(1)
    return graph


def test_the_graph_takes_no_more_memory_than_a_step(fake_gpu):
    """The recorded step has the memory of the step that was computed before it."""
    graph = recorded(model_on(), TrainConfig(**RUN))
    n_chunks = graph.pool._n_chunks
    with backend.cupy.cuda.using_allocator(graph.pool.malloc), graph.own_stream():
        del graph.results
        graph.compute(graph.optimizer.plan_step(graph.optimizer.parameters))
    assert graph.pool._n_chunks == n_chunks


# ---- what a step launches, at the size of a preset -----------------------------------------------


class NotCompiled:
    """A library of kernels that are recorded and never run."""

    def __getattr__(self, name):
        return lambda *arguments: None


def launched(monkeypatch, preset, **options):
    """Return the Nodes of a recorded step of a preset.

    Nothing is computed, and no memory is touched: a capture needs addresses and shapes alone.
    """
    monkeypatch.setattr(streams, "poisoning", False)
    monkeypatch.setattr(cuda_source, "library", lambda code, options: NotCompiled())
    config = TrainConfig(**PRESETS[preset] | options, workers=1)
    model = GPT(config.model(65)).to("gpu").train()
    graph = StepGraph(model, np.zeros(10**4, np.int32), config, adamw(model, config))
    plan = graph.optimizer.plan_step(model.parameters())
    graph.optimizer.flags()
    graph.numbers = Numbers(config.sequences_per_step, plan, np.dtype(np.float32))
    allocator = backend.cupy.cuda.MemoryPool().malloc
    with graph.own_stream(), backend.cupy.cuda.using_allocator(allocator):
        graph.stream.begin_capture()
        graph.compute(plan)
        nodes = graph.stream.end_capture()._nodes
    return [node for node in nodes if node.name != "free"]


PASSES = {"adamw": 7 / 4, "clip": 2}  # w, g, m, v in, and three of them out; g in and out


def n_bytes(nodes):
    """Return the bytes that launches read and write: each argument once, but for PASSES."""
    return sum(node.n_bytes * PASSES.get(node.name, 1) for node in nodes)


def test_a_step_of_baby_is_short(monkeypatch, fake_gpu):
    """262 launches and at most 25 GB; CuPy's own kernels are additions and small ones."""
    nodes = launched(monkeypatch, "baby")
    counts = Counter(node.name for node in nodes)
    assert len(nodes) <= 262, counts
    assert n_bytes(nodes) <= 25e9
    others = [node for node in nodes if node.name not in {*sources(), "cublas"}]
    assert {node.name for node in others} <= {"add", "assign", "arange", "astype", "sum"}
    assert counts["cublas"] == 3 * (6 * 6 + 1) and counts["add"] == 38


def test_bytes_are_counted(monkeypatch, fake_gpu):
    """By hand, for what moves the most: N tokens, C channels, L blocks."""
    nodes = launched(monkeypatch, "baby")
    N, C, L = 64 * 256, 384, 6
    unit, weights = 4 * N * C, 4 * 12 * C * C * L
    names = {node.name for node in nodes}
    found = {name: n_bytes([node for node in nodes if node.name == name]) for name in names}
    # Of every block: two for each residual connection, forward and backward, and two for the
    # gradients of q, k and v.  And the vectors of the positions, read once: 1/64 of 110 units.
    assert found["add"] == pytest.approx((6 * L * 3 + 2) * unit, rel=0.01)
    # In a block: q, k, v and proj (C, C), fc (C, 4 C), proj (4 C, C), three products each.
    products = 3 * L * (4 * 2 + 2 * 5) * unit + 3 * weights
    # And the head, three products with 65 logits: 3 (1 + 65/384) = 3.5 units of 324 and more.
    assert found["cublas"] == pytest.approx(products, rel=0.02)
    assert found["gelu_forward"] == 2 * 4 * L * unit
    # And two numbers a row, 2 / 384 of the one unit of two, which is 0.3 %, and the weights.
    assert found["layer_norm_forward"] == pytest.approx((2 * L + 1) * 2 * unit, rel=0.01)


# ---- the training command ------------------------------------------------------------------------

ON_GPU = "--device gpu --preset laptop --steps 20 --eval-every 10 --dropout 0.2 --n-embd 16".split()


def numbers_of(run):
    """Return metrics.csv without times, and every number of training_state.safetensors."""
    arrays, _ = read_arrays(run.folder / "training_state.safetensors")
    return without_times(metrics_of(run.folder)), {name: x.tolist() for name, x in arrays.items()}


def graph_of(run):
    """Return what the first lines and train_config.json say."""
    settings = json.loads((run.folder / "train_config.json").read_text(encoding="utf-8"))
    [line] = [line for line in run.lines if line.startswith("graph: ")]
    return line, settings["graph"]


def test_a_run_says_whether_it_replays(train, replays):
    """In its first lines and its settings; the numbers are the same."""
    on, off = train("on", *ON_GPU), train("off", *ON_GPU, "--no-graph")
    assert on.status == off.status == 0, on.err + off.err
    assert graph_of(on) == ("graph: on", True)
    assert graph_of(off) == ("graph: off (--no-graph)", False)
    assert numbers_of(on) == numbers_of(off)
    assert replays() == 20 - max(PROFILED) - 2  # two more before them, then one is recorded
    page = (off.folder / "report.html").read_text(encoding="utf-8")
    assert "--no-graph" in page and "--no-graph" not in (on.folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_a_run_that_goes_on_may_replay_or_not(train, stop_at, replays):
    """A line says that it changes; the last digits stay."""
    right = train("right", *ON_GPU)
    replays()
    stop_at(18, signal.SIGTERM)
    assert train("run", *ON_GPU).status == 143
    assert replays() == 18 - max(PROFILED) - 2
    run = train("run", "--resume", "--no-graph")
    assert graph_of(run) == ("graph: off (--no-graph)", False) and replays() == 0
    notes = [line.strip() for line in run.lines]
    assert "graph changes from True to False" in notes
    assert not [note for note in notes if "digits" in note]
    assert numbers_of(run) == numbers_of(right)


def test_a_run_on_a_cpu_says_nothing_of_it(train):
    """There is nothing to replay."""
    run = train("run", "--device", "cpu")
    assert run.status == 0 and not [line for line in run.lines if "graph" in line]


def test_the_memory_of_a_graph_is_counted():
    """A recorded step keeps its memory, so an evaluation needs its own."""
    config = TrainConfig(**PRESETS["baby"], workers=1)
    totals = [
        estimate(replace(config, graph=graph), 65, 1, device=device)
        for device in ("gpu", "cpu")
        for graph in (True, False)
    ]
    assert totals[0].total - totals[0].activations - totals[0].evaluation > totals[0].state
    assert totals[0].total > totals[1].total and totals[2] == totals[3]
