"""The folder that a run leaves, its clock, and how it is stopped."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path

from gpt_numpy.app import report, resume
from gpt_numpy.files import Lock, read, sync, write_whole

COLUMNS = "step train_loss val_loss lr grad_norm tokens_per_second seconds".split()  # metrics.csv
GROWING = ["metrics.csv", "samples.txt"]
WRITTEN = [
    *("train_config.json", "tokenizer.json", "config.json", "model.safetensors", "loss.png"),
    "report.html",
    *GROWING,
    resume.FILE,
]


class RunFolder:
    """metrics.csv, samples.txt, the figures, train_config.json, the model and the state of a run.

    A folder that holds any of these already is renamed aside; `moved` then tells where it went.
    With `progress` the run that is there goes on instead, and nothing is touched before cut_back().
    While a process writes to a folder no other one may: OSError.
    """

    def __init__(self, path, settings, tokenizer=None, progress=None):
        self.path = Path(path) if Path(path).name else Path(path).resolve()
        self.settings = self.written = settings
        self.rows, self.samples, self.moved = [], [], None
        try:
            if progress is not None:
                self.lock = self._locked()
                return
            self.lock = None
            with contextlib.suppress(FileNotFoundError):
                self.lock = self._locked()  # so that nobody writes to it when it is renamed
                self.moved = self._set_aside()
            if self.moved or not self.lock:  # the lock, if any, has moved with the folder
                self.path.mkdir(parents=True, exist_ok=True)
                self.lock = self._locked()
            self._write_settings()
            tokenizer.save(self.path / "tokenizer.json")
            self._append("metrics.csv", COLUMNS)
        except OSError as error:
            raise OSError(
                f"cannot write a run to {self.path}: {error.strerror or error}; choose another "
                "--out"
            ) from error

    def _locked(self):
        try:
            return Lock(self.path / ".lock")
        except BlockingIOError as error:
            raise OSError(f"another process is writing to it ({error})") from error

    def _set_aside(self):
        there = [name for name in WRITTEN if (self.path / name).exists()]
        if not there:
            return None
        if not any(name in there for name in ("train_config.json", "metrics.csv", resume.FILE)):
            raise OSError(f"it has a file {there[0]} already, and is no run's folder")
        if sys.platform == "win32":
            self.lock.close()  # no folder can be renamed there that has an open file
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return self.path.rename(aside)

    def _write_settings(self):
        content = json.dumps(self.settings, indent=2)
        write_whole(self.path / "train_config.json", content.encode())
        self.written = self.settings

    def cut_back(self, progress):
        """Go on as if nothing had been written after `progress` was saved."""
        self.rows = read_rows(self.path / "metrics.csv", progress.files)
        self.samples = read_samples(self.path / "samples.txt", progress.files, self.rows)
        for name in GROWING:
            os.truncate(self.path / name, progress.files[name][0])
        for path in self.path.glob("*.tmp"):  # what a process that was killed had begun
            if path.name.split(".")[0] in {name.split(".")[0] for name in WRITTEN}:
                path.unlink()

    def log(self, **row):
        """Append a row to metrics.csv; a column that is not given stays empty."""
        row = {name: row.get(name) for name in COLUMNS}
        self.rows.append(row)
        self._append("metrics.csv", row.values())

    def _append(self, name, values):
        with open(self.path / name, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow("" if v is None else _short(v) for v in values)

    def sample(self, step, val_loss, bits, text):
        """Append what the model wrote at `step` to samples.txt."""
        self.samples.append({"step": step, "val_loss": val_loss, "bits": bits, "text": text})
        with open(self.path / "samples.txt", "a", encoding="utf-8", newline="\n") as file:
            head = f"step {step}, val_loss {val_loss:.4f}, {bits:.4f} bits per character"
            file.write(f"--- {head} ---\n{text}\n\n")

    def draw(self, **options):
        """Draw loss.png from all rows so far."""
        report.loss_figure(self.rows, self.path / "loss.png", **options)

    def report(self, **facts):
        """Write report.html of all rows and samples so far, and of what else the run knows."""
        report.page(self.path / "report.html", self.rows, self.samples, **facts)

    def save(self, model, optimizer, step, **facts):
        """Save all that the next step depends on; see resume.Progress for the facts."""
        for name in GROWING:
            sync(self.path / name)
        files = {name: extent((self.path / name).read_bytes()) for name in GROWING}
        progress = resume.Progress(step=step, files=files, settings=self.settings, **facts)
        resume.save_state(self.path, model, optimizer, progress)
        if self.settings != self.written:  # after the state, which is what counts
            self._write_settings()

    def close(self):
        """Let another process write here."""
        self.lock.close()

    def __getstate__(self):
        """For the other ranks, which do not write."""
        return vars(self) | {"lock": None}


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else value


def extent(content):
    """[how many bytes, their SHA-256]"""
    return [len(content), hashlib.sha256(content).hexdigest()]


def read_back(path, files):
    """What stood in a file when the run was saved, which is how it begins now; else ValueError."""
    length, _ = before = files.get(path.name, [0, ""])
    content = read(path)[:length]
    if extent(content) != before:
        raise ValueError(f"{path} is not what it was when the run was saved: put it back")
    return content


def read_rows(path, files):
    """The rows of metrics.csv, as log() was given them, with six digits."""
    text = read_back(path, files).decode()
    rows = csv.DictReader(io.StringIO(text, newline=""))
    numbers = [{name: float(row[name]) if row[name] else None for name in COLUMNS} for row in rows]
    return [row | {"step": int(row["step"] or 0)} for row in numbers]


NUMBER = r"(-?\d+\.\d{4}|nan|inf)"
HEAD = rf"^--- step (\d+), val_loss {NUMBER}, {NUMBER} bits per character ---\n"


def read_samples(path, files, rows):
    """What sample() was given, as samples.txt has it: a sample for every evaluation in `rows`.

    A head with another step or loss is none: a model may have learned to write such lines.
    """
    content = read_back(path, files).decode()
    evaluations = [(row["step"], row["val_loss"]) for row in rows if row["val_loss"] is not None]
    heads: list[re.Match] = []
    for head in re.finditer(HEAD, content, flags=re.MULTILINE):
        step, loss = evaluations[len(heads)] if len(heads) < len(evaluations) else (None, 0.0)
        # Four digits here, six significant ones in metrics.csv.
        same = math.isclose(loss, float(head[2]), rel_tol=1e-4, abs_tol=1e-4)
        if int(head[1]) == step and (same or head[2] == str(loss)):
            heads.append(head)
    ends = [head.start() for head in heads[1:]] + [len(content)]
    return [
        {
            "step": int(h[1]),
            "val_loss": float(h[2]),
            "bits": float(h[3]),
            "text": content[h.end() : end - 2],
        }
        for h, end in zip(heads, ends, strict=True)
    ]


def evaluation_seconds(rows, tokens_per_step):
    """How long an evaluation took on average, of a run that goes on: what was not training."""
    if not rows:
        return 0.0
    trained, before = 0.0, 0
    for row in rows:
        if row["tokens_per_second"]:
            trained += (row["step"] - before) * tokens_per_step / row["tokens_per_second"]
        before = row["step"]
    n = sum(row["val_loss"] is not None for row in rows)
    return max(0.0, rows[-1]["seconds"] - trained) / n if n else 0.0


# SIGHUP comes when the terminal is closed; Windows does not have it.
STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP are noted, to be asked for after a step: `received`, or None.

    A second Ctrl-C or SIGTERM does what it would have done without us: it ends the process at
    once.  SIGHUP often comes twice, from the shell and from the terminal.
    """

    def __enter__(self):
        self.received = None
        self.before = {}
        for number in STOPPING:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as under nohup: it is not for us to change that
            with contextlib.suppress(ValueError):  # not in the main thread: nothing to be noted
                self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, _):
        self.received = self.received or number
        for other in {signal.SIGINT, signal.SIGTERM} & self.before.keys():
            signal.signal(other, self.before.pop(other))

    def __exit__(self, *_):
        while self.before:
            signal.signal(*self.before.popitem())


class Clock:
    """Seconds since the start, and tokens per second of training, evaluations not counted.

    before      seconds that the run had taken before it was stopped
    """

    def __init__(self, before=0.0):
        self.last = time.perf_counter()
        self.start = self.last - before
        self.tokens = 0  # since the last rate()
        self.trained = [0, 0.0]  # tokens and seconds until then
        self.pause = 0.0  # how long the last one took
        self.last_save = self.last

    def saved(self):
        """The run was saved just now."""
        self.last_save = time.perf_counter()

    def since_save(self):
        """Seconds since saved() was last called, or since the start."""
        return time.perf_counter() - self.last_save

    @contextlib.contextmanager
    def paused(self):
        """`with clock.paused():` what happens is no training, and does not count in the rate."""
        before = time.perf_counter()
        yield
        self.pause = time.perf_counter() - before
        self.last += self.pause

    def seconds(self):
        return time.perf_counter() - self.start

    def rate(self):
        """Tokens per second since the last call."""
        now = time.perf_counter()
        tokens, seconds = self.tokens, now - self.last
        self.trained = [self.trained[0] + tokens, self.trained[1] + seconds]
        self.last, self.tokens = now, 0
        return tokens / seconds

    def left(self, tokens):
        """Seconds that so many tokens will take to train, at the rate of all until now."""
        done, seconds = self.trained
        return tokens * seconds / done if done else 0.0
