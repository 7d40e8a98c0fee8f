"""The whole GPT against its PyTorch twin: logits, loss and the gradient of every parameter."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from twin import Twin, gradients

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig

V, B = 17, 3


def make(**options):
    mg.manual_seed(0)
    shape = {"vocab_size": V, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
    return GPT(GPTConfig(**shape | options))


def relative_error(ours, theirs):
    """The largest difference, relative to the largest entry."""
    return abs(ours - theirs).max() / abs(theirs).max()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("T", [6, 1])
@pytest.mark.parametrize("shape", [{}, {"n_layer": 1, "n_head": 1}, {"n_layer": 3, "n_head": 4}])
def test_gpt_equals_the_pytorch_twin(bias, T, shape):
    """Float64, dropout off: logits, loss and the gradient of every parameter agree to 1e-9."""
    model = make(bias=bias, **shape).to(dtype=np.float64)
    rng = np.random.default_rng(1)
    for p in model.parameters():  # far from the initial zeros and ones, where mistakes could hide
        p.data += 0.3 * rng.standard_normal(p.shape)
    twin = Twin(model.config).double()
    twin.load_ours(model.state_dict())
    x, y = rng.integers(V, size=(2, B, T))

    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    their_logits = twin(torch.from_numpy(x))
    their_loss = TF.cross_entropy(their_logits.view(-1, V), torch.from_numpy(y).view(-1))
    their_loss.backward()

    assert relative_error(logits.numpy(), their_logits.detach().numpy()) < 1e-9
    assert abs(loss.item() - their_loss.item()) < 1e-9
    theirs = gradients(twin)
    ours = {name: p.grad for name, p in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    # One token attends to itself alone, whatever it asks: then query and key cannot learn.
    idle = ("query", "key") if T == 1 else ("key.bias",)
    for name, grad in theirs.items():
        if any(part in name for part in idle):
            assert max(abs(ours[name]).max(), abs(grad).max()) < 1e-12, name
        else:
            assert abs(grad).max() > 1e-6, f"{name} has no gradient, which checks nothing"
            assert relative_error(ours[name], grad) < 1e-9, name


def test_the_head_is_tied():
    """One array is the table of tokens and the head, and it receives both gradients."""
    model = make(bias=False).to(dtype=np.float64)
    names = [name for name, _ in model.named_parameters()]
    assert sum("wte" in name for name in names) == 1 and not any("head" in n for n in names)
    x = np.array([[1, 2, 3]])
    F.cross_entropy(model(x), np.array([[2, 3, 4]])).backward()
    grad = model.wte.weight.grad
    assert abs(grad[16]).max() > 0, "a token that did not occur learns as a possible answer"
    assert abs(grad[1]).max() > abs(grad[16]).max(), "one that came in learns as a question too"


def test_no_position_sees_a_later_one():
    """Changing the tokens after a position leaves its scores as they were, to the last bit."""
    model = make()
    ids = np.random.default_rng(0).integers(V, size=(1, 6))
    other = ids.copy()
    other[:, 3:] = (other[:, 3:] + 1) % V
    before, after = model(ids).numpy(), model(other).numpy()
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert abs(before[:, 3:] - after[:, 3:]).max() > 1e-6


def test_initial_weights_are_gpt2s():
    """Deviation 0.02, 1/√(2·n_layer) of it for the residual projections; norms 1, biases 0."""
    model = make(n_embd=64, n_layer=8, bias=True, vocab_size=100)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 0.02 / math.sqrt(16) if name.endswith("proj.weight") else 0.02
            spread = 4 * std / math.sqrt(2 * p.data.size)  # four standard errors of a deviation
            assert abs(p.data.std() - std) < spread, name
        else:
            assert (p.data == (1 if name.endswith("weight") else 0)).all(), name


def test_an_untrained_model_guesses():
    """At first every token is about equally likely: the loss is ln V, within a hundredth."""
    model = make(vocab_size=65)
    ids = np.random.default_rng(0).integers(65, size=(64, 6))
    assert abs(F.cross_entropy(model(ids), ids[::-1]).item() - math.log(65)) < 0.01


def test_the_seed_decides_the_weights():
    """The same seed gives the same weights, another seed others."""
    a, b = make(), make()
    mg.manual_seed(1)
    c = GPT(a.config)
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert (p.data == q.data).all()
        assert p.ndim == 1 or (p.data != r.data).any()


def test_dropout_falls_in_training_only():
    """Training draws new masks each time, evaluation none."""
    model = make(dropout=0.5)
    ids = np.arange(6)[None]
    assert (model(ids).numpy() != model(ids).numpy()).any()
    model.eval()
    np.testing.assert_array_equal(model(ids).numpy(), model(ids).numpy())


def test_decay_groups():
    """Matrices decay; norms and biases do not; every parameter stands in one group."""
    model = make(bias=True)
    decay, rest = model.parameter_groups(0.1)
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0
    assert {p.ndim for p in decay["params"]} == {2} and {p.ndim for p in rest["params"]} == {1}
    assert len(decay["params"]) + len(rest["params"]) == len(model.parameters())


@pytest.mark.parametrize(
    "ids, part",
    [
        (np.zeros((1, 7), int), "block_size 6"),
        (np.zeros(3, int), "(3,)"),
        (np.array([[V]]), "0 to 16"),
        (np.array([[-1]]), "0 to 16"),
    ],
)
def test_bad_ids_are_refused(ids, part):
    """Too long a row, no batch axis, or an id outside the vocabulary: one line that says so."""
    with pytest.raises(ValueError) as caught:
        make()(ids)
    assert part in str(caught.value) and "\n" not in str(caught.value)
