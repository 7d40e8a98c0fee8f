"""Run a command as a program, in whatever environment it was started."""

import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt_numpy.files import LONG, message, printable
from minigrad.internals.gpu import in_one_line


def run(main: Callable[[], int]) -> int:
    """Return the exit status of main(), the only task of this process.

    A program may let Ctrl-C end it without a traceback (SIG_DFL) until it has been loaded.

    Warnings are for programmers: none is shown, and none is an error, even with python -W error.
    NumPy's overflow warnings are off too, because the loss and the gradient are checked.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    open_streams()
    try:
        return main()
    except OSError as error:  # main() could not report this one, for example on a full disk
        complain(in_one_line(error))
        return 2
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library that is written in Rust
            raise
        complain(
            f"a library failed, probably because there is not enough memory: {in_one_line(error)}"
        )
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                silence(stream)  # because Python flushes again at its end


def open_streams() -> None:
    """Open /dev/null for every standard stream that is closed; print ? for what cannot be encoded.

    A file that is opened later could otherwise become the one that programs print to.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            null = os.open(os.devnull, os.O_RDWR)
            try:
                os.fstat(descriptor)
            except OSError:
                os.dup2(null, descriptor)
            null = os.dup(null) if null == descriptor else null
            setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def parse(target: Any, **options: Any) -> Any:
    """Call tyro.cli(); in its errors, escape what a terminal would obey."""
    import tyro  # here, because its import is slow and not every program needs it

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(target, **options)
    finally:
        for line in said.getvalue().splitlines():
            print(printable(line, LONG), file=sys.stderr)


def complain(error: object) -> None:
    """Print a line on standard error, if it can be written to."""
    try:
        print(f"{Path(sys.argv[0]).stem}: {message(error)}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream) -> None:
    """Redirect a stream without a reader to /dev/null, so that writing to it does not fail."""
    with contextlib.suppress(OSError, ValueError):  # it has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
