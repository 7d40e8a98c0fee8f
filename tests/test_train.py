"""The training loop: accumulation, evaluation, and whole runs beside PyTorch."""

import contextlib
import gc
import math
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from twin import Twin, gradients

import gpt_numpy.scale.gradients
import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig, TrainConfig
from gpt_numpy.app.inspect_model import loss_by_position
from gpt_numpy.data import random_batch, windows
from gpt_numpy.scale.gradients import accumulate_gradients
from gpt_numpy.train import adamw, evaluate, train

V = 11
IDS = np.random.default_rng(0).integers(V, size=500)


def make(**options):
    mg.manual_seed(0)
    shape = {"vocab_size": V, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 12}
    return GPT(GPTConfig(**shape | options)).to(dtype=np.float64)


def gradient(model, batches):
    """(loss, {name: gradient}) of the mean over all tokens of `batches`."""
    for p in model.parameters():
        p.grad = None
    n_tokens = sum(y.data.size for _, y in batches)
    loss = accumulate_gradients(model, batches, n_tokens, seed=5, step=7)
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (1, 2, 3), (1,) * 6, (5, 1)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulation_equals_the_large_batch(sizes, dropout):
    """Micro-batches of any sizes give the large batch's loss and gradients at 1e-12."""
    model = make(dropout=dropout)
    x, y = random_batch(IDS, 6, 8, seed=0, step=1)
    cuts = np.cumsum((0, *sizes))
    batches = [(x[a:b], y[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    loss, grads = gradient(model, batches)
    large_loss, large = gradient(model, [(x, y)])
    assert abs(loss - large_loss) < 1e-12
    for name, grad in large.items():
        assert abs(grads[name] - grad).max() <= 1e-12 * abs(grad).max() + 1e-15, name


def test_windows_of_other_lengths_count_by_their_tokens():
    """Micro-batches of 2 × 8 and 3 × 5 tokens: the mean is over all 31, as in PyTorch."""
    model = make()
    batches = [windows(IDS, [3, 40], 8), windows(IDS, [100, 7, 260], 5)]
    loss, grads = gradient(model, batches)
    twin = Twin(model.config).double()
    twin.load_ours(model.state_dict())
    rows = [
        TF.cross_entropy(
            twin(torch.from_numpy(x.numpy())).flatten(0, 1),
            torch.from_numpy(y.numpy()).flatten(),
            reduction="none",
        )
        for x, y in batches
    ]
    their_loss = torch.cat(rows).mean()
    their_loss.backward()
    assert abs(loss - their_loss.item()) < 1e-12
    for name, grad in gradients(twin).items():
        assert abs(grads[name] - grad).max() < 1e-10 * abs(grad).max() + 1e-13, name


def test_a_run_depends_on_its_seed_alone():
    """Two runs of one seed agree to the last bit, dropout on; another seed gives another run."""

    def losses(seed):
        config = TrainConfig(steps=4, batch_size=3, block_size=8, seed=seed, eval_every=1)
        model = make(dropout=0.2)
        return [result.loss.item() for result in train(model, IDS, config)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_training_does_not_depend_on_the_models_mode():
    """A model that was left in evaluation trains with dropout all the same."""
    config = TrainConfig(steps=2, batch_size=3, block_size=8)
    losses = []
    for mode in (True, False):
        model = make(dropout=0.5).train(mode)
        losses.append([result.loss.item() for result in train(model, IDS, config)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gradient_that_is_not_finite_ends_the_run(workers):
    """With the step's number and the op that began it, before the weights are touched."""
    model = make()
    mlp = model.h[1].mlp  # a hidden number of about 10²⁰⁰, which the next layer scales down again
    mlp.fc.weight.data[2], mlp.proj.weight.data[:, 2] = 1e200, 1e-200
    before = model.state_dict()
    config = TrainConfig(steps=2, batch_size=2, block_size=8, workers=workers)
    with pytest.raises(FloatingPointError) as error:
        list(train(model, IDS, config))
    message = str(error.value)
    assert message.startswith("step 1: the loss or its gradient is not finite. The weights were")
    op = "linear, backward, in h.1.mlp.proj: the square of an entry of dweight overflows float64"
    assert f"{op}\n    x        (" in message
    assert "gpt_numpy/model.py, line" in message and "self.proj(" in message and "--lr" in message
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_gradient_that_no_op_spoiled(monkeypatch):
    """Where the replay finds nothing, the rows' gradients overflowed as they were added up."""
    monkeypatch.setattr(gpt_numpy.scale.gradients, "detect_anomaly", contextlib.nullcontext)
    model = make()
    model.ln_f.weight.data[0] = np.inf
    config = TrainConfig(steps=1, batch_size=2, block_size=8)
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="no single op"):
        list(train(model, IDS, config))


@pytest.mark.parametrize("workers, dropout", [(1, 0.0), (2, 0.3)])
def test_a_run_goes_on_as_if_it_had_never_been_stopped(workers, dropout):
    """From any step: with the weights and the moments of then, to the bit, accumulation on."""
    options = {"batch_size": 2, "accumulate": 2, "block_size": 8, "warmup_steps": 3}
    config = TrainConfig(steps=7, workers=workers, grad_clip=0.5, **options)
    model = make(dropout=dropout)
    optimizer = adamw(model, config)
    saved, losses = [], []
    for result in train(model, IDS, config, optimizer=optimizer):
        saved.append((model.state_dict(), optimizer.state_dict()))
        losses.append(result.loss.item())
    for done in (1, 3, 6):
        weights, moments = saved[done - 1]
        again = make(dropout=dropout)
        again.load_state_dict(weights)
        restored = adamw(again, config)
        restored.load_state_dict(moments)
        results = list(train(again, IDS, config, optimizer=restored, start_step=done))
        assert [r.step for r in results] == [*range(done + 1, 8)]
        assert [r.loss.item() for r in results] == losses[done:]
        for name, array in again.state_dict().items():
            np.testing.assert_array_equal(array, saved[-1][0][name])
        ours, right = restored.state_dict()["state"], saved[-1][1]["state"]
        for i in right:
            np.testing.assert_array_equal(ours[i]["exp_avg_sq"], right[i]["exp_avg_sq"])
            assert ours[i]["step"] == right[i]["step"] == 7


@pytest.mark.parametrize("workers", [1, 2])
def test_a_frozen_weight_stays_as_it_is(workers):
    """No gradient, no step and no decay; the others are trained, and state_dict() has them all."""
    config = TrainConfig(steps=3, batch_size=2, block_size=8, workers=workers)
    model = make()
    model.h[0].mlp.fc.weight.requires_grad = False
    before = model.state_dict()
    list(train(model, IDS, config))
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, array in before.items():
        if not name.endswith("key.bias"):  # whose gradient is 0 but for rounding
            assert np.array_equal(after[name], array) == (name == "h.0.mlp.fc.weight"), name


def test_the_first_step_has_a_rate():
    """Steps count from 1: the first rate is lr / warmup_steps, the last min_lr."""
    config = TrainConfig(steps=5, warmup_steps=2, batch_size=2, block_size=8)
    rates = [result.lr for result in train(make(), IDS, config)]
    assert rates[0] == config.lr / 2 and max(rates) == config.lr and rates[-1] == config.min_lr


def test_it_learns():
    """Text that repeats is soon predicted: the loss falls from ln V to near 0."""
    ids = np.tile(np.arange(V), 40)
    config = TrainConfig(steps=120, warmup_steps=5, batch_size=4, block_size=8, lr=1e-2)
    losses = [result.loss.item() for result in train(make(), ids, config)]
    assert abs(losses[0] - math.log(V)) < 0.1 and losses[-1] < 0.3


@pytest.mark.parametrize("length", [2, 8, 9, 10, 100])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_evaluation_covers_the_whole_text(length, batch_size):
    """The mean over every token but the first, windows from left to right, the last one shorter."""
    model = make(dropout=0.5)
    ids = IDS[:length]
    model.eval()
    losses = []
    for i in range(0, length - 1, 8):
        x, y = ids[i : i + 8][: length - 1 - i], ids[i + 1 : i + 9]
        logp = F.log_softmax(model(x[None])).numpy()[0]
        losses += [-logp[t, target] for t, target in enumerate(y)]
    model.train()
    assert len(losses) == length - 1
    assert abs(evaluate(model, ids, batch_size) - np.mean(losses)) < 1e-12
    assert model.training and model.h[0].attn.training, "training goes on as before"


def test_a_thread_that_evaluates_changes_no_training():
    """Dropout stays on where the model is trained: every weight is the same, to the bit."""

    def trained(look):
        model, n_looks, is_over = make(dropout=0.3), 0, threading.Event()

        def watch():
            nonlocal n_looks
            while not is_over.is_set():
                look(model)
                n_looks += 1

        watcher = threading.Thread(target=watch)
        watcher.start()
        settings = {"steps": 12, "batch_size": 4, "workers": 1, "lr": 1e-2, "dropout": 0.3}
        for _ in train(model, IDS, TrainConfig(**settings, block_size=8)):
            pass
        is_over.set()
        watcher.join()
        assert n_looks > 0
        return model.state_dict()

    def look(model):
        evaluate(model, IDS[:60])
        model.generate([[1, 2]], 2, seed=0)
        loss_by_position(model, IDS[:40])

    alone, beside = trained(lambda model: None), trained(look)
    for name, array in alone.items():
        np.testing.assert_array_equal(beside[name], array, name)


def test_loss_by_position():
    """Its mean over the window is the mean over the text, where that is full windows only."""
    model = make()
    positions = loss_by_position(model, IDS[:81])
    assert positions.shape == (8,)
    assert abs(positions.mean() - evaluate(model, IDS[:81])) < 1e-12


def test_many_steps_leave_nothing():
    """What a step has made is gone after the next: a hundred steps add no objects."""
    options = {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 4, "dropout": 0.1}
    config = TrainConfig(steps=120, batch_size=2, workers=1, **options)
    steps = train(GPT(config.model(V)), IDS, config)

    def objects_after(step):
        assert any(result.step == step for result in steps)
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(20)
    assert abs(objects_after(120) - before) < 50
