"""Characters to ids and back, alone and through Hugging Face's `tokenizers`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gpt_numpy.tokenizer import CharTokenizer, load

# Spaces, controls, a combining accent, a byte-order mark, characters beyond 16 bits, and two
# that other tokenizers use as marks.
AWKWARD = " \n\t\r\x00\x7fabcZé\u0301ß中\ufeff\u200b\u2028\ue000▁Ġ😀𝔸\U0010ffff<unk>"


@pytest.fixture
def saved(tmp_path):
    """A tokenizer over AWKWARD and the file it was saved in."""
    tokenizer = CharTokenizer.from_text(AWKWARD)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    return tokenizer, path


def rewrite(path, change):
    """Let `change` edit the parsed content of the JSON file `path`."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def one_line(error):
    """Return an error's text after checking that it is one line."""
    text = str(error.value)
    assert text and "\n" not in text
    return text


def test_ids_follow_the_sorted_characters():
    """Ids number the distinct characters in the order of their code points."""
    tokenizer = CharTokenizer.from_text("hello world")
    assert tokenizer.vocab_size == 8
    assert tokenizer.encode(" dehlorw").tolist() == list(range(8))
    ids = tokenizer.encode("hold")
    assert np.issubdtype(ids.dtype, np.integer) and ids.shape == (4,)
    assert ids.tolist() == [3, 5, 4, 1]


@settings(deadline=None)
@given(st.text(min_size=1))
def test_decode_inverts_encode(text):
    """Any Unicode text comes back unchanged, and all ids lie in the vocabulary."""
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert ids.shape == (len(text),)
    assert set(ids.tolist()) == set(range(tokenizer.vocab_size))
    assert tokenizer.decode(ids) == text


def test_the_empty_text():
    """No text is no ids and the other way round, but no text makes no vocabulary."""
    tokenizer = CharTokenizer.from_text("ab")
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode(tokenizer.encode("")) == tokenizer.decode([]) == ""
    with pytest.raises(ValueError, match="empty") as error:
        CharTokenizer.from_text("")
    one_line(error)


def test_decode_takes_whatever_holds_integers():
    """Lists, tuples, arrays of each integer type, tensors with .numpy(): the same text."""

    class TensorLike:
        def numpy(self):
            return np.array([1, 0])

    tokenizer = CharTokenizer.from_text("ab")
    arrays = [np.array([1, 0], dtype) for dtype in "bBhHiIlLqQ"]
    for ids in [[1, 0], (1, 0), TensorLike(), *arrays]:
        assert tokenizer.decode(ids) == "ba"


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0, 2], ["id 2 ", "vocabulary of 2"]),
        ([-1], ["id -1 ", "vocabulary of 2"]),
        ([2**40], ["id 1099511627776 "]),
        ([0.5], ["integers", "float64"]),
        ([True], ["integers", "bool"]),
        ([[0, 1], [1, 0]], ["one row", "(2, 2)"]),
        (0, ["one row", "()"]),
    ],
)
def test_decode_refuses_other_ids(ids, words):
    """An id outside the vocabulary, a fraction or a batch raises one line that names it."""
    with pytest.raises(ValueError) as error:
        CharTokenizer.from_text("ab").decode(ids)
    assert all(word in one_line(error) for word in words)


@pytest.mark.parametrize("unknown", ["c", "\n", "😀", "\U0010ffff", "\ud800", "\x00"])
def test_encode_names_an_unknown_character(unknown):
    """An unknown character, also one below, above or far above all known ones, is named."""
    with pytest.raises(ValueError) as error:
        CharTokenizer.from_text("ab").encode("ab" + unknown + "a" + unknown)
    assert f"1 unknown character(s) {unknown!r};" in one_line(error)


def test_encode_lists_at_most_ten_unknown_characters():
    """A text in a foreign script does not flood the terminal."""
    with pytest.raises(ValueError) as error:
        CharTokenizer.from_text("ab").encode("αβγδεζηθικλμν")
    message = one_line(error)
    assert "13 unknown" in message and "'κ', ..." in message and "'λ'" not in message


def test_load_inverts_save(saved):
    """A loaded tokenizer has the same vocabulary and the same ids."""
    tokenizer, path = saved
    loaded = load(str(path))
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.encode(AWKWARD).tolist() == tokenizer.encode(AWKWARD).tolist()
    assert loaded.decode(loaded.encode(AWKWARD)) == AWKWARD


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One vocabulary as our tokenizer and as Hugging Face's."""
    path = tmp_path_factory.mktemp("both") / "tokenizer.json"
    ours = CharTokenizer.from_text(AWKWARD)
    ours.save(path)
    return ours, Tokenizer.from_file(str(path))


@settings(deadline=None)
@given(text=st.text(alphabet=AWKWARD, max_size=200))
def test_hugging_face_agrees_over_awkward_characters(both, text):
    """`tokenizers` encodes and decodes every text over the vocabulary as we do."""
    ours, theirs = both
    assert theirs.get_vocab_size() == ours.vocab_size
    assert theirs.encode(text).ids == ours.encode(text).tolist()
    assert theirs.decode(theirs.encode(text).ids) == ours.decode(ours.encode(text)) == text


def test_hugging_face_agrees_over_thousands_of_characters(tmp_path):
    """The same for a vocabulary of 5000 characters from all of Unicode, in one long text."""
    rng = np.random.default_rng(0)
    points = rng.choice(0x110000 - 0x800, size=5000, replace=False)
    points[points >= 0xD800] += 0x800  # leaves out the surrogates, which are not characters
    text = "".join(map(chr, rng.choice(points, size=50_000)))
    ours = CharTokenizer.from_text(text)
    ours.save(tmp_path / "tokenizer.json")
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(text).ids == ours.encode(text).tolist()
    assert theirs.decode(ours.encode(text).tolist()) == text


def test_the_file_is_what_hugging_face_would_write(saved, tmp_path):
    """`tokenizers` saves what it read from us without a change, and we read it back."""
    tokenizer, path = saved
    resaved = tmp_path / "resaved.json"
    Tokenizer.from_file(str(path)).save(str(resaved))
    assert json.loads(resaved.read_bytes()) == json.loads(path.read_bytes())
    assert load(resaved).characters == tokenizer.characters


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda document: document["model"].update(merges=[["a", "b"]]), "GPT-2"),
        (lambda document: document["model"].update(type="WordLevel"), "model"),
        (lambda document: document["model"]["vocab"].update(a=999), "model"),
        (lambda document: document["model"]["vocab"].update(a=[]), "model"),
        (lambda document: document["model"]["vocab"].update(ab=27), "model"),
        (lambda document: document.update(normalizer={"type": "Lowercase"}), "normalizer"),
        (lambda document: document.update(decoder=None), "decoder"),
        (lambda document: document["model"].update(vocab={"\ud800": 0}), "surrogate"),
        (lambda document: document["model"].update(vocab={}), "at least one character"),
        (lambda document: document.pop("model"), "no vocabulary"),
    ],
)
def test_load_refuses_another_tokenizer(saved, change, fault):
    """A tokenizer.json that is not a character tokenizer's is refused by name and fault."""
    _, path = saved
    rewrite(path, change)
    with pytest.raises(ValueError, match=fault) as error:
        load(path)
    assert one_line(error).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "BPE"}'])
def test_load_refuses_a_broken_file(tmp_path, content):
    """A file that is torn, is not JSON or is JSON of another kind is refused by name."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not (a tokenizer|JSON)|must contain") as error:
        load(path)
    assert one_line(error).startswith(str(path))


def test_a_failed_save_leaves_the_old_file_alone(saved, monkeypatch):
    """When the rename fails, the old file is whole and no temporary file remains."""
    _, path = saved
    before = path.read_bytes()

    def fail(*_, **options):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        CharTokenizer.from_text("new").save(path)
    assert path.read_bytes() == before
    assert {p.name for p in path.parent.iterdir()} == {path.name, "tokenizer_config.json"}


def test_tiny_shakespeare_has_65_characters():
    """The corpus that nanoGPT reports a vocabulary of 65 for comes back unchanged."""
    folder = os.environ.get("GPT_NUMPY_DATA")
    path = Path(folder or ".") / "tinyshakespeare.txt"
    if not (folder and path.is_file()):
        pytest.skip("needs tinyshakespeare.txt in the folder that GPT_NUMPY_DATA names")
    text = path.read_text(encoding="utf-8")
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(text)) == text
