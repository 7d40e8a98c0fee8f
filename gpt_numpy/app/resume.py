"""The state of a run in one file: everything that its next step depends on.

    for every parameter  the weight, and AdamW's mean of gradients and mean of squared gradients
    progress             the step, the best validation loss, the lengths of the files that grow
    identity             the settings, and fingerprints of the text and the tokenizer

Nothing else is needed.  The randomness of a step is a function of (seed, step, counter), so there
is no generator whose state must be saved.  A checksum covers all of this, and the file is replaced
atomically.  The previous state is kept under another name, in case the disk damages the newest one.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from gpt_numpy.app.memory import machine_memory, size
from gpt_numpy.config import Architecture, GPTConfig
from gpt_numpy.files import message, quoted
from gpt_numpy.folder import Folder
from gpt_numpy.hf import checkpoint
from gpt_numpy.hf.tensors import State, Tensor, checksum, read_arrays, read_header, write_arrays
from gpt_numpy.model import GPT
from minigrad.backend import to_numpy
from minigrad.fast.adamw import FusedAdamW

FILE = "training_state.safetensors"
BEFORE = "training_state.before.safetensors"  # of the previous save
ASIDE = "training_state.damaged.safetensors"  # one that could not be read
VECTORS = ("weight", "exp_avg", "exp_avg_sq")  # "exp_avg.ln_f.weight" is the mean of its gradients
BROKEN = (TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
NUMBERS = {"train_loss", "lr", "grad_norm", "tokens_per_second"}  # of a step, for its row


@dataclass
class Progress:
    """The progress and the identity of a run."""

    step: int  # how many steps were made
    best: float  # the lowest validation loss so far, in nats per token
    val_loss: float  # the last one
    settings: dict[str, Any]  # what train_config.json says
    text: str  # the text's fingerprint
    tokenizer: str
    run: str  # the identity of the run, as its best model has it
    files: dict[str, list]  # of the files that grow: [bytes, their SHA-256]
    waited: int = 0  # evaluations since the best one
    # Whether the row and the evaluation of `step` are in the files.  If not, they come first when
    # the run resumes, with these NUMBERS of the step (none of them at step 0).
    logged: bool = True
    numbers: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Raise TypeError or ValueError if this is impossible: a checksum can be forged too."""
        for each in dataclasses.fields(self):
            kind, value = get_origin(each.type) or each.type, getattr(self, each.name)
            if type(value) is not kind:
                raise TypeError(f"its {each.name} is {quoted(value)}")
        for length, digest in self.files.values():
            if type(length) is not int or length < 0 or type(digest) is not str:
                raise TypeError(f"its files are {quoted(self.files)}")
        if type(self.settings["ranks"]) is not int or type(self.settings["text"]) is not str:
            raise TypeError(f"its settings are {quoted(self.settings)}")
        if not 0 <= self.step <= self.settings["steps"]:
            steps = self.settings["steps"]
            raise ValueError(f"its step is {self.step}, but the run has {steps} steps")
        if not self.logged and self.step and self.numbers.keys() != NUMBERS:
            raise ValueError(f"the numbers of its step are {quoted(self.numbers)}")
        if not all(type(number) is float for number in self.numbers.values()):
            raise TypeError(f"the numbers of its step are {quoted(self.numbers)}")


def save_state(folder: Folder, model: GPT, optimizer: FusedAdamW, progress: Progress) -> str:
    """Replace training_state.safetensors and return its checksum.  The old one becomes BEFORE.

    Errors      OSError if it cannot be written
    """
    vectors = optimizer.flat.data, optimizer.exp_avg, optimizer.exp_avg_sq
    split = [optimizer.flat.split(to_numpy(vector)) for vector in vectors]
    arrays = {
        f"{kind}.{name}": parts[optimizer.numbers[parameter]]
        for name, parameter in model.named_parameters()
        for kind, parts in zip(VECTORS, split, strict=True)
    }
    about = json.dumps(dataclasses.asdict(progress))
    metadata = {"about": about, "checksum": checksum(about, arrays)}
    write_arrays(folder, FILE, arrays, metadata, keep=BEFORE)
    return metadata["checksum"]


def load_state(folder: Path, name: str = FILE) -> tuple[Progress, State]:
    """Return (Progress, arrays) as save_state() wrote them.

    The header is checked first, so a file with other tensors than its settings make is not read.

    Errors      ValueError or OSError that names the file and what is wrong with it
    """
    path = folder / name
    header = read_header(path)
    about = header.metadata.get("about", "")
    try:
        progress = Progress(**json.loads(about))
        progress.check()
        check_tensors(header.tensors, progress.settings)
    except BROKEN as error:
        raise ValueError(f"{path} is not the state of a run: {message(error)}") from error
    arrays, metadata = read_arrays(path, header)
    if metadata.get("checksum") != checksum(about, arrays):
        raise ValueError(f"{path} is damaged: its checksum is wrong")
    return progress, arrays


def check_tensors(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Raise ValueError unless the tensors in a header are those of a model of these settings."""
    rows, *_ = tensors["weight.wte.weight"].shape
    chosen = {name: settings[name] for name in Architecture.__dataclass_fields__}
    config = GPTConfig(vocab_size=rows, **chosen)
    if config.n_layer > len(tensors):
        raise ValueError(f"it has {len(tensors)} tensors for {config.n_layer} layers")
    shapes = checkpoint.shapes(config)
    expected = {f"{kind}.{name}": shape for kind in VECTORS for name, shape in shapes.items()}
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"it {'lacks' if name in expected else 'has an unknown'} {quoted(name)}")
    for name, shape in expected.items():
        found, wanted = f"{tensors[name].dtype} {tensors[name].shape}", f"float32 {shape}"
        if found != wanted:
            raise ValueError(f"{name} is {found}, but by the settings it must be {wanted}")
    needed, there = sum(tensor.stop - tensor.start for tensor in tensors.values()), machine_memory()
    if needed > there:
        raise ValueError(f"its tensors take {size(needed)}, and the machine has {size(there)}")


def newest_state(folder: Path) -> tuple[str, Progress, State, Exception | None]:
    """Return (file name, Progress, arrays, fault) of the newest intact state: FILE, or else BEFORE.

    fault       what is wrong with FILE, if the state is BEFORE; None if a save was interrupted
                after FILE was renamed and before the new state had its name

    Errors      ValueError or OSError of FILE, or of BEFORE if there is no FILE, if none is intact
    """
    fault = None
    if os.path.lexists(folder / FILE):
        try:
            return FILE, *load_state(folder), None
        except (ValueError, OSError) as error:
            fault = ValueError(str(error))  # its traceback would keep the arrays
    try:
        return BEFORE, *load_state(folder, BEFORE), fault
    except (ValueError, OSError) as error:
        raise fault or error from None


def mark(folder: Folder) -> str | None:
    """Return the checksum in the header of the newest state, or None if it cannot be read.

    It changes with every save, so a run can detect that another run has saved.
    """
    place, options = folder.at(FILE)
    try:
        return read_header(place, **options).metadata.get("checksum")
    except (ValueError, OSError):
        return None


def restore(
    model: GPT, optimizer: FusedAdamW, progress: Progress, arrays: State, path: Path
) -> None:
    """Load the arrays of load_state() into a model and its optimizer.

    path        the file that they come from, for the error

    Errors      ValueError if they do not fit
    """
    parameters = dict(model.named_parameters())
    try:
        model.load_state_dict({name: arrays[f"weight.{name}"] for name in parameters})
    except ValueError as error:
        raise ValueError(f"{path} does not fit the tokenizer: {error}") from error
    moments = {
        optimizer.numbers[p]: {
            "step": progress.step,
            "exp_avg": arrays[f"exp_avg.{name}"],
            "exp_avg_sq": arrays[f"exp_avg_sq.{name}"],
        }
        for name, p in parameters.items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
