"""Log, sample, save and report a training run: everything in the command but the training."""

import contextlib
import itertools
import math
import os
import shlex
import sys
import threading
import webbrowser
from typing import Any

import numpy as np

import minigrad as mg
from gpt_numpy import GPT
from gpt_numpy.app import memory, report, resume
from gpt_numpy.app.cli import Command, asks_for_gpu, flags_of, identity, prepare
from gpt_numpy.app.inspect_model import loss_by_position
from gpt_numpy.app.page_model import PageModel
from gpt_numpy.app.program import complain
from gpt_numpy.app.run_folder import STOPPING, Clock, Signals, evaluation_seconds
from gpt_numpy.app.terminal import Display, optional
from gpt_numpy.corpus import grammar
from gpt_numpy.corpus.large import head, with_progress
from gpt_numpy.data import split
from gpt_numpy.files import message
from gpt_numpy.scale.gpus import open_gpus
from gpt_numpy.scale.graph import why_no_graph
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.scale.workers import WorkerDied
from gpt_numpy.train import StepResult, evaluate
from minigrad.backend import CPU, GPU
from minigrad.internals import cublas
from minigrad.internals.gpu import GPUUnavailable, in_one_line, out_of_memory
from minigrad.tools.info import of_the_cpu

SAVE_EVERY = 180  # seconds, between two evaluations that are further apart
PROFILED = range(3, 13)  # of the steps that a process makes: those whose ops are timed
PASSAGE = 480  # characters in which surprisal is shown
LONGEST_PASSAGE = 8 * PASSAGE  # tokens: one may be a part of a character
LOOKED_AT = 32  # tokens whose attention is shown


class Refused(Exception):
    """A reason to end the command: what to print on standard error, and the exit status."""

    def __init__(self, message, status=2, ends_all_ranks=False):
        super().__init__(message)
        self.status, self.ends_all_ranks = status, ends_all_ranks


class Stopped(BaseException):
    """A saved run stops because of a signal."""


# ---- the command ---------------------------------------------------------------------------------


def run_command(train_and_report, arguments, description):
    """Call train_and_report(job, ranks) with what the flags ask for; return the exit status.

    Errors that a user can fix become a line on standard error.
    """
    try:
        ranks = Ranks.of_mpirun()
    except ModuleNotFoundError as error:
        return refuse(error)
    with ranks:
        job = None
        try:
            try:
                if ranks.broadcast(lambda: asks_for_gpu(arguments)):
                    open_gpus(ranks)
                job = ranks.broadcast(lambda: prepare(arguments, ranks, description))
            except (ValueError, OSError, GPUUnavailable) as error:
                return refuse(error) if ranks.rank == 0 else 2
            with mg.precision(job.command.precision):
                status = train_and_report(job, ranks)
        except Refused as error:
            status = refuse(error, error.status) if ranks.rank == 0 else error.status
            if error.ends_all_ranks:
                ranks.end_all(status)
        except KeyboardInterrupt:
            status = refuse(
                "stopped at once; --resume continues from the last save, if there is one", 130
            )
        except Exception as error:
            if ranks.world_size > 1 or not (out_of_memory(error) or isinstance(error, WorkerDied)):
                raise  # so that all ranks stop
            names = (
                ["workers"] if job and job.saved else memory.LEVERS
            )  # others would change a saved run
            *flags, last = [memory.LEVERS[name] for name in names]
            lower = f"{', '.join(flags)} or {last}" if flags else last
            return refuse(f"there is not enough memory ({in_one_line(error)}): lower {lower}", 1)
        finally:
            if job:
                job.folder.close()
        if status > 128:
            ranks.end_all(status)
        return status


def refuse(error, status=2):
    """Print the error; return the exit status."""
    text = error if isinstance(error, Refused) else message(error)
    print(f"train_shakespeare: {text}", file=sys.stderr)
    return status


def train_silently(steps):
    """Train on a rank other than 0, which neither prints nor writes; return the exit status."""
    with contextlib.suppress(FloatingPointError):  # rank 0 raises it too, and reports it
        for _ in steps:
            pass
    return 0


def load(job, model, optimizer, ranks):
    """Load the weights to start from, or the state to resume; return the number of steps made."""
    if job.weights:
        model.load_state_dict(job.weights)
    if not job.saved:
        return 0
    progress, arrays = job.saved
    try:
        resume.restore(model, optimizer, progress, arrays, job.folder.path / resume.FILE)
        ranks.broadcast(lambda: job.folder.truncate_to(progress))
    except ValueError as error:
        raise Refused(message(error)) from error
    except OSError as error:
        raise Refused(f"cannot write to {job.folder.path}: {message(error)}") from error
    return progress.step


# ---- a run ---------------------------------------------------------------------------------------


def introduce(display, job, model, ranks):
    """Print what the run will do."""
    command, corpus, folder = job.command, job.corpus, job.folder
    display.say(f"text: {corpus.name}, {len(corpus.text):,} characters")
    if corpus.reason:
        display.say(f"      {corpus.reason}")
    if corpus.entropy is not None:
        display.say(
            f"      its entropy is {corpus.entropy:.4f} nats per character; no model can have a "
            "lower loss on average"
        )
    display.say(f"tokenizer: {command.tokenizer}, {job.tokenizer.vocab_size:,} tokens")
    display.say(f"device: {command.device}" + (f" ({job.why})" if job.why else ""))
    if command.device == GPU:
        if ranks.gpu_note:
            display.say(f"        {ranks.gpu_note}")
        display.say(f"precision: {command.precision}, products by {cublas.summary()}")
        reason = why_no_graph(command, command.device, len(job.train_ids), ranks.world_size)
        display.say("graph: " + (f"off ({reason})" if reason else "on"))
    c = model.config
    display.say(
        f"model: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} channels, {c.block_size} tokens "
        f"of context, {sum(p.data.size for p in model.parameters()):,} parameters"
    )
    if command.init_from and not job.saved:
        display.say(f"       it starts from the weights in {command.init_from}")
    display.say(
        f"training: preset {command.preset}, {command.steps} steps of {command.tokens_per_step:,} "
        f"tokens, into {folder.path}"
    )
    first, stop = ranks.sequences(command.sequences_per_step)
    n = min(command.workers, stop - first)
    processes = f"{n} processes" if n > 1 else "one process"
    need = memory.estimate(
        command, c.vocab_size, command.workers, ranks, command.device, job.text_memory()
    ).total
    display.say(
        f"          in {processes}"
        + (f" on each of {ranks.world_size} ranks" * (ranks.world_size > 1))
        + f", which will take about {memory.size(need)} of memory"
    )
    if job.saved:
        progress, _ = job.saved
        which = ", from the previous save" if folder.file == resume.BEFORE else ""
        display.say(f"resuming: from step {progress.step}, val_loss {progress.val_loss:.4f}{which}")
    for note in job.notes:
        display.say(f"          {note}")
    if folder.moved:
        display.say(f"the earlier run in {folder.path} was renamed to {folder.moved}")


class Run:
    """A run of the training command, as a context: `with Run(job, model, optimizer, ranks) as run`.

    It shows, logs and saves what the loop reports to it.  Errors that a user can fix become
    Refused.

    A signal saves the run at once, whatever it is doing: the weights are those of the last step
    until the next one updates them, and `point` has the lengths of the files by then.  If a signal
    has interrupted an evaluation, what it logged is cut off when the run resumes, and the
    evaluation is made again.
    """

    def __init__(self, job, model, optimizer, ranks):
        self.job, self.model, self.optimizer, self.ranks = job, model, optimizer, ranks
        self.command, self.folder, self.tokenizer = job.command, job.folder, job.tokenizer
        self.display = Display(self.command.steps, self.command.quiet)
        self.signals = Signals(self.on_signal)
        self.busy = "start"  # "step", "save" or "end": then a signal cannot interrupt; else ""
        self.is_asked = False  # whether a signal waits
        self.stopped = None  # the signal that stopped the run before its end
        self.place = self.folder.path  # where the run is in the end
        text = job.corpus.fingerprint()
        self.origin = {
            "tokenizer": job.tokenizer.fingerprint(),
            "run": identity(job.folder.settings, text),
        }
        self.facts = {"text": text, **self.origin}
        _, validation = split(job.corpus.text, job.corpus.validation)
        self.characters_per_token = len(validation) / len(job.val_ids)
        self.max_tokens = self.command.eval_tokens or None
        self.best = self.val_loss = float("inf")
        self.saved = None  # the step of the last save
        self.waited = 0  # evaluations since the best one
        self.point: dict[str, Any] = {}  # see commit()
        self.saved_point: Any = None
        if job.saved:
            progress, _ = job.saved
            self.best, self.val_loss, self.saved = progress.best, progress.val_loss, progress.step
            self.waited = progress.waited
            self.commit(progress.step, progress.logged, progress.numbers)
            self.saved_point = self.point
        else:
            self.commit(0, logged=False)
        self.passage = from_a_line_on(job.val_ids, job.tokenizer, self.command.block_size)
        self.page_model = PageModel(model, job.tokenizer, job.prompt[0], self.command.page_model)
        self.entropy = self.text_entropy = None  # nats per token, of the grammar, if it wrote this
        if job.corpus.entropy is not None:
            nats, n = grammar.negative_log_likelihood(head(validation, len(validation)))
            self.text_entropy = nats / n * self.characters_per_token
            self.entropy = job.corpus.entropy * self.characters_per_token
        rows = job.folder.rows
        self.clock = Clock(before=rows[-1]["seconds"] or 0 if rows else 0)
        self.numbers: dict[str, float] = {}  # resume.NUMBERS of the step that is logged next
        self.profiler = mg.Profiler()
        # What the last one took, with all that is drawn and written.
        self.evaluation_seconds = evaluation_seconds(rows, self.command.tokens_per_step)
        self.opened = None  # whether there was a browser, if one was asked for
        self.title = (
            f"{job.corpus.name}: {self.command.n_layer} layers, {self.command.n_embd} channels, "
            f"tokens: {self.command.tokenizer}"
        )

    def __enter__(self):
        self.display.__enter__()
        self.signals.__enter__()
        for warning in self.folder.warnings:
            complain(warning)
        introduce(self.display, self.job, self.model, self.ranks)
        if self.job.saved:
            self.display.go_on(self.folder.rows)
        self.busy = ""
        return self

    def __exit__(self, kind, error, trace):
        self.busy, self.place = "end", self.folder.where()
        is_stopped = isinstance(error, Stopped)
        if is_stopped:
            try:
                self.save_point()
                self.stopped = self.signals.received
                if not self.is_over(self.saved) or not self.point["logged"]:
                    self.report("stopped", self.saved)
            except OSError as failure:
                error = failure
        if isinstance(error, OSError):
            fault = error.strerror or in_one_line(error)
            if not fault.startswith("cannot read "):  # the ids of a text
                fault = f"cannot write to {self.folder.path}: {fault}"
            fault = f"{fault}. {self.how_to_go_on()}"
            error = Refused(message(fault), 1, ends_all_ranks=True)  # the others do not know of it
        elif isinstance(error, FloatingPointError):
            error = Refused(
                f"{error}\nStep {self.saved}, the last one that was saved, is intact.", 1
            )
        self.signals.__exit__()
        self.display.__exit__()
        self.folder.close()
        if isinstance(error, Refused):
            raise error from None
        return is_stopped

    @property
    def is_new(self):
        """Whether the model that the run begins with is still to be evaluated."""
        return self.point["step"] == 0 and not self.point["logged"]

    def watch(self, steps):
        """Yield the steps; time the ops of some of them.

        Between two steps the run is saved if it is time.  Raises Stopped after a step if a signal
        came during it.
        """
        self.attend()
        step = self.point["step"]
        if self.folder.model_is_lost:
            self.folder.save_model(self.model, **self.origin)
        if self.job.saved:
            self.recall_page_model()
            self.evaluate_again()
            self.commit(step, self.point["logged"], self.point["numbers"])
        if self.job.notes or self.folder.warnings:
            self.save()  # with the new settings, or with what was repaired
        if not self.point["logged"]:
            self.numbers = self.point["numbers"]
            loss, norm = (mg.Tensor(np.array(self.numbers[n])) for n in ("train_loss", "grad_norm"))
            yield StepResult(step, loss, self.numbers["lr"], norm)
            self.commit(step)
        elif self.is_over(step) and (self.job.notes or not self.folder.has("report.html")):
            self.report("finished", step)
        if self.is_over(step):
            return
        for n in itertools.count(1):
            self.busy = "step"
            try:
                with self.profiler if n in PROFILED else contextlib.nullcontext():
                    result = next(steps, None)
            except (FloatingPointError, WorkerDied):
                self.report("stopped", self.saved)
                raise
            if result is None:
                self.busy = ""
                return
            self.clock.tokens += self.command.tokens_per_step
            is_due = self.is_evaluated(result.step) or result.step % self.command.log_every == 0
            self.numbers = self.numbers_of(result) if is_due else {}
            self.commit(result.step, not is_due, self.numbers)
            self.attend()
            yield result
            self.commit(result.step)
            if self.is_over(result.step):
                return
            if self.clock.since_save() > SAVE_EVERY:
                with self.clock.paused():
                    self.save_point()

    def numbers_of(self, result):
        """Return resume.NUMBERS of a step, for its row of metrics.csv.  This waits for a GPU."""
        loss, norm = result.loss.item(), result.grad_norm.item()
        numbers = {"train_loss": loss, "lr": result.lr, "grad_norm": norm}
        numbers |= {"tokens_per_second": self.clock.rate()}
        return {name: float(number) for name, number in numbers.items()}

    def is_over(self, step):
        """Return whether the run ends after a step: at its last one, or out of patience."""
        return step == self.command.steps or 0 < self.command.patience <= self.waited

    def is_evaluated(self, step):
        """Return whether the loop should evaluate the model after a step."""
        return step % self.command.eval_every == 0 or step == self.command.steps

    @contextlib.contextmanager
    def evaluation(self):
        """`with run.evaluation():` exclude this block from the tokens per second."""
        self.attend()
        with self.clock.paused():
            yield
        self.evaluation_seconds = self.clock.pause

    def log_evaluation(self, step, val_loss, sample, result=None):
        """Write the sample, the row of metrics.csv, figure, report and state of an evaluation.

        The model is saved if it is the best so far.  `result` is what the step itself returned.
        """
        self.val_loss = val_loss
        bits = report.bits(val_loss, self.characters_per_token)
        self.folder.sample(step, val_loss, bits, sample)
        self.waited += 1
        if val_loss < self.best:
            self.best, self.waited = val_loss, 0
            self.folder.save_model(self.model, **self.origin)
            self.page_model.keep_best(self.model, step, val_loss)
        self.page_model.keep_early(self.model, step, val_loss)
        held = memory.size(memory.memory_in_use())
        self.display.evaluation(step, val_loss, bits, sample, held)
        if result:
            self.log_step(result, val_loss)
            self.draw()
        else:
            self.folder.log(step=step, val_loss=val_loss, seconds=self.clock.seconds())
        self.report("finished" if self.is_over(step) else "running", step)
        self.commit(step)
        self.save()

    def log_step(self, result, val_loss=None):
        """Write the row of metrics.csv of a step, and show it."""
        left, seconds = self.left(result.step), self.clock.seconds()
        numbers = self.numbers or self.numbers_of(result)
        self.folder.log(step=result.step, val_loss=val_loss, seconds=seconds, **numbers)
        self.display.step(result.step, **numbers, left=left, seconds=seconds)

    def commit(self, step, logged=True, numbers=None):
        """Record what the next save is to contain: see resume.Progress.

        logged      whether the row and the evaluation of the step are in the files
        numbers     if not, resume.NUMBERS of the step
        """
        point = {"step": step, "logged": logged, "numbers": numbers or {}}
        point |= {"best": self.best, "val_loss": self.val_loss, "waited": self.waited}
        point |= {"files": self.folder.extents()}
        if point != self.point:
            self.point = point

    def on_signal(self, number):
        """Save the run; raise Stopped if the signal also asks it to stop.

        Python may call this between any two instructions.
        """
        if not self.busy:
            self.save_point()
            if number in STOPPING:
                self.is_asked = True  # a destructor that is interrupted drops the error
                raise Stopped
        elif self.busy == "step" and self.has_last_weights():
            with self.clock.paused():
                self.save_point()
            self.is_asked = self.is_asked or number in STOPPING
        else:
            self.is_asked = True

    def has_last_weights(self):
        """Return whether a step under way has not begun to update the weights."""
        if self.command.device != CPU or self.optimizer.flat.data is None:
            return False
        return max(self.optimizer.steps) == self.point["step"]

    def attend(self):
        """Handle a signal that came while the run was busy; raise Stopped if it is to stop."""
        self.busy = ""
        if self.is_asked:
            self.is_asked = False
            self.save_point()
            if self.signals.received and not self.is_over(self.point["step"]):
                raise Stopped

    def left(self, step):
        """Return the seconds that the run will take after `step`, with evaluations."""
        steps = self.command.steps - step
        evaluations = math.ceil(steps / self.command.eval_every) + (steps > 0)  # one to conclude
        training = self.clock.left(steps * self.command.tokens_per_step)
        return training + evaluations * self.evaluation_seconds

    def save_point(self):
        """Save the run, unless it is saved already."""
        if self.point is not self.saved_point:
            self.save()

    def save(self):
        """Save all that the next step depends on, unless an earlier step was not finite."""
        if self.optimizer.stopped_at():
            return  # train() will raise the error of that step
        before, self.busy = self.busy, "save"
        try:
            point = self.point
            self.folder.save(self.model, self.optimizer, **point, **self.facts)
            self.saved, self.saved_point = point["step"], point
            self.clock.saved()
        finally:
            self.busy = before
        if not before:
            self.attend()

    def program(self):
        """Return the command without its flags."""
        n_ranks = self.folder.settings["ranks"]
        return f"mpirun -n {n_ranks} " * (n_ranks > 1) + "python examples/train_shakespeare.py "

    def how_to_go_on(self):
        """Return a line that names the saved run and the command to resume it."""
        if self.saved is None:
            return "Nothing was saved yet."
        path, command = self.place, f"{self.program()}--resume"
        if path != Command.out:
            command += f" --out {shlex.quote(str(path))}"
        return f"step {self.saved} is saved in {path}; to resume: {command}"

    @optional("loss.png")
    def draw(self):
        """Draw the loss so far."""
        self.folder.draw(
            title=self.title,
            vocab_size=self.tokenizer.vocab_size,
            entropy=self.entropy,
            text_entropy=self.text_entropy,
        )

    @optional("report.html")
    def report(self, state, step):
        """Write the report of the run, which is running, finished or stopped."""
        command, ids = self.command, self.passage
        n = round(PASSAGE / self.characters_per_token)
        profiler = self.profiler
        times = {
            "step": profiler.mean(),
            "n_runs": profiler.n_runs,
            "ops": profiler.ops(),
            "processes": min(
                command.workers * self.folder.settings["ranks"], command.sequences_per_step
            ),
        }
        self.folder.report(
            model=self.page_model,
            title=self.title,
            state=state,
            step=step,
            steps=command.steps,
            seconds=self.clock.seconds(),
            left=self.left(step) if self.clock.trained[0] else None,
            look_again=max(4, math.ceil(self.left(command.steps - command.eval_every))),
            weights=sum(p.data.size for p in self.model.parameters()),
            memory=memory.size(memory.memory_in_use()),
            vocab_size=self.tokenizer.vocab_size,
            uniform=math.log(self.tokenizer.vocab_size),
            entropy=self.entropy,
            text_entropy=self.text_entropy,
            passage=report.passage(self.model, self.tokenizer, ids[: n + 1]),
            attention=report.attention(
                self.model, self.tokenizer, ids[: min(LOOKED_AT, command.block_size)]
            ),
            times=times if profiler.n_runs else None,
            settings=self.folder.settings,
            command=self.program() + shlex.join(flags_of(command)),
            versions=[
                *of_the_cpu(),
                ("device", ": ".join(filter(None, (command.device, self.job.why)))),
            ],
        )
        if command.open and self.opened is None:
            self.opened = opened_in_browser(self.folder.path / "report.html")

    @optional("report.html")
    def recall_page_model(self):
        """Read the weights of a report from the run that goes on: the best, and the early ones."""
        if not self.page_model.fits():
            return
        if self.best < math.inf:
            rows = [row for row in self.folder.rows if row["val_loss"] is not None]
            nearest = min(rows, key=lambda row: abs(row["val_loss"] - self.best), default=None)
            step = nearest["step"] if nearest else self.saved
            best = GPT.from_pretrained(self.folder.path)
            self.folder.check_place()
            self.page_model.keep_best(best, step, self.best)
        if self.folder.has("report.html"):
            self.page_model.recall_early(self.folder.read_report(), self.saved)

    def evaluate_again(self):
        """Evaluate the last and the best model again if --eval-tokens has changed.

        Losses on different parts of the text cannot be compared.
        """
        n = len(self.job.val_ids) - 1
        before = self.job.saved[0].settings.get("eval_tokens", 0)
        if min(before or n, n) == min(self.max_tokens or n, n) or self.best == math.inf:
            return
        best = GPT.from_pretrained(self.folder.path).to(self.command.device)
        self.folder.check_place()
        self.val_loss, self.best = (
            evaluate(model, self.job.val_ids, max_tokens=self.max_tokens)
            for model in (self.model, best)
        )
        self.waited = 0

    def evaluate_all(self):
        """Return the loss on the whole validation text.

        The last evaluation's is returned if it covered all of the text.
        """
        n = len(self.job.val_ids) - 1
        if self.max_tokens is None or n <= self.max_tokens:
            return self.val_loss
        self.display.say(
            f"evaluating the whole validation text, {n:,} tokens (the run is saved: Ctrl-C ends it)"
        )

        if self.signals.received:  # in the last step
            raise Stopped

        def show(batches):
            return with_progress(batches, "evaluating", n, lambda batch: batch[1].data.size)

        return evaluate(self.model, self.job.val_ids, progress=show)

    def summarize(self):
        """Report how much of the loss is due to short contexts, and how much to the model."""
        self.display.stop()
        say, entropy = self.display.say, self.entropy
        half = self.model.config.block_size // 2
        late = loss_by_position(self.model, self.job.val_ids, max_tokens=self.max_tokens)
        late = late[half:].mean()
        say(
            f"\nThe loss is {self.val_loss:.3f}; in the second half of a window, where the model "
            f"sees at least {half} tokens, it is {late:.3f}."
        )
        if self.command.tokenizer != "char":
            bits = report.bits(self.val_loss, self.characters_per_token)
            say(
                f"A token of this text has {self.characters_per_token:.2f} characters on average, "
                f"so the loss is {bits:.3f} bits per character."
            )
        if entropy is not None:
            say(
                f"The grammar's entropy is {entropy:.3f} (of this validation text "
                f"{self.text_entropy:.3f}). The loss is {self.val_loss - entropy:.3f} above it, "
                f"in the second half of a window {late - entropy:.3f}."
            )
        self.val_loss = self.evaluate_all()
        hint = " (it was not opened, because there is no display)" if self.opened is False else ""
        say(f"The report is {self.folder.path / 'report.html'}{hint}. Open it in a browser.")

    def end(self):
        """Print the last line; return the exit status."""
        if self.stopped:
            self.display.last(f"stopped; {self.how_to_go_on()}")
            return 128 + self.stopped
        self.display.last(
            f"final val_loss {self.val_loss:.4f} (perplexity "
            f"{report.perplexity(self.val_loss):.2f}) after {self.saved} steps{self.why_early()}"
        )
        return 0

    def why_early(self):
        """Return why the run ended before its last step; nothing if it did not."""
        if self.saved == self.command.steps:
            return ""
        evaluations = f"{self.waited} evaluation" + "s" * (self.waited > 1)
        return f"; stopped early: {evaluations} without a better val_loss than {self.best:.4f}"


def from_a_line_on(ids, tokenizer, block_size):
    """Return the ids from the start of a line, if one begins soon, so that it reads well."""
    for i in range(min(PASSAGE, len(ids) - block_size - 1)):
        if "\n" in tokenizer.decode(ids[i : i + 1]):
            return ids[i + 1 : i + 1 + LONGEST_PASSAGE]
    return ids[:LONGEST_PASSAGE]


def opened_in_browser(path):
    """Show a file in a browser; return whether there is a display, or a browser in $BROWSER."""
    variables = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}
    screen = sys.platform in ("darwin", "win32") or variables & {*os.environ}
    if screen:  # in a thread, because a browser in a terminal returns only when it is closed
        address = path.resolve().as_uri()
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    return bool(screen)
