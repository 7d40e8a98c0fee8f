"""The display of a run: live in a terminal, plain lines elsewhere."""

import contextlib
import functools
import itertools
import sys
import time

import numpy as np
from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from gpt_numpy.app.program import complain, silence
from gpt_numpy.app.report import CONTROL, perplexity
from minigrad.internals.gpu import in_one_line

TRAINING, VALIDATION = "blue", "dark_orange"
Losses = tuple[list[tuple[int, float]], list[tuple[int, float]]]  # of training, of validation
BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # the dots of a cell


class Display:
    """A live picture in a terminal: progress, numbers, the losses so far, and the newest sample.

    In a pipe or a file it is a plain line every few seconds; with `quiet` only the last line.
    """

    EVERY = 5.0  # seconds between plain lines
    SAMPLE = 6  # lines of a sample
    MOST = 4000  # points of a curve; a terminal has fewer dots

    def __init__(self, steps, quiet=False):
        self.quiet, self.steps = quiet, steps
        self.console = Console(highlight=False, emoji=False)
        self.live = None
        self.done, self.printed = 0, -self.EVERY
        self.val_loss = self.memory = None
        self.numbers = ["", "", ""]  # of the last step that was logged: training, validation, rest
        self.deadline = None  # when the run will end
        self.losses: Losses = ([], [])
        self.missing: set[str] = set()  # the files that failed() has named
        self.newest: list[str] = []  # the lines of the last evaluation and its sample
        if self.console.file.isatty() and not self.console.is_dumb_terminal and not quiet:
            self.live = Picture(
                get_renderable=self.picture,
                console=self.console,
                vertical_overflow="crop",
                redirect_stderr=sys.stderr.isatty(),  # if it is a file, errors must stay there
            )

    def __enter__(self):
        if self.live:
            self._print(self.live.start)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Stop redrawing; later lines are printed below the picture."""
        if self.live:
            self._print(self.live.stop)

    def say(self, text=""):
        """Print a line above the picture; in a terminal it is wrapped between words."""
        if not self.quiet:
            whole = not self.live
            line = text.translate(CONTROL)
            self._print(lambda: self.console.print(line, markup=False, soft_wrap=whole))

    def last(self, text):
        """Print the last line, also with `quiet`."""
        self._print(lambda: print(text.translate(CONTROL)))

    def _print(self, write):
        try:
            write()
            sys.stdout.flush()
        except (OSError, SystemExit):  # a closed pipe, which rich would end with, or a full disk
            self.quiet = True
            silence(sys.stdout)

    def go_on(self, rows):
        """Begin with the losses of a resumed run: rows as in metrics.csv."""
        for kind, name in enumerate(("train_loss", "val_loss")):
            points = [(row["step"], row[name]) for row in rows if row[name] is not None]
            self.losses[kind].extend(points)
        if self.losses[1]:
            _, self.val_loss = self.losses[1][-1]

    def step(self, step, train_loss, lr, grad_norm, tokens_per_second, left, seconds):
        """Show a step, `seconds` after the start of the run and `left` seconds before its end."""
        self.done, self.deadline = step, time.perf_counter() + left
        self.losses[0].append((step, train_loss))
        if len(self.losses[0]) > self.MOST:
            del self.losses[0][1::2]
        val = "" if self.val_loss is None else f"  val {self.val_loss:.3f}"
        if not self.live and self.losses[1] and self.losses[1][-1][0] < step:  # the picture says it
            val += f" (step {self.losses[1][-1][0]})"
        rest = f"  lr {lr:.1e}  gradient {grad_norm:.2f}  {tokens_per_second:,.0f} tokens/s"
        self.numbers = [f"loss {train_loss:.3f}", val, rest]
        due = seconds - self.printed >= self.EVERY or step == self.steps
        if not self.quiet and not self.live and due:
            self.printed = seconds
            self.say(f"step {step:>5}/{self.steps}  {''.join(self.numbers)}  {clock(left)} left")

    def evaluation(self, step, val_loss, bits, sample, memory):
        """Show a validation loss and the beginning of a sample.

        bits        the loss in bits per character, which does not depend on the tokenizer
        memory      the memory that the run uses, in words
        """
        self.val_loss, self.memory = val_loss, memory
        self.losses[1].append((step, val_loss))
        meaning = f"perplexity {perplexity(val_loss):.2f}, {bits:.2f} bits per character"
        lines = sample.translate(CONTROL).strip("\n").split("\n")[: self.SAMPLE]
        before = self.newest
        self.newest = [f"step {step}: val_loss {val_loss:.4f} ({meaning})", *lines]
        if not self.live:
            before = self.newest  # there is no picture that shows the new one
        if before:
            head, *lines = before
            self.say("\n".join(["", head, *(f"    {line}" for line in lines)]))

    def failed(self, what, error):
        """Report once that a file could not be written, which does not stop the run."""
        if what not in self.missing:
            self.missing.add(what)
            reason = getattr(error, "strerror", None) or in_one_line(error)
            complain(f"could not write {what} ({reason}); the run continues")

    # ---- the picture -------------------------------------------------------------------------

    def picture(self):
        """Return all that is redrawn in place."""
        size = self.console.size
        bar = Table.grid(*[Column(no_wrap=True) for _ in range(3)], padding=(0, 1))
        left = "" if self.deadline is None else clock(self.deadline - time.perf_counter()) + " left"
        bar.add_row(
            Text(f"step {self.done}/{self.steps}"),
            ProgressBar(self.steps, self.done, width=max(1, min(50, size.width - 40))),
            Text(f"{100 * self.done // max(1, self.steps)} %  {left}"),
        )
        training, validation, rest = self.numbers
        numbers = Text(no_wrap=True, overflow="ellipsis")
        numbers.append(training, style=TRAINING).append(validation, style=VALIDATION)
        numbers.append(f"{rest}  {self.memory}" if self.memory else rest)
        parts: list[ConsoleRenderable] = [Text(), bar, numbers]
        height = min(8, size.height - 8 - len(self.newest))
        if height >= 3 and self.console.encoding.startswith("utf"):
            parts += curve(self.losses, self.steps, size.width - 2, height)
        if self.newest:
            head, *lines = self.newest
            parts += [Text(), Text(head, style="bold", no_wrap=True, overflow="ellipsis")]
            parts += [Text(f"    {line}", no_wrap=True, overflow="ellipsis") for line in lines]
        return Group(*parts)


class Picture(Live):
    """A Live that still redraws in its thread, and ignores a terminal that is gone."""

    def refresh(self):
        with contextlib.suppress(OSError, SystemExit):
            super().refresh()


def optional(what):
    """Decorate a method that writes the file `what`: an error there is a line on self.display."""

    def decorate(method):
        @functools.wraps(method)
        def attempt(self, *arguments):
            try:
                method(self, *arguments)
            except Exception as error:
                self.display.failed(what, error)

        return attempt

    return decorate


def clock(seconds):
    """Return seconds as 0:07, 12:34 or 1:02:03."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def curve(losses, steps, width, height):
    """Return lines of Text that plot both losses against the steps, in Braille: 2 × 4 dots each.

    losses      of training and of validation, each a list of (step, loss)
    """
    finite = [[(s, x) for s, x in points if np.isfinite(x)] for points in losses]
    values = [x for points in finite for _, x in points]
    if len(values) < 2:
        return []
    low, high = min(values), max(values)
    labels = [f"{high:.2f}", f"{low:.2f}"]
    margin = max(map(len, labels)) + 2
    columns, rows = 2 * max(1, width - margin), 4 * height
    dots = np.zeros((2, rows, columns), bool)
    for dot, points in zip(dots, finite, strict=True):
        if not points:
            continue
        x, y = np.array(points).T
        x = x * (columns - 1) / max(steps, x.max())
        y = (high - y) * (rows - 1) / (high - low or 1)
        at = np.arange(np.ceil(x[0]), x[-1] + 1).astype(int)
        track = np.interp(at, x, y).round().astype(int)
        for column, here, before in zip(at, track, [track[0], *track[:-1]], strict=True):
            dot[min(here, before) : max(here, before) + 1, min(column, columns - 1)] = True
    cells = dots.reshape(2, height, 4, -1, 2).transpose(0, 1, 3, 2, 4)  # (2, height, width, 4, 2)
    letters = (cells.any(0) * BRAILLE).sum((-1, -2)) + 0x2800
    orange = cells[1].any((-1, -2))  # validation is drawn over training
    lines = []
    for i in range(height):
        label = labels[0] if i == 0 else labels[1] if i == height - 1 else ""
        line = Text(f"{label:>{margin - 2}} ")
        line.append("┤" if label else "│", style="dim")
        row = zip(letters[i], orange[i], strict=True)
        for is_validation, cells_alike in itertools.groupby(row, lambda cell: cell[1]):
            text = "".join(chr(letter) for letter, _ in cells_alike)
            line.append(text, style=VALIDATION if is_validation else TRAINING)
        lines.append(line)
    return lines
