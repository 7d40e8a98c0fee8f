"""Texts that do not fit into memory: the same ids as of a string, kept in files."""

import io
import pickle
import random

import numpy as np
import pytest
from command import DATA, assert_refused, example, needs_data

from gpt_numpy.corpus import large, load_corpus, reading
from gpt_numpy.corpus.large import IdFile, LargeText, facts_of, head
from gpt_numpy.data import encoded, random_batch, split
from gpt_numpy.files import fingerprint
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, gpt2

pytestmark = pytest.mark.slow

SPACES = [" ", "  ", "\n", "\n\n", "\r\n", "\t", "\x1c", "\u2028", "\u00a0", " " * 30]
WORDS = ["the cat", "'s", "'re", "don't", "...", "é", "中文", "😀", "12", "'", "a" * 40]


@pytest.fixture
def small_pieces(tmp_path, monkeypatch):
    """Have texts of more than 400 characters in files, read in pieces of 16 characters and more."""
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(large, "SMALL", 400)
    monkeypatch.setattr(reading, "BYTES", 64)
    monkeypatch.setattr(reading, "PIECE", 16)
    return tmp_path


def awkward(seed, n=300):
    """A text of parts that patterns cut in odd ways."""
    return "".join(random.Random(seed).choices(SPACES + WORDS, k=n))


def write(path, text):
    """Write a text as it is, and return what a reader makes of it."""
    path.write_bytes(text.encode())
    return text.replace("\r\n", "\n")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["char", "bpe", pytest.param("gpt2", marks=needs_data)])
def test_ids_in_files_are_those_of_the_string(small_pieces, monkeypatch, kind, seed):
    """For every tokenizer, whatever the text is cut in; split at the same character."""
    text = write(small_pieces / "text", awkward(seed))
    found = load_corpus(small_pieces / "text").text
    assert isinstance(found, LargeText) and len(found) == len(text) > 400
    assert "".join(found) == text and len([*found]) > 10
    if kind == "gpt2":
        with monkeypatch.context() as patch:
            patch.setenv("GPT_NUMPY_DATA", str(DATA))
            tokenizer = gpt2()
    else:
        tokenizer = CharTokenizer.from_text(text)
        if kind == "bpe":
            tokenizer = BPETokenizer.from_text(text, 400)
    for ids, part, found_part in zip(
        encoded(tokenizer, found, 8), split(text), split(found), strict=True
    ):
        assert isinstance(ids, IdFile) and ids.dtype == np.min_scalar_type(tokenizer.vocab_size - 1)
        np.testing.assert_array_equal(ids, tokenizer.encode(part))
        assert (len(found_part), "".join(found_part)) == (len(part), part)
    for ids, part in zip(encoded(tokenizer, text, 8), split(text), strict=True):  # pieces in memory
        np.testing.assert_array_equal(ids, tokenizer.encode(part))


def test_facts_without_the_text(small_pieces):
    """Fingerprint, length, alphabet and the first prompt are those of the string."""
    text = write(small_pieces / "text", awkward(0))
    found = load_corpus(small_pieces / "text")
    assert found.fingerprint() == fingerprint(text)
    assert found.alphabet() == "".join(sorted(set(text))) and found.prompt() == "\n"
    assert facts_of(found.text) == facts_of(text) and head(found.text, 50) == text[:50]


def test_the_second_run_reads_neither_text_nor_tokens(small_pieces, monkeypatch):
    """Until the file changes: another size or time, and it is read again."""
    path = small_pieces / "text"
    tokenizer = CharTokenizer.from_text(write(path, awkward(1)))
    first = encoded(tokenizer, load_corpus(path).text, 8)
    with monkeypatch.context() as patch:
        patch.setattr(reading.Files, "open", None)
        again = encoded(tokenizer, load_corpus(path).text, 8)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    text = write(path, awkward(2))
    assert load_corpus(path).fingerprint() == fingerprint(text)


def test_a_broken_cache_is_made_again(small_pieces):
    """Files that are cut off or empty are replaced."""
    path = small_pieces / "text"
    text = write(path, awkward(3))
    tokenizer = CharTokenizer.from_text(text)
    encoded(tokenizer, load_corpus(path).text, 8)
    for file in (small_pieces / "cache/texts").iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    train, _ = encoded(tokenizer, load_corpus(path).text, 8)
    np.testing.assert_array_equal(train, tokenizer.encode(split(text)[0]))


@pytest.mark.parametrize("offset", [-1, -5, -200])
def test_a_cache_with_another_byte_is_made_again(small_pieces, offset):
    """One byte of the checksum, of the last id, or of one in the middle has changed."""
    text = write(small_pieces / "text", awkward(1))
    tokenizer = CharTokenizer.from_text(text)
    found = load_corpus(small_pieces / "text").text
    path = found.encoded_by(tokenizer).path
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(found.encoded_by(tokenizer), tokenizer.encode(text))
    assert path.read_bytes() != bytes(data)


def test_a_cache_that_cannot_be_written(small_pieces):
    """One line says where, why, and which variable names another folder; no half file is left."""
    write(small_pieces / "text", awkward(4))
    (small_pieces / "cache").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory; name another folder in .*GPT_NUMPY_DATA"):
        load_corpus(small_pieces / "text")


def test_encoding_that_fails_leaves_nothing(small_pieces):
    """A character that the tokenizer lacks: the cache has no file of ids, nor a part of one."""
    path = small_pieces / "text"
    write(path, awkward(5))
    text = load_corpus(path).text
    with pytest.raises(ValueError, match="unknown character"):
        encoded(CharTokenizer("the cat"), text, 8)
    assert [file.suffix for file in (small_pieces / "cache/texts").iterdir()] == [".json"]


def test_a_file_that_changes_meanwhile(small_pieces):
    """Shorter than it was when it was read first: the run does not begin."""
    path = small_pieces / "text"
    tokenizer = CharTokenizer.from_text(write(path, awkward(6)))
    text = load_corpus(path).text
    path.write_text("short")
    with pytest.raises(ValueError, match="text was changed while it was read"):
        encoded(tokenizer, text, 8)


def test_an_id_file_serves_as_an_array(tmp_path):
    """Whatever a run asks of its ids; what it hands out are copies; pickled, it is its name."""
    ids = np.random.default_rng(0).integers(300, size=5000)
    n = large.write_ids(tmp_path / "ids.npy", np.split(ids, [7, 7, 4000]), 300)
    file = IdFile(tmp_path / "ids.npy")
    assert (n, len(file), file.size, file.shape) == (5000, 5000, 5000, (5000,))
    assert (file.dtype, file.nbytes) == (np.uint16, 0)
    assert (file.min(), file.max()) == (ids.min(), ids.max())
    np.testing.assert_array_equal(file[10:20], ids[10:20])
    assert file[3] == ids[3] and file[10:20].flags.owndata
    for a, b in zip(random_batch(file, 4, 8, 1, 2), random_batch(ids, 4, 8, 1, 2), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    sent = pickle.dumps(file)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent), ids)
    np.testing.assert_array_equal(np.load(tmp_path / "ids.npy"), ids)


def test_ranks_need_not_read_the_text(small_pieces):
    """A corpus can be sent to them: they get its facts, and where the files are."""
    write(small_pieces / "text", awkward(7))
    corpus = load_corpus([small_pieces / "text"])
    sent = pickle.loads(pickle.dumps(corpus))
    assert (sent.fingerprint(), "".join(sent.text)) == (corpus.fingerprint(), "".join(corpus.text))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_in_a_terminal(monkeypatch, terminal):
    """And nowhere else; the items are the same."""
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", screen)
    assert [*large.with_progress("abc", "reading", 3, len)] == [*"abc"]
    assert ("reading" in screen.getvalue()) == terminal
    monkeypatch.setattr("sys.stderr", None)
    assert [*large.with_progress("abc", "reading", 3, len)] == [*"abc"]


def test_a_text_without_a_space_is_cut_anywhere(monkeypatch):
    """Beyond LONGEST: else a text of one word would have to be in memory whole."""
    monkeypatch.setattr(reading, "PIECE", 16)
    monkeypatch.setattr(reading, "LONGEST", 64)
    pieces = [*reading.recut(["a" * 1000])]
    assert "".join(pieces) == "a" * 1000 and max(map(len, pieces)) <= 80


# ---- runs ----------------------------------------------------------------------------------------

main = example("train_shakespeare").main


@pytest.mark.parametrize("flags", [[], ["--tokenizer", "bpe", "--vocab-size", "270"]])
def test_a_run_is_the_same_with_its_ids_in_files(train, tmp_path, monkeypatch, flags):
    """The same weights, and it goes on as a run with its text in memory does, and the other way."""
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path / "cache"))
    flags = [*flags, "--workers", "2", "--lr", "1e-3", "--min-lr", "1e-3", "--warmup-steps", "0"]
    whole = train("whole", *flags)
    train("first", *flags, "--steps", "3")
    monkeypatch.setattr(large, "SMALL", 400)
    other = train("other", *flags)
    assert (other.status, other.err) == (0, "")
    assert [*(tmp_path / "cache/texts").glob("*.npy")]
    assert whole.lines[-1] == other.lines[-1]
    said = any("learned its tokens from the first 10,000,000" in line for line in other.lines)
    assert said == ("bpe" in flags)
    resumed = train("first", "--resume", "--steps", "6")
    assert (resumed.status, resumed.lines[-1]) == (0, whole.lines[-1])
    for name in ("model.safetensors", "samples.txt", "tokenizer.json"):
        assert (other.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_cache_that_cannot_be_written_ends_in_a_sentence(
    tmp_path, capsys, monkeypatch, text_file
):
    """Nothing is written, and the variable is named."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(large, "SMALL", 400)
    arguments = ["--device", "cpu", "--data", text_file, "--out", tmp_path / "run"]
    assert_refused(capsys, main, arguments, ["GPT_NUMPY_DATA", "texts"])
    assert not (tmp_path / "run").exists()
