"""Where text comes from: files of the user's, tiny Shakespeare, or the built-in verse."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TypeVar

from gpt_numpy.corpus import grammar
from gpt_numpy.corpus.large import Text, data_folder, facts_of, head, text_in
from gpt_numpy.corpus.reading import STDIN, Files
from gpt_numpy.files import fingerprint, read

FILE = "tinyshakespeare.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
T = TypeVar("T")
SECONDS = 5  # to wait for the server's first answer, and then for each next piece


@dataclass(frozen=True)
class Corpus:
    """A text, and what a run has to say about it."""

    text: Text
    name: str  # for figures and the run's first line
    entropy: float | None = None  # nats per character: no model's loss goes lower. The verse's only
    reason: str | None = None  # why the verse stands in for tiny Shakespeare, in one line
    validation: Text | None = None  # another text; by default the text's last tenth

    def fingerprint(self) -> str:
        """Return the SHA-256 of the text, or of both texts."""
        texts = [facts_of(text).fingerprint for text in self._texts()]
        return texts[0] if len(texts) == 1 else fingerprint(json.dumps(texts))

    def alphabet(self) -> str:
        """Return all characters that occur, sorted by code point."""
        return "".join(sorted({*"".join(facts_of(text).alphabet for text in self._texts())}))

    def prompt(self) -> str:
        r"""Return what a sample begins with: a \n if the text has one, else its first character."""
        return "\n" if "\n" in facts_of(self.text).alphabet else head(self.text, 1)

    def _texts(self):
        return [text for text in (self.text, self.validation) if text is not None]


def load_corpus(
    path: Path | str | Sequence[Path | str] | None = None,
    validation: Path | str | Sequence[Path | str] | None = None,
) -> Corpus:
    """Return the Corpus in files, or without one tiny Shakespeare.

    Tiny Shakespeare is downloaded once, into the user's cache or into the folder that the
    environment variable GPT_NUMPY_DATA names, where it may already lie. If it can be had from
    neither, the built-in verse takes its place, and the corpus's name and reason say so.

    path        a file, a folder, - for standard input, or several of these: see reading.py
    validation  the same, for the text to validate on

    Errors      OSError for a file that cannot be read; ValueError for one without text
    Source      Karpathy 2015, github.com/karpathy/char-rnn
    """
    if path and validation and STDIN in paths_in(path) and STDIN in paths_in(validation):
        raise ValueError("standard input can be read once: it is both the text and the validation")
    corpus = corpus_in(path) if path else shakespeare_or_verse()
    if not validation:
        return corpus
    other = corpus_in(validation)
    name = f"{corpus.name}, validated on {other.name}"
    return replace(corpus, name=name, entropy=None, validation=other.text)


def paths_in(path):
    """Return the list of paths that one path or several are."""
    return [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]


def corpus_in(path):
    """Return the Corpus in a file or several."""
    files = Files(paths_in(path))
    return Corpus(text_in(files), files.name)


def shakespeare_or_verse():
    """Return the Corpus of tiny Shakespeare, or of the grammar that stands in for it."""
    try:
        return replace(corpus_in(fetch_shakespeare()), name="tiny Shakespeare")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is not
        import requests

        offline = isinstance(error, (requests.ConnectionError, requests.Timeout, TimeoutError))
        return Corpus(
            text=grammar.generate(),
            name=f"verse (built in: {'no network' if offline else 'no download'})",
            entropy=grammar.entropy_per_character(),
            reason=f"tiny Shakespeare is downloaded once, and now cannot be: {root_cause(error)}",
        )


def fetch_shakespeare():
    """Return the path of tiny Shakespeare, downloaded if it is not there yet.

    pooch downloads into a temporary file and renames it once its checksum is right.
    """
    import pooch  # here, because it is slow to import

    pooch.get_logger().setLevel("WARNING")  # the progress bar says enough
    if (data_folder() / FILE).exists():
        read(data_folder() / FILE)  # which refuses what pooch would wait for, or never end to read
    folder = pooch.create(
        path=data_folder(),
        base_url="",
        registry={FILE: f"sha256:{SHA256}"},
        urls={FILE: URL},
    )
    return folder.fetch(FILE, downloader=download)


def download(url, output_file, folder):
    """Write `url` to `output_file`, giving up if no server answers within SECONDS."""
    import pooch

    http = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SECONDS)
    # requests' time limit applies to each address of a host separately, not to finding them.
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
