"""The state of a run in one file: all that its next step depends on.

    of every parameter   the weight, and AdamW's mean of gradients and mean of their squares
    where it stands      the step, the least validation loss, how long its other files are
    what it belongs to   the settings, and a fingerprint each of the text and the tokenizer

That is all: what is random in a step is a function of (seed, step, place), so there is no generator
whose state must be kept.  A checksum covers every bit of it, and the file is replaced whole.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import numpy as np

from gpt_numpy.files import message
from gpt_numpy.hf.checkpoint import checksum, read_arrays, write_arrays
from gpt_numpy.model import GPT
from minigrad.backend import to_numpy
from minigrad.fast.adamw import FusedAdamW

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
    run: str  # what the run's best model says that it is of
    files: dict[str, list]  # of those that grow: [bytes, their SHA-256]
    waited: int = 0  # evaluations since the best one

    def check(self) -> None:
        """TypeError or ValueError if this cannot be: a checksum can be made up too."""
        for field in dataclasses.fields(self):
            kind = get_origin(field.type) or field.type
            if type(getattr(self, field.name)) is not kind:
                raise TypeError(f"its {field.name} is {getattr(self, field.name)!r}")
        for length, digest in self.files.values():
            if type(length) is not int or length < 0 or type(digest) is not str:
                raise TypeError(f"its files are {self.files!r}")
        if not 0 <= self.step <= self.settings["steps"]:
            raise ValueError(f"it has made {self.step} of {self.settings['steps']} steps")


def save_state(folder: Path, model: GPT, optimizer: FusedAdamW, progress: Progress) -> None:
    """Replace training_state.safetensors in `folder`.  OSError if it cannot be written."""
    vectors = optimizer.flat.data, optimizer.exp_avg, optimizer.exp_avg_sq
    split = [optimizer.flat.split(to_numpy(vector)) for vector in vectors]
    arrays = {
        f"{kind}.{name}": np.ascontiguousarray(parts[optimizer.numbers[parameter]])
        for name, parameter in model.named_parameters()
        for kind, parts in zip(VECTORS, split, strict=True)
    }
    about = json.dumps(dataclasses.asdict(progress))
    metadata = {"about": about, "checksum": checksum(about, arrays)}
    write_arrays(folder / FILE, arrays, metadata)


def load_state(folder: Path) -> tuple[Progress, dict[str, np.ndarray]]:
    """(Progress, arrays) as save_state() wrote them; ValueError or OSError names file and fault."""
    path = folder / FILE
    if not path.exists():
        raise ValueError(f"there is no run to resume in {folder}: {FILE} is not there")
    arrays, metadata = read_arrays(path)
    about = metadata.get("about", "")
    if metadata.get("checksum") != checksum(about, arrays):
        raise ValueError(f"{path} is damaged, or not the state of a run: its checksum is wrong")
    try:
        progress = Progress(**json.loads(about))
        progress.check()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is the state of a run of another kind: {message(error)}"
        ) from error
    return progress, arrays


def restore(
    model: GPT, optimizer: FusedAdamW, progress: Progress, arrays: dict[str, np.ndarray], path: Path
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
