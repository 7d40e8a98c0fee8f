"""A GPT-2 that others wrote, `transformers`' GPT2LMHeadModel, computes what ours computes.

tests/twin.py is PyTorch, but ours: a mistake in what we think a GPT is would be in both.  Weights
go from one to the other through files on disk, so that the layout of these is tested as well.
"""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import minigrad as mg
from gpt_numpy import GPT, GPTConfig, TrainConfig
from gpt_numpy.app.memory import n_parameters
from gpt_numpy.corpus import grammar
from gpt_numpy.hf.checkpoint import from_hugging_face, to_hugging_face
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer
from gpt_numpy.train import train

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


# ---- whole folders -------------------------------------------------------------------------------

TEXT = grammar.generate(20_000)


def greedy(theirs, ids, n):
    """The text that transformers continues `ids` (1, T) with, always the likeliest token."""
    out = theirs.generate(
        torch.from_numpy(ids), max_new_tokens=n, do_sample=False, pad_token_id=0,
        attention_mask=torch.ones(ids.shape, dtype=torch.long),
    )  # fmt: skip
    return out.numpy()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [CharTokenizer.from_text, BPETokenizer.from_text])
def test_a_model_trained_here_speaks_there(tmp_path, make, bias):
    """A few steps of training, the folder read by their Auto classes: ids, logits, greedy text."""
    tokenizer = make(TEXT)
    config = TrainConfig(
        block_size=32, n_layer=2, n_head=2, n_embd=16, bias=bias, steps=20, lr=1e-2, workers=1
    )
    mg.manual_seed(1)
    ours = GPT(config.model(tokenizer.vocab_size)).to(dtype=np.float64)
    for _ in train(ours, tokenizer.encode(TEXT), config):
        pass
    ours.save_pretrained(tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(TEXT[-20:])[None]
    assert their_tokenizer(TEXT[-20:]).input_ids == ids[0].tolist()
    check(ours.eval(), theirs, (2, 2, 16, tokenizer.vocab_size, 32, 2, 32))
    n = 32 - ids.shape[1]  # as far as the window reaches
    text = ours.generate(ids, n, temperature=0).numpy()
    np.testing.assert_array_equal(text, greedy(theirs, ids, n))
    assert their_tokenizer.decode(text[0]) == tokenizer.decode(text[0])


def their_folder(folder, dtype=torch.float64, prefix=True, **options):
    """A GPT-2 of theirs with random weights, in `dtype`, with or without `transformer.`"""
    config = GPT2Config(
        n_layer=3, n_head=2, n_embd=16, vocab_size=40, n_positions=24,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(config).double().eval()
    shake(theirs.parameters())
    theirs.to(dtype)
    (theirs if prefix else theirs.transformer).save_pretrained(folder, **options)
    return theirs.double()


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_a_folder_of_theirs_speaks_here(tmp_path, name, prefix):
    """In every precision that GPT-2s are kept in; narrow ones become float32, exactly."""
    dtype = getattr(torch, name)
    theirs = their_folder(tmp_path, dtype, prefix)
    ours = GPT.from_pretrained(tmp_path)
    assert ours.wte.weight.dtype == (np.float64 if name == "float64" else np.float32)
    ours.to(dtype=np.float64).eval()
    check(ours, theirs, (3, 2, 16, 40, 24, 2, 24))
    ids = np.array([[1, 2, 3]])
    text = ours.generate(ids, 20, temperature=0).numpy()
    np.testing.assert_array_equal(text, greedy(theirs, ids, 20))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_model_in_several_files(tmp_path, name):
    """As large ones are saved: model-00001-of-00005.safetensors and so on, and an index."""
    their_folder(tmp_path / "whole", getattr(torch, name))
    their_folder(tmp_path / "parts", getattr(torch, name), max_shard_size="10KB")
    assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 2
    folders = [tmp_path / "whole", tmp_path / "parts"]
    whole, parts = (GPT.from_pretrained(folder).state_dict() for folder in folders)
    assert whole.keys() == parts.keys()
    for key, array in whole.items():
        np.testing.assert_array_equal(array, parts[key])


def test_the_masks_of_older_files_are_passed_over(tmp_path):
    """h.0.attn.bias and the tied head again, which OpenAI's and older files have."""
    their_folder(tmp_path)
    expected = GPT.from_pretrained(tmp_path).state_dict()
    path = tmp_path / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["transformer.h.0.attn.bias"] = np.tri(24)[None, None]
    arrays["transformer.h.0.attn.masked_bias"] = np.array(-1e4)
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    safetensors.numpy.save_file(arrays, path)
    for key, array in GPT.from_pretrained(tmp_path).state_dict().items():
        np.testing.assert_array_equal(array, expected[key])
    twice = arrays | {"wte.weight": arrays["transformer.wte.weight"]}
    safetensors.numpy.save_file(twice, path)
    with pytest.raises(ValueError, match="tensors twice"):
        GPT.from_pretrained(tmp_path)
    arrays["lm_head.weight"] = arrays["lm_head.weight"] + 1  # another head is another model
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=r"lm_head\.weight is not wte\.weight"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"weight_map": None}, "does not say"),
        ({"weight_map": {"transformer.wte.weight": "../model.safetensors"}}, "does not say"),
        ({"weight_map": {"transformer.wte.weight": 3}}, "does not say"),
        ({"weight_map": {"transformer.wte.weight": "none.safetensors"}}, "none.safetensors"),
    ],
)
def test_a_bad_index_is_refused(tmp_path, change, fault):
    """In one line; it leads to no other folder."""
    their_folder(tmp_path, max_shard_size="10KB")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(change))
    with pytest.raises((ValueError, OSError), match=fault) as error:
        GPT.from_pretrained(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_pickle_is_not_opened(tmp_path):
    """It says what to do instead."""
    their_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="may hold programs") as error:
        GPT.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


SIZES = [(12, 12, 768), (24, 16, 1024), (36, 20, 1280), (48, 25, 1600)]


@pytest.mark.parametrize("n_layer, n_head, n_embd", SIZES)
def test_the_sizes_of_gpt2(n_layer, n_head, n_embd):
    """124M, 355M, 774M and 1.5B: names and shapes are those of theirs, without any weights."""
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(**shape)).state_dict()
    expected = {name: tuple(t.shape) for name, t in theirs.items() if name != "lm_head.weight"}
    config = GPTConfig(vocab_size=50_257, block_size=1024, **shape)
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in expected.items()}
    state = from_hugging_face(config, empty)
    assert sum(array.size for array in state.values()) == n_parameters(config)
    with pytest.raises(ValueError, match=r"h\.0\.ln_1\.weight has shape"):
        name = "transformer.h.0.ln_1.weight"
        from_hugging_face(config, empty | {name: empty[name][1:]})
