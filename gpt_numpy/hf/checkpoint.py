"""A model on disk, in the layout of Hugging Face's GPT-2: config.json and model.safetensors.

The files use GPT-2's names, store linear weights as (in, out), and keep query, key and value in
one matrix.  This page translates; nothing else in the project knows those names.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_numpy import folder as folders
from gpt_numpy.config import GPTConfig
from gpt_numpy.files import message, printable, quoted, read_json
from gpt_numpy.folder import Folder
from gpt_numpy.hf.tensors import Header, State, checksum, read_arrays, read_header, write_arrays

if TYPE_CHECKING:
    from gpt_numpy.tokenizer import Tokenizer

MODEL = "model.safetensors"
PREFIX = "transformer."
NAMES = {  # ours -> theirs and its shape (in, out) in units of n_embd, inside a block
    "ln_1": ("ln_1", (1,)),
    "attn.proj": ("attn.c_proj", (1, 1)),
    "ln_2": ("ln_2", (1,)),
    "mlp.fc": ("mlp.c_fc", (1, 4)),
    "mlp.proj": ("mlp.c_proj", (4, 1)),
}
QKV = ("attn.query", "attn.key", "attn.value")  # theirs: side by side in attn.c_attn (1, 3)
MASKS = (".attn.bias", ".attn.masked_bias")  # of a block; they are not read
SHAPE = {  # GPTConfig's names -> theirs, all of which transformers reads
    "vocab_size": ("vocab_size",),
    "block_size": ("n_positions", "max_position_embeddings"),
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
}
FIXED = {  # what a GPT here is: the value that we write, and others that mean the same
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "n_inner": (None,),  # 4 n_embd
}


def save(
    folder: Folder | Path | str,
    config: GPTConfig,
    state: State,
    origin: dict[str, str] | None = None,
) -> None:
    """Write the model with the GPTConfig `config` and the arrays `state` to `folder`.

    origin      where it comes from: fingerprints of its tokenizer, its run
    """
    theirs = {
        "architectures": ["GPT2LMHeadModel"],
        **{names[0]: getattr(config, ours) for ours, names in SHAPE.items()},
        **{name: values[0] for name, values in FIXED.items()},
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": None,
        "eos_token_id": None,
        "bias": config.bias,  # ours: whether the zero biases in the file are to be left out again
        "checksum": "sha256",  # ours: that there is one in model.safetensors
    }
    arrays = to_hugging_face(config, state)
    metadata = {"format": "pt", "checksum": checksum(shape_of(config), arrays), **(origin or {})}
    with folders.opened(folder, create=True) as held:
        write_arrays(held, MODEL, arrays, metadata)
        held.write("config.json", json.dumps(theirs, indent=2).encode())


def load(folder: Path | str) -> tuple[GPTConfig, State]:
    """(GPTConfig, state) of the model in `folder`; OSError or ValueError names file and fault.

    A model of ours is checked against its checksum.  transformers keeps what config.json says of
    one, but not the checksum itself, when it saves the model again.
    """
    config, theirs = load_config(folder)
    path = Path(folder) / MODEL
    parts = {part: read_header(part) for part in parts_of_model(path)}
    with naming_faults(path):
        check_tensors(config, parts.values())
    arrays, metadata = read_parts(parts)
    promised = "checksum" in theirs and "transformers_version" not in theirs
    with naming_faults(path):
        state = from_hugging_face(config, arrays)
        if promised and "checksum" not in metadata:
            raise ValueError(
                "it has no checksum, so it is damaged; if another program wrote it, remove "
                '"checksum" from config.json'
            )
        if "checksum" in metadata and metadata["checksum"] != checksum(shape_of(config), arrays):
            raise ValueError("the checksum differs, so one of them is damaged")
        biases = [array for name, array in arrays.items() if name.endswith(".bias")]
        if not config.bias and any(bias.any() for bias in biases):
            config = dataclasses.replace(config, bias=True)  # they were trained elsewhere
            state = from_hugging_face(config, arrays)
        return config, in_one_dtype(state)


def load_config(folder: Path | str) -> tuple[GPTConfig, dict[str, Any]]:
    """Return (GPTConfig, content) of the config.json in `folder`.  Errors as load()"""
    path = Path(folder) / "config.json"
    theirs = read_json(path)
    try:
        return read_config(theirs), theirs
    except ValueError as error:
        raise ValueError(
            f"{path} does not describe a GPT-2 that can be read here: {message(error)}"
        ) from error


@contextlib.contextmanager
def naming_faults(path):
    """Have what is wrong with tensors become a ValueError that names their file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} lacks the tensor {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} does not fit its config.json: {printable(error)}") from error


def check_tensors(config: GPTConfig, headers: Iterable[Header]) -> None:
    """Raise what from_hugging_face() would raise, before anything but the headers is read."""
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    heads = [name for name in tensors if without_prefix(name) == "lm_head.weight"]
    for name in heads:
        if tensors[name].shape != (config.vocab_size, config.n_embd):
            raise ValueError(f"{quoted(name)} is not wte.weight, as it is in a GPT-2")
    # An array of one number that has the shape of many: it takes no memory.
    from_hugging_face(
        config,
        {
            name: np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
            for name, tensor in tensors.items()
            if name not in heads
        },
    )


def read_config(theirs: dict[str, Any]) -> GPTConfig:
    """The GPTConfig of a config.json; ValueError says what in it is missing or not ours."""
    shape = {ours: one_of(theirs, names) for ours, names in SHAPE.items()}
    if shape["n_embd"] % shape["n_head"]:
        raise ValueError("n_embd, {n_embd}, is not a multiple of n_head, {n_head}".format(**shape))
    for key, values in (FIXED | {"is_causal": (True,)}).items():
        values += (4 * shape["n_embd"],) if key == "n_inner" else ()
        default = None if key == "model_type" else values[0]
        if (value := theirs.get(key, default)) not in values:
            raise ValueError(
                f"{key} must be {' or '.join(map(repr, values))}, it is {quoted(value)}"
            )
    bias, dropout = theirs.get("bias", True), theirs.get("resid_pdrop", 0.1)
    if not isinstance(bias, bool):
        raise ValueError(f"bias must be true or false, it is {quoted(bias)}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"resid_pdrop must be at least 0 and below 1, it is {quoted(dropout)}")
    return GPTConfig(**shape, bias=bias, dropout=dropout)


def one_of(theirs, names):
    """The number, above 0, that a config.json has under one or several of these names."""
    values = {name: theirs[name] for name in names if name in theirs}
    if not values:
        raise ValueError(f"it does not say {names[0]}")
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number above 0, it is {quoted(value)}")
    if len({*values.values()}) > 1:
        raise ValueError(f"{' and '.join(values)} contradict each other")
    return value


def parts_of_model(path: Path) -> list[Path]:
    """The path of a model.safetensors, or of the parts that an index beside it names."""
    index = path.with_name("model.safetensors.index.json")
    if path.exists() or not index.exists():
        if not path.exists() and path.with_name("pytorch_model.bin").exists():
            raise ValueError(
                f"{path} is not there, and pytorch_model.bin is not read, because it may hold "
                "programs: have transformers save the model as safetensors"
            )
        return [path]
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(is_name(name) for name in places.values()):
        raise ValueError(f"{index} does not say in which files of its folder the tensors are")
    return [path.with_name(name) for name in sorted(set(places.values()))]


def read_parts(parts: dict[Path, Header]) -> tuple[State, dict[str, str]]:
    """(arrays, metadata) of a model in one file; of one in several parts no metadata."""
    arrays: State = {}
    for path, header in parts.items():
        found, metadata = read_arrays(path, header, without=MASKS)
        arrays |= found
    return arrays, metadata if len(parts) == 1 else {}


def is_name(name):
    """Whether this names a file in the same folder, and no other place."""
    return isinstance(name, str) and name == Path(name).name != ""


def in_one_dtype(state):
    """All in float64 if one is, else in float32: NumPy is far slower in float16 and bfloat16."""
    wide = any(array.dtype == np.float64 for array in state.values())
    dtype = np.float64 if wide else np.float32
    return {name: array.astype(dtype, copy=False) for name, array in state.items()}


def is_padded(n_tokens: int, n_rows: int) -> bool:
    """Whether a model of n_rows has the n_tokens tokens, and after them at most unused rows.

    Matrices whose sides are multiples of 8 or more are faster on a GPU, so GPT-2's 50,257 rows are
    often rounded up to 50,304, a multiple of 64.
    """
    return n_rows in (n_tokens, *(-(-n_tokens // 2**k) * 2**k for k in range(3, 8)))


def without_padding(config: GPTConfig, state: State, n_tokens: int) -> tuple[GPTConfig, State]:
    """The same model without the rows of wte behind those of its n_tokens tokens."""
    config = dataclasses.replace(config, vocab_size=n_tokens)
    return config, state | {"wte.weight": state["wte.weight"][:n_tokens]}


def end_of_text(folder: Path | str) -> list[int]:
    """The ids after which a text of this model ends: eos_token_id, as transformers looks for it."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        ids = read_json(path).get("eos_token_id") if path.exists() else None
        ids = ids if isinstance(ids, list) else [ids]
        if ids != [None]:
            if not all(isinstance(id, int) for id in ids):
                raise ValueError(
                    f"{path}: eos_token_id must be a whole number, it is {quoted(ids)}"
                )
            return ids
    return []


def check_tokenizer(folder: Path | str, tokenizer: "Tokenizer") -> None:
    """ValueError if the model in `folder`, which load() takes, has learned other ids than these."""
    folder = Path(folder)
    rows, path = read_json(folder / "config.json")["vocab_size"], folder / MODEL
    learned = tokenizer.fingerprint()
    if path.exists():
        learned = read_header(path).metadata.get("tokenizer", learned)
    if not is_padded(tokenizer.vocab_size, rows) or learned != tokenizer.fingerprint():
        found = [name for name in ("tokenizer.json", "vocab.json") if (folder / name).exists()]
        raise ValueError(
            f"{folder.joinpath(*found[:1])} is not the tokenizer of the model beside it: "
            f"{tokenizer.vocab_size} tokens for {rows} in the model"
        )


def check_run(folder: Path, run: str) -> None:
    """ValueError or OSError unless `folder` has a model that is whole and of this run."""
    load(folder)
    path = folder / MODEL
    if read_header(path).metadata.get("run") != run:
        raise ValueError(f"{path} is not of this run")


def shape_of(config: GPTConfig) -> str:
    """What of a config decides what the weights compute: all but dropout."""
    return json.dumps(dataclasses.asdict(config) | {"dropout": None})


def shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of a GPT's parameters."""
    C = config.n_embd
    maps: dict[str, tuple[int, ...]] = {"ln_f": (C,)}
    for i in range(config.n_layer):
        maps |= {f"h.{i}.{name}": (C, C) for name in QKV}
        for name, (_, widths) in NAMES.items():
            maps[f"h.{i}.{name}"] = tuple(n * C for n in reversed(widths))
    found = {"wte": (config.vocab_size, C), "wpe": (config.block_size, C)} | maps
    biases = {f"{name}.bias": shape[:1] for name, shape in maps.items() if config.bias}
    return {f"{name}.weight": shape for name, shape in found.items()} | biases


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


def without_prefix(name):
    """A tensor's name without what torch.compile, DataParallel and a model's head put before it."""
    return re.sub(rf"^(module\.|{re.escape(PREFIX)})*", "", name.replace("_orig_mod.", ""))


def from_hugging_face(config: GPTConfig, arrays: State) -> State:
    """Their names and arrays as ours; KeyError names a missing one, ValueError a wrong one."""
    n = len(arrays)
    arrays = {without_prefix(name): array for name, array in arrays.items()}
    if len(arrays) < n:
        raise ValueError(f"it holds tensors twice, with and without a prefix such as {PREFIX}")
    state: State = {}
    C = config.n_embd

    def take(name, *shape):
        array = arrays.pop(name)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape} instead of {shape}")
        if array.dtype.kind in "biu":
            raise ValueError(f"{name} is quantized: its entries are {array.dtype}, not weights")
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
    head = arrays.pop("lm_head.weight", None)  # the tied head, which some files have again
    if head is not None and not np.array_equal(head, state["wte.weight"]):
        raise ValueError("lm_head.weight is not wte.weight, as it is in a GPT-2")
    masks = {f"h.{i}{name}" for i in range(config.n_layer) for name in MASKS}
    if extra := [name for name in arrays if name not in masks]:
        raise ValueError(f"it holds {len(extra)} tensors too many, such as {quoted(extra[0])}")
    return state
