"""The training command: parse the flags, and check everything before a run starts or resumes.

Nothing is written until all input has been read and checked.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from gpt_numpy.app import memory, program, resume
from gpt_numpy.app.run_folder import RunFolder, resolved
from gpt_numpy.config import PRESETS, Architecture, GPTConfig, TrainConfig, physical_cores
from gpt_numpy.corpus import Corpus, load_corpus
from gpt_numpy.corpus.large import head
from gpt_numpy.corpus.reading import STDIN
from gpt_numpy.data import encoded, split
from gpt_numpy.files import fingerprint, message, printable, quoted, read_json
from gpt_numpy.hf import checkpoint
from gpt_numpy.hf.tokenizer_json import load_model
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.tokenizer import (
    GPT2_SIZE,
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    gpt2,
    load,
)
from minigrad.backend import CPU, GPU
from minigrad.internals import cublas
from minigrad.internals.gpu import GPUUnavailable, select_device
from minigrad.internals.hooks import check_precision


@dataclass(frozen=True, kw_only=True)
class Command(TrainConfig):
    preset: Literal["laptop", "baby", "gpt2"] = "laptop"
    """Which settings to start from: by default laptop, or baby on a GPU."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute; auto takes an NVIDIA GPU if one works, else the CPU."""
    precision: Literal["float32", "tf32"] = "float32"
    """How a GPU multiplies matrices: in float32, or in tf32, which is faster and rounds factors to
    10 bits.  A GPU that has tf32 uses it unless you ask for float32."""
    data: tuple[Path, ...] = ()
    """Train on this text, not on tiny Shakespeare: files (.txt, .jsonl, .gz), folders, or -"""
    val_data: tuple[Path, ...] = ()
    """Validate on this text; by default on the last tenth of the text, which is not trained on."""
    eval_tokens: int = 2**17
    """How many tokens to validate on during a run, evenly spaced over the text; 0: on all."""
    tokenizer: Literal["char", "bpe", "gpt2"] = "char"
    """What a token is: a character, a piece of a word learned from the text, or GPT-2's pieces."""
    vocab_size: int | None = None
    """How many tokens bpe has, including the 256 bytes; 512 by default."""
    init_from: Path | None = None
    """A folder with a GPT-2 model and its tokenizer to start from: Hugging Face's, or a run's."""
    page_model: bool = True
    """Whether report.html holds the model, to talk to it there, if the page stays under 12 MB."""
    out: Path = Path("runs/shakespeare")
    """The folder for the results; an earlier run there is renamed, not overwritten."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Resume the run in --out from its last save, with its settings."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open report.html in a browser as soon as there is one."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print only the last line."""

    def __post_init__(self):
        """Skip the checks: prepare() runs them, where an error becomes a line, not a traceback."""

    def check(self):
        super().check()
        if self.eval_tokens < 0:
            raise ValueError(
                f"eval_tokens must be at least 0; it is {self.eval_tokens} (flag --eval-tokens)"
            )

    def with_home(self) -> "Command":
        """Return the same with ~ in a path replaced by the user's home folder."""
        return replace(
            self,
            data=tuple(map(home, self.data)),
            val_data=tuple(map(home, self.val_data)),
            init_from=self.init_from and home(self.init_from),
            out=home(self.out),
        )

    def settings(self, corpus: Corpus, ranks: Ranks) -> dict[str, Any]:
        """Return what train_config.json keeps of a run."""
        kept = [f.name for f in fields(self) if f.name not in NOT_KEPT]
        settings = {name: getattr(self, name) for name in kept}
        for name in PATHS:
            settings[name] = paths_kept(settings[name])
        return settings | {"text": corpus.name, "ranks": ranks.world_size}


NOT_KEPT = ("out", "resume", "open", "quiet")
TEXTS = ("data", "val_data")
PATHS = (*TEXTS, "init_from")


def home(path: Path) -> Path:
    """Return a path with ~ replaced by the user's home folder."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home folder in {path} is not known: give the full path") from error


def paths_kept(paths):
    """Return paths as train_config.json keeps them: a string, a list of several, or None."""
    if not isinstance(paths, tuple):
        return paths and str(paths.resolve())
    kept = [str(path if path == STDIN else path.resolve()) for path in paths]
    return kept[0] if len(kept) == 1 else kept or None


def paths_read(kept):
    """Return the tuple of paths that paths_kept() kept."""
    return tuple(map(Path, [kept] if isinstance(kept, str) else kept or []))


def flags_of(command: Command) -> list[str]:
    """Return the flags that make this command: those in which it differs from its preset."""
    preset = Command(**PRESETS[command.preset])
    flags = ["--preset", command.preset, "--device", command.device]
    flags += ["--precision", command.precision] if command.device == GPU else []
    said = ("preset", "device", "precision")
    for f in fields(command):
        value = getattr(command, f.name)
        if f.name in (*said, *NOT_KEPT[1:]) or value == getattr(preset, f.name):
            continue
        flag = f.name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return flags


class Job(NamedTuple):
    """All that is known before a run starts or resumes."""

    command: Command
    why: str  # the reason for its device
    notes: list[str]  # what changes when a run resumes
    corpus: Corpus
    tokenizer: Tokenizer
    train_ids: np.ndarray
    val_ids: np.ndarray
    folder: RunFolder
    weights: dict[str, np.ndarray] | None  # to start from
    saved: tuple[resume.Progress, dict[str, np.ndarray]] | None  # of a run that resumes

    @property
    def prompt(self) -> np.ndarray:
        """The ids (1, T) that samples begin with: a line break, or the text's first character."""
        return self.tokenizer.encode(self.corpus.prompt())[None]

    def text_memory(self) -> int:
        """Return how many bytes the text and its ids take; those of a large text are in files."""
        return text_memory(self.corpus, [self.train_ids, self.val_ids])


def text_memory(corpus, ids):
    """See Job.text_memory()."""
    strings = [text for text in (corpus.text, corpus.validation) if isinstance(text, str)]
    return sum(map(sys.getsizeof, strings)) + sum(part.nbytes for part in ids)


def prepare(arguments: list[str] | None, ranks: Ranks, description: str | None) -> Job:
    """Read the flags, the text and what was saved, and check that they fit together.

    Raises ValueError, OSError or GPUUnavailable with a message of one line.
    """
    refuse_bad_texts(sys.argv[1:] if arguments is None else arguments)
    refuse_empty_values(sys.argv[1:] if arguments is None else arguments)
    flags = first_flags(arguments)
    if flags.precision is not None:
        check_precision(flags.precision)
    if flags.resume and not flags.help:
        return load_run(arguments, flags, ranks, description)
    return start_run(arguments, flags, ranks, description)


def first_flags(arguments):
    """Return the flags on which the defaults of the others depend, as strings."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--out", nargs="?", default=str(Command.out), const=str(Command.out))
    first.add_argument("--preset", nargs="?")
    first.add_argument("--device", nargs="?", default="auto")
    first.add_argument("--precision", nargs="?")
    first.add_argument("--workers", nargs="?")
    first.add_argument("--data", nargs="*")
    first.add_argument("--val-data", "--val_data", nargs="*")
    first.add_argument("--init-from", "--init_from", nargs="?", type=Path)
    first.add_argument("--tokenizer", nargs="?")
    first.add_argument("-h", "--help", action="store_true")
    return first.parse_known_args(arguments)[0]


def asks_for_gpu(arguments) -> bool:
    """Return whether the flags ask for a GPU, or resume a run that was on one."""
    flags = first_flags(arguments)
    if flags.resume and flags.device == "auto":
        with contextlib.suppress(OSError, ValueError):  # prepare() says what is wrong
            return read_json(home(Path(flags.out)) / "train_config.json").get("device") == GPU
    return flags.device == GPU and not flags.help


class Parser(argparse.ArgumentParser):
    """A parser that raises ValueError instead of printing the usage."""

    def error(self, message):
        raise ValueError(message)


def refuse_bad_texts(arguments):
    """Raise ValueError if a flag for texts has no value, or is given twice."""
    arguments = [*map(str, arguments)]
    flags = [a.partition("=")[0].replace("_", "-") for a in arguments]
    for flag in ("--data", "--val-data"):
        places = [i for i, given in enumerate(flags) if given == flag]
        if len(places) > 1:
            raise ValueError(f"{flag} is given twice: name all files after one {flag}")
        for i in places:
            following = arguments[i + 1 : i + 2] or ["--"]
            if "=" not in arguments[i] and following[0].startswith("--"):
                raise ValueError(f"{flag} names no file: give a path after it, or leave it out")


def refuse_empty_values(arguments):
    """Raise ValueError if a flag has an empty value: as a path it would be the current folder."""
    for before, argument in itertools.pairwise(["", *map(str, arguments)]):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and equals and not value:
            raise ValueError(f"{flag} is empty: give it a value or leave it out")
        if not argument and before.startswith("--"):
            raise ValueError(f"{before} is empty: give it a value or leave it out")


# ---- a new run -----------------------------------------------------------------------------------


def start_run(arguments, flags, ranks, description):
    """Return the Job of a new run, whose folder is ready."""
    start = None
    if flags.init_from and not flags.help:
        start = Start.from_folder(home(flags.init_from), flags.tokenizer)
    command, why = parse(arguments, flags, ranks, description, start)
    command.check()
    if start and command.vocab_size is not None:
        raise ValueError(
            "--vocab-size cannot be combined with --init-from, which brings its own vocabulary: "
            "leave it out"
        )
    if command.vocab_size is not None and command.tokenizer != "bpe":
        raise ValueError("--vocab-size needs --tokenizer bpe")
    weights = start and start.weights(command)
    corpus = load_corpus(command.data, command.val_data)
    for flag, paths in (("--data", command.data), ("--val-data", command.val_data)):
        for folder in paths:
            if folder.is_dir() and folder.resolve() in (out := resolved(command.out)).parents:
                raise ValueError(
                    f"--out {out} is inside the {flag} folder {folder}, so the run would read its "
                    "own output as text: choose another --out"
                )
    tokenizer = start.tokenizer if start else make_tokenizer(command, corpus)
    check_fit(command, tokenizer, ranks)  # first, because encoding a large text takes minutes
    ids = encoded(tokenizer, corpus.text, command.block_size, corpus.validation)
    check_fit(command, tokenizer, ranks, text_memory(corpus, ids))
    notes = []
    if not start and command.tokenizer == "bpe" and not isinstance(corpus.text, str):
        notes.append(f"bpe learned its tokens from the first {LEARNED:,} characters")
    folder = RunFolder(command.out, command.settings(corpus, ranks), tokenizer)
    return Job(command, why, notes, corpus, tokenizer, *ids, folder, weights, saved=None)


LEARNED = 10_000_000  # characters of a large text that bpe learns from


def make_tokenizer(command: Command, corpus: Corpus) -> Tokenizer:
    """Return the tokenizer of a run.

    bpe learns from the training text alone.  A vocabulary of characters has those of both texts.
    """
    if command.tokenizer == "char":
        return CharTokenizer(corpus.alphabet())
    if command.tokenizer == "gpt2":
        return gpt2()
    train, _ = split(corpus.text, corpus.validation)
    size = 512 if command.vocab_size is None else command.vocab_size
    beginning = train if isinstance(train, str) else head(train, LEARNED)
    tokenizer = BPETokenizer.from_text(beginning, size)
    if tokenizer.vocab_size < size and command.vocab_size is not None:
        raise ValueError(
            f"bpe can learn only {tokenizer.vocab_size} tokens from this text, because then no "
            "pair of tokens occurs twice: give more text or a smaller --vocab-size"
        )
    return tokenizer


class Start(NamedTuple):
    """A model to start from, instead of random weights."""

    folder: Path
    config: GPTConfig
    state: dict[str, np.ndarray]
    tokenizer: Tokenizer
    kind: str  # of tokenizer, as --tokenizer names it

    @classmethod
    def from_folder(cls, folder, wanted):
        """Read the folder of --init-from; `wanted` is the value of --tokenizer, or None."""
        config, state, tokenizer = load_model(folder)
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise ValueError(
                    f"the model in {folder} is broken: {name} has NaN or infinite entries"
                )
        kind = "gpt2" if tokenizer.vocab_size == GPT2_SIZE else "bpe"
        kind = "char" if isinstance(tokenizer, CharTokenizer) else kind
        if wanted not in (None, kind):
            raise ValueError(f"the tokenizer of the model in {folder} is {kind}, not {wanted}")
        return cls(folder, config, state, tokenizer, kind)

    def settings(self):
        """Return the settings that the model fixes; dropout and a smaller block_size may differ."""
        shape = {name: getattr(self.config, name) for name in Architecture.__dataclass_fields__}
        return shape | {"tokenizer": self.kind}

    def weights(self, command):
        """Return its weights as float32, for the block size of the command."""
        for name in ("n_layer", "n_head", "n_embd", "bias"):
            here, there = getattr(command, name), getattr(self.config, name)
            if here != there:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {here}, but the model in {self.folder} has {there}")
        if command.block_size > self.config.block_size:
            raise ValueError(
                f"--block-size is {command.block_size}, but the model in {self.folder} has only "
                f"{self.config.block_size} positions"
            )
        if resolved(command.out) == self.folder.resolve():
            raise ValueError(f"--out is the folder of --init-from, {self.folder}: choose another")
        state = {name: array.astype(np.float32) for name, array in self.state.items()}
        return state | {"wpe.weight": state["wpe.weight"][: command.block_size]}


def parse(arguments, flags, ranks, description, start):
    """Return the Command, and the reason for its device.

    The flags override the shape of a model to start from, which overrides the preset.
    """
    device: Any = CPU  # --help need not wait for a GPU
    why = ""
    if flags.device in ("auto", GPU) and not flags.help:
        device, why = choose_device(flags.device, ranks, flags.workers)
    preset: Any = flags.preset or ("baby" if GPU in (device, flags.device) else "laptop")
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; it is {preset}")
    workers = physical_cores() if device == CPU and ranks.world_size == 1 else 1
    settings = PRESETS[preset] | (start.settings() if start else {})
    precision: Any = precisions(device)[-1]
    default = Command(preset=preset, workers=workers, precision=precision, **settings)
    command = program.parse(Command, args=arguments, default=default, description=description)
    command = replace(command.with_home(), device=device)
    return with_precision(command, flags.precision), why


def precisions(device):
    """Return the names of the precisions that a device has; the last is its default."""
    return cublas.precisions() if device == GPU else ("float32",)


def with_precision(command, asked):
    """Return the command, in float32 if its device has no other precision.

    asked       the value of --precision, or None.  ValueError if the device does not have it
    """
    if command.precision in precisions(command.device):
        return command
    if asked:
        reason = cublas.why_no_tf32() if command.device == GPU else "the device is cpu"
        raise ValueError(f"--precision {asked} is not possible, because {reason}: leave it out")
    return replace(command, precision="float32")


def choose_device(device, ranks, workers):
    """Return (device, reason) for "auto" or "gpu"; "auto" divides a step among CPUs only."""
    if device == "auto" and ranks.world_size > 1:
        return CPU, "mpirun divides a step among CPUs; --device gpu gives each rank a GPU"
    if device == "auto" and workers not in (None, "1"):
        return CPU, "--workers divides a step among the cores of a CPU"
    return select_device(device)


def check_fit(command, tokenizer, ranks, text=0, levers=memory.LEVERS):
    """Raise ValueError if a step cannot be divided, or the machine has too little memory."""
    if command.device == GPU and command.workers > 1:
        raise ValueError(
            "--workers divides a step among the cores of a CPU, but the device is gpu: leave out "
            "one of the two"
        )
    if command.patience and ranks.world_size > 1:
        raise ValueError(
            "--patience does not work with several ranks, because only rank 0 evaluates: "
            "leave it out"
        )
    ranks.sequences(command.sequences_per_step)
    there = memory.machine_memory(command.device)
    what = (command, tokenizer.vocab_size, command.workers, there, ranks, command.device)
    if no := memory.refusal(*what, levers, text):
        raise ValueError(no)


# ---- a run that resumes --------------------------------------------------------------------------

ELSEWHERE = ("workers", "device", "precision")  # may change; the last digits may then differ
# These may change, because the steps that were made do not depend on them.
TO_COME = ("steps", "eval_every", "log_every", "eval_tokens", "patience", "graph", "page_model")
FREE = (*ELSEWHERE, *TO_COME, *NOT_KEPT, *TEXTS)
BEFORE = {  # of runs older than these settings
    "eval_tokens": 0,
    "graph": True,
    "page_model": True,
    "patience": 0,
    "precision": "float32",
    "val_data": None,
}


def identity(settings: dict[str, Any], text: str) -> str:
    """Return a fingerprint that is equal for two runs if and only if they compute the same."""
    fixed = {k: v for k, v in settings.items() if k not in (*FREE, "text", "ranks")}
    return fingerprint(json.dumps([fixed, text], sort_keys=True))


def load_run(arguments, flags, ranks, description):
    """Return the Job of the run to resume in the folder of --out; write nothing yet."""
    folder = RunFolder.of_saved(home(Path(flags.out)))
    try:
        return job_of(folder, arguments, flags, ranks, description)
    except BaseException:
        folder.close()
        raise


def job_of(folder, arguments, flags, ranks, description):
    """Return the Job of the run in a folder that is locked."""
    out = home(Path(flags.out))
    progress, arrays = folder.saved
    edited = []
    try:
        written = folder.written = read_json(out / "train_config.json")
        edited = [k for k, v in progress.settings.items() if k not in FREE and written.get(k) != v]
    except (ValueError, OSError) as error:  # the state has all settings too
        folder.written = None
        folder.warnings.append(f"{message(error)}; it will be rewritten")
    if edited:
        raise ValueError(
            f"{', '.join(edited)} in {out / 'train_config.json'} changed after the run was saved: "
            f"restore the saved value{'s' * (len(edited) > 1)}"
        )
    before = saved_command(progress.settings, out)
    command = program.parse(Command, args=arguments, default=before, description=description)
    command = command.with_home()
    for name in TEXTS:
        if STDIN in getattr(before, name) and getattr(flags, name) is None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"a text of the run in {out} came from standard input: give it again with {flag}"
            )
    if command.init_from:
        command = replace(command, init_from=command.init_from.resolve())
    check_resume_args(before, command, progress.step)
    command, why = with_device(before, command, ranks)
    command = with_precision(command, flags.precision)
    corpus = load_corpus(command.data, command.val_data)
    if corpus.fingerprint() != progress.text:
        raise ValueError(
            f"the text is not the one that the run in {out} trains on: that was "
            f"{printable(progress.settings['text'])}, this is {corpus.name}"
            + (f" ({corpus.reason})" if corpus.reason else "")
        )
    tokenizer = load(out / "tokenizer.json")
    if tokenizer.fingerprint() != progress.tokenizer:
        raise ValueError(f"{out / 'tokenizer.json'} is not the one that the run was started with")
    if progress.best < math.inf:  # there was an evaluation
        try:
            checkpoint.check_run(out, progress.run)
        except (ValueError, OSError) as error:
            folder.warnings.append(
                f"{message(error)}; it will be replaced by the model of step {progress.step}"
            )
            folder.model_is_lost = True
            progress = replace(progress, best=progress.val_loss, waited=0)
            folder.saved = progress, arrays
    folder.check_place()
    ids = encoded(tokenizer, corpus.text, command.block_size, corpus.validation)
    check_fit(command, tokenizer, ranks, text_memory(corpus, ids), levers=["workers"])
    folder.settings = command.settings(corpus, ranks)
    notes = what_is_new(progress.settings, folder.settings)
    return Job(command, why, notes, corpus, tokenizer, *ids, folder, None, folder.saved)


def saved_command(settings, out):
    """Return the Command of saved settings."""
    try:
        settings = {k: v for k, v in settings.items() if k not in ("text", "ranks")}
        settings = BEFORE | settings
        settings |= {name: paths_read(settings.get(name)) for name in TEXTS}
        settings["init_from"] = settings.get("init_from") and Path(settings["init_from"])
        command = Command(**settings, out=out)
        check_kinds(command)
        for path in filter(None, (*command.data, *command.val_data, command.init_from)):
            if b"\0" in os.fsencode(path):
                raise ValueError(f"{quoted(str(path))} cannot be the path of a file")
        command.check()
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{out / resume.FILE} has invalid settings: {message(error)}") from error
    return command


def check_kinds(command):
    """Raise TypeError if the value of a setting does not have the declared type."""
    for name, kind in get_type_hints(Command).items():
        value = getattr(command, name)
        if get_origin(kind) is Literal:
            fits = value in get_args(kind)
        else:
            fits = kind not in (bool, int, float) or type(value) in (kind, int)
            fits = fits and (type(value) is not int or abs(value) < 2**64)
        if not fits:
            raise TypeError(f"{name} is {quoted(value)}")


def check_resume_args(before, command, done):
    """Raise ValueError if a flag would have changed the steps that the run has made, `done`."""
    command.check()
    names = [f.name for f in fields(command) if f.name not in FREE]
    fixed = [name for name in names if getattr(before, name) != getattr(command, name)]
    if fixed:
        flags = " and ".join("--" + name.replace("_", "-") for name in sorted(fixed))
        raise ValueError(
            f"{flags} would change what the run in {command.out} has computed so far: leave it out "
            "to resume, or start another run with another --out"
        )
    if command.steps <= done and command.steps != before.steps:
        raise ValueError(
            f"--steps must be above {done}, the number of steps that the run has already made"
        )


def with_device(before, command, ranks):
    """Return the Command with its device, or that of the run, and the reason for the device."""
    if command.device == CPU:
        return command, ""
    same = command.workers == before.workers
    try:
        device, why = choose_device(command.device, ranks, None if same else str(command.workers))
    except GPUUnavailable as error:
        raise GPUUnavailable(f"{error}; to resume without a GPU: --device cpu") from error
    workers = 1 if device == GPU and same else command.workers
    return replace(command, device=device, workers=workers), why


def what_is_new(before, now):
    """Return a line for each setting that changes, and one for each effect."""
    before = BEFORE | before
    changed = [k for k in ("ranks", *ELSEWHERE, *TO_COME) if before[k] != now[k]]
    notes = [f"{name} changes from {before[name]} to {now[name]}" for name in changed]
    if {"ranks", "workers", "device"} & set(changed):
        notes.append("sums are now rounded in another order, so the last digits may differ")
    if "precision" in changed:
        notes.append("the factors of matrix products are now rounded differently")
    return notes
