"""The model in the report: weights and tokenizer, as gpt.js and speak.js read them.

The weights are rounded to float16.  The lower bytes of all of them come first, then the upper
bytes.  An upper byte is the sign, the exponent and two binary digits.  Few of its values are
frequent, so deflate shortens that half.  The result is written in base64, because a page is text.
"""

import base64
import json
import math
import re
import zlib
from typing import Any, NamedTuple

import numpy as np

from gpt_numpy.tokenizer import BPETokenizer, Tokenizer, code_points

LARGEST = 12_000_000  # bytes of a report
DIGITS = 10  # binary digits of a float16 after the first one
FEWER_DIGITS = 3  # those of the earlier model, so that a small page has room for both
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
ELEMENT = re.compile(  # of a page: see Version.element()
    r'class="weights" data-step="(\d+)" data-val-loss="([\d.e+-]+)">([A-Za-z0-9+/=]+)</script>'
)


class Version(NamedTuple):
    """The weights of a model at an evaluation, as a page holds them."""

    step: int
    val_loss: float
    weights: str  # in base64; "" if a number is beyond float16

    def element(self):
        """Return the element of the page that holds it."""
        data = f'data-step="{self.step}" data-val-loss="{self.val_loss!r}"'
        return f'<script type="text/plain" class="weights" {data}>{self.weights}</script>\n'


def rounded(array: np.ndarray, digits: int = DIGITS) -> np.ndarray:
    """Return an array in float16, its numbers rounded to so many binary digits after the first."""
    with np.errstate(over="ignore"):
        bits = array.astype(np.float16).view(np.uint16).astype(np.uint32)
    unit = np.uint32(1 << DIGITS - digits)
    bits = (bits + unit // 2) // unit * unit
    return bits.astype(np.uint16).view(np.float16)


def packed(state: dict[str, np.ndarray], digits: int = DIGITS) -> str:
    """Return the weights as a page holds them; "" if one is not finite in float16."""
    numbers = np.concatenate([rounded(array, digits).ravel() for array in state.values()])
    if not np.isfinite(numbers).all():
        return ""
    planes = numbers.astype("<f2").view(np.uint8).reshape(-1, 2).T.tobytes()
    # No sequence of bytes comes twice but by chance: there is nothing to search for.
    deflate = zlib.compressobj(9, zlib.DEFLATED, strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(deflate.compress(planes) + deflate.flush()).decode()


def tokenizer_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what gpt.js needs to know of a tokenizer: numbers, and bytes as characters."""
    if not isinstance(tokenizer, BPETokenizer):
        return {"points": code_points(tokenizer.characters).tolist()}  # type: ignore[attr-defined]
    added = tokenizer.document["added_tokens"]
    return {
        "tokens": [token.decode("latin-1") for token in tokenizer.tokens],
        "ranked": tokenizer.ranked.tolist(),
        "added": [[token["content"], token["id"]] for token in added],
    }


class PageModel:
    """What a report holds of the model of a run: the best evaluation so far, and an early one.

    The early one is the first after step 0, where the model is not random any more and knows
    little.  `step` and `val_loss` are those of an evaluation.
    """

    def __init__(self, model, tokenizer, prompt, wanted=True):
        config = model.config
        shape = {name: getattr(config, name) for name in SHAPE} | {"eps": model.ln_f.eps}
        self.sizes = [[name, p.data.size] for name, p in model.named_parameters()]
        self.n_weights = sum(size for _, size in self.sizes)
        self.facts = {"config": shape, "sizes": self.sizes, "prompt": prompt.tolist()}
        self.tokenizer, self.wanted = tokenizer, wanted
        self.best: Version | None = None
        self.early: Version | None = None

    def fits(self):
        """Return whether it is worth trying: a weight takes more than a byte of the page."""
        return self.wanted and self.n_weights < LARGEST

    def keep_best(self, model, step, val_loss):
        """Keep the weights of the best evaluation so far."""
        if self.fits():
            self.best = Version(step, float(val_loss), packed(model.state_dict()))

    def keep_early(self, model, step, val_loss):
        """Keep the weights of this evaluation if it is the first after step 0."""
        if self.fits() and self.early is None and step > 0 and math.isfinite(val_loss):
            self.early = Version(step, float(val_loss), packed(model.state_dict(), FEWER_DIGITS))

    def recall_early(self, page, step):
        """Take the early weights from the report of a run that goes on after `step`."""
        for found in ELEMENT.finditer(page):
            version = Version(int(found[1]), float(found[2]), found[3])
            if self.fits() and 0 < version.step <= step and self._is_mine(version):
                self.early = self.early or version

    def _is_mine(self, version):
        try:
            deflated = base64.b64decode(version.weights)
            content = zlib.decompressobj().decompress(deflated, 2 * self.n_weights + 1)
        except (ValueError, zlib.error):
            return False
        lower = np.array(bytearray(content[: self.n_weights]), np.uint8)
        is_rounded = not (lower & (1 << DIGITS - FEWER_DIGITS) - 1).any()  # as the best is not
        return len(content) == 2 * self.n_weights and is_rounded

    def contents(self, room: int) -> tuple[dict[str, Any], str]:
        """Return (facts, elements) for a page that has `room` bytes left.

        The facts are what speak.js reads of the model, or why it is `missing`.
        """
        if not self.wanted:
            return {"missing": "--no-page-model left it out"}, ""
        too_large = {
            "missing": f"its {self.n_weights:,} weights would make this page larger than "
            f"{LARGEST // 10**6} MB"
        }
        if not self.fits():
            return too_large, ""
        if self.best is None:
            return {"missing": "its loss was never a finite number"}, ""
        if not self.best.weights:
            return {"missing": "one of its weights is too large for float16"}, ""
        facts = self.facts | {"tokenizer": tokenizer_facts(self.tokenizer)}
        best, early = self.best.element(), ""
        room -= len(in_script(facts)) + len(best)
        if room < 0:
            return too_large, ""
        if self.early and self.early.weights and self.early.step != self.best.step:
            early = self.early.element()
        return facts, best + early * (len(early) <= room)


def in_script(x) -> str:
    """x in JSON, which ends no <script>."""
    return json.dumps(x, allow_nan=False).replace("<", "\\u003c")
