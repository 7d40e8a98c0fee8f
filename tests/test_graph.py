"""A training step that is recorded and replayed computes what the step itself computes, bit for bit.

On the fake CuPy, which records and replays as CUDA does (fake_cupy/streams.py): a capture computes
nothing, a replay has the addresses and numbers of the capture, and memory that was freed is NaN.
"""

import contextlib
import itertools
import re
from functools import partial

import numpy as np
import pytest
from fake_cupy import cuda_source, streams

import gpt_numpy.scale.graph
import gpt_numpy.scale.train
import minigrad as mg
from gpt_numpy import GPT, GPTConfig, TrainConfig
from gpt_numpy.config import PRESETS
from gpt_numpy.scale.graph import FIRST, StepGraph, why_no_graph
from gpt_numpy.scale.train import train
from gpt_numpy.train import adamw
from minigrad import backend

V = 11
IDS = np.cumsum(np.random.default_rng(0).integers(1, 3, size=2000)) % V  # one of two may come next
RUN = {
    "batch_size": 2,
    "block_size": 8,
    "warmup_steps": 5,
    "workers": 1,
    "lr": 1e-2,
    "log_every": 7,
}


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


# ---- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_hundred_steps_are_the_same_bits(accumulate, precision, replays):
    """With dropout, clipping, and a learning rate that changes in every step."""
    with mg.precision(precision):
        right = trained(False, 100, accumulate=accumulate)
        assert replays() == 0
        assert_same(trained(True, 100, accumulate=accumulate), right)
    assert replays() == 100 - EAGER
    losses = [loss for loss, _, _ in right[0]]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5  # it has learned


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
    """The same windows, and weights that hardly move: losses differ by the masks alone."""
    starts = partial(gpt_numpy.scale.graph.window_starts, step=1)
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

    right = trained(False, 12, change)
    assert_same(trained(True, 12, change), right)
    assert replays() == 12 - EAGER and right[0] != trained(False, 12)[0]


def test_what_was_yielded_stays(replays):
    """Losses and norms of all steps are looked at after the last one."""
    right = [(loss, norm) for loss, norm, _ in trained(False, 12)[0]]
    results = [*training(True, 12)[2]]
    assert [(r.loss.item(), r.grad_norm.item()) for r in results] == right
    assert replays() == 12 - EAGER


def test_a_run_that_was_resumed_is_the_same(replays):
    """At a step that was replayed, with a model and an optimizer that are made anew."""
    right = trained(False, 16)
    model, optimizer, steps = training(True, 16)
    first = [*itertools.islice(steps, 9)]
    steps.close()
    other = model_on()
    other.load_state_dict(model.state_dict())
    restored = adamw(other, TrainConfig(**RUN))
    restored.load_state_dict(optimizer.state_dict())
    rest = trained(True, 16, model=other, optimizer=restored, start_step=9)
    before = [(r.loss.item(), r.grad_norm.item(), r.lr) for r in first]
    assert_same((before + rest[0], rest[1]), right)
    assert replays() == (9 - EAGER) + (7 - EAGER)


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
    assert "layer_norm was given Inf going forward, in ln_f: it is in weight" in words
    assert len(ours) == len(right) == (6 if spoiled <= 7 else 13)
    for i, ((step, mine), (right_step, theirs)) in enumerate(zip(ours, right, strict=True), 1):
        assert step == right_step == (spoiled if i >= spoiled else 0)
        for name, array in theirs.items():
            if "step" not in name:
                np.testing.assert_array_equal(mine[name], array, f"{name} after step {i}")


# ---- what is not recorded ------------------------------------------------------------------------


def test_tools_see_the_ops(replays):
    """Steps under a profiler or detect_anomaly() are computed op by op; the others are replayed."""
    right = trained(False, 16)
    model, optimizer, steps = training(True, 16)
    found, profiler = [], mg.Profiler()
    for n in range(1, 17):
        context = {2: profiler, 8: profiler, 10: mg.detect_anomaly(), 12: mg.plain()}.get(n)
        with context or contextlib.nullcontext():
            result = next(steps)
        if n != 12:  # the pages round differently
            found.append((result.loss.item(), result.grad_norm.item(), result.lr))
        if n == 11:
            assert found == right[0][:11] and replays() == 11 - EAGER - 3
    assert replays() == 3  # the page of AdamW has made a new array, so that 13 was recorded
    assert "linear" in profiler.report() and profiler.n_runs == 2


def test_an_evaluation_does_not_disturb(replays):
    """Evaluating and sampling between steps, in which arrays are made and dropped."""
    right = trained(False, 12)

    def change(step, model, optimizer):
        gpt_numpy.train.evaluate(model, IDS[:100], 3)
        model.generate(IDS[:4].reshape(1, 4), 5, seed=step)

    assert_same(trained(True, 12, change), right)
    assert replays() == 12 - EAGER


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
    right = trained(False, 14, change)
    assert_same(trained(True, 14, change), right)
    assert len(captures) == recorded and right[0] != trained(False, 14)[0]
    assert replays() == 14 - EAGER - (recorded - 1)


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
    right = trained(False, 10)
    accumulate = gpt_numpy.scale.graph.accumulate_gradients

    def with_a_look(*arguments):
        loss = accumulate(*arguments)
        loss.item()
        return loss

    monkeypatch.setattr(gpt_numpy.scale.graph, "accumulate_gradients", with_a_look)
    with pytest.warns(RuntimeWarning, match="^graph: off, .*capturing, so D2H transfers are") as w:
        assert_same(trained(True, 10), right)
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
def test_why_there_is_no_graph(reason, config, options):
    """In the words of the run's first lines."""
    arguments = {"device": "gpu", "n_ids": 2**28} | options
    assert why_no_graph(TrainConfig(**config, workers=1), **arguments) == reason
    with mg.plain():
        assert why_no_graph(TrainConfig(workers=1), "gpu", 1) == "MINIGRAD_PLAIN=1"


# ---- what a step costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_replayed_step_waits_for_nothing(accumulate, fake_gpu):
    """One upload, one launch, and the copies of loss and norm; no download, no waiting."""
    _, _, steps = training(True, 16, accumulate=accumulate, log_every=10**6, eval_every=10**6)
    results = [*itertools.islice(steps, EAGER)]
    ledger = fake_gpu.ledger
    for _ in range(16 - EAGER - 1):
        before = {**vars(ledger), "launches": ledger.launches.total()}
        results.append(next(steps))
        assert ledger.replays == before["replays"] + 1
        assert ledger.uploads == before["uploads"] + 1
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


OURS = re.compile(
    r"cublas|[a-z0-9]+_(forward|backward.*)|column_sum_.*|square_sums|clip|adamw|windows"
)
