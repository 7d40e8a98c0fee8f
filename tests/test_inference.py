"""Reading with a cache gives the scores that the whole model gives, at every position."""

import numpy as np
import pytest

from gpt_numpy import GPT, GPTConfig
from gpt_numpy.scale.decoder import Decoder
from minigrad import manual_seed

BLOCK = 12


def make_model(dtype=np.float64, **options):
    """A GPT whose every parameter is random and large, biases and means too."""
    manual_seed(0)
    shape = {"vocab_size": 11, "block_size": BLOCK, "n_layer": 3, "n_head": 2, "n_embd": 8}
    model = GPT(GPTConfig(**shape | options)).to(dtype=dtype).eval()
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = rng.standard_normal(p.shape).astype(dtype) + (p.ndim == 1)
    return model


def close(scores, reference, tolerance):
    assert scores.dtype == reference.dtype
    assert abs(scores - reference).max() <= tolerance * abs(reference).max()


SHAPES = [{}, {"n_head": 1, "n_layer": 1}, {"n_head": 8}, {"vocab_size": 1}, {"dropout": 0.5}]
CUTS = {  # how a text of BLOCK tokens is read: so many at a time
    "one by one": [1] * BLOCK,
    "at once": [BLOCK],
    "a prompt, then one by one": [5] + [1] * (BLOCK - 5),
    "in pieces": [3, 1, 4, 4],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cut", CUTS)
def test_scores_are_those_of_the_whole_model(cut, shape, bias):
    """At 1e-10 in float64, at every position up to block_size, whatever was read at once."""
    model = make_model(bias=bias, **shape)
    ids = np.random.default_rng(1).integers(model.config.vocab_size, size=(3, BLOCK))
    reference = model(ids).numpy()  # (B, T, V)
    decoder = Decoder(model, 3)
    for _ in range(2):  # the second time after what it has forgotten
        decoder.reset()
        for T in CUTS[cut]:
            scores = decoder.forward(ids[:, decoder.length : decoder.length + T])
            close(scores, reference[:, decoder.length - 1], 1e-10)
        assert decoder.length == BLOCK


def test_float32_stays_float32():
    """And is as exact as float32 is."""
    model = make_model(np.float32)
    ids = np.random.default_rng(1).integers(11, size=(2, BLOCK))
    close(Decoder(model, 2).forward(ids), model(ids).numpy()[:, -1], 1e-5)


def test_it_reads_the_model_as_it_was():
    """It has its own weights, and leaves those of the model as they are."""
    model = make_model()
    before = model.state_dict()
    ids = np.arange(5)[None]
    decoder, reference = Decoder(model), model(ids).numpy()[:, -1]
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.data, before[name])
        p.data = p.data * 2
    close(decoder.forward(ids), reference, 1e-10)


@pytest.mark.parametrize("name", [f"h.1.{n}" for n in ("ln_1", "attn.key", "mlp.proj")] + ["ln_f"])
def test_every_parameter_counts(name):
    """A weight or a bias that is off by a millionth is noticed: the comparison can fail."""
    model = make_model()
    ids = np.random.default_rng(1).integers(11, size=(1, BLOCK))
    decoder, parameters = Decoder(model), dict(model.named_parameters())
    parameters[f"{name}.weight"].data = parameters[f"{name}.weight"].data * (1 + 1e-6)
    with pytest.raises(AssertionError):
        close(decoder.forward(ids), model(ids).numpy()[:, -1], 1e-10)


def test_on_a_gpu(gpu):
    """The same scores there."""
    model = make_model()
    ids = np.random.default_rng(1).integers(11, size=(2, BLOCK))
    reference = model(ids).numpy()
    decoder = Decoder(model.to("gpu"), 2)
    for t in range(BLOCK):
        scores = decoder.forward(ids[:, t : t + 1])
        assert scores.shape == (2, 11)
        close(scores.get(), reference[:, t], 1e-10)
