"""Continue a prompt with a trained model.

    python examples/generate.py runs/shakespeare --prompt "ROMEO:" --tokens 500 --temperature 0.8
    python examples/generate.py --prompt - < beginning.txt       the prompt from standard input
    python examples/generate.py --interactive                    a prompt a line, until Ctrl-D

The folder may hold any GPT-2 in Hugging Face's layout.
"""

import codecs
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import tyro

from gpt_numpy import GPT
from gpt_numpy.app import program
from gpt_numpy.app.report import CONTROL
from gpt_numpy.corpus.reading import normalized
from gpt_numpy.files import message
from gpt_numpy.hf import checkpoint
from gpt_numpy.hf.tokenizer_json import load_model
from gpt_numpy.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer
from minigrad.internals.gpu import GPUUnavailable, in_one_line, out_of_memory, select_device


def speak(
    folder: Annotated[Path, tyro.conf.Positional] = Path("runs/shakespeare"),
    prompt: str = "\n",
    interactive: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    tokens: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: str = "",
    stop_at_eos: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    samples: int = 1,
    seed: int = 1,
    device: Literal["auto", "cpu", "gpu"] = "cpu",
):
    """Continue a prompt with the model of a run, printing as it writes.

    Args:
        folder: The folder of a run, or of a GPT-2 in Hugging Face's layout.
        prompt: The text to continue; - reads it from standard input.  By default a line break, or
            the first token of a vocabulary without one.
        interactive: Read prompts from standard input, one a line.
        tokens: The largest number of tokens to write.
        temperature: Below 1 likely tokens become likelier; 0 always takes the likeliest.
        top_k: Sample only from the k likeliest tokens.
        top_p: Sample only from the smallest set of likeliest tokens with at least this probability.
        repetition_penalty: Above 1, tokens that are already in the text become less likely.
        stop: Stop before this text if the model writes it; by default do not stop.
        stop_at_eos: Stop at the model's end-of-text token: its eos_token_id, or <|endoftext|>.
        samples: How many continuations to write; the first is printed as it is written.
        seed: The seed of the random numbers: another seed, another text.
        device: Where to compute; a small model is fast enough on a CPU.
    """
    if tokens < 0:
        raise ValueError(f"--tokens must be at least 0, not {tokens}")
    if samples < 1:
        raise ValueError(f"--samples must be at least 1, not {samples}")
    if interactive and prompt != "\n":
        raise ValueError("--interactive reads prompts itself: leave out --prompt")
    folder = folder.expanduser()
    if not (folder / "config.json").exists():
        raise ValueError(
            f"there is no model in {folder}: run python examples/train_shakespeare.py first"
        )
    chosen, why = select_device(device)
    if device == "auto":
        print(f"device: {chosen} ({why})", file=sys.stderr)
    config, state, tokenizer = load_model(folder)
    model = GPT.from_state(config, state)
    last_ids = ends(folder, tokenizer) if stop_at_eos else []
    model.to(chosen)
    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
    }
    stop = normalized(stop)

    def continue_(prompt, seed):
        ids = tokenizer.encode(prompt)
        if not len(ids):
            raise ValueError("the prompt is empty: give at least one character")
        columns = model.stream([ids.tolist()] * samples, tokens, seed=seed, **options)
        show(prompt, columns, [Sample(tokenizer, stop, last_ids) for _ in range(samples)])

    if not interactive:
        given = sys.stdin.buffer.read() if prompt == "-" else prompt
        continue_(beginning(tokenizer) if given == "\n" else in_utf8(given), seed)
        return
    model.stream([[0]], 0, seed=seed, **options)  # rejects options that are wrong for every prompt
    for n, line in enumerate(lines()):
        try:
            continue_(in_utf8(line), (seed + n) % 2**64)
        except ValueError as error:
            print(f"generate: {message(error)}", file=sys.stderr)
        except KeyboardInterrupt:  # ends this reply; while waiting for a prompt, the program
            print()
        print()


def ends(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that end a text: the folder's, or <|endoftext|>; ValueError if none."""
    ids = [id for id in checkpoint.end_of_text(folder) if 0 <= id < tokenizer.vocab_size]
    if not ids and isinstance(tokenizer, BPETokenizer):
        ids = [id for id, token in enumerate(tokenizer.tokens) if token == END_OF_TEXT.encode()]
    if not ids:
        raise ValueError(
            f"--stop-at-eos: the model in {folder} has no token for the end of a text: leave it out"
        )
    return ids


def beginning(tokenizer: Tokenizer) -> str:
    """Return the default prompt: a line break, or the first token of the vocabulary."""
    try:
        tokenizer.encode("\n")
    except ValueError:
        return tokenizer.decode([0])
    return "\n"


def lines() -> Iterator[bytes | str]:
    """Yield the lines of standard input that are not empty; in a terminal, ask for each."""
    if not sys.stdin.isatty():
        yield from filter(None, (line.rstrip(b"\r\n") for line in sys.stdin.buffer))
        return
    with contextlib.suppress(ImportError):  # as on Windows
        import readline  # noqa: F401, with which input() has line editing and a history
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except UnicodeDecodeError as error:
            print(f"generate: the prompt is not UTF-8: {error.reason}", file=sys.stderr)
            continue
        if line:
            yield line


def in_utf8(prompt: bytes | str) -> str:
    """Return a prompt in the form that models learn; ValueError if it is not UTF-8.

    In a flag, Python represents bytes that are not UTF-8 by surrogates.
    """
    try:
        if isinstance(prompt, str):
            prompt = prompt.encode("utf-8", "surrogateescape")
        return normalized(prompt.decode())
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"the prompt is not UTF-8: {error.reason} at {error.start}") from error


class Sample:
    """A text that grows by a token at a time, until `stop` occurs in it or a last id comes.

    last_ids    tokens that end it, and are not shown
    """

    def __init__(self, tokenizer: Tokenizer, stop: str, last_ids: Sequence[int] = ()):
        self.tokenizer, self.stop, self.last_ids = tokenizer, stop, last_ids
        # It waits until a character is complete, because a token may end inside one.
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""  # what may be the beginning of `stop`
        self.ended = False

    def add(self, id: int) -> str:
        """Add a token; return the text that can be shown now."""
        if self.ended:
            return ""
        if id in self.last_ids:
            rest = self.end()
            self.ended = True
            return rest
        text = self.held + self.decoder.decode(self.tokenizer.decode_bytes([id]))
        if not self.stop:
            return text
        before, found, _ = text.partition(self.stop)
        if found:
            self.ended, self.held = True, ""
            return before
        n = next((n for n in range(len(self.stop) - 1, 0, -1) if text.endswith(self.stop[:n])), 0)
        self.held = text[len(text) - n :]
        return text[: len(text) - n]

    def end(self) -> str:
        """Return the rest of the text, when no more tokens come."""
        return "" if self.ended else self.held + self.decoder.decode(b"", final=True)


def show(prompt, columns, samples):
    """Print the first sample as it is written, and the others after it."""

    def say(text, end=""):
        print(text.translate(CONTROL) if sys.stdout.isatty() else text, end=end, flush=True)

    prompt = prompt.lstrip("\n")
    first, *others = samples
    texts = [""] * len(others)
    say("--- sample 1 ---\n" * bool(others) + prompt)
    for ids in columns:
        say(first.add(int(ids[0])))
        texts = [t + s.add(int(i)) for t, s, i in zip(texts, others, ids[1:], strict=True)]
        if all(sample.ended for sample in samples):
            break
    say(first.end(), "\n")
    for n, (text, sample) in enumerate(zip(texts, others, strict=True), start=2):
        say(f"\n--- sample {n} ---\n{prompt}{text}{sample.end()}", "\n")


def main(arguments=None):
    try:
        program.parse(speak, args=arguments)
    except BrokenPipeError:  # the reader of the output has exited, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FloatingPointError, ValueError, OSError, GPUUnavailable) as error:
        print(f"generate: {message(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 130
    except Exception as error:
        if not out_of_memory(error):
            raise
        print(f"generate: there is not enough memory ({in_one_line(error)})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(program.run(main))
