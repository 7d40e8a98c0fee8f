"""The folder that a run leaves, and what it shows while it runs."""

import contextlib
import csv
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gpt_numpy import report
from gpt_numpy.checkpoint import write_whole

COLUMNS = "step train_loss val_loss lr grad_norm tokens_per_second seconds".split()  # metrics.csv
WRITTEN = (
    "train_config.json tokenizer.json config.json model.safetensors "
    "metrics.csv samples.txt loss.png"
).split()


class RunFolder:
    """metrics.csv, samples.txt, train_config.json, loss.png and the model: all that a run leaves.

    A folder that holds any of these already is renamed aside; `moved` then tells where it went.
    """

    def __init__(self, path, settings, tokenizer):
        self.path = Path(path) if Path(path).name else Path(path).resolve()
        self.rows = []
        try:
            self.moved = self._set_aside()
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "train_config.json", json.dumps(settings, indent=2).encode())
            tokenizer.save(self.path / "tokenizer.json")
            self._append("metrics.csv", COLUMNS)
        except OSError as error:
            raise OSError(
                f"cannot write a run to {self.path}: {error.strerror}; choose another --out"
            ) from error

    def _set_aside(self):
        if not any((self.path / name).exists() for name in WRITTEN):
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return self.path.rename(aside)

    def log(self, **row):
        """Append a row to metrics.csv; a column that is not given stays empty."""
        row = {name: row.get(name) for name in COLUMNS}
        self.rows.append(row)
        self._append("metrics.csv", row.values())

    def _append(self, name, values):
        with open(self.path / name, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow("" if v is None else _short(v) for v in values)

    def sample(self, step, val_loss, text):
        """Append what the model wrote at `step` to samples.txt."""
        with open(self.path / "samples.txt", "a", encoding="utf-8") as file:
            file.write(f"--- step {step}, val_loss {val_loss:.4f} ---\n{text}\n\n")

    def draw(self, **options):
        """Draw loss.png from all rows so far."""
        report.loss_figure(self.rows, self.path / "loss.png", **options)


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else value


class Clock:
    """Seconds since the start, and tokens per second of training, evaluations not counted."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.tokens = 0

    @contextlib.contextmanager
    def paused(self):
        """`with clock.paused():` what happens is no training, and does not count in the rate."""
        before = time.perf_counter()
        yield
        self.last += time.perf_counter() - before

    def seconds(self):
        return time.perf_counter() - self.start

    def rate(self):
        """Tokens per second since the last call."""
        now = time.perf_counter()
        rate = self.tokens / (now - self.last)
        self.last, self.tokens = now, 0
        return rate


class Display:
    """What a run shows: a live line in a terminal, a plain line now and then elsewhere."""

    EVERY = 5.0  # seconds between plain lines

    def __init__(self, steps, quiet=False):
        self.quiet, self.steps = quiet, steps
        self.console = Console(highlight=False, soft_wrap=True, emoji=False)
        self.live = None
        self.printed = -self.EVERY
        self.val_loss = None
        if self.console.is_terminal and not quiet:
            self.live = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[numbers]}"),
                console=self.console,
            )
            self.task = self.live.add_task("", total=steps, numbers="")

    def __enter__(self):
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_):
        if self.live:
            self.live.stop()

    def say(self, text=""):
        """Print a line above the live line."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def step(self, step, train_loss, lr, tokens_per_second, tokens_left, seconds):
        """Show where the run stands, `seconds` after its start."""
        if self.quiet:
            return
        val = "" if self.val_loss is None else f"  val {self.val_loss:.3f}"
        numbers = f"loss {train_loss:.3f}{val}  lr {lr:.1e}  {tokens_per_second:,.0f} tokens/s"
        minutes, seconds_left = divmod(round(tokens_left / tokens_per_second), 60)
        numbers += f"  {minutes}:{seconds_left:02} left"
        if self.live:
            self.live.update(self.task, completed=step, numbers=numbers)
        elif seconds - self.printed >= self.EVERY or step == self.steps:
            self.printed = seconds
            self.say(f"step {step:>5}/{self.steps}  {numbers}")
            sys.stdout.flush()

    def evaluation(self, step, val_loss, sample):
        """Show a validation loss and the beginning of what the model now writes."""
        self.val_loss = val_loss
        meaning = f"perplexity {report.perplexity(val_loss):.2f}, {report.bits(val_loss):.2f} bits"
        self.say(f"\nstep {step}: val_loss {val_loss:.4f} ({meaning} per token)")
        for line in sample.strip("\n").split("\n")[:6]:
            self.say(f"    {line}")
