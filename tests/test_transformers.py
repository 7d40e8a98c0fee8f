"""A GPT-2 that others wrote, `transformers`' GPT2LMHeadModel, computes what ours computes.

tests/twin.py is PyTorch, but ours: a mistake in what we think a GPT is would be in both.  Weights
go from one to the other through files on disk, so that the layout of these is tested as well.
"""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import minigrad as mg
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.checkpoint import to_hugging_face

SHAPES = [  # n_layer, n_head, n_embd, vocab_size, block_size, B, T
    (1, 1, 4, 7, 3, 2, 3),
    (2, 2, 6, 11, 8, 3, 5),
    (3, 4, 20, 31, 16, 2, 16),
    (2, 3, 12, 600, 9, 4, 1),
    (1, 8, 16, 65, 64, 1, 40),
]


def shake(parameters):
    """Random weights, far from the zeros and ones that a model starts with."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def check(ours, theirs, shape):
    """Logits and the gradient of every parameter at 1e-9, relative to the largest entry."""
    *_, V, _, B, T = shape
    rng = np.random.default_rng(0)
    ids, dout = rng.integers(V, size=(B, T)), rng.standard_normal((B, T, V))
    their_logits, logits = theirs(torch.from_numpy(ids)).logits, ours(ids)
    assert logits.dtype == np.float64
    logits.backward(dout)
    their_logits.backward(torch.from_numpy(dout))
    reference = their_logits.detach().numpy()
    assert abs(logits.data - reference).max() <= 1e-9 * abs(reference).max()

    gradients = to_hugging_face(ours.config, {n: p.grad for n, p in ours.named_parameters()})
    for name, p in theirs.named_parameters():
        size = abs(p.grad).max().item()
        assert size > 1e-3, f"{name} has no gradient, which checks nothing"
        if ours.config.bias or not name.endswith("bias"):
            assert abs(gradients[name] - p.grad.numpy()).max() <= 1e-9 * size, name


@pytest.mark.parametrize("shape", SHAPES)
def test_we_compute_what_gpt2_computes(shape, tmp_path):
    """Their model, saved by them and loaded by us."""
    n_layer, n_head, n_embd, vocab_size, n_positions, _, _ = shape
    config = GPT2Config(
        n_layer=n_layer, n_head=n_head, n_embd=n_embd, vocab_size=vocab_size,
        n_positions=n_positions, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).double().eval()
    shake(theirs.parameters())
    theirs.save_pretrained(tmp_path)
    check(GPT.from_pretrained(tmp_path).eval(), theirs, shape)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gpt2_computes_what_we_compute(shape, bias, tmp_path):
    """Our model, saved by us and loaded by them."""
    n_layer, n_head, n_embd, vocab_size, block_size, _, _ = shape
    mg.manual_seed(1)
    ours = GPT(
        GPTConfig(
            n_layer=n_layer, n_head=n_head, n_embd=n_embd, vocab_size=vocab_size,
            block_size=block_size, bias=bias,
        )
    ).to(dtype=np.float64)  # fmt: skip
    shake(torch.from_numpy(p.data) for p in ours.parameters())
    ours.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    check(ours, theirs, shape)


def test_a_difference_is_noticed(tmp_path):
    """One weight of hundreds that is off by 10⁻⁶ of its size."""
    config = GPTConfig(n_layer=1, n_head=1, n_embd=4, vocab_size=7, block_size=3)
    ours = GPT(config).to(dtype=np.float64)
    shake(torch.from_numpy(p.data) for p in ours.parameters())
    ours.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    ours.h[0].attn.value.weight.data[1, 2] *= 1 + 1e-6
    with pytest.raises(AssertionError):
        check(ours, theirs, SHAPES[0])
