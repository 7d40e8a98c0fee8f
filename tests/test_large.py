"""Texts that do not fit into memory: the same ids as of a string, kept in files."""

import errno
import io
import json
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
from command import DATA, assert_refused, example, needs_data

import gpt_numpy.data
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


def npy(array):
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz():
    """The bytes of a .npz file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", npy(np.arange(3)))
    return file.getvalue()


def begun(header, content=bytes(999)):
    """The bytes of a .npy file with any header."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


SHAPE = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"
NO_IDS = {
    "nothing": b"",
    "an archive": npz(),
    "half an archive": b"PK\3\4" + b"x" * 99,
    "a pickle": pickle.dumps([1]),
    "records": npy(np.zeros(2970, [("a", "<i4")])),
    "strings": npy(np.zeros(2970, "S4")),
    "times": npy(np.zeros(2970, "M8[s]")),
    "objects": npy(np.array([None] * 2970)),
    "one number": npy(np.array(3)),
    "a matrix": npy(np.zeros((3, 4), np.uint8)),
    "signed": npy(np.zeros(2970, np.int8)),
    "half a header": begun(b"{'descr': (" + b" " * 100 + b"\n"),
    "brackets": begun(b"(" * 5000 + b"\n"),
    "zeros": begun(bytes(100)),
    "too many ids": begun((SHAPE % ("|u1", f"({2**62},)")).encode()),
    "too many digits": begun((SHAPE % ("|u1", f"({'9' * 5000},)")).encode()),
    "too few ids": begun((SHAPE % ("|u1", "(900,)")).encode()),
    "no such type": begun((SHAPE % ("|u3", "(1,)")).encode()),
}


@pytest.mark.parametrize("content", NO_IDS.values(), ids=NO_IDS)
def test_a_cache_of_something_else_is_made_again(small_pieces, content):
    """Whatever stands in the place of the ids, also where np.load would fail in odd ways."""
    text = write(small_pieces / "text", awkward(1))
    tokenizer = CharTokenizer.from_text(text)
    found = load_corpus(small_pieces / "text").text
    path = found.encoded_by(tokenizer).path
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=path.name):
        IdFile(path)
    np.testing.assert_array_equal(found.encoded_by(tokenizer), tokenizer.encode(text))


CHANGES = {
    "shorter": {"length": 1000},
    "huge": {"length": 10**30},
    "below 0": {"length": -5},
    "another letter": {"alphabet": "\n abcz"},
    "no letters": {"alphabet": ""},
    "another text's": {"fingerprint": "0" * 64},
    "another kind": {"length": "x"},
    "unknown": {"x": 1},
    "another checksum": {"checksum": "0" * 64},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_facts_that_were_changed_are_read_again(small_pieces, change):
    """They have a checksum: a run does not leave the rest of a text out because of one digit."""
    text = write(small_pieces / "text", awkward(1))
    load_corpus(small_pieces / "text")
    (path,) = (small_pieces / "cache/texts").glob("*.json")
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | change))
    assert facts_of(load_corpus(small_pieces / "text").text) == facts_of(text)
    assert path.read_text() == kept


def test_the_facts_of_another_text_are_not_believed(small_pieces):
    """A file of the cache that was given another's name."""
    for i, name in enumerate("ab"):
        write(small_pieces / name, awkward(i))
        load_corpus(small_pieces / name)
    one, other = (small_pieces / "cache/texts").glob("*.json")
    kept = [load_corpus(small_pieces / name).fingerprint() for name in "ab"]
    one.write_bytes(other.read_bytes())
    assert [load_corpus(small_pieces / name).fingerprint() for name in "ab"] == kept


@pytest.mark.parametrize("place", ["a folder", "a dangling link", "a file that is no longer there"])
def test_an_odd_name_in_the_cache_is_left_alone(small_pieces, monkeypatch, place):
    """What a killed process had begun to write goes after an hour; nothing else does, or harms."""
    text = write(small_pieces / "text", awkward(4))
    texts = small_pieces / "cache/texts"
    texts.mkdir(parents=True)
    old, odd = [texts / f"{c * 32}.npy.{c * 16}.tmp" for c in "ab"]
    users = texts / "mine.tmp"
    for path in (old, users):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    if place == "a folder":
        odd.mkdir()
        os.utime(odd, (0, 0))
    elif place == "a dangling link":
        odd.symlink_to("/nowhere/at/all")
    else:
        glob, gone = type(texts).glob, texts / f"{'d' * 32}.npy.0.tmp"
        monkeypatch.setattr(type(texts), "glob", lambda *a: [gone, *glob(*a)])
    assert facts_of(load_corpus(small_pieces / "text").text) == facts_of(text)
    assert users.exists() and not old.exists()


@pytest.mark.parametrize("changed", ["shorter", "another beginning", "another end"])
def test_a_file_that_changes_meanwhile(small_pieces, changed):
    """After it was read first: the run does not begin, and no ids are kept under its fingerprint.

    Size and time may be the same.  The next run reads the new text.
    """
    path = small_pieces / "text"
    text = write(path, awkward(6)).replace("\n", " ")
    path.write_text(text)
    tokenizer = CharTokenizer.from_text(text)
    found = load_corpus(path).text
    about = path.stat()
    new = {
        "shorter": "short",
        "another beginning": text[:50][::-1] + text[50:],
        "another end": text[:-20] + text[-20:][::-1],
    }[changed]
    path.write_text(new)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises(ValueError, match="text was changed while it was read"):
        encoded(tokenizer, found, 8)
    assert [*(small_pieces / "cache/texts").glob("*.npy")] == []
    if changed == "shorter":
        return
    for ids, part in zip(encoded(tokenizer, load_corpus(path).text, 8), split(new), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(part))


def test_a_text_that_grows_meanwhile(small_pieces):
    """Such as a log: what was read first is learned."""
    path = small_pieces / "text"
    text = write(path, awkward(6))
    tokenizer = CharTokenizer.from_text(text)
    found = load_corpus(path).text
    with path.open("a") as file:
        file.write("\nand more")
    for ids, part in zip(encoded(tokenizer, found, 8), split(text), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(part))


def test_facts_of_a_file_that_changes_are_not_kept(small_pieces, monkeypatch):
    """They would be believed when the file of before is back, with its time."""
    path = small_pieces / "text"
    text = write(path, awkward(6))
    content, about, read_facts = path.read_bytes(), path.stat(), large.read_facts

    def of_another(pieces):
        path.write_text("y" * 999)
        return read_facts(pieces)

    with monkeypatch.context() as patch:
        patch.setattr(large, "read_facts", of_another)
        assert len(load_corpus(path).text) == 999
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    found = load_corpus(path).text
    assert facts_of(found) == facts_of(text)
    assert "".join(found) == text


def test_an_id_file_serves_as_an_array(tmp_path):
    """Whatever a run asks of its ids; what it hands out are copies; pickled, it is its name."""
    ids = np.random.default_rng(0).integers(300, size=5000)
    n = large.write_ids(tmp_path / "ids.npy", np.split(ids, [7, 7, 4000]), 300)
    file = IdFile(tmp_path / "ids.npy")
    assert (n, len(file), file.size, file.shape) == (5000, 5000, 5000, (5000,))
    assert (file.dtype, file.nbytes) == (np.uint16, 0)
    assert (file.min(), file.max()) == (ids.min(), ids.max())
    np.testing.assert_array_equal(file[10:20], ids[10:20])
    assert (file[3], file[-1]) == (ids[3], ids[-1]) and file[10:20].flags.writeable
    for part in (slice(None), slice(4990, 6000), slice(7, 3), slice(-9, -2)):
        np.testing.assert_array_equal(file[part], ids[part])
    for wrong in (5000, slice(1, 9, 2)):
        with pytest.raises(IndexError):
            file[wrong]
    for a, b in zip(random_batch(file, 4, 8, 1, 2), random_batch(ids, 4, 8, 1, 2), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    sent = pickle.dumps(file)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent), ids)
    np.testing.assert_array_equal(np.load(tmp_path / "ids.npy"), ids)


@pytest.mark.parametrize("way", ["pread", "lseek"])
def test_ids_are_read_whatever_the_system_gives_at_once(tmp_path, monkeypatch, way):
    """A read may return less than was asked for; Windows has no pread()."""
    ids = np.random.default_rng(0).integers(300, size=5000)
    large.write_ids(tmp_path / "ids.npy", [ids], 300)
    read_at = large.read_at if way == "pread" else large.seek_and_read
    monkeypatch.setattr(large, "read_at", lambda file, n, at: read_at(file, min(n, 999), at))
    file = IdFile(tmp_path / "ids.npy")
    file.verify()
    np.testing.assert_array_equal(file, ids)
    os.truncate(tmp_path / "ids.npy", 5000)
    np.testing.assert_array_equal(file[:2000], ids[:2000])
    with pytest.raises(OSError, match="cannot read .*ids.npy: it became shorter"):
        file[:]
    if os.path.exists("/proc/self/fd"):
        n = len(os.listdir("/proc/self/fd"))
        del file
        assert len(os.listdir("/proc/self/fd")) == n - 1


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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("way", ["cut off", "unreadable"])
def test_ids_that_cannot_be_read_any_more_end_a_run(train, tmp_path, monkeypatch, way, workers):
    """In one line, and what was saved stays: a file that is mapped would end the process."""
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path / "cache"))
    whole = train("whole")
    monkeypatch.setattr(large, "SMALL", 400)
    window_starts = gpt_numpy.data.window_starts

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def in_step_5(n_ids, batch_size, block_size, seed, step, row):
        if step == 5 and (row or workers == 1):
            if way == "unreadable":
                patch.setattr(large, "read_at", fail)
            else:
                for path in (tmp_path / "cache/texts").glob("*.npy"):
                    os.truncate(path, 150)
        return window_starts(n_ids, batch_size, block_size, seed, step, row)

    with monkeypatch.context() as patch:
        patch.setattr(gpt_numpy.data, "window_starts", in_step_5)
        failed = train("run", "--workers", str(workers))
    fault = {"cut off": "it became shorter", "unreadable": "Input/output error"}[way]
    assert failed.status == 1 and failed.err.count("\n") == 1, failed.err
    for part in ("cannot read ", ".npy: ", fault, "step 3 is saved"):
        assert part in failed.err
    resumed = train("run", "--resume")
    assert (resumed.status, resumed.lines[-1]) == (0, whole.lines[-1])


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
