"""Where text comes from: a file of the user's, tiny Shakespeare, or the built-in verse."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeVar

import pooch
import requests

from gpt_numpy.corpus import grammar

FILE = "tinyshakespeare.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
T = TypeVar("T")
SECONDS = 5  # to wait for the server's first answer, and then for each next piece


@dataclass(frozen=True)
class Corpus:
    """A text, and what a run has to say about it."""

    text: str
    name: str  # for figures and the run's first line
    entropy: float | None = None  # nats per character: no model's loss goes lower. The verse's only
    reason: str | None = None  # why the verse stands in for tiny Shakespeare, in one line


def load_corpus(path: Path | str | None = None) -> Corpus:
    """Return the Corpus in the UTF-8 file `path`, or without one tiny Shakespeare.

    Tiny Shakespeare is downloaded once, into the user's cache or into the folder that the
    environment variable GPT_NUMPY_DATA names, where it may already lie. If it can be had from
    neither, the built-in verse takes its place, and the corpus's name and reason say so.

    Errors      OSError for a file that cannot be read; ValueError for one without text
    Source      Karpathy 2015, github.com/karpathy/char-rnn
    """
    if path is not None:
        return Corpus(read_text(path), name=Path(path).name)
    try:
        return Corpus(read_text(fetch_shakespeare()), name="tiny Shakespeare")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is not
        offline = isinstance(error, (requests.ConnectionError, requests.Timeout, TimeoutError))
        return Corpus(
            text=grammar.generate(),
            name=f"verse (built in: {'no network' if offline else 'no download'})",
            entropy=grammar.entropy_per_character(),
            reason=f"tiny Shakespeare is downloaded once, and now cannot be: {root_cause(error)}",
        )


def read_text(path: Path | str) -> str:
    r"""Return the text of a UTF-8 file, each line ending in \n, without a byte-order mark."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        fault = f"cannot read {path}: {error.strerror}; give the path of a text file"
        raise type(error)(fault) from error
    if b"\0" in data:
        where = data.index(b"\0")
        raise ValueError(f"{path} is binary: byte {where} is NUL; give a text file saved as UTF-8")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        fault = f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        raise ValueError(fault) from error
    if not text:
        raise ValueError(f"{path} is empty; give a file with text in it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fetch_shakespeare():
    """Return the path of tiny Shakespeare, downloaded if it is not there yet.

    pooch downloads into a temporary file and renames it once its checksum is right.
    """
    pooch.get_logger().setLevel("WARNING")  # the progress bar says enough
    folder = pooch.create(
        path=data_folder(),
        base_url="",
        registry={FILE: f"sha256:{SHA256}"},
        urls={FILE: URL},
    )
    return folder.fetch(FILE, downloader=download)


def data_folder() -> Path:
    """Where downloads are kept: the folder that GPT_NUMPY_DATA names, or the user's cache."""
    return Path(os.environ.get("GPT_NUMPY_DATA") or pooch.os_cache("gpt_numpy"))


def download(url, output_file, folder):
    """Write `url` to `output_file`, giving up if no server answers within SECONDS."""
    http = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SECONDS)
    # requests' time limit holds for each address of a host anew, and not for finding them.
    within(SECONDS, lambda: http(url, output_file, folder, check_only=True))
    http(url, output_file, folder)


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What ask() returns or raises; TimeoutError if it takes longer, and then it is left alone."""
    answers, errors = [], []

    def note():
        try:
            answers.append(ask())
        except (OSError, ValueError) as error:
            errors.append(error)

    question = Thread(target=note, daemon=True)
    question.start()
    question.join(seconds)
    if question.is_alive():
        raise TimeoutError(f"no answer within {seconds} s")
    if errors:
        raise errors[0]
    return answers[0]


def root_cause(error):
    """Return in one line what set off `error`: requests wraps a refused connection thrice."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())
