"""A tokenizer on disk, in the files of Hugging Face: read it, or say what it does that ours do not.

What a tokenizer.json describes can be a pipeline of many parts.  Ours are two of these pipelines:
single characters, and GPT-2's byte-level pairs, with added tokens that are looked for first.  Any
other one would turn a text into other ids than ours, so it is refused and the difference is named.
"""

import heapq
from pathlib import Path
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.files import message, quoted, read, read_json
from gpt_numpy.hf import checkpoint
from gpt_numpy.hf.checkpoint import is_padded
from gpt_numpy.hf.tensors import State
from gpt_numpy.tokenizer import (
    BYTE_OF,
    END_OF_TEXT,
    GPT2_SIZE,
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    gpt2,
    in_bytes,
    special_token,
)

MOST = 2**24  # bytes of tokenizer.json, for 230,000 tokens; GPT-2's has 1.4 MB
MOST_MERGED = 2**20  # bytes of all merges together; GPT-2's have 320,558
MOST_ADDED = 2**12  # added tokens: each is looked for at each character of a text
BROKEN = (TypeError, ValueError, KeyError, AttributeError)  # what a file of another form leads to


def load(path: Path | str) -> Tokenizer:
    """Read a tokenizer.json: one of ours, or any byte-level one that works as GPT-2's does.

    Errors      OSError, or ValueError if the file is broken or holds another kind of tokenizer
    """
    path = Path(path)
    return of_content(read_json(path, MOST), path)


def from_folder(folder: Path | str, vocab_size: int) -> Tokenizer:
    """Read the tokenizer of a model's folder: tokenizer.json, or vocab.json and merges.txt.

    tokenizer_config.json, or older files, may name further special tokens; the ones that the model
    has a row for (ids below vocab_size) are added.  A folder without any of these files has GPT-2's
    tokenizer if its vocab_size is GPT-2's.  Errors as load()
    """
    folder = Path(folder)
    settings = read_settings(folder)
    path = folder / "tokenizer.json"
    if path.exists():
        content = read_json(path, MOST)
    elif (folder / "vocab.json").exists():
        path = folder / "merges.txt"
        lines = read(path, MOST).decode("utf-8", "replace").splitlines()
        merges = [line for line in lines if line and line[:8] != "#version"]
        model = {"vocab": read_json(folder / "vocab.json", MOST), "merges": merges}
        content = {"model": model, "pre_tokenizer": {"type": "ByteLevel"}}
    elif is_padded(GPT2_SIZE, vocab_size):
        return gpt2()
    else:
        raise ValueError(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt")
    return of_content(content, path, settings, vocab_size)


def load_model(folder: Path | str) -> tuple[GPTConfig, State, Tokenizer]:
    """Read a model and its tokenizer, which must fit; rows for no token are left out.

    Errors      OSError, or ValueError in one line that names the file and what is wrong
    """
    config, _ = checkpoint.load_config(folder)
    tokenizer = from_folder(folder, config.vocab_size)
    checkpoint.check_tokenizer(folder, tokenizer)  # before the arrays are read
    config, state = checkpoint.load(folder)
    return *checkpoint.without_padding(config, state, tokenizer.vocab_size), tokenizer


def of_content(content, path, settings=None, vocab_size=0):
    """The Tokenizer of a parsed tokenizer.json, with the special tokens that `settings` names.

    ValueError names `path` and the fault.
    """
    try:
        specials = special_tokens(settings) if settings else []
        match content:
            case {"model": {"vocab": dict(vocab), "merges": []}, "pre_tokenizer": None}:
                if further(specials, content, vocab_size):
                    raise ValueError("tokenizer_config.json adds tokens to the characters")
                return of_characters(vocab, content)
            case {"model": {"vocab": dict(vocab), "merges": list(merges)}}:
                check_byte_level(content)
                added = content.get("added_tokens") or []
                return byte_level(vocab, merges, [*added, *further(specials, content, vocab_size)])
        raise ValueError("it has no vocabulary with merges")
    except BROKEN as error:
        fault = f"it lacks {error}" if isinstance(error, KeyError) else message(error)
        what = "is not a tokenizer that can be read here"
        what = "does not fit vocab.json" if path.name == "merges.txt" else what
        raise ValueError(f"{path} {what}: {fault}") from error


# ---- characters ----------------------------------------------------------------------------------


def of_characters(vocab, content):
    """The CharTokenizer whose tokenizer.json this is."""
    tokenizer = CharTokenizer("".join(vocab))
    if any("\ud800" <= character <= "\udfff" for character in tokenizer.characters):
        raise ValueError("it has half of a surrogate pair, which cannot be written in UTF-8")
    check_nothing_added(content)
    parts = [
        key
        for key, part in tokenizer.document.items()
        if key not in UNUSED and content.get(key) != part
    ]
    if parts:
        raise ValueError(f"what it says in {', '.join(parts)} cannot come from CharTokenizer.save")
    return tokenizer


# These are checked elsewhere, or say how to pad a batch, which transformers sets at every call.
UNUSED = ("post_processor", "truncation", "padding")


def check_nothing_added(content):
    """ValueError unless the last step leaves the ids as they are.

    transformers writes a template of one part, the text, where there was no last step.
    """
    match content.get("post_processor"):
        case None | {"type": "ByteLevel"}:  # this one moves offsets only
            return
        case {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}], **rest}:
            if not rest.get("special_tokens"):
                return
    raise ValueError("it adds tokens to a text")


# ---- byte pairs ----------------------------------------------------------------------------------


def check_byte_level(content):
    """ValueError unless a tokenizer.json cuts and spells text as GPT-2 does."""
    model, cut = content["model"], content.get("pre_tokenizer") or {}
    for what, fits in {
        "its model is not BPE": model.get("type", "BPE") == "BPE",
        "it forgets merges at random": not model.get("dropout"),
        "it marks parts of words": not any(model.get(key) for key in MARKS),
        "it leaves merges out": not model.get("ignore_merges"),
        "it changes the text first": content.get("normalizer") is None,
        "it does not cut text as GPT-2": cut.get("type") == "ByteLevel"
        and cut.get("use_regex", True)
        and not cut.get("add_prefix_space"),
    }.items():
        if not fits:
            raise ValueError(what)
    check_nothing_added(content)


MARKS = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


def byte_level(vocab, merges, added):
    """The BPETokenizer of the parts of a tokenizer.json."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    merges = [(in_bytes(left), in_bytes(right)) for left, right in pairs]
    ids = dict(vocab)
    entries: dict[str, dict[str, Any]] = {}
    if len(added) > MOST_ADDED:
        raise ValueError(f"it has {len(added):,} added tokens; at most {MOST_ADDED:,} are read")
    for token in added:
        check_added(token)
        content = token["content"]
        flags = {key: bool(token[key]) for key in ("normalized", "special")}
        entries.setdefault(content, special_token(token["id"], content) | flags)
        # Hugging Face ignores the id in the file: it is the vocabulary's, or the next free one.
        if ids.setdefault(content, len(ids)) != token["id"]:
            raise ValueError(f"its added token {quoted(content)} has another id in its vocabulary")
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError("its ids are not 0, 1, 2 and so on")
    made = {*BYTE_OF, *(left + right for left, right in pairs)}
    tokens = [b""] * len(ids)
    for token, i in ids.items():
        tokens[i] = token.encode() if token in entries.keys() - made else in_bytes(token)
    tokenizer = BPETokenizer(tokens, merges, [*entries.values()])
    check_merges(merges)
    return tokenizer


def check_added(token):
    """ValueError unless BPETokenizer finds an added token where Hugging Face finds it."""
    content = token["content"]
    if not isinstance(content, str) or not content:
        raise ValueError(f"an added token must be a text, it is {quoted(content)}")
    if token.get("single_word"):
        raise ValueError(f"its added token {quoted(content)} is for whole words only")
    if token.get("lstrip") or token.get("rstrip"):
        raise ValueError(f"its added token {quoted(content)} takes the spaces beside it")


def check_merges(merges):
    """ValueError unless every merge makes of its bytes what it says: the last step is its own pair.

    Merges that were learned do; of others tiktoken, which knows tokens and no pairs, might make
    another text than `tokenizers`.
    """
    n = sum(len(left + right) for left, right in merges)
    if n > MOST_MERGED:
        raise ValueError(f"its merges make tokens of {n:,} bytes; at most {MOST_MERGED:,} are read")
    ranks = {left + right: rank for rank, (left, right) in enumerate(merges)}
    for left, right in merges:
        if last_merge(left + right, ranks) != (left, right):
            raise ValueError(f"the merge of {quoted(left)} and {quoted(right)} was not learned")


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts of which the last step makes a token; None if it does not come to that.

    Each step merges the pair that makes the token of the lowest rank.  A heap finds it in
    O(log n) of n bytes, where to look at all pairs would take O(n).
    """
    n = len(token)
    length = [1] * n  # of the part that begins at a byte; 0 if none does
    before = [*range(-1, n)]  # where the part before that one begins
    heap: list[tuple[int, int, int, int]] = []

    def propose(i):
        if i >= 0 and (j := i + length[i]) < n:
            rank = ranks.get(token[i : j + length[j]])
            if rank is not None:
                heapq.heappush(heap, (rank, i, length[i], length[j]))

    for i in range(n):
        propose(i)
    n_parts = n
    while n_parts > 2 and heap:
        _, i, left, right = heapq.heappop(heap)
        if (length[i], length[i + left]) != (left, right):
            continue  # one of the two has been merged with another one
        length[i], length[i + left] = left + right, 0
        before[i + left + right] = i
        n_parts -= 1
        propose(before[i])
        propose(i)
    return (token[: length[0]], token[length[0] :]) if n_parts == 2 else None


# ---- tokenizer_config.json -----------------------------------------------------------------------

SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", "GPT2TokenizerFast", "GPT2Tokenizer")
OFF = ("add_prefix_space", "add_bos_token", "add_eos_token", "split_special_tokens")


def read_settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, {} without one; ValueError for what we do not do.

    Before added_tokens_decoder was in it, there were two more files.
    """
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    kind = settings["tokenizer_class"] = settings.get("tokenizer_class") or "GPT2Tokenizer"
    if kind not in CLASSES:
        raise ValueError(
            f"{path}: tokenizer_class must be one of {', '.join(CLASSES)}, not {quoted(kind)}"
        )
    for key in OFF:
        if settings.get(key):
            raise ValueError(f"{path}: {key} must be false, it is {quoted(settings[key])}")
    if "added_tokens_decoder" not in settings:
        if (older := folder / "special_tokens_map.json").exists():
            settings |= read_json(older)
        if (older := folder / "added_tokens.json").exists():
            tokens = {str(id): {"content": token} for token, id in read_json(older).items()}
            settings["added_tokens_decoder"] = tokens
    return settings


def special_tokens(settings):
    """Entries for added_tokens, without ids: the tokens that tokenizer_config.json names, and the
    one that GPT-2's class always has.  New ones get their ids in this order, as in transformers.
    """
    decoder = settings.get("added_tokens_decoder") or {}
    named = [decoder[id] for id in sorted(decoder, key=lambda id: (len(id), id))]  # as numbers
    if settings["tokenizer_class"].startswith("GPT2"):
        settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT) | settings
    named += [settings.get(f"{kind}_token") for kind in SPECIAL]
    named += [value for key, value in settings.items() if key.endswith("_token")]  # any others
    for key in ("additional_special_tokens", "extra_special_tokens"):
        values = settings.get(key) or []
        named += values.values() if isinstance(values, dict) else values
    named = [{"content": token} if isinstance(token, str) else token for token in named]
    return [special_token(-1, "") | token for token in named if isinstance(token, dict)]


def further(specials, content, vocab_size):
    """The entries that a tokenizer.json lacks and that the model has rows for, with their ids."""
    ids = dict(content["model"]["vocab"])
    known = {token["content"] for token in content.get("added_tokens") or []}
    for token in known:
        ids.setdefault(token, len(ids))
    entries: dict[str, dict[str, Any]] = {}
    for token in specials:
        text = token["content"]
        if text not in known and ids.setdefault(text, len(ids)) < vocab_size:
            entries.setdefault(text, token | {"id": ids[text]})
    return entries.values()
