"""The state of a run in one file: all that its next step depends on.

    of every parameter   the weight, and AdamW's mean of gradients and mean of their squares
    where it stands      the step, the least validation loss, the length of its other files
    what it belongs to   the settings, and a fingerprint each of the text and the tokenizer

That is all: what is random in a step is a function of (seed, step, place), so there is no generator
whose state must be kept.  A checksum covers every bit of it, and the file is replaced whole.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gpt_numpy.files import write_whole
from gpt_numpy.model import GPT
from minigrad.device import to_host
from minigrad.optim import AdamW

FILE = "training_state.safetensors"
VECTORS = ("weight", "exp_avg", "exp_avg_sq")  # "exp_avg.ln_f.weight" is the mean of its gradients


@dataclass
class Progress:
    """Where a run stands, and what it belongs to."""

    step: int  # how many steps were made
    best: float  # the least validation loss so far, in nats per token
    val_loss: float  # the last one
    settings: dict[str, Any]  # what train_config.json says
    text: str  # the text's fingerprint
    tokenizer: str
    lengths: dict[str, int]  # of the files that grow, in bytes


def fingerprint(text: str) -> str:
    """Two texts with the same fingerprint (SHA-256) are the same, as far as anybody knows."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def save_state(folder: Path, model: GPT, optimizer: AdamW, progress: Progress) -> None:
    """Replace training_state.safetensors in `folder`.  OSError if it cannot be written."""
    vectors = optimizer.flat.data, optimizer.exp_avg, optimizer.exp_avg_sq
    split = [optimizer.flat.split(to_host(vector)) for vector in vectors]
    arrays = {
        f"{kind}.{name}": np.ascontiguousarray(parts[optimizer.numbers[parameter]])
        for name, parameter in model.named_parameters()
        for kind, parts in zip(VECTORS, split, strict=True)
    }
    about = json.dumps(dataclasses.asdict(progress))
    metadata = {"about": about, "checksum": checksum(about, arrays)}
    write_whole(folder / FILE, safetensors.numpy.save(arrays, metadata))


def load_state(folder: Path) -> tuple[Progress, dict[str, np.ndarray]]:
    """(Progress, arrays) as save_state() wrote them; ValueError or OSError names file and fault."""
    path = folder / FILE
    if not path.exists():
        raise ValueError(f"there is no run to resume in {folder}: {FILE} is not there")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        about = metadata["about"]
        if checksum(about, arrays) != metadata["checksum"]:
            raise ValueError("its checksum is wrong, so it is damaged")
        return Progress(**json.loads(about)), arrays
    except KeyError as error:
        raise ValueError(f"{path} is not the state of a run: it lacks {error}") from error
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_settings(folder: Path) -> dict[str, Any]:
    """What train_config.json says; ValueError or OSError names file and fault."""
    path = folder / "train_config.json"
    try:
        settings = json.loads(read(path).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} does not hold the settings of a run")
    return settings


def read(path: Path) -> bytes:
    """The content of a file; OSError says in words why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from error


def restore(
    model: GPT, optimizer: AdamW, progress: Progress, arrays: dict[str, np.ndarray], path: Path
) -> None:
    """Give a model and its optimizer the numbers of load_state(); ValueError if they do not fit.

    path        the file that they come from, for the error
    """
    parameters = dict(model.named_parameters())
    expected = {f"{kind}.{name}": p for kind in VECTORS for name, p in parameters.items()}
    for name in sorted(expected.keys() ^ arrays.keys()):
        raise ValueError(f"{path} {'lacks' if name in expected else 'has an unknown'} {name}")
    for name, p in expected.items():
        found, wanted = (f"{x.dtype} {x.shape}" for x in (arrays[name], p))
        if found != wanted:
            raise ValueError(f"{path}: {name} is {found}, but the settings make it {wanted}")
    model.load_state_dict({name: arrays[f"weight.{name}"] for name in parameters})
    moments = {
        optimizer.numbers[p]: {
            "step": progress.step,
            "exp_avg": arrays[f"exp_avg.{name}"],
            "exp_avg_sq": arrays[f"exp_avg_sq.{name}"],
        }
        for name, p in parameters.items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def checksum(about: str, arrays: dict[str, np.ndarray]) -> str:
    """The SHA-256 of a text and of arrays: their names, dtypes, shapes and every entry."""
    digest = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
