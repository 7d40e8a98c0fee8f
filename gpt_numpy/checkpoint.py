"""A model on disk, in the layout of Hugging Face's GPT-2: config.json and model.safetensors.

The files use GPT-2's names, store linear weights as (in, out), and keep query, key and value in
one matrix.  This page translates; nothing else in the project knows those names.
"""

import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gpt_numpy.config import GPTConfig

State = dict[str, np.ndarray]  # name -> array

PREFIX = "transformer."
NAMES = {  # ours -> theirs, inside a block
    "ln_1": "ln_1",
    "attn.proj": "attn.c_proj",
    "ln_2": "ln_2",
    "mlp.fc": "mlp.c_fc",
    "mlp.proj": "mlp.c_proj",
}
QKV = ("attn.query", "attn.key", "attn.value")


def save(folder: Path | str, config: GPTConfig, state: State) -> None:
    """Write the model with the GPTConfig `config` and the arrays `state` to `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    theirs = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "bias": config.bias,  # ours: whether the zero biases in the file are to be left out again
    }
    arrays = safetensors.numpy.save(to_hugging_face(config, state), metadata={"format": "pt"})
    write_whole(folder / "model.safetensors", arrays)
    write_whole(folder / "config.json", json.dumps(theirs, indent=2).encode())


def load(folder: Path | str) -> tuple[GPTConfig, State]:
    """(GPTConfig, state) of the model in `folder`; OSError or ValueError names file and fault."""
    path = Path(folder) / "config.json"
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        config = GPTConfig(
            vocab_size=theirs["vocab_size"],
            block_size=theirs["n_positions"],
            n_layer=theirs["n_layer"],
            n_head=theirs["n_head"],
            n_embd=theirs["n_embd"],
            dropout=theirs["resid_pdrop"],
            bias=theirs.get("bias", True),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a GPT-2: {error!r}") from error
    path = path.with_name("model.safetensors")
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        return config, from_hugging_face(config, arrays)
    except KeyError as error:
        raise ValueError(f"{path} lacks the tensor {error}") from error


def to_hugging_face(config: GPTConfig, state: State) -> State:
    """Our names and arrays as theirs; a missing bias is written as zeros."""
    arrays: State = {}

    def put(name, weight, bias):
        arrays[f"{PREFIX}{name}.weight"] = np.ascontiguousarray(weight)
        arrays[f"{PREFIX}{name}.bias"] = bias

    def bias(name, size):
        return state.get(f"{name}.bias", np.zeros(size, state["wte.weight"].dtype))

    C = config.n_embd
    arrays[f"{PREFIX}wte.weight"] = state["wte.weight"]
    arrays[f"{PREFIX}wpe.weight"] = state["wpe.weight"]
    put("ln_f", state["ln_f.weight"], bias("ln_f", C))
    for i in range(config.n_layer):
        for ours, theirs in NAMES.items():
            weight = state[f"h.{i}.{ours}.weight"]
            put(f"h.{i}.{theirs}", weight.T, bias(f"h.{i}.{ours}", len(weight)))
        weights = [state[f"h.{i}.{name}.weight"].T for name in QKV]
        biases = [bias(f"h.{i}.{name}", C) for name in QKV]
        put(f"h.{i}.attn.c_attn", np.concatenate(weights, axis=1), np.concatenate(biases))
    return arrays


def from_hugging_face(config: GPTConfig, arrays: State) -> State:
    """Their names and arrays as ours; KeyError names one that is missing."""
    arrays = {name.removeprefix(PREFIX): array for name, array in arrays.items()}
    state: State = {}

    def put(name, weight, bias):
        state[f"{name}.weight"] = weight
        if config.bias:
            state[f"{name}.bias"] = bias

    state["wte.weight"], state["wpe.weight"] = arrays["wte.weight"], arrays["wpe.weight"]
    put("ln_f", arrays["ln_f.weight"], arrays["ln_f.bias"])
    for i in range(config.n_layer):
        for ours, theirs in NAMES.items():
            theirs = f"h.{i}.{theirs}"
            put(f"h.{i}.{ours}", arrays[f"{theirs}.weight"].T, arrays[f"{theirs}.bias"])
        weights = np.split(arrays[f"h.{i}.attn.c_attn.weight"], 3, axis=1)
        biases = np.split(arrays[f"h.{i}.attn.c_attn.bias"], 3)
        for name, weight, bias in zip(QKV, weights, biases, strict=True):
            put(f"h.{i}.{name}", weight.T, bias)
    return state


def write_whole(path: Path, content: bytes) -> None:
    """Write the bytes beside `path`, then swap them in: a reader sees the old or the new file."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
