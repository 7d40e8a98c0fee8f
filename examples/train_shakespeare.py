"""Train a GPT on a text and watch it learn to speak.

    python examples/train_shakespeare.py                  tiny Shakespeare, on a GPU if there is one
    python examples/train_shakespeare.py --device cpu     on a CPU: a small model, a minute
    python examples/train_shakespeare.py --device gpu     on a GPU: a larger model, the preset baby
    python examples/train_shakespeare.py --data my.txt    your own text

Without a network a built-in grammar writes the text.  The run leaves the model, its metrics, its
samples and its loss curve in a folder.
"""

import argparse
import contextlib
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import minigrad as mg
from gpt_numpy import GPT, TrainConfig, report, verse
from gpt_numpy.config import PRESETS, physical_cores
from gpt_numpy.corpus import load_corpus
from gpt_numpy.data import split
from gpt_numpy.ranks import Ranks
from gpt_numpy.run import Clock, Display, RunFolder
from gpt_numpy.tokenizer import CharTokenizer
from gpt_numpy.train import evaluate, loss_by_position, train
from minigrad.device import CPU, GPU, NoGPU, choose, in_one_line, out_of_memory

SAMPLE_TOKENS = 240
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


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
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print only the last line."""

    def __post_init__(self):
        """No check yet: prepare() makes it, where an error becomes one line, not a traceback."""


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
    if device == GPU and command.workers > 1:
        raise ValueError(
            "--workers shares a step out over the cores of a CPU, but the device is gpu: leave out "
            "one of the two"
        )
    return replace(command, device=device), why


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
        except Exception as error:
            if ranks.size > 1 or not out_of_memory(error):
                raise  # ranks must see it, to end together
            return refuse(
                f"there is not enough memory ({in_one_line(error)}): lower --batch-size (and raise "
                "--accumulate as much), or lower --block-size",
                status=1,
            )
        if status == INTERRUPTED:
            ranks.end_all(status)
        return status


def refuse(error, status=2):
    """Say in one line what is wrong."""
    print(f"train_shakespeare: {error}", file=sys.stderr)
    return status


def prepare(arguments, ranks):
    """Read flags and text, make the folder: (Command, why its device, corpus, ..., folder)."""
    command, why = parse(arguments, ranks)
    command.check()
    ranks.rows(command.rows_per_step)  # there must be some for each
    corpus = load_corpus(command.data)
    tokenizer = CharTokenizer.from_text(corpus.text)
    ids = split(tokenizer.encode(corpus.text), command.block_size)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(command).items()}
    folder = RunFolder(command.out, settings | {"text": corpus.name}, tokenizer)
    return command, why, corpus, tokenizer, ids, folder


def train_and_report(arguments, ranks):
    """What every rank does: all of them train, and the first also prints and writes."""
    try:
        prepared = ranks.from_first(lambda: prepare(arguments, ranks))
    except (ValueError, OSError, NoGPU) as error:
        return refuse(error) if ranks.rank == 0 else 2
    command, why, corpus, tokenizer, (train_ids, val_ids), folder = prepared
    mg.manual_seed(command.seed)
    model = GPT(command.model(tokenizer.vocab_size)).to(command.device)
    steps = train(model, train_ids, command, ranks)
    if ranks.rank > 0:
        with contextlib.suppress(FloatingPointError):  # the first rank has it too, and says so
            for _ in steps:
                pass
        return 0
    with Display(command.steps, command.quiet) as display:
        introduce(display, command, why, corpus, model, folder, ranks)
        try:
            val_loss = run(display, command, corpus, tokenizer, model, folder, steps, val_ids)
        except KeyboardInterrupt:
            display.say(f"stopped; the best model so far is in {folder.path}")
            return INTERRUPTED
        except FloatingPointError as error:
            return refuse(error, status=1)
    print(
        f"final val_loss {val_loss:.4f} (perplexity {report.perplexity(val_loss):.2f}) "
        f"after {command.steps} steps"
    )
    return 0


def introduce(display, command, why, corpus, model, folder, ranks):
    """Say what is about to happen."""
    display.say(f"text: {corpus.name}, {len(corpus.text):,} characters")
    if corpus.reason:
        display.say(f"      {corpus.reason}")
    if corpus.entropy is not None:
        display.say(
            f"      its entropy, {corpus.entropy:.4f} nats per character, is the least loss"
        )
    display.say(f"device: {command.device}" + (f" ({why})" if why else ""))
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
    display.say(
        f"          in {processes}" + (f" on each of {ranks.size} ranks" * (ranks.size > 1))
    )
    if folder.moved:
        display.say(f"the run that was there is now {folder.moved}")


def run(display, command, corpus, tokenizer, model, folder, steps, val_ids):
    """Train, measuring and writing on the way; return the last validation loss."""
    text_entropy = None
    if corpus.entropy is not None:
        nats, characters = verse.negative_log_likelihood(tokenizer.decode(val_ids))
        text_entropy = nats / characters
    title = f"{corpus.name}: {command.n_layer} layers, {command.n_embd} channels"
    prompt = "\n" if "\n" in corpus.text else corpus.text[0]
    prompt = tokenizer.encode(prompt)[None]  # (1, 1)
    best = float("inf")
    clock = Clock()

    def measure(step):
        """Evaluate, write a sample, and keep the weights if they are the best so far."""
        nonlocal best
        val_loss = evaluate(model, val_ids)
        ids = model.generate(prompt, SAMPLE_TOKENS, seed=command.seed)
        sample = tokenizer.decode(ids.numpy()[0])
        folder.sample(step, val_loss, sample)
        if val_loss < best:
            best = val_loss
            model.save_pretrained(folder.path)
        display.evaluation(step, val_loss, sample)
        return val_loss

    with clock.paused():
        val_loss = measure(0)
    folder.log(step=0, val_loss=val_loss, seconds=clock.seconds())
    for result in steps:
        step = result.step
        clock.tokens += command.tokens_per_step
        due = step % command.eval_every == 0 or step == command.steps
        if not (due or step % command.log_every == 0):
            continue
        loss, rate = result.loss.item(), clock.rate()  # the loss first: a GPU must have come so far
        with clock.paused():
            if due:
                val_loss = measure(step)
            folder.log(
                step=step,
                train_loss=loss,
                val_loss=val_loss if due else None,
                lr=result.lr,
                grad_norm=result.grad_norm.item(),
                tokens_per_second=rate,
                seconds=clock.seconds(),
            )
            if due:
                folder.draw(
                    title=title,
                    vocab_size=tokenizer.vocab_size,
                    entropy=corpus.entropy,
                    text_entropy=text_entropy,
                )
        left = (command.steps - step) * command.tokens_per_step
        display.step(step, loss, result.lr, rate, left, clock.seconds())

    conclude(display, model, val_ids, val_loss, corpus.entropy, text_entropy)
    display.say(f"Look at {folder.path / 'loss.png'} and {folder.path / 'samples.txt'}.")
    return val_loss


def conclude(display, model, val_ids, val_loss, entropy, text_entropy):
    """Say how much of the loss is the price of a window's beginning, and of not being perfect."""
    half = model.config.block_size // 2
    late = loss_by_position(model, val_ids)[half:].mean()
    display.say(
        f"\nThe loss is {val_loss:.3f}; in the second half of a window, where the model sees "
        f"{half} tokens and more,\nit is {late:.3f}."
    )
    if entropy is not None:
        display.say(
            f"The grammar's entropy is {entropy:.3f} (of this validation text {text_entropy:.3f}). "
            f"The loss is {val_loss - entropy:.3f} above it,\n"
            f"in the second half of a window {late - entropy:.3f}."
        )


if __name__ == "__main__":
    sys.exit(main())
