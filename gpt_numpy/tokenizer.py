"""Text to ids and back, in three ways: characters, byte-pair encoding learned here, and GPT-2's.

All have `vocab_size`, `encode(text)`, `decode(ids)`, `decode_bytes(ids)`, `save(path)` and
`fingerprint()`.  `save` writes the tokenizer.json that Hugging Face's `tokenizers` reads; `load`
reads it back, or one of theirs (hf/tokenizer_json.py).  bpe.py learns the merges, and `tiktoken`
applies them.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

from gpt_numpy.bpe import BYTES, PATTERN, VISIBLE, learn
from gpt_numpy.corpus.sources import data_folder, root_cause, within
from gpt_numpy.files import fingerprint, quoted, read
from gpt_numpy.folder import write_whole


class Tokenizer(ABC):
    """What all tokenizers have in common."""

    vocab_size: int
    document: dict[str, Any]  # the content of tokenizer.json

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids (T,) of a text."""

    @abstractmethod
    def decode_bytes(self, ids) -> bytes:
        """Return the UTF-8 bytes of `ids` (T,), which may begin or end inside a character."""

    def decode(self, ids) -> str:
        """Return the text of `ids` (T,), an array, list or Tensor; � stands for half a character.

        Errors      ValueError if ids have several axes, or if one is outside the vocabulary
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def fingerprint(self) -> str:
        """Return a string; tokenizers with equal strings turn the same texts into the same ids."""
        return fingerprint(json.dumps(self.document, sort_keys=True))

    def save(self, path: Path | str) -> None:
        """Write tokenizer.json, and a tokenizer_config.json for AutoTokenizer of `transformers`.

        Each of the two is replaced atomically.
        """
        path = Path(path)
        for name, content in self.contents(path.name).items():
            write_whole(path.with_name(name), content)

    def contents(self, name: str = "tokenizer.json") -> dict[str, bytes]:
        """Return the files that save() writes: {name: content}."""
        return {
            name: json.dumps(self.document, indent=2, ensure_ascii=False).encode(),
            "tokenizer_config.json": json.dumps(CONFIG, indent=2).encode(),
        }

    def checked(self, ids) -> np.ndarray:
        """Return `ids` as an array (T,) of integers inside the vocabulary, or raise ValueError."""
        ids = np.asarray(ids.numpy() if hasattr(ids, "numpy") else ids)
        if ids.ndim != 1:
            raise ValueError(f"decode: ids must be one row (T,), not {ids.shape}; decode each row")
        if ids.size == 0:
            return ids.astype(int)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"decode: ids must be integers, not {ids.dtype}")
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise ValueError(
                f"decode: id {outside[0]} is outside the vocabulary of {self.vocab_size} "
                f"tokens (ids 0 to {self.vocab_size - 1})"
            )
        return ids


CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


def characters(content: bytes) -> int:
    """Return how many characters of UTF-8 begin in these bytes: all bytes but 10......₂ do."""
    return int(((np.frombuffer(content, np.uint8) & 0xC0) != 0x80).sum())


# ---- characters ----------------------------------------------------------------------------------


class CharTokenizer(Tokenizer):
    """Number the characters of a vocabulary 0 to V − 1, in the order of the string `characters`."""

    def __init__(self, characters: str):
        if not characters:
            raise ValueError("a vocabulary needs at least one character; the text is empty")
        self.characters = characters
        self.vocab_size = len(characters)
        # Byte-pair encoding that never merges a pair.  Its decoder joins the tokens as they are.
        vocab = {character: i for i, character in enumerate(characters)}
        self.document = document(vocab, [], pre_tokenizer=None, decoder={"type": "Fuse"})
        self._points = code_points(characters)  # (V,): id -> code point
        self._ids = np.full(self._points.max() + 2, -1)  # code point -> id, or −1; the last is −1
        self._ids[self._points] = np.arange(self.vocab_size)

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """Return the tokenizer of the characters that occur in `text`, sorted by code point."""
        return cls("".join(sorted(set(text))))

    def encode(self, text):
        """Return the ids (T,) of the T characters of `text`; ValueError if one is unknown."""
        points = np.minimum(code_points(text), len(self._ids) - 1)
        ids = self._ids[points]
        if ids.size and ids.min() < 0:
            unknown = sorted(set(text) - set(self.characters))
            listed = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise ValueError(
                f"encode: {len(unknown)} unknown character(s) {listed}; "
                f"the vocabulary has the {self.vocab_size} characters of the training text"
            )
        return ids

    def decode(self, ids):
        points = self._points[self.checked(ids)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")

    def decode_bytes(self, ids):
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def fingerprint(self):
        return fingerprint(self.characters)


def code_points(text):
    """Return the Unicode code points (T,) of `text`, also of a lone surrogate (as in sys.argv)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


# ---- byte pairs ----------------------------------------------------------------------------------

# GPT-2 writes a byte as one visible character in its files: itself, or one from U+0100 on.
SPELLING = {b: chr(b) if b in VISIBLE else chr(256 + i - len(VISIBLE)) for i, b in enumerate(BYTES)}
BYTE_OF = {character: byte for byte, character in SPELLING.items()}
LONG = 1000  # tiktoken fails on much more whitespace in a row, if something follows it


class BPETokenizer(Tokenizer):
    """Byte-pair encoding: token number i stands for the bytes tokens[i].

    merges      pairs (left, right) of tokens, as bytes, in the order in which they are merged
    added       tokens that no merge makes, such as <|endoftext|>, as tokenizer.json lists them:
                special_token(id, content)

    encode() first cuts the added tokens out of a text; if two begin at the same place, the longer
    one.  Then it merges the text between them.  encode() never produces a token that is not a byte,
    a merge or an added token; decode() accepts it.
    """

    def __init__(
        self,
        tokens: list[bytes],
        merges: list[tuple[bytes, bytes]],
        added: Sequence[dict[str, Any]] = (),
    ):
        import tiktoken  # here, because its import is slow and `--help` does not need it

        self.tokens, self.vocab_size = tokens, len(tokens)
        contents = {token["id"]: token["content"] for token in added}
        ordinary = [token for i, token in enumerate(tokens) if i not in contents]
        ranked = [bytes([byte]) for byte in BYTES] + [left + right for left, right in merges]
        if len(set(ordinary)) < len(ordinary) or len(set(ranked)) < len(ranked):
            raise ValueError("two tokens have the same bytes")
        # An added token may have the bytes of an ordinary one, which merges then make.
        ids = {tokens[i]: i for i in sorted(range(len(tokens)), key=lambda i: i not in contents)}
        for token in [*ranked, *(part for merge in merges for part in merge)]:
            if token not in ids:
                raise ValueError(f"there is no token for the bytes {quoted(token)}")
        self.ranked = np.array([ids[token] for token in ranked])  # tiktoken's number -> id
        self._encoding = tiktoken.Encoding(
            name="gpt_numpy",
            pat_str=PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(ranked)},
            special_tokens={},
        )
        # Hugging Face looks for the tokens that are not `normalized` first.
        self._added = [
            {token["content"]: token["id"] for token in added if token["normalized"] == normalized}
            for normalized in (False, True)
        ]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        self.document = document(
            {contents.get(i, spelled(token)): i for i, token in enumerate(tokens)},
            [[spelled(left), spelled(right)] for left, right in merges],
            pre_tokenizer=byte_level | {"use_regex": True},
            decoder=byte_level | {"use_regex": True},
            added_tokens=sorted(added, key=lambda token: token["id"]),
        )

    @classmethod
    def from_text(cls, text: str, vocab_size: int = 512) -> "BPETokenizer":
        """Learn at most vocab_size tokens from `text`, including the 256 bytes: see bpe.learn."""
        if vocab_size < 256:
            raise ValueError(
                f"vocab_size must be at least 256, one token for each byte; it is {vocab_size}"
            )
        tokens = [bytes([byte]) for byte in BYTES]
        merges = []
        for left, right in learn(text, vocab_size):
            merges.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        return cls(tokens, merges)

    def encode(self, text):
        """Return the ids (T,) of `text`; ValueError for half of a surrogate pair."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            bad = text[error.start]
            raise ValueError(
                f"encode: {bad!r} is half of a surrogate pair and cannot be encoded in UTF-8"
            ) from error
        parts: list[str | int] = [text]
        for ids in self._added:
            parts = [new for part in parts for new in cut_out(ids, part)]
        return np.concatenate([np.zeros(0, int), *map(self._encode_part, parts)])

    def _encode_part(self, part):
        """Return the ids of a text between two added tokens, or of one of these."""
        if isinstance(part, int):
            return [part]
        pieces = [self._encoding.encode_ordinary(piece) for piece in parted(part)]
        return self.ranked[np.concatenate([np.array(piece, int) for piece in pieces])]

    def decode_bytes(self, ids):
        return b"".join([self.tokens[i] for i in self.checked(ids).tolist()])


def cut_out(ids, part):
    """Cut `part` where a key of `ids` occurs in it; return the texts, and the ids between them.

    If several keys begin at the same place, the longest one counts.  A part that is an id stays.
    """
    if isinstance(part, int) or not ids:
        return [part]
    keys = sorted(ids, key=len, reverse=True)
    texts = re.split(f"({'|'.join(map(re.escape, keys))})", part)
    return [ids.get(text, text) if i % 2 else text for i, text in enumerate(texts) if text]


def special_token(id: int, content: str) -> dict[str, Any]:
    """Return an entry of `added_tokens` in tokenizer.json."""
    unset = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return {"id": id, "content": content, **unset, "special": True}


def parted(text):
    """Yield parts of `text` that share no token: cut in long whitespace, as PATTERN does."""
    start = 0
    for run in regex.finditer(rf"\s{{{LONG},}}+", text):
        if run.end() < len(text):
            yield text[start : run.end() - 1]  # the last one goes with what follows
            start = run.end() - 1
    yield text[start:]


def spelled(token: bytes) -> str:
    """Return bytes as they are written in tokenizer.json."""
    return "".join(SPELLING[byte] for byte in token)


def in_bytes(spelling: str) -> bytes:
    """Return the bytes that spelled() writes in this way."""
    try:
        return bytes(BYTE_OF[character] for character in spelling)
    except KeyError as error:
        raise ValueError(f"{quoted(spelling)} is not in GPT-2's byte encoding") from error


# ---- GPT-2's -------------------------------------------------------------------------------------

GPT2_FILE = "vocab.bpe"
GPT2_URL = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{GPT2_FILE}"
GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
GPT2_SIZE = 50_257
END_OF_TEXT = "<|endoftext|>"  # between two documents; its id is the last one, 50,256
GPT2_SECONDS = 30  # to wait for half a megabyte


def gpt2() -> BPETokenizer:
    """Return GPT-2's tokenizer: 256 bytes, 50,000 merges and <|endoftext|>.

    The merges are read from vocab.bpe in the folder gpt2 of corpus.data_folder(), or else from
    tiktoken's cache, or else from OpenAI by tiktoken.
    Errors      OSError if none of them has it, ValueError if the file is not GPT-2's
    Source      Radford et al. 2019, github.com/openai/gpt-2
    """
    path = data_folder() / "gpt2" / GPT2_FILE
    if path.exists():
        content = read(path)
        if hashlib.sha256(content).hexdigest() != GPT2_SHA256:
            raise ValueError(f"{path} is not GPT-2's {GPT2_FILE}: get it from {GPT2_URL}")
    else:
        from tiktoken.load import read_file_cached

        try:
            content = within(GPT2_SECONDS, lambda: read_file_cached(GPT2_URL, GPT2_SHA256))
        except (OSError, ValueError) as error:
            raise OSError(
                f"GPT-2's tokenizer is not here and cannot be downloaded ({root_cause(error)}): "
                f"put {GPT2_URL} into {path.parent}"
            ) from error
    _, *lines = content.decode().splitlines()  # the first one names a version
    pairs = [line.split(" ") for line in lines]
    merges = [(in_bytes(left), in_bytes(right)) for left, right in pairs]
    tokens = [bytes([byte]) for byte in BYTES] + [left + right for left, right in merges]
    added = [special_token(len(tokens), END_OF_TEXT)]
    return BPETokenizer([*tokens, END_OF_TEXT.encode()], merges, added)


# ---- files ---------------------------------------------------------------------------------------


def document(vocab, merges, **parts):
    """Return the content of tokenizer.json."""
    unused = ["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
    unset = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"]
    model = {
        "type": "BPE",
        **dict.fromkeys(unset),
        **dict.fromkeys(["fuse_unk", "byte_fallback", "ignore_merges"], False),
        "vocab": vocab,
        "merges": merges,
    }
    return {"version": "1.0", "added_tokens": [], **dict.fromkeys(unused), **parts, "model": model}


def load(path: Path | str) -> Tokenizer:
    """Read a tokenizer.json: see hf/tokenizer_json.py."""
    from gpt_numpy.hf import tokenizer_json  # which builds the classes of this page

    return tokenizer_json.load(path)
