"""Train a GPT on a text and watch it learn to speak.

    python examples/train_shakespeare.py                  tiny Shakespeare, on a GPU if there is one
    python examples/train_shakespeare.py --device cpu     on a CPU: a small model, a minute
    python examples/train_shakespeare.py --device gpu     on a GPU: a larger model, the preset baby
    python examples/train_shakespeare.py --data my.txt    your own text
    python examples/train_shakespeare.py --resume         go on where a run was stopped

Without a network a built-in grammar writes the text.  The run leaves the model, its metrics, its
samples and its loss curve in a folder, and all that it takes to go on.
"""

import argparse
import contextlib
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

import minigrad as mg
from gpt_numpy import GPT, TrainConfig, memory, report, resume, verse
from gpt_numpy.config import PRESETS, physical_cores
from gpt_numpy.corpus import Corpus, load_corpus
from gpt_numpy.data import split
from gpt_numpy.files import fingerprint, read_json
from gpt_numpy.ranks import Ranks
from gpt_numpy.run import Clock, Display, RunFolder, Signals
from gpt_numpy.tokenizer import CharTokenizer
from gpt_numpy.train import adamw, evaluate, loss_by_position, train
from gpt_numpy.workers import WorkerDied
from minigrad.device import CPU, GPU, NoGPU, choose, in_one_line, out_of_memory

SAMPLE_TOKENS = 240
SAVE_EVERY = 180  # seconds, between two evaluations that are further apart


@dataclass(frozen=True, kw_only=True)
class Command(TrainConfig):
    preset: Literal["laptop", "baby", "gpt2"] = "laptop"
    """Which settings to start from: by default laptop, or baby on a GPU."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute; auto: on an NVIDIA GPU if there is one that works."""
    data: Path | None = None
    """A text file (UTF-8) to learn from, instead of tiny Shakespeare."""
    out: Path = Path("runs/shakespeare")
    """The folder for the results; an earlier run there is renamed, not overwritten."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out where it was saved, with its settings."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print only the last line."""

    def __post_init__(self):
        """No check yet: prepare() makes it, where an error becomes one line, not a traceback."""

    def settings(self) -> dict[str, Any]:
        """What train_config.json keeps of this."""
        kept = [f.name for f in fields(self) if f.name not in ("out", "resume", "quiet")]
        settings = {name: getattr(self, name) for name in kept}
        return settings | {"data": self.data and str(self.data.resolve())}


# What a run that goes on may have otherwise: where and how it is computed, and what is to come.
FREE = {"steps", "eval_every", "log_every", "workers", "device", "data", "out", "resume", "quiet"}


class Job(NamedTuple):
    """All that is known before a run begins."""

    command: Command
    why: str  # its device was chosen
    notes: list[str]  # on what is otherwise than before
    corpus: Corpus
    tokenizer: CharTokenizer
    train_ids: np.ndarray
    val_ids: np.ndarray
    folder: RunFolder
    saved: tuple[resume.Progress, dict[str, np.ndarray]] | None  # of the run that goes on


def parse(arguments, ranks):
    """(Command, why on its device): the flags over the preset that they or the device name."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?")
    first.add_argument("--device", nargs="?", default="auto")
    first.add_argument("--workers", nargs="?")
    first.add_argument("-h", "--help", action="store_true")
    flags = first.parse_known_args(arguments)[0]
    device: Any = CPU  # --help need not wait for a GPU
    why = ""
    if flags.device in ("auto", GPU) and not flags.help:
        device, why = choose_device(flags.device, ranks, flags.workers)
    preset: Any = flags.preset or ("baby" if GPU in (device, flags.device) else "laptop")
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; it is {preset}")
    workers = physical_cores() if device == CPU and ranks.size == 1 else 1
    default = Command(preset=preset, workers=workers, **PRESETS[preset])
    command = tyro.cli(Command, args=arguments, default=default, description=__doc__)
    return with_device(command, device), why


def parse_resumed(arguments, saved, folder, ranks):
    """(Command, why on its device, notes): the saved settings, but for the FREE ones in flags."""
    settings = {k: v for k, v in saved.items() if k not in ("text", "ranks")}
    if settings["data"] is not None:
        settings["data"] = Path(settings["data"])
    before = Command(**settings, out=folder)
    before.check()
    command = tyro.cli(Command, args=arguments, default=before, description=__doc__)
    changed = {
        f.name: (getattr(before, f.name), getattr(command, f.name))
        for f in fields(command)
        if getattr(before, f.name) != getattr(command, f.name)
    }
    if fixed := changed.keys() - FREE:
        flags = " and ".join("--" + name.replace("_", "-") for name in sorted(fixed))
        raise ValueError(
            f"{flags} would change what the run in {folder} has computed so far: leave it out to "
            "go on with --resume, or start another run with another --out"
        )
    device, why = CPU, ""
    if command.device != CPU:
        workers = str(command.workers) if "workers" in changed else None
        try:
            device, why = choose_device(command.device, ranks, workers)
        except NoGPU as error:
            raise NoGPU(f"{error}; to go on without a GPU: --device cpu") from error
    if device == GPU and "workers" not in changed:
        command = replace(command, workers=1)
    changed = {"ranks": (saved["ranks"], ranks.size)}
    for name in ("steps", "eval_every", "log_every", "workers", "device"):
        changed[name] = (getattr(before, name), getattr(command, name))
    changed["device"] = (before.device, device)
    notes = [f"{name}: {a} before, {b} from here on" for name, (a, b) in changed.items() if a != b]
    if any(changed[name][0] != changed[name][1] for name in ("ranks", "workers", "device")):
        notes.append("sums are rounded in another order now: the last digits may differ")
    return with_device(command, device), why, notes


def with_device(command, device):
    """The Command on that device; ValueError if it asks for several processes on a GPU."""
    if device == GPU and command.workers > 1:
        raise ValueError(
            "--workers shares a step out over the cores of a CPU, but the device is gpu: leave out "
            "one of the two"
        )
    return replace(command, device=device)


def choose_device(device, ranks, workers):
    """(device, why) of "auto" or "gpu"; what shares a step out computes on CPUs."""
    if device == GPU and ranks.size > 1:
        raise ValueError("mpirun shares a step out over CPUs: start one process for a GPU")
    if device == "auto" and ranks.size > 1:
        return CPU, "mpirun shares a step out over CPUs"
    if device == "auto" and workers not in (None, "1"):
        return CPU, "--workers shares a step out over the cores of a CPU"
    return choose(device)


def main(arguments=None):
    try:
        ranks = Ranks.of_mpirun()
    except ModuleNotFoundError as error:
        return refuse(error)
    with ranks:
        try:
            status = train_and_report(arguments, ranks)
        except KeyboardInterrupt:
            status = refuse("stopped at once; --resume goes on from what was saved, if any", 130)
        except Exception as error:
            if ranks.size > 1 or not (out_of_memory(error) or isinstance(error, WorkerDied)):
                raise  # ranks must see it, to end together
            *flags, last = memory.LEVERS.values()
            return refuse(
                f"there is not enough memory ({in_one_line(error)}): lower {', '.join(flags)} or "
                f"{last}",
                status=1,
            )
        if status > 128:
            ranks.end_all(status)
        return status


def refuse(error, status=2):
    """Say what is wrong."""
    print(f"train_shakespeare: {error}", file=sys.stderr)
    return status


def prepare(arguments, ranks):
    """Read flags, text and what was saved, and see to it that all fits: a Job."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--out", nargs="?", default=str(Command.out))
    first.add_argument("-h", "--help", action="store_true")
    flags = first.parse_known_args(arguments)[0]
    if flags.resume and not flags.help:
        return prepare_resumed(arguments, Path(flags.out), ranks)
    command, why = parse(arguments, ranks)
    command.check()
    ranks.rows(command.rows_per_step)  # there must be some for each
    corpus = load_corpus(command.data)
    tokenizer = CharTokenizer.from_text(corpus.text)
    ids = split(tokenizer.encode(corpus.text), command.block_size)
    check_memory(command, tokenizer, ranks)
    settings = command.settings() | {"text": corpus.name, "ranks": ranks.size}
    folder = RunFolder(command.out, settings, tokenizer)
    return Job(command, why, [], corpus, tokenizer, *ids, folder, None)


def prepare_resumed(arguments, out, ranks):
    """The same for a run that goes on; nothing is written yet."""
    progress, arrays = resume.load_state(out)
    folder = RunFolder(out, progress.settings, progress=progress)
    written = read_json(out / "train_config.json")
    differ = [k for k, v in progress.settings.items() if k not in FREE and written.get(k) != v]
    if differ:
        raise ValueError(
            f"{out / 'train_config.json'} was changed since the run was saved, in "
            f"{', '.join(differ)}: put it back"
        )
    try:
        command, why, notes = parse_resumed(arguments, progress.settings, out, ranks)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{out / resume.FILE} has other settings: {error}") from error
    command.check()
    if command.steps <= progress.step and command.steps != progress.settings["steps"]:
        raise ValueError(f"--steps must be above {progress.step}: so many the run has made already")
    ranks.rows(command.rows_per_step)
    corpus = load_corpus(command.data)
    if fingerprint(corpus.text) != progress.text:
        raise ValueError(
            f"the text is not the one that the run in {out} learns from: that was "
            f"{progress.settings['text']}, this is {corpus.name}"
            + (f" ({corpus.reason})" if corpus.reason else "")
        )
    tokenizer = CharTokenizer.load(out / "tokenizer.json")
    if tokenizer.fingerprint() != progress.tokenizer:
        raise ValueError(f"{out / 'tokenizer.json'} is not the one that the run was started with")
    ids = split(tokenizer.encode(corpus.text), command.block_size)
    check_memory(command, tokenizer, ranks)
    folder.settings = command.settings() | {"text": corpus.name, "ranks": ranks.size}
    return Job(command, why, notes, corpus, tokenizer, *ids, folder, (progress, arrays))


def check_memory(command, tokenizer, ranks):
    """ValueError if the machine has too little memory for the run."""
    there = memory.machine_memory(command.device)
    no = memory.refusal(
        command, tokenizer.vocab_size, command.workers, there, ranks, command.device
    )
    if no:
        raise ValueError(no)


def train_and_report(arguments, ranks):
    """What every rank does: all of them train, and the first also prints and writes."""
    try:
        job = ranks.from_first(lambda: prepare(arguments, ranks))
    except (ValueError, OSError, NoGPU) as error:
        return refuse(error) if ranks.rank == 0 else 2
    command = job.command
    mg.manual_seed(command.seed)
    model = GPT(command.model(job.tokenizer.vocab_size)).to(command.device)
    optimizer = adamw(model, command)
    done = 0
    if job.saved:
        progress, arrays = job.saved
        done = progress.step
        try:
            resume.restore(model, optimizer, progress, arrays, job.folder.path / resume.FILE)
            if ranks.rank == 0:
                job.folder.cut_back(progress)
        except (ValueError, OSError) as error:
            return refuse(error) if ranks.rank == 0 else 2
    steps = train(model, job.train_ids, command, ranks, optimizer, done)
    if ranks.rank > 0:
        with contextlib.suppress(FloatingPointError):  # the first rank has it too, and says so
            for _ in steps:
                pass
        return 0
    with Display(command.steps, command.quiet) as display, Signals() as signals:
        introduce(display, job, model, ranks)
        run = Run(display, job, model, optimizer)
        try:
            stopped = run.go(steps, signals)
        except FloatingPointError as error:
            return refuse(f"{error}\nStep {run.saved}, the last one saved, stays as it is.", 1)
        except OSError as error:
            fault = error.strerror or in_one_line(error)
            return refuse(f"cannot write to {job.folder.path}: {fault}. {run.how_to_go_on()}", 1)
    job.folder.close()
    if stopped:
        print(f"stopped; {run.how_to_go_on()}")
        return 128 + stopped
    print(
        f"final val_loss {run.val_loss:.4f} (perplexity {report.perplexity(run.val_loss):.2f}) "
        f"after {command.steps} steps"
    )
    return 0


def introduce(display, job, model, ranks):
    """Say what is about to happen."""
    command, corpus, folder = job.command, job.corpus, job.folder
    display.say(f"text: {corpus.name}, {len(corpus.text):,} characters")
    if corpus.reason:
        display.say(f"      {corpus.reason}")
    if corpus.entropy is not None:
        display.say(
            f"      its entropy, {corpus.entropy:.4f} nats per character, is the least loss"
        )
    display.say(f"device: {command.device}" + (f" ({job.why})" if job.why else ""))
    c = model.config
    display.say(
        f"model: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} channels, {c.block_size} tokens "
        f"of context, {sum(p.data.size for p in model.parameters()):,} parameters"
    )
    display.say(
        f"training: preset {command.preset}, {command.steps} steps of {command.tokens_per_step:,} "
        f"tokens, into {folder.path}"
    )
    first, stop = ranks.rows(command.rows_per_step)
    n = min(command.workers, stop - first)
    processes = f"{n} processes" if n > 1 else "one process"
    need = memory.estimate(command, c.vocab_size, command.workers, ranks, command.device).total
    display.say(
        f"          in {processes}"
        + (f" on each of {ranks.size} ranks" * (ranks.size > 1))
        + f", which will take about {memory.size(need)} of memory"
    )
    if job.saved:
        progress, _ = job.saved
        display.say(f"resuming: from step {progress.step}, val_loss {progress.val_loss:.4f}")
    for note in job.notes:
        display.say(f"          {note}")
    if folder.moved:
        display.say(f"the run that was there is now {folder.moved}")


class Run:
    """Train, measuring, writing and saving on the way."""

    def __init__(self, display, job, model, optimizer):
        self.display, self.job, self.model, self.optimizer = display, job, model, optimizer
        self.command, self.folder, self.tokenizer = job.command, job.folder, job.tokenizer
        self.fingerprints = {
            "text": fingerprint(job.corpus.text),
            "tokenizer": job.tokenizer.fingerprint(),
        }
        prompt = "\n" if "\n" in job.corpus.text else job.corpus.text[0]
        self.prompt = job.tokenizer.encode(prompt)[None]  # (1, 1)
        self.best = self.val_loss = float("inf")
        self.saved = None  # the step of the last save
        if job.saved:
            progress, _ = job.saved
            self.best, self.val_loss, self.saved = progress.best, progress.val_loss, progress.step
            display.val_loss = progress.val_loss
        self.text_entropy = None
        if job.corpus.entropy is not None:
            nats, characters = verse.negative_log_likelihood(job.tokenizer.decode(job.val_ids))
            self.text_entropy = nats / characters
        rows = job.folder.rows
        self.clock = Clock(before=rows[-1]["seconds"] if rows else 0)

    def go(self, steps, signals):
        """Go through the steps; return the signal that stopped the run before its end, or None."""
        command = self.command
        if self.saved is None:
            with self.clock.paused():
                self.measure(0)
                self.folder.log(step=0, val_loss=self.val_loss, seconds=self.clock.seconds())
                self.save(0)
        for result in steps:
            step = result.step
            self.clock.tokens += command.tokens_per_step
            if step % command.log_every == 0 or self.is_measured(step):
                self.look(result)
            if step == command.steps:
                break
            stop = signals.received
            if self.saved != step and (stop or self.clock.since_save() > SAVE_EVERY):
                with self.clock.paused():
                    self.save(step)
            if stop:
                return stop
        self.conclude()
        return None

    def is_measured(self, step):
        return step % self.command.eval_every == 0 or step == self.command.steps

    def look(self, result):
        """Log a step, after an evaluation if it is time for one."""
        step = result.step
        loss, rate = result.loss.item(), self.clock.rate()  # in this order: a GPU is waited for
        with self.clock.paused():
            measured = self.is_measured(step)
            if measured:
                self.measure(step)
            self.folder.log(
                step=step,
                train_loss=loss,
                val_loss=self.val_loss if measured else None,
                lr=result.lr,
                grad_norm=result.grad_norm.item(),
                tokens_per_second=rate,
                seconds=self.clock.seconds(),
            )
            if measured:
                self.draw()
                self.save(step)
        left = (self.command.steps - step) * self.command.tokens_per_step
        self.display.step(step, loss, result.lr, rate, left, self.clock.seconds())

    def measure(self, step):
        """Evaluate, write a sample, and keep the weights if they are the best so far."""
        self.val_loss = evaluate(self.model, self.job.val_ids)
        ids = self.model.generate(self.prompt, SAMPLE_TOKENS, seed=self.command.seed)
        sample = self.tokenizer.decode(ids.numpy()[0])
        self.folder.sample(step, self.val_loss, sample)
        if self.val_loss < self.best:
            self.best = self.val_loss
            self.model.save_pretrained(self.folder.path, self.tokenizer)
        self.display.evaluation(step, self.val_loss, sample)

    def save(self, step):
        """Save all that the next step depends on, unless a step before has gone wrong."""
        if self.optimizer.stopped_at():
            return  # the weights are of that step: train() will say so
        facts = {"best": self.best, "val_loss": self.val_loss, **self.fingerprints}
        self.folder.save(self.model, self.optimizer, step, **facts)
        self.saved = step
        self.clock.saved()

    def how_to_go_on(self):
        """Where the saved run is, and the command that goes on with it."""
        if self.saved is None:
            return "Nothing was saved yet."
        out = "" if self.folder.path == Command.out else f" --out {self.folder.path}"
        return (
            f"step {self.saved} is saved in {self.folder.path}; to go on from there: "
            f"python examples/train_shakespeare.py --resume{out}"
        )

    def draw(self):
        """Draw the loss so far."""
        self.folder.draw(
            title=f"{self.job.corpus.name}: {self.command.n_layer} layers, "
            f"{self.command.n_embd} channels",
            vocab_size=self.tokenizer.vocab_size,
            entropy=self.job.corpus.entropy,
            text_entropy=self.text_entropy,
        )

    def conclude(self):
        """Say how much of the loss is the price of a window's beginning, and of being imperfect."""
        say, entropy = self.display.say, self.job.corpus.entropy
        half = self.model.config.block_size // 2
        late = loss_by_position(self.model, self.job.val_ids)[half:].mean()
        say(
            f"\nThe loss is {self.val_loss:.3f}; in the second half of a window, where the model "
            f"sees {half} tokens and more,\nit is {late:.3f}."
        )
        if entropy is not None:
            say(
                f"The grammar's entropy is {entropy:.3f} (of this validation text "
                f"{self.text_entropy:.3f}). The loss is {self.val_loss - entropy:.3f} above it,\n"
                f"in the second half of a window {late - entropy:.3f}."
            )
        say(f"Look at {self.folder.path / 'loss.png'} and {self.folder.path / 'samples.txt'}.")


if __name__ == "__main__":
    sys.exit(main())
