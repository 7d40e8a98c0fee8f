"""Models on disk: exactly what was saved comes back, in the layout that Hugging Face reads."""

import json
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from gpt_numpy import GPT, GPTConfig
from gpt_numpy.folder import write_whole
from gpt_numpy.hf.checkpoint import to_hugging_face
from minigrad import manual_seed

V, T, C, L = 11, 5, 6, 2
IDS = np.arange(2 * T).reshape(2, T)


def make_model(bias=True, dtype=np.float32, **options):
    """A small GPT whose every parameter is random, norms and biases too."""
    manual_seed(0)
    shape = {"vocab_size": V, "block_size": T, "n_layer": L, "n_head": 3, "n_embd": C}
    model = GPT(GPTConfig(**shape | options, bias=bias)).to(dtype=dtype)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = rng.standard_normal(p.shape).astype(dtype)
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """A folder with a model in it."""
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tensors(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def settings(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


# ---- round trip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loaded_model_is_the_saved_one(tmp_path, bias, dtype):
    """Config, dtype, every parameter and every logit, to the bit."""
    model = make_model(bias, dtype, dropout=0.25)
    model.save_pretrained(tmp_path)
    loaded = GPT.from_pretrained(tmp_path)
    assert loaded.config == model.config
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == dtype
        np.testing.assert_array_equal(ours[name], theirs[name])
    logits = loaded.eval()(IDS).numpy()
    assert logits.dtype == dtype
    np.testing.assert_array_equal(logits, model(IDS).numpy())


def test_saving_again_replaces_the_model(folder):
    """The folder holds the two files of the newer model, and nothing beside them."""
    newer = make_model(bias=False, n_layer=1)
    newer.save_pretrained(folder)
    assert GPT.from_pretrained(folder).config == newer.config
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_loaded_model_can_be_trained(folder):
    """Its parameters want gradients and are writable arrays of its own."""
    for p in GPT.from_pretrained(folder).parameters():
        assert p.requires_grad and p.grad is None
        p.data += 1


# ---- the layout ----------------------------------------------------------------------------------

SHAPES = {
    "transformer.wte.weight": (V, C),
    "transformer.wpe.weight": (T, C),
    "transformer.ln_f.weight": (C,),
    "transformer.ln_f.bias": (C,),
} | {
    f"transformer.h.{i}.{name}": shape
    for i in range(L)
    for name, shape in {
        "ln_1.weight": (C,),
        "ln_1.bias": (C,),
        "attn.c_attn.weight": (C, 3 * C),  # Conv1D: (in, out)
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,),
        "ln_2.bias": (C,),
        "mlp.c_fc.weight": (C, 4 * C),
        "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (4 * C, C),
        "mlp.c_proj.bias": (C,),
    }.items()
}


@pytest.mark.parametrize("bias", [True, False])
def test_names_and_shapes_are_hugging_faces(tmp_path, bias):
    """All of GPT2LMHeadModel's tensors, with or without biases in ours; the tied head has none."""
    make_model(bias).save_pretrained(tmp_path)
    assert {name: array.shape for name, array in tensors(tmp_path).items()} == SHAPES
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata.pop("format") == "pt"  # transformers refuses a file without it
    assert metadata.keys() == {"checksum"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_absent_biases_are_written_as_zeros(tmp_path, dtype):
    """Of the weights' dtype; weights of norms and all else are not zero."""
    make_model(bias=False, dtype=dtype).save_pretrained(tmp_path)
    for name, array in tensors(tmp_path).items():
        assert array.dtype == dtype
        assert array.any() != name.endswith(".bias"), name


@pytest.mark.parametrize("bias", [True, False])
def test_config_is_gpt2s(tmp_path, bias):
    """The fields that GPT2Config reads, and ours that remembers whether there are biases."""
    make_model(bias, dropout=0.25).save_pretrained(tmp_path)
    assert settings(tmp_path) == {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": V,
        "n_positions": T,
        "n_layer": L,
        "n_head": 3,
        "n_embd": C,
        "embd_pdrop": 0.25,
        "attn_pdrop": 0.25,
        "resid_pdrop": 0.25,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "n_inner": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "bias": bias,
        "checksum": "sha256",
    }


def test_columns_of_c_attn_are_query_key_value():
    """Written out for two channels: our (out, in) matrices stand transposed, side by side."""
    model = make_model(n_embd=2, n_head=1, n_layer=1)
    attn = model.h[0].attn
    attn.query.weight.data = np.array([[1.0, 2.0], [3.0, 4.0]])
    attn.key.weight.data = np.array([[5.0, 6.0], [7.0, 8.0]])
    attn.value.weight.data = np.array([[9.0, 10.0], [11.0, 12.0]])
    for i, linear in enumerate((attn.query, attn.key, attn.value)):
        linear.bias.data = np.array([i + 0.25, i + 0.5])
    attn.proj.weight.data = np.array([[13.0, 14.0], [15.0, 16.0]])
    arrays = to_hugging_face(model.config, model.state_dict())
    block = "transformer.h.0.attn."
    assert arrays[block + "c_attn.weight"].tolist() == [[1, 3, 5, 7, 9, 11], [2, 4, 6, 8, 10, 12]]
    assert arrays[block + "c_attn.bias"].tolist() == [0.25, 0.5, 1.25, 1.5, 2.25, 2.5]
    assert arrays[block + "c_proj.weight"].tolist() == [[13, 15], [14, 16]]


def test_a_file_without_the_prefix_is_read_too(folder):
    """OpenAI's own GPT-2 names its tensors without `transformer.`, and its config has no `bias`."""
    expected = GPT.from_pretrained(folder)(IDS).numpy()
    bare = {name.removeprefix("transformer."): array for name, array in tensors(folder).items()}
    safetensors.numpy.save_file(bare, folder / "model.safetensors")
    theirs = settings(folder)
    del theirs["bias"], theirs["checksum"]
    (folder / "config.json").write_text(json.dumps(theirs))
    np.testing.assert_array_equal(GPT.from_pretrained(folder)(IDS).numpy(), expected)


# ---- broken folders ------------------------------------------------------------------------------


def rewrite_config(**fields):
    def change(folder):
        theirs = {k: v for k, v in (settings(folder) | fields).items() if v is not ...}
        (folder / "config.json").write_text(json.dumps(theirs))

    return change


def rewrite_tensor(name, new):
    def change(folder):
        arrays = tensors(folder)
        array = arrays.pop("transformer." + name)
        if new is not None:
            arrays["transformer." + name] = np.ascontiguousarray(new(array))
        safetensors.numpy.save_file(arrays, folder / "model.safetensors")

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


CONFIG, WEIGHTS = "config.json", "model.safetensors"
BROKEN = {  # what is done to a folder, which file is to blame, what else the message names
    "no config": (lambda folder: (folder / CONFIG).unlink(), CONFIG, ""),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS, ""),
    "config is not JSON": (write(CONFIG, b"{"), CONFIG, ""),
    "config is binary": (write(CONFIG, b"\xff\xfe"), CONFIG, ""),
    "config is a list": (write(CONFIG, b"[]"), CONFIG, ""),
    "config is another model's": (
        rewrite_config(n_positions=...),
        CONFIG,
        "it does not say n_positions",
    ),
    "config has words for numbers": (rewrite_config(n_layer="two"), CONFIG, ""),
    "config makes no model": (rewrite_config(n_head=4), CONFIG, "n_head"),
    "config has a model_type not ours": (rewrite_config(model_type="bert"), CONFIG, "bert"),
    "config has another activation": (rewrite_config(activation_function="relu"), CONFIG, "relu"),
    "weights are cut off": (cut, WEIGHTS, ""),
    "weights are empty": (write(WEIGHTS, b""), WEIGHTS, ""),
    "weights are text": (write(WEIGHTS, b"hello, world, how are you?"), WEIGHTS, ""),
    "a tensor is missing": (rewrite_tensor("ln_f.weight", None), WEIGHTS, "ln_f.weight"),
    "a bias is missing": (rewrite_tensor("h.1.ln_2.bias", None), WEIGHTS, "h.1.ln_2.bias"),
    "more layers than tensors": (rewrite_config(n_layer=3), WEIGHTS, "h.2."),
    "fewer layers than tensors": (rewrite_config(n_layer=1), WEIGHTS, "h.1."),
    "another width": (rewrite_config(n_embd=3), WEIGHTS, "wte.weight"),
    "another vocabulary": (rewrite_config(vocab_size=65), WEIGHTS, "wte.weight"),
    "a transposed matrix": (rewrite_tensor("h.0.mlp.c_fc.weight", np.transpose), WEIGHTS, "mlp"),
    "a transposed c_attn": (
        rewrite_tensor("h.0.attn.c_attn.weight", np.transpose),
        WEIGHTS,
        "attn",
    ),
    "c_attn not in three": (
        rewrite_tensor("h.0.attn.c_attn.weight", lambda w: w[:, 1:]),
        WEIGHTS,
        "attn",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(folder, name):
    """By ValueError or OSError in one line that names the file to blame and what is wrong in it."""
    change, file, part = BROKEN[name]
    change(folder)
    with pytest.raises((ValueError, OSError)) as error:
        GPT.from_pretrained(folder)
    message = str(error.value)
    assert str(folder / file) in message and part in message and "\n" not in message


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    """Naming the file that was looked for."""
    with pytest.raises(OSError, match="config.json"):
        GPT.from_pretrained(tmp_path / "nowhere")


# ---- writing whole files -------------------------------------------------------------------------


def test_write_whole_replaces_and_leaves_nothing_beside(tmp_path):
    """The new bytes are under the name, and no other file is there; str and Path both do."""
    path = tmp_path / "file"
    for given, content in ((path, b"old"), (str(path), b"new"), (path, b"")):
        write_whole(given, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("at", ["writing", "renaming"])
def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch, at):
    """A full disk, say: the error comes through, the old file is whole, no temporary file stays."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, {"writing": "fsync", "renaming": "replace"}[at], fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"something new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
