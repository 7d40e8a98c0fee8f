"""The run folder: its files, its clock and its signals."""

import contextlib
import hashlib
import json
import math
import os
import re
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

from gpt_numpy.app import report, resume
from gpt_numpy.folder import Folder, Lock
from gpt_numpy.hf import checkpoint

COLUMNS = "step train_loss val_loss lr grad_norm tokens_per_second seconds".split()  # metrics.csv
GROWING = ["metrics.csv", "samples.txt"]
STATES = [resume.FILE, resume.BEFORE, resume.ASIDE]
WRITTEN = [
    *("train_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("config.json", "model.safetensors", "loss.png", "report.html"),
    *GROWING,
    *STATES,
]
MOST = 2**30  # bytes of a file that grows
MOST_REPAIRED = 2**26  # bytes that are read if it has changed since the run was saved


def resolved(path):
    """Return a path without links; OSError if links form a loop."""
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(f"{path} is a link that leads back to itself") from error


class RunFolder:
    """metrics.csv, samples.txt, the figures, train_config.json, the model and the state of a run.

    RunFolder(path, settings, tokenizer) begins a run.  The folder of an earlier run is renamed;
    `moved` is then its new path.  RunFolder.of_saved(path) reads a run to resume; it writes nothing
    before truncate_to().

    OSError if another process is writing to the folder.
    """

    folder: Any = None
    lock: Any = None
    saved: Any = None  # (Progress, arrays)
    file = resume.FILE  # the file that these were read from
    model_is_lost = False  # whether the best model is damaged, or of another run

    def __init__(self, path, settings=None, tokenizer=None):
        self.path = Path(path) if Path(path).name else Path(path).resolve()
        self.settings = self.written = settings
        self.rows, self.samples, self.warnings = [], [], []
        self.moved = self.mark = None
        self.contents = {name: Extent() for name in GROWING}
        contents = tokenizer.contents() if tokenizer else {}  # may fail: before all else
        try:
            self._take(tokenizer is not None)
            if tokenizer is None:
                return
            self.folder.remove_temporary(WRITTEN)
            self._write_settings()
            for name, content in contents.items():
                self.folder.write(name, content)
            self._append("metrics.csv", csv_line(COLUMNS))
            self._append("samples.txt", b"")
            self.folder.sync()
        except OSError as error:
            self.close()
            raise OSError(
                f"cannot write a run to {self.path}: {error.strerror or error}; choose another "
                "--out"
            ) from error

    @classmethod
    def of_saved(cls, path):
        """Return the folder of a run to resume; its state, as of load_state(), is in `saved`."""
        if not any((path / name).exists() for name in (resume.FILE, resume.BEFORE)):
            raise ValueError(f"there is no run to resume in {path}: {resume.FILE} is not there")
        self = cls(path)
        self.mark = resume.mark(self.folder)
        try:
            self.file, progress, arrays, fault = resume.newest_state(self.path)
        except BaseException:
            self.close()
            raise
        if fault:
            self.warnings.append(f"{fault}; resuming from the previous save, step {progress.step}")
        self.settings = progress.settings
        self.saved = progress, arrays
        return self

    def _take(self, is_new):
        """Open and lock the folder; for a new run, rename an earlier run that is there."""
        real = resolved(self.path) if self.path.is_symlink() else self.path  # to stay on its disk
        self.folder = Folder(real, create=is_new)
        self.lock = Lock(self.folder)  # so that nobody writes to it when it is renamed
        if is_new and self._is_run():
            self.moved = self._set_aside(real)
            self.folder = Folder(real, create=True)
            self.lock = Lock(self.folder)
        if not self.lock.works:
            self.warnings.append(
                f"{self.path} is on a file system without locks: start no other run in it"
            )

    def _is_run(self):
        there = [name for name in WRITTEN if self.folder.stat(name)]
        if there and not {"train_config.json", "metrics.csv", *STATES}.intersection(there):
            raise OSError(f"it already has a file {there[0]} and is not the folder of a run")
        return bool(there)

    def _set_aside(self, real):
        """Rename the folder, with its lock; return its new path."""
        if sys.platform == "win32":
            self.close()  # a folder with an open file cannot be renamed there
        number = 1
        while os.path.lexists(aside := real.with_name(f"{real.name}-{number}")):
            number += 1
        try:
            self.folder.move(real, aside)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"the run in it cannot be renamed to {aside.name}: {reason}") from error
        self.close()
        return aside

    def _write_settings(self):
        content = json.dumps(self.settings, indent=2)
        self.folder.write("train_config.json", content.encode())
        self.written = self.settings

    def where(self):
        """Return the path of the folder, which may have been renamed since it was opened."""
        return self.path if self.folder.is_at(self.path) else self.folder.where()

    def has(self, name):
        """Return whether there is a file of this name."""
        return self.folder.stat(name) is not None

    def check_place(self):
        """Raise OSError if the path now leads to another folder, which others would read."""
        if not self.folder.is_at(self.path):
            raise OSError(f"{self.path} was renamed while it was read: start again")

    def check_owner(self):
        """Raise OSError if another run has saved here, as a file system without locks allows."""
        if resume.mark(self.folder) not in (None, self.mark):
            raise OSError("another run has saved in this folder in the meantime")

    # ---- resuming ----------------------------------------------------------------------------

    def truncate_to(self, progress):
        """Undo all that was written after `progress` was saved.

        A run can resume without metrics.csv and samples.txt.  If one of them has changed, it is
        renamed, and its readable part is kept.
        """
        if self.file != resume.FILE:
            if self.folder.stat(resume.FILE):
                self._put_aside(resume.FILE, resume.ASIDE)
            self.folder.rename(resume.BEFORE, resume.FILE)
            self.folder.sync()
            self.mark = resume.mark(self.folder)
        if self.model_is_lost and self.folder.stat(checkpoint.MODEL):
            self._put_aside(checkpoint.MODEL)
        for name in ("config.json", "train_config.json"):
            if not self.folder.may_write(name):
                self._put_aside(name)
        metrics = self._cut("metrics.csv", progress.files)
        self.rows = rows_in(metrics, progress.step)
        self._repair("metrics.csv", b"".join(map(csv_line, [COLUMNS, *map(values_of, self.rows)])))
        samples = self._cut("samples.txt", progress.files)
        self.samples = samples_in(samples, self.rows)
        self._repair("samples.txt", b"".join(block_of(**sample) for sample in self.samples))
        self.folder.remove_temporary(WRITTEN)

    def _cut(self, name, saved):
        """Cut a file to the length that it had when the run was saved; return its content.

        If that has changed, `contents` lacks the file, and _repair() writes it again.
        """
        length, digest = saved.get(name, [0, ""])
        content = self._read(name, length)
        about = self.folder.stat(name)
        self.contents[name] = Extent(content)
        if self.contents[name].saved() == [length, digest]:
            if about and stat.S_ISREG(about.st_mode):
                self.folder.truncate(name, length)
                return content
            if not about and not length:
                return b""
        del self.contents[name]
        return self._read(name, MOST_REPAIRED).replace(b"\r\n", b"\n")  # as an editor writes it

    def _read(self, name, length):
        """Return the first bytes of a file; none if it cannot be read."""
        try:
            return self.folder.read(name, MOST, length)
        except OSError:
            return b""

    def _repair(self, name, content):
        if name in self.contents:
            return
        what = "is missing; it starts again without the steps so far"
        if self.folder.stat(name):
            aside = self._put_aside(name)
            what = f"has changed since the run was saved; it was renamed to {aside}"
            what += ", and its readable part is kept"
        self.folder.write(name, content)
        self.contents[name] = Extent(content)
        self.warnings.append(f"{self.path / name} {what}")

    def _put_aside(self, name, aside=None):
        """Rename a file to `aside`, or to a name that is free; return the new name."""
        if aside is None or not self.folder.may_write(aside):
            stem, _, suffix = (aside or name).partition(".")
            number = 1
            while self.folder.stat(aside := f"{stem}-{number}.{suffix}"):
                number += 1
        self.folder.rename(name, aside)
        return aside

    # ---- writing -----------------------------------------------------------------------------

    def log(self, **row):
        """Append a row to metrics.csv; a column that is not given stays empty."""
        row = {name: row.get(name) for name in COLUMNS}
        self.rows.append(row)
        self._append("metrics.csv", csv_line(values_of(row)))

    def sample(self, step, val_loss, bits, text):
        """Append the text that the model wrote at `step` to samples.txt."""
        self.samples.append({"step": step, "val_loss": val_loss, "bits": bits, "text": text})
        self._append("samples.txt", block_of(step, val_loss, bits, text))

    def _append(self, name, content):
        self.folder.append(name, content)
        self.contents[name].add(content)

    def draw(self, **options):
        """Draw loss.png from all rows so far."""
        with self.folder.replacing("loss.png") as file:
            report.loss_figure(self.rows, file, **options)

    def report(self, **facts):
        """Write report.html from all rows and samples so far and the facts of the run."""
        self.folder.write("report.html", report.page(self.rows, self.samples, **facts).encode())

    def read_report(self):
        """Return the report that is there, whatever it is."""
        return self.folder.read("report.html", most=MOST).decode("utf-8", "replace")

    def save_model(self, model, **origin):
        """Save the best model so far: see GPT.save_pretrained()."""
        self.check_owner()
        model.save_pretrained(self.folder, **origin)

    def extents(self):
        """Return the lengths and checksums of the files that grow, for resume.Progress."""
        return {name: content.saved() for name, content in self.contents.items()}

    def save(self, model, optimizer, step, **facts):
        """Save all that the next step depends on; see resume.Progress for the facts."""
        self.check_owner()
        for name in GROWING:
            if self.folder.stat(name):
                self.folder.sync_file(name)
        progress = resume.Progress(step=step, settings=self.settings, **facts)
        self.mark = resume.save_state(self.folder, model, optimizer, progress)
        if self.settings != self.written:  # after the state, which is what counts
            self._write_settings()

    def close(self):
        """Release the folder, so that another process may write to it."""
        for held in (self.lock, self.folder):
            if held is not None:
                held.close()

    def __getstate__(self):
        """Return the state for the other ranks, which do not write."""
        return vars(self) | {"lock": None, "folder": None, "contents": None}


class Extent:
    """The length and the checksum of a file that grows at its end."""

    def __init__(self, content=b""):
        self.length, self.digest = 0, hashlib.sha256()
        self.add(content)

    def add(self, content):
        """Append bytes."""
        self.length += len(content)
        self.digest.update(content)

    def saved(self):
        """Return [the number of bytes, their SHA-256]."""
        return [self.length, self.digest.hexdigest()]


# ---- metrics.csv and samples.txt -----------------------------------------------------------------


def csv_line(values):
    """Return a line of metrics.csv."""
    return (",".join("" if v is None else _short(v) for v in values) + "\r\n").encode()


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def values_of(row):
    """Return the values of a row, in the order of the columns."""
    return [row[name] for name in COLUMNS]


MEASURED = ("tokens_per_second", "seconds")  # columns of numbers that are neither inf nor nan


def rows_in(content, last_step):
    """Return the rows of metrics.csv up to last_step, as log() received them; skip bad lines."""
    rows: list[dict[str, Any]] = []
    for line in re.finditer(rb"[^\r\n]{1,500}", content):
        cells = line[0].decode("utf-8", "replace").split(",", len(COLUMNS))
        with contextlib.suppress(ValueError):
            step, *numbers = int(cells[0]), *(float(x) if x else None for x in cells[1:])
            before = rows[-1]["step"] if rows else -1
            if len(cells) != len(COLUMNS) or not before < step <= last_step:
                continue
            row = dict(zip(COLUMNS, [step, *numbers], strict=True))
            if all(0 <= (row[name] or 0) < math.inf for name in MEASURED):
                rows.append(row)
    return rows


def block_of(step, val_loss, bits, text):
    """Return the entry of a sample in samples.txt."""
    head = f"step {step}, val_loss {val_loss:.4f}, {bits:.4f} bits per character"
    return f"--- {head} ---\n{text}\n\n".encode("utf-8", "replace")


NUMBER = r"(-?\d+\.\d{4}|nan|inf)"
HEAD = rf"^--- step (\d{{1,18}}), val_loss {NUMBER}, {NUMBER} bits per character ---\n"


def samples_in(content, rows):
    """Return the samples in samples.txt, as sample() received them: one for each row evaluated.

    Headings with an unknown step or loss are ignored, because a model may write such lines itself.
    """
    content = content.decode("utf-8", "replace")
    evaluations = {row["step"]: row["val_loss"] for row in rows if row["val_loss"] is not None}
    heads: list[re.Match] = []
    for head in re.finditer(HEAD, content, flags=re.MULTILINE):
        loss = evaluations.get(int(head[1]))
        if loss is None or heads and int(heads[-1][1]) >= int(head[1]):
            continue
        # Four digits here, six significant ones in metrics.csv.
        same = math.isclose(loss, float(head[2]), rel_tol=1e-4, abs_tol=1e-4)
        if same or head[2] == str(loss):
            heads.append(head)
    ends = [*(head.start() for head in heads), len(content)][1:]
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
    """Return the mean seconds per evaluation of the run so far: the time that was not training."""
    if not rows:
        return 0.0
    trained, before = 0.0, 0
    for row in rows:
        if row["tokens_per_second"]:
            trained += (row["step"] - before) * tokens_per_step / row["tokens_per_second"]
        before = row["step"]
    n = sum(row["val_loss"] is not None for row in rows)
    return max(0.0, (rows[-1]["seconds"] or 0.0) - trained) / n if n else 0.0


# SIGHUP comes when the terminal is closed; Windows does not have it, nor SIGUSR1.
STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
SAVING = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []


class Signals:
    """Record Ctrl-C, SIGTERM or SIGHUP in `received` (None until then); SIGUSR1 requests a save.

    then        a function to call with the number of each signal, wherever the program is

    A second Ctrl-C or SIGTERM has its usual effect: it ends the process at once.  SIGHUP often
    comes twice, from the shell and from the terminal.
    """

    def __init__(self, then=lambda number: None):
        self.then = then

    def __enter__(self):
        self.received = None
        self.before = {}
        self.process = os.getpid()
        for number in STOPPING + SAVING:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as under nohup, which asks to ignore it
            with contextlib.suppress(ValueError):  # only the main thread can handle signals
                self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, _):
        if os.getpid() != self.process:
            return  # in a worker that has just been forked
        if number in STOPPING:
            self.received = self.received or number
            for other in {signal.SIGINT, signal.SIGTERM} & self.before.keys():
                signal.signal(other, self.before.pop(other))
        self.then(number)

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
        """Record that the run was saved just now."""
        self.last_save = time.perf_counter()

    def since_save(self):
        """Return the seconds since saved() was last called, or since the start."""
        return time.perf_counter() - self.last_save

    @contextlib.contextmanager
    def paused(self):
        """`with clock.paused():` exclude this block from the rate."""
        before = time.perf_counter()
        yield
        self.pause = time.perf_counter() - before
        self.last += self.pause

    def seconds(self):
        return time.perf_counter() - self.start

    def rate(self):
        """Return the tokens per second since the last call."""
        now = time.perf_counter()
        tokens, seconds = self.tokens, now - self.last
        self.trained = [self.trained[0] + tokens, self.trained[1] + seconds]
        self.last, self.tokens = now, 0
        return tokens / seconds if seconds > 0 else 0.0  # a clock may stand still

    def left(self, tokens):
        """Return the seconds that training on `tokens` tokens will take, at the rate so far."""
        done, seconds = self.trained
        return tokens * seconds / done if done else 0.0
