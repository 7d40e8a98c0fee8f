"""Text to ids and back. The simplest tokenizer: every character is a token."""

import json
from pathlib import Path

import numpy as np

from gpt_numpy.files import fingerprint, read_json, write_whole


class CharTokenizer:
    """Number the characters of a vocabulary 0 to V − 1, in the order of the string `characters`."""

    def __init__(self, characters):
        if not characters:
            raise ValueError("a vocabulary needs at least one character; the text is empty")
        self.characters = characters
        self.vocab_size = len(characters)
        self._points = code_points(characters)  # (V,): id -> code point
        self._ids = np.full(self._points.max() + 2, -1)  # code point -> id, or −1; the last is −1
        self._ids[self._points] = np.arange(self.vocab_size)

    @classmethod
    def from_text(cls, text):
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
        """Return the text of `ids` (T,), integers in an array, list or Tensor.

        Errors      ValueError for more than one row, and for an id outside the vocabulary
        """
        ids = np.asarray(ids.numpy() if hasattr(ids, "numpy") else ids)
        if ids.ndim != 1:
            raise ValueError(f"decode: ids must be one row (T,), not {ids.shape}; decode each row")
        if ids.size == 0:
            return ""
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"decode: ids must be integers, not {ids.dtype}")
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise ValueError(
                f"decode: id {outside[0]} is outside the vocabulary of {self.vocab_size} "
                f"characters (ids 0 to {self.vocab_size - 1})"
            )
        return self._points[ids].tobytes().decode("utf-32-le")

    def fingerprint(self):
        """Two tokenizers with the same one turn the same texts into the same ids."""
        return fingerprint(self.characters)

    def save(self, path):
        """Write tokenizer.json as Hugging Face's `tokenizers` reads it: whole, or not at all."""
        content = json.dumps(self._document(), indent=2, ensure_ascii=False)
        write_whole(Path(path), content.encode("utf-8"))

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; ValueError if the file is broken or another tokenizer's."""
        document = read_json(Path(path))
        match document:
            case {"model": {"vocab": dict(vocab)}} if vocab:
                tokenizer = cls("".join(vocab))
            case _:
                raise ValueError(f"{path} is not a tokenizer.json: it has no vocabulary")
        expected = tokenizer._document()
        foreign = [key for key in expected if document.get(key) != expected[key]]
        if foreign:
            raise ValueError(
                f"{path} is not a character tokenizer: its {', '.join(foreign)} "
                f"cannot come from CharTokenizer.save"
            )
        return tokenizer

    def _document(self):
        """Return the content of tokenizer.json: byte-pair encoding that never merges a pair."""
        unused = ["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"]
        unset = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"]
        model: dict[str, object] = {
            "type": "BPE",
            **dict.fromkeys(unset),
            **dict.fromkeys(["fuse_unk", "byte_fallback", "ignore_merges"], False),
            "vocab": {character: i for i, character in enumerate(self.characters)},
            "merges": [],
        }
        decoder = {"type": "Fuse"}  # joins the tokens as they are; the default puts spaces between
        start: dict[str, object] = {"version": "1.0", "added_tokens": [], **dict.fromkeys(unused)}
        return {**start, "decoder": decoder, "model": model}


def code_points(text):
    """Return the Unicode code points (T,) of `text`, a lone surrogate (as in sys.argv) included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
