"""A model on disk, in the layout of Hugging Face's GPT-2: config.json and model.safetensors.

The files use GPT-2's names, store linear weights as (in, out), and keep query, key and value in
one matrix.  This page translates; nothing else in the project knows those names.
"""

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gpt_numpy.config import GPTConfig
from gpt_numpy.files import write_whole

State = dict[str, np.ndarray]  # name -> array

PREFIX = "transformer."
NAMES = {  # ours -> theirs and its shape (in, out) in units of n_embd, inside a block
    "ln_1": ("ln_1", (1,)),
    "attn.proj": ("attn.c_proj", (1, 1)),
    "ln_2": ("ln_2", (1,)),
    "mlp.fc": ("mlp.c_fc", (1, 4)),
    "mlp.proj": ("mlp.c_proj", (4, 1)),
}
QKV = ("attn.query", "attn.key", "attn.value")  # theirs: side by side in attn.c_attn (1, 3)
IGNORED = (".attn.bias", ".attn.masked_bias", "lm_head.weight")  # masks, and the tied head again
OURS = {"model_type": "gpt2", "activation_function": "gelu_new"}  # what GPT here is
UNCHANGED = {  # what else a folder must say, if it says anything of it
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "n_inner": None,
}


def save(folder: Path | str, config: GPTConfig, state: State) -> None:
    """Write the model with the GPTConfig `config` and the arrays `state` to `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    theirs = {
        "architectures": ["GPT2LMHeadModel"],
        **OURS,
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        **UNCHANGED,
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
        for key, value in (OURS | UNCHANGED).items():
            if theirs.get(key, UNCHANGED.get(key)) != value:
                raise ValueError(f"{key} must be {value!r}, it is {theirs.get(key)!r}")
        config = GPTConfig(
            vocab_size=theirs["vocab_size"],
            block_size=theirs["n_positions"],
            n_layer=theirs["n_layer"],
            n_head=theirs["n_head"],
            n_embd=theirs["n_embd"],
            dropout=theirs["resid_pdrop"],
            bias=theirs.get("bias", True),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a GPT-2 that can be read here: {error}"
        ) from error
    path = path.with_name("model.safetensors")
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        return config, from_hugging_face(config, arrays)
    except KeyError as error:
        raise ValueError(f"{path} lacks the tensor {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} does not fit its config.json: {error}") from error


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
        for ours, (theirs, _) in NAMES.items():
            weight = state[f"h.{i}.{ours}.weight"]
            put(f"h.{i}.{theirs}", weight.T, bias(f"h.{i}.{ours}", len(weight)))
        weights = [state[f"h.{i}.{name}.weight"].T for name in QKV]
        biases = [bias(f"h.{i}.{name}", C) for name in QKV]
        put(f"h.{i}.attn.c_attn", np.concatenate(weights, axis=1), np.concatenate(biases))
    return arrays


def from_hugging_face(config: GPTConfig, arrays: State) -> State:
    """Their names and arrays as ours; KeyError names a missing one, ValueError a wrong one."""
    arrays = {name.removeprefix(PREFIX): array for name, array in arrays.items()}
    state: State = {}
    C = config.n_embd

    def take(name, *shape):
        array = arrays.pop(name)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape} instead of {shape}")
        return array

    def put(name, weight, bias):
        state[f"{name}.weight"] = weight
        if config.bias:
            state[f"{name}.bias"] = bias

    state["wte.weight"] = take("wte.weight", config.vocab_size, C)
    state["wpe.weight"] = take("wpe.weight", config.block_size, C)
    put("ln_f", take("ln_f.weight", C), take("ln_f.bias", C))
    for i in range(config.n_layer):
        for ours, (theirs, widths) in NAMES.items():
            theirs, shape = f"h.{i}.{theirs}", [n * C for n in widths]
            weight, bias = take(f"{theirs}.weight", *shape), take(f"{theirs}.bias", shape[-1])
            put(f"h.{i}.{ours}", weight.T, bias)
        weights = np.split(take(f"h.{i}.attn.c_attn.weight", C, 3 * C), 3, axis=1)
        biases = np.split(take(f"h.{i}.attn.c_attn.bias", 3 * C), 3)
        for name, weight, bias in zip(QKV, weights, biases, strict=True):
            put(f"h.{i}.{name}", weight.T, bias)
    if extra := [name for name in arrays if not name.endswith(IGNORED)]:
        raise ValueError(f"it holds {len(extra)} tensors too many, such as {extra[0]}")
    return state
