"""The folder that a run leaves, its clock, and how it is stopped."""

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


def resolved(path):
    """Return a path without links; OSError if they lead to each other."""
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(f"{path} is a link that leads back to itself") from error


class RunFolder:
    """metrics.csv, samples.txt, the figures, train_config.json, the model and the state of a run.

    RunFolder(path, settings, tokenizer) begins a run.  A folder that holds one already is renamed
    aside; `moved` then tells where it went.  RunFolder.of_saved(path) reads the run that is there,
    to go on with it; it writes nothing before truncate_to().

    While a process writes to a folder no other one may: OSError.
    """

    folder: Any = None
    lock: Any = None
    saved: Any = None  # (Progress, arrays)
    file = resume.FILE  # that these were read from
    model_is_lost = False  # whether the best model is damaged, or another one's

    def __init__(self, path, settings=None, tokenizer=None):
        self.path = Path(path) if Path(path).name else Path(path).resolve()
        self.settings = self.written = settings
        self.rows, self.samples, self.warnings = [], [], []
        self.moved = self.mark = None
        self.contents = {name: Extent() for name in GROWING}
        try:
            self._take(tokenizer is not None)
            if tokenizer is None:
                return
            self.folder.remove_temporary(WRITTEN)
            self._write_settings()
            for name, content in tokenizer.contents().items():
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
        """The folder of a run that goes on, with what load_state() found there in `saved`."""
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
            self.warnings.append(f"{fault}: going on from the save before, of step {progress.step}")
        self.settings = progress.settings
        self.saved = progress, arrays
        return self

    def _take(self, is_new):
        """Open the folder and lock it; for a new run, one in which there is no run."""
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
            raise OSError(f"it has a file {there[0]} already, and is no run's folder")
        return bool(there)

    def _set_aside(self, real):
        """Rename the folder, which takes its lock along; its new path."""
        if sys.platform == "win32":
            self.close()  # no folder can be renamed there that has an open file
        number = 1
        while os.path.lexists(aside := real.with_name(f"{real.name}-{number}")):
            number += 1
        self.folder.move(real, aside)
        self.close()
        return aside

    def _write_settings(self):
        content = json.dumps(self.settings, indent=2)
        self.folder.write("train_config.json", content.encode())
        self.written = self.settings

    def where(self):
        """The path of the folder, which may have been renamed since it was opened."""
        return self.path if self.folder.is_at(self.path) else self.folder.where()

    def has(self, name):
        """Return whether there is a file of this name."""
        return self.folder.stat(name) is not None

    def check_place(self):
        """OSError if the path of the folder leads to another one now, which others would read."""
        if not self.folder.is_at(self.path):
            raise OSError(f"{self.path} was renamed while it was read: start again")

    def check_owner(self):
        """OSError if another run has saved here, which a file system without locks lets happen."""
        if resume.mark(self.folder) not in (None, self.mark):
            raise OSError("another run has saved there since")

    # ---- going on ----------------------------------------------------------------------------

    def truncate_to(self, progress):
        """Go on as if nothing had been written after `progress` was saved.

        Neither metrics.csv nor samples.txt is needed to go on.  If one of them is not what it was,
        it is put aside, and what can be read of it is kept.
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
        """Cut a file off where it ended when the run was saved; return its content.

        If it is not as it was then, `contents` lacks it, and _repair() writes it again.
        """
        length, digest = saved.get(name, [0, ""])
        try:
            content = self.folder.read(name, most=MOST)
        except OSError:
            content = b""
        about = self.folder.stat(name)
        self.contents[name] = Extent(content[:length])
        if self.contents[name].saved() == [length, digest]:
            if about and stat.S_ISREG(about.st_mode):
                self.folder.truncate(name, length)
                return content[:length]
            if not about and not length:
                return b""
        del self.contents[name]
        return content.replace(b"\r\n", b"\n")  # which an editor may have put there

    def _repair(self, name, content):
        if name in self.contents:
            return
        what = "is missing"
        if self.folder.stat(name):
            aside = self._put_aside(name)
            what = f"is not what it was when the run was saved, and is now {aside}"
        self.folder.write(name, content)
        self.contents[name] = Extent(content)
        self.warnings.append(f"{self.path / name} {what}: what can be read of it is kept")

    def _put_aside(self, name, aside=None):
        """Rename what is there, to `aside` or else to a name that is free; return the name."""
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
        """Append what the model wrote at `step` to samples.txt."""
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
        """Write report.html of all rows and samples so far, and of what else the run knows."""
        self.folder.write("report.html", report.page(self.rows, self.samples, **facts).encode())

    def read_report(self):
        """Return the report that is there, whatever it is."""
        return self.folder.read("report.html", most=MOST).decode("utf-8", "replace")

    def save_model(self, model, **origin):
        """Save the best model so far: see GPT.save_pretrained()."""
        self.check_owner()
        model.save_pretrained(self.folder, **origin)

    def extents(self):
        """How long the files that grow are now, for resume.Progress."""
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
        """Let another process write here."""
        for held in (self.lock, self.folder):
            if held is not None:
                held.close()

    def __getstate__(self):
        """For the other ranks, which do not write."""
        return vars(self) | {"lock": None, "folder": None, "contents": None}


class Extent:
    """How long a file is, and the checksum of its content, which grows at its end."""

    def __init__(self, content=b""):
        self.length, self.digest = 0, hashlib.sha256()
        self.add(content)

    def add(self, content):
        """Append bytes."""
        self.length += len(content)
        self.digest.update(content)

    def saved(self):
        """Return [how many bytes, their SHA-256]."""
        return [self.length, self.digest.hexdigest()]


# ---- metrics.csv and samples.txt -----------------------------------------------------------------


def csv_line(values):
    """A line of metrics.csv."""
    return (",".join("" if v is None else _short(v) for v in values) + "\r\n").encode()


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def values_of(row):
    """The values of a row, in the order of the columns."""
    return [row[name] for name in COLUMNS]


MEASURED = ("tokens_per_second", "seconds")  # columns of numbers that are neither inf nor nan


def rows_in(content, last_step):
    """The rows of metrics.csv, as log() was given them, with six digits; no row is a bad one."""
    rows: list[dict[str, Any]] = []
    for line in content.decode("utf-8", "replace").splitlines():
        cells = line.split(",")
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
    """What samples.txt has of a sample."""
    head = f"step {step}, val_loss {val_loss:.4f}, {bits:.4f} bits per character"
    return f"--- {head} ---\n{text}\n\n".encode("utf-8", "replace")


NUMBER = r"(-?\d+\.\d{4}|nan|inf)"
HEAD = rf"^--- step (\d+), val_loss {NUMBER}, {NUMBER} bits per character ---\n"


def samples_in(content, rows):
    """What sample() was given, as samples.txt has it: a sample for every evaluation in `rows`.

    A head with another step or loss is none: a model may have learned to write such lines.
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
    """How long an evaluation took on average, of a run that goes on: what was not training."""
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
    """Ctrl-C, SIGTERM and SIGHUP are noted as `received`, else None; SIGUSR1 asks for a save.

    then        a function that is called with the number of each, wherever the program is then

    A second Ctrl-C or SIGTERM does what it would have done without us: it ends the process at
    once.  SIGHUP often comes twice, from the shell and from the terminal.
    """

    def __init__(self, then=lambda number: None):
        self.then = then

    def __enter__(self):
        self.received = None
        self.before = {}
        self.process = os.getpid()
        for number in STOPPING + SAVING:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as under nohup: it is not for us to change that
            with contextlib.suppress(ValueError):  # not in the main thread: nothing to be noted
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
        return tokens / seconds if seconds > 0 else 0.0  # a clock may stand still

    def left(self, tokens):
        """Seconds that so many tokens will take to train, at the rate of all until now."""
        done, seconds = self.trained
        return tokens * seconds / done if done else 0.0
