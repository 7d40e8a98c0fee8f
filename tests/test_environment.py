"""The commands in other environments than ours: the same run, and never a traceback."""

import errno
import io
import os
import shlex
import signal
import struct
import subprocess
import sys
import time

import pytest
from command import EXAMPLES, FILES, TINY, metrics_of, without_times

import gpt_numpy.app.run_folder as run_folder
from gpt_numpy.app import program, report
from gpt_numpy.app.resume import FILE, load_state
from gpt_numpy.app.run_folder import Signals

pytestmark = pytest.mark.slow

FLAGS = [*TINY, "--workers", "2"]
MINIMAL = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


def start(name, flags, redirection="", options="", **environment):
    """Start examples/`name`.py from a shell that first does `redirection`, with no other variables
    than these."""
    command = [sys.executable, *options.split(), EXAMPLES / f"{name}.py", *flags]
    return subprocess.Popen(
        ["sh", "-c", f"exec {shlex.join(map(str, command))} {redirection}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=MINIMAL | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )


def finish(process):
    """(status, stdout, stderr) of a process that ends within a minute."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text with letters that ASCII and latin-1 lack."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("To be, or not: ‘café’ — 生存还是毁灭。\n" * 40, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def usual(text, tmp_path_factory):
    """The folder of a run in an environment with nothing special, in which HOME is a folder."""
    home = tmp_path_factory.mktemp("usual")
    flags = ["--data", text, *FLAGS, "--out", home / "run"]
    status, out, err = finish(start("train_shakespeare", flags, HOME=str(home)))
    assert (status, err) == (0, "") and "final val_loss" in out.splitlines()[-1]
    return home / "run"


def assert_same_files(ours, right):
    """All that does not tell the time or the place of the run is the same, to the byte."""
    assert {p.name for p in ours.iterdir()} == FILES
    for name in ("config.json", "model.safetensors", "tokenizer.json", "samples.txt", "loss.png"):
        assert (ours / name).read_bytes() == (right / name).read_bytes(), name
    assert without_times(metrics_of(ours)) == without_times(metrics_of(right))


ENVIRONMENTS = {
    "matplotlib's variables and files": (
        {"MPLBACKEND": "module://not.there", "MPLCONFIGDIR": "/proc/none", "MATPLOTLIBRC": "."},
        "-W error",
    ),
    "a plain locale, a poor terminal": (
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "No/Where"}
        | {"PYTHONIOENCODING": "ascii", "COLUMNS": "1", "TERM": "dumb", "NO_COLOR": "1"},
        "-bb -X dev",
    ),
    "no folders": ({"TMPDIR": "/none", "HOME": "/none", "PYTHONWARNINGS": "error"}, ""),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_a_run_is_the_same_in_any_environment(case, text, usual, tmp_path, monkeypatch):
    """Nothing on standard error, and the files are the same bytes, the figure among them."""
    variables, options = ENVIRONMENTS[case]
    settings = "text.usetex: True\nfont.family: none\nsavefig.dpi: 10\nsavefig.bbox: tight\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    monkeypatch.chdir(tmp_path)
    flags = ["--data", text, *FLAGS, "--out", "run"]
    run = start("train_shakespeare", flags, options=options, **variables)
    status, out, err = finish(run)
    assert (status, err) == (0, "") and "final val_loss" in out.splitlines()[-1]
    assert_same_files(tmp_path / "run", usual)


# ---- standard streams ----------------------------------------------------------------------------


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_run_needs_no_standard_streams(redirection, text, usual, tmp_path):
    """Closed or full: the run ends well, and its files have in them what belongs there."""
    flags = ["--data", text, *FLAGS, "--out", tmp_path / "run"]
    assert finish(start("train_shakespeare", flags, redirection)) == (0, "", "")
    assert_same_files(tmp_path / "run", usual)


@pytest.mark.parametrize(
    "flags, redirection, status, said",
    [
        ("", "<&- >&- 2>&-", 0, ""),
        ("--prompt -", "<&-", 2, "generate: the prompt is empty: give at least one character\n"),
        ("--tokens -1", "2>/dev/full", 2, ""),
        ("", ">/dev/full", 2, "generate: No space left on device\n"),
    ],
)
def test_a_model_needs_no_standard_streams(flags, redirection, status, said, usual):
    """What it says is lost, and nothing else goes wrong."""
    run = start("generate", [usual, "--tokens", "3", *flags.split()], redirection)
    assert finish(run) == (status, "", said)


def test_streams_that_are_not_there_are_opened(monkeypatch):
    """None, as pythonw has them, or closed: to be read from and written to without an error."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", closed)
    program.open_streams()
    print("lost", flush=True)
    assert sys.stdin.read() == "" and sys.stderr.write("lost") == 4
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


# ---- warnings ------------------------------------------------------------------------------------

ODD = {  # the text, its file's name, flags
    "one character": ("a" * 20, "a.txt", "--block-size 1 --batch-size 1 --steps 1".split()),
    "a name of 249 bytes": ("ab" * 1000, "莎" * 83 + ".b", ["--weight-decay", "1e9", "--lr", "9"]),
}


@pytest.mark.parametrize("case", ODD)
def test_a_warning_ends_no_run(case, tmp_path):
    """Of no library, whatever it warns of, with -W error; and the user sees none."""
    content, name, flags = ODD[case]
    (tmp_path / name).write_text(content, encoding="utf-8")
    flags = ["--data", tmp_path / name, *TINY, *flags, "--workers", "1", "--out", tmp_path / "run"]
    status, _, err = finish(start("train_shakespeare", flags, options="-W error"))
    assert status == 0 or "is not finite" in err
    assert "Warning" not in err and "Traceback" not in err and "could not write" not in err
    head = (tmp_path / "run/loss.png").read_bytes()[16:24]
    assert struct.unpack(">II", head) == (1200, 600)


# ---- what is not needed --------------------------------------------------------------------------


def test_a_figure_that_fails_ends_no_run(train, monkeypatch):
    """A line for each file, once, also where all else is quiet; and the run is the same."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "disk full")

    right = train("right")
    monkeypatch.setattr(report, "loss_figure", fail)
    monkeypatch.setattr(report, "page", fail)
    run = train("run", "--quiet")
    assert (run.status, len(run.lines), run.lines[-1]) == (0, 1, right.lines[-1])
    figure, page = sorted(run.err.splitlines())
    assert figure.endswith("could not write loss.png (disk full); the run continues")
    assert page.endswith("could not write report.html (disk full); the run continues")
    assert {p.name for p in run.folder.iterdir()} == FILES - {"loss.png", "report.html"}
    assert without_times(metrics_of(run.folder)) == without_times(metrics_of(right.folder))


# ---- memory --------------------------------------------------------------------------------------


class PanicException(BaseException):
    """The name of what a library written in Rust raises."""


def test_a_library_that_panics_ends_in_a_line(capsys, monkeypatch):
    """Status 1, and no traceback."""
    monkeypatch.setattr(sys, "argv", ["examples/generate.py"])

    def main():
        raise PanicException("called `Result::unwrap()` on an `Err` value")

    assert program.run(main) == 1
    assert capsys.readouterr().err == (
        "generate: a library failed, probably because there is not enough memory: "
        "called `Result::unwrap()` "
        "on an `Err` value\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit that is kept")
def test_a_limit_on_memory_ends_in_a_line(text, tmp_path):
    """ulimit -v: which settings to lower, and status 1."""
    flags = ["--data", text, *TINY, *"--workers 1 --n-embd 2048 --steps 1".split()]
    command = [sys.executable, EXAMPLES / "train_shakespeare.py", *flags, "--out", tmp_path / "run"]
    status, _, err = finish(
        subprocess.Popen(
            ["sh", "-c", f"ulimit -v 400000; exec {shlex.join(map(str, command))}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=MINIMAL | {"OPENBLAS_NUM_THREADS": "1"},
        )
    )
    assert status == 1 and err.count("\n") == 1 and "there is not enough memory" in err


# ---- a terminal that is closed -------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_closed_terminal_stops_a_run_that_is_saved(text, tmp_path):
    """The run finishes its step and saves, although all its processes get the signal twice."""
    import pty

    ours, theirs = pty.openpty()
    flags = ["--data", text, *FLAGS, "--steps", "100000", "--out", tmp_path / "run"]
    with open(tmp_path / "errors", "wb") as errors:
        run = subprocess.Popen(
            [sys.executable, EXAMPLES / "train_shakespeare.py", *flags],
            stdin=theirs,
            stdout=theirs,
            stderr=errors,
            env=MINIMAL | {"OPENBLAS_NUM_THREADS": "1", "TERM": "xterm"},
            preexec_fn=own_terminal,
        )
    os.close(theirs)
    read = b""
    while b"step 3:" not in read:
        read += os.read(ours, 10_000)
    os.close(ours)  # the kernel sends SIGHUP to the whole group
    deadline = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    assert (run.wait(), (tmp_path / "errors").read_text()) == (128 + signal.SIGHUP, "")
    assert load_state(tmp_path / "run")[0].step >= 3 and (tmp_path / "run" / FILE).exists()


def own_terminal():
    """Make standard input the terminal of a new session."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_hangup_is_noted_more_than_once():
    """The shell and the terminal both send it; a second Ctrl-C ends the process as before."""
    before = [signal.getsignal(n) for n in run_folder.STOPPING]
    with Signals() as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGHUP
        assert signal.getsignal(signal.SIGINT) == before[0]
    assert [signal.getsignal(n) for n in run_folder.STOPPING] == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_nohup_is_respected():
    """A signal that is ignored stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
