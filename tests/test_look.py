"""Attention maps and surprisal agree with what the model computes."""

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.app.inspect_model import attention_maps, surprise
from gpt_numpy.model import Attention


def model_of(bias=True, dropout=0.0, block_size=9):
    """Return a model in float64, two layers of three heads, with large random weights."""
    mg.manual_seed(3)
    config = GPTConfig(
        vocab_size=11, block_size=block_size, n_layer=2, n_head=3, n_embd=12, bias=bias,
        dropout=dropout,
    )  # fmt: skip
    model = GPT(config).to(dtype=np.float64)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data += rng.standard_normal(p.shape) * 0.5
    return model


IDS = np.random.default_rng(1).integers(11, size=60)


@pytest.mark.parametrize("bias", [True, False])
def test_heads_look_where_those_of_transformers_look(bias, tmp_path):
    """Every weight of every head agrees to 1e-12."""
    model = model_of(bias)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").double()
    import torch

    expected = theirs(torch.from_numpy(IDS[None, :7]), output_attentions=True).attentions
    maps = attention_maps(model, IDS[:7])
    assert maps.shape == (2, 3, 7, 7)
    for ours, layer in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, layer[0].detach().numpy(), rtol=0, atol=1e-12)


def test_the_maps_are_those_that_the_model_uses(monkeypatch):
    """P v is the output of F.attention in each layer; dropout is off, and on again afterwards."""
    model, seen = model_of(dropout=0.5).train(), []

    def attention(q, k, v, **options):
        out = fused(q, k, v, **options)
        seen.append((v.data, out.data))
        return out

    fused = F.attention
    monkeypatch.setattr(F, "attention", attention)
    maps = attention_maps(model, IDS[:9])
    for p, (v, out) in zip(maps, seen, strict=True):
        np.testing.assert_allclose(p @ v[0], out[0], rtol=0, atol=1e-12)
    assert all(m.training for m in dict(model.named_modules()).values() if isinstance(m, Attention))


@pytest.mark.parametrize("n", [1, 2, 5, 9, 10, 14, 17, 40])
@pytest.mark.parametrize("block_size", [9, 4, 1])
def test_surprise_is_that_of_a_token_after_what_it_follows(n, block_size):
    """−ln p of the whole model with at least half a window before each token, or all there is."""
    model = model_of(block_size=block_size)
    found = surprise(model, IDS[: n + 1])
    assert found.losses.shape == (n,) and found.guesses.shape == found.probabilities.shape == (n, 3)
    for i in range(n):
        fits = []
        for begin in range(max(0, i + 1 - block_size), i + 1):
            if begin and i + 1 - begin < block_size // 2:
                continue  # it would see less than half a window
            p = F.softmax(model(IDS[None, begin : i + 1])).data[0, -1]
            order = np.argsort(-p)[:3]
            fits.append(
                abs(found.losses[i] + np.log(p[IDS[i + 1]])) < 1e-12
                and (found.guesses[i] == order).all()
                and abs(found.probabilities[i] - p[order]).max() < 1e-12
            )
        assert any(fits), i


def test_looking_records_nothing():
    """No gradient is left, no tape, and the mode is as before."""
    model = model_of()
    attention_maps(model, IDS[:5])
    surprise(model, IDS[:20])
    assert all(p.grad is None for p in model.parameters()) and model.training
