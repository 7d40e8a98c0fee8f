"""Byte-pair encoding: what is learned, against a slow and a foreign learner; what is encoded,
against Hugging Face and GPT-2's published ids."""

import hashlib
import json
import pickle
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken
from command import DATA, needs_data
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import gpt_numpy.tokenizer as tokenizers
from gpt_numpy.bpe import BYTES, ID_OF_BYTE, PATTERN, learn
from gpt_numpy.corpus import grammar
from gpt_numpy.hf import tokenizer_json
from gpt_numpy.hf.tokenizer_json import from_folder, load
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, characters, gpt2

TEXT = grammar.generate(30_000) + "naïve café 中文 😀😀😀   \n\n\t x_1 = 'a'*300\n" * 3


@pytest.fixture(scope="module")
def trained():
    """A tokenizer of 600 tokens."""
    return BPETokenizer.from_text(TEXT, 600)


# ---- learning ------------------------------------------------------------------------------------


def learn_slowly(text, vocab_size):
    """The same merges by the definition alone: count all pairs, merge, and count them all again."""
    words = Counter(regex.findall(PATTERN, text))
    spelled = {word: [int(ID_OF_BYTE[byte]) for byte in word.encode()] for word in words}
    merges = []
    while len(merges) < vocab_size - 256:
        counts = Counter()
        for word, ids in spelled.items():
            for pair in zip(ids, ids[1:], strict=False):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        for word, ids in spelled.items():
            i, new = 0, []
            while i < len(ids):
                found = tuple(ids[i : i + 2]) == best
                new.append(256 + len(merges) if found else ids[i])
                i += 1 + found
            spelled[word] = new
        merges.append(best)
    return merges


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="ab c\n'sé中") | st.text(), st.integers(256, 300))
@example("aaa aaaa aaaaa aaaaaaaa", 300)
@example("abababab ababab", 300)
@example("", 300)
def test_merges_are_those_of_the_slow_learner(text, vocab_size):
    """One by one, in order, ties and rows of equals included."""
    assert learn(text, vocab_size) == learn_slowly(text, vocab_size)


def test_a_play_is_learned_as_slowly():
    """300 merges of real words."""
    text = TEXT[:8000]
    merges = learn(text, 556)
    assert len(merges) == 300
    assert merges == learn_slowly(text, 556)


def test_hugging_face_learns_the_same():
    """Their trainer, in Rust, from the same text: the same merges, nearly 700."""
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=956, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator([TEXT], trainer)
    model = json.loads(theirs.to_str())["model"]
    ids = model["vocab"]
    assert learn(TEXT, 956) == [(ids[left], ids[right]) for left, right in model["merges"]]


def test_learning_stops_where_no_pair_comes_twice():
    """A vocabulary may so be smaller than asked for."""
    assert learn("abcdefg", 1000) == []
    tokenizer = BPETokenizer.from_text("ab ab", 1000)
    assert tokenizer.vocab_size == 257 and tokenizer.tokens[256] == b"ab"


@pytest.mark.parametrize("text", [TEXT, "ab" * 50, "a" * 99])
def test_no_token_is_learned_twice(text):
    """Each merge makes bytes that were no token yet."""
    tokens = BPETokenizer.from_text(text, 600).tokens
    assert len(set(tokens)) == len(tokens) > 256


@pytest.mark.slow
def test_a_megabyte_is_learned_in_20_seconds():
    """1,024 tokens of a megabyte; of random letters, where almost no word comes twice."""
    draw = np.random.default_rng(0)
    text = "".join(draw.choice([*"abcdefghijklmnopqrstuvwxyz      "], size=1_000_000))
    start = time.process_time()
    assert len(learn(text, 1024)) == 768
    assert time.process_time() - start < 20


@pytest.mark.parametrize("vocab_size", [255, 0, -1])
def test_the_bytes_must_have_room(vocab_size):
    with pytest.raises(ValueError, match="at least 256, one token for each byte; it is"):
        BPETokenizer.from_text("ab", vocab_size)


# ---- encoding ------------------------------------------------------------------------------------

# All of Unicode; and what the pattern and the merges care about, closer together.
TEXTS = st.text() | st.text(alphabet=" \n\t'stlremvd09aA.é中😀\u00a0\u2028\x00\x1c", max_size=60)


@settings(deadline=None, max_examples=500)
@given(text=TEXTS)
def test_every_text_comes_back(trained, text):
    """Ids inside the vocabulary; decoded, the text itself, character for character."""
    ids = trained.encode(text)
    assert ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
    assert trained.decode(ids) == text
    assert trained.decode_bytes(ids) == text.encode()
    assert characters(trained.decode_bytes(ids)) == len(text)


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("both") / "tokenizer.json"
    trained.save(path)
    return trained, PreTrainedTokenizerFast(tokenizer_file=str(path))


@settings(deadline=None, max_examples=500)
@given(text=TEXTS | st.text(alphabet="thane o,\n"))
@example("<|endoftext|>")
@example(TEXT)
def test_transformers_encodes_alike(both, text):
    """PreTrainedTokenizerFast, from the tokenizer.json that we wrote."""
    ours, theirs = both
    ids = ours.encode(text).tolist()
    assert theirs(text).input_ids == ids
    assert theirs.decode(ids) == text


def test_merging_goes_as_it_was_learned(trained):
    """By the definition: of all pairs in a word, the one learned first is merged first."""
    ranks = {pair: i for i, pair in enumerate(learn(TEXT, 600))}
    for word in regex.findall(PATTERN, TEXT[-3000:] + " Thou sleepiest unthinkingly"):
        ids = [int(ID_OF_BYTE[byte]) for byte in word.encode()]
        while True:
            pairs = [p for p in zip(ids, ids[1:], strict=False) if p in ranks]
            if not pairs:
                break
            best = min(pairs, key=ranks.__getitem__)
            i = next(i for i in range(len(ids)) if tuple(ids[i : i + 2]) == best)
            ids[i : i + 2] = [256 + ranks[best]]
        assert trained.encode(word).tolist() == ids


@pytest.fixture(scope="module")
def spacious():
    """A tokenizer that has learned whitespace: tokens of two, four, eight ... of a kind."""
    rows = [space * n for space in (" ", "\n", "\u00a0", "\t") for n in (2, 3, 5, 9, 20)]
    tokenizer = BPETokenizer.from_text("a".join(rows * 5), 300)
    assert sum(token.decode("utf-8", "replace").isspace() for token in tokenizer.tokens) > 20
    return tokenizer


@settings(deadline=None, max_examples=500)
@given(text=st.text(alphabet=" \n\t\r\u00a0\x1ca.1", max_size=40))
@example(text="a\n\n\n\n")
@example(text="\u00a0\u00a0\u00a0\u00a0a")
def test_long_whitespace_is_cut_where_the_pattern_cuts(spacious, text):
    """What is encoded in parts, with parts from three spaces on, is what is encoded at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "LONG", 3)
        assert "".join(tokenizers.parted(text)) == text
        in_parts = spacious.encode(text).tolist()
    assert in_parts == spacious._encoding.encode_ordinary(text)


LONG_ROWS = [space + end for space in (" ", "\n", "\u00a0", "\x0c", " \u3000") for end in ("", "x")]


@pytest.mark.slow
@pytest.mark.parametrize("row", [*LONG_ROWS, "a", "é", "1", ".", "'"], ids=repr)
def test_long_rows_of_equals(spacious, row):
    """A million: tiktoken alone would end the process at some of them."""
    text = row[:-1] * 1_000_000 + row[-1] if row.endswith("x") else row * 1_000_000
    assert spacious.decode(spacious.encode(text)) == text


@pytest.mark.whole
def test_whitespace_is_what_tiktoken_takes_for_it():
    """Of every character: it belongs to a row of newlines in the one if it does in the other."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    joined = {b"\n" + bytes([byte]): 256 + byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "rows", pat_str=PATTERN, mergeable_ranks=ranks | joined, special_tokens={}
    )
    for point in [*range(0xD800), *range(0xE000, 0x110000)]:
        in_a_row = encoding.encode_ordinary("\n" + chr(point))[0] >= 256
        if in_a_row != bool(regex.fullmatch(r"\s", chr(point))):
            pytest.fail(f"{chr(point)!r}")


def test_half_a_character_is_shown_as_such(trained):
    """decode() of what was cut within a character, and what a surrogate alone is told."""
    ids = trained.encode("\U0001f9ff")
    assert len(ids) > 1 and trained.decode(ids[:1]) == "�"
    with pytest.raises(ValueError, match="'\\\\udc80' is half of a surrogate pair"):
        trained.encode("a\udc80")


@pytest.mark.parametrize("ids", [[600], [-1], [0.5], [[1]]])
def test_other_ids_are_refused(trained, ids):
    with pytest.raises(ValueError, match="decode: id"):
        trained.decode(ids)


# ---- files ---------------------------------------------------------------------------------------


def test_load_inverts_save(trained, tmp_path):
    """The same tokens and ids; the copy that pickle makes, for other ranks, too."""
    trained.save(tmp_path / "tokenizer.json")
    for again in (load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(trained))):
        assert (again.tokens, again.fingerprint()) == (trained.tokens, trained.fingerprint())
        np.testing.assert_array_equal(again.encode(TEXT), trained.encode(TEXT))
    other = BPETokenizer.from_text(TEXT, 599)
    assert other.fingerprint() != trained.fingerprint()


def test_a_tokenizer_of_bytes_alone(tmp_path):
    """It has no merges, as that of characters has none, and is told from it."""
    BPETokenizer.from_text("", 256).save(tmp_path / "tokenizer.json")
    tokenizer = load(tmp_path / "tokenizer.json")
    assert isinstance(tokenizer, BPETokenizer) and tokenizer.vocab_size == 256
    assert tokenizer.tokens == [bytes([byte]) for byte in BYTES]


def test_the_file_is_what_hugging_face_would_write(trained, tmp_path):
    """`tokenizers` and `transformers` save what they read from us, and we read that back."""
    path, resaved = tmp_path / "tokenizer.json", tmp_path / "resaved.json"
    trained.save(path)
    Tokenizer.from_file(str(path)).save(str(resaved))
    assert json.loads(resaved.read_bytes()) == json.loads(path.read_bytes())
    PreTrainedTokenizerFast(tokenizer_file=str(path)).save_pretrained(tmp_path / "theirs")
    assert load(tmp_path / "theirs/tokenizer.json").fingerprint() == trained.fingerprint()


def test_what_hugging_face_trained_can_be_read(tmp_path):
    """Special tokens first, as is common there, so that bytes and merges have other ids."""
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<pad it>"],
        show_progress=False,
    )
    theirs.train_from_iterator([TEXT], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path / "tokenizer.json")
    assert ours.vocab_size == 500
    assert ours.encode(TEXT).tolist() == theirs.encode(TEXT).ids
    assert ours.decode([1, 0]) == "<pad it><|endoftext|>"
    text = "a<pad it><|endoftext|> b"
    assert ours.encode(text).tolist() == theirs.encode(text).ids
    ours.save(tmp_path / "again.json")
    assert load(tmp_path / "again.json").fingerprint() == ours.fingerprint()


def edit(*path, to):
    """A change of a document: the part at `path` becomes `to`, or what it makes of the old one."""

    def change(document):
        *above, last = path
        for key in above:
            document = document[key]
        document[last] = to(document.get(last)) if callable(to) else to

    return change


def first_merge(merge):
    return edit("model", "merges", to=lambda merges: [merge, *merges])


TEMPLATE = {"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}
REFUSED = {
    "another model": (edit("model", "type", to="Unigram"), "not BPE"),
    "dropout": (edit("model", "dropout", to=0.1), "at random"),
    "word ends": (edit("model", "end_of_word_suffix", to="</w>"), "marks parts of words"),
    "a normalizer": (edit("normalizer", to={"type": "NFC"}), "changes the text first"),
    "another cut": (edit("pre_tokenizer", to={"type": "Whitespace"}), "does not cut"),
    "a space in front": (edit("pre_tokenizer", "add_prefix_space", to=True), "does not cut"),
    "a template": (edit("post_processor", to=TEMPLATE), "adds tokens"),
    "a gap in the ids": (edit("model", "vocab", "a", to=9999), "not 0, 1, 2"),
    "an id twice": (edit("model", "vocab", "a", to=5), "not 0, 1, 2"),
    "an id of another kind": (edit("model", "vocab", "a", to=[]), ""),
    "no ids": (edit("model", "vocab", to={}), "no token for"),
    "foreign spelling": (edit("model", "vocab", "☃", to=600), "is not in GPT-2's byte encoding"),
    "a merge without parts": (first_merge(["th", "never"]), "no token for"),
    "a merge twice": (edit("model", "merges", to=lambda m: m + m[:1]), "the same bytes"),
    "a merge of three": (first_merge(["a", "b", "c"]), ""),
    "a merge of numbers": (first_merge([1, 2]), ""),
    "a merge that is none": (first_merge(None), ""),
    "added tokens without text": (edit("added_tokens", to=[{"id": 600, "content": None}]), ""),
    "merges left out": (edit("model", "ignore_merges", to=True), "leaves merges out"),
    "no cut": (edit("pre_tokenizer", "use_regex", to=False), "does not cut"),
    "a merge that was not learned": (first_merge(["e", "r"]), ""),
    "merges in another order": (edit("model", "merges", to=lambda m: m[::-1]), "was not learned"),
    "merges of another kind": (edit("model", "merges", to={}), "no vocabulary with merges"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_load_refuses_another_tokenizer(trained, tmp_path, name):
    """In one line that begins with the file and says what is otherwise."""
    change, fault = REFUSED[name]
    document = json.loads(json.dumps(trained.document))
    change(document)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(str(path)) and fault in message and "\n" not in message


def test_a_folder_may_have_the_older_files(trained, tmp_path, monkeypatch):
    """vocab.json and merges.txt; without any, only what has GPT-2's size has a tokenizer."""
    with pytest.raises(ValueError, match="has no tokenizer.json, nor"):
        from_folder(tmp_path, 600)
    monkeypatch.setattr(tokenizer_json, "gpt2", lambda: "GPT-2's")
    assert from_folder(tmp_path, 50_257) == from_folder(tmp_path, 50_304) == "GPT-2's"
    model = trained.document["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, model["merges"]), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    assert from_folder(tmp_path, 600).fingerprint() == trained.fingerprint()
    (tmp_path / "merges.txt").write_text("th never", encoding="utf-8")
    with pytest.raises(ValueError, match="merges.txt does not fit vocab.json"):
        from_folder(tmp_path, 600)
    CharTokenizer("ab").save(tmp_path / "tokenizer.json")
    assert isinstance(from_folder(tmp_path, 2), CharTokenizer)


# ---- GPT-2's -------------------------------------------------------------------------------------


@needs_data
def test_gpt2_has_the_published_ids():
    """All 50,257, as encoder.json has them; and texts as they are known to be encoded."""
    tokenizer = gpt2()
    published = json.loads((Path(DATA) / "gpt2/encoder.json").read_text(encoding="utf-8"))
    assert len(published) == tokenizer.vocab_size == 50_257
    assert tokenizer.document["model"]["vocab"] == published
    assert tokenizer.encode("Hello, world!").tolist() == [15496, 11, 995, 0]
    assert tokenizer.encode("hello world").tolist() == [31373, 995]
    assert tokenizer.decode([50_256]) == "<|endoftext|>"


@pytest.mark.slow
@needs_data
def test_gpt2_encodes_as_tiktoken_and_transformers_do(tmp_path):
    """Tiny Shakespeare and every character there is, through three programs."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    ours = gpt2()
    ours.save(tmp_path / "tokenizer.json")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # keep no copies
        ranks = data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=f"{DATA}/gpt2/vocab.bpe",
            encoder_json_file=f"{DATA}/gpt2/encoder.json",
        )
    published = tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50_256}
    )
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    everything = "".join(map(chr, points))
    shakespeare = (Path(DATA) / "tinyshakespeare.txt").read_text(encoding="utf-8")
    for text in (shakespeare, everything, TEXT):
        ids = ours.encode(text).tolist()
        assert ids == published.encode_ordinary(text)
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == text


def test_gpt2_that_is_nowhere_says_what_to_get(tmp_path, monkeypatch):
    """The file, its address, and the folder to put it into; in one line, and soon."""
    import tiktoken.load

    def offline(*_):
        raise ConnectionError("no route")

    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file_cached", offline)
    with pytest.raises(OSError) as error:
        gpt2()
    message = str(error.value)
    assert "(no route)" in message and "\n" not in message
    assert f"put {tokenizers.GPT2_URL} into {tmp_path / 'gpt2'}" in message
    monkeypatch.setattr(tiktoken.load, "read_file_cached", lambda *_: time.sleep(5))
    monkeypatch.setattr(tokenizers, "GPT2_SECONDS", 0.1)
    with pytest.raises(OSError, match=r"no answer within 0\.1 s"):
        gpt2()


def test_gpt2_from_tiktoken(tmp_path, monkeypatch):
    """What tiktoken has kept or fetched is used; it is asked for the file with its checksum."""
    import tiktoken.load

    asked = []
    content = b"#version: 0.2\nt h\nth e\n"

    def kept(url, expected_hash):
        asked.append((url, expected_hash))
        return content

    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file_cached", kept)
    assert gpt2().tokens[256:] == [b"th", b"the", b"<|endoftext|>"]
    assert asked == [(tokenizers.GPT2_URL, tokenizers.GPT2_SHA256)]
    # Another file of that name in the folder is refused, and one with the right checksum is read.
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/vocab.bpe").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocab\.bpe is not GPT-2's"):
        gpt2()
    monkeypatch.setattr(tokenizers, "GPT2_SHA256", hashlib.sha256(content).hexdigest())
    assert gpt2().vocab_size == 259 and len(asked) == 1
