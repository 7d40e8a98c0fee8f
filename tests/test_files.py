"""Files that are not what they should be: read and quoted with care, and never waited for."""

import contextlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from command import EXAMPLES, TINY, example, peak_below
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt_numpy.files
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.app import program, resume, run_folder
from gpt_numpy.corpus import load_corpus, reading, sources
from gpt_numpy.corpus.large import IdFile, cache_path, text_in, write_ids
from gpt_numpy.corpus.reading import Files
from gpt_numpy.files import message, opened, printable, quoted, read, read_json
from gpt_numpy.folder import Folder
from gpt_numpy.hf import checkpoint, tensors, tokenizer_json
from gpt_numpy.hf.tensors import read_arrays, read_header, write_arrays
from gpt_numpy.scale import workers
from gpt_numpy.tokenizer import CharTokenizer, special_token

train_shakespeare, generate = example("train_shakespeare"), example("generate")
posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
ESCAPE = "\x1b]0;title\x07"


@pytest.fixture(autouse=True)
def no_hang():
    """A test that waits for a file for ever fails."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def fail(*_):
        raise AssertionError("a file was waited for")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, 120)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# ---- in the place of a file ----------------------------------------------------------------------


def hole(path):
    """A file of 8 GB that takes no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(8 * 2**30)


def sock(path):
    """A socket, whose name must be short."""
    with socket.socket(socket.AF_UNIX) as end:
        place = f"/tmp/{os.getpid()}.sock"
        end.bind(place)
        shutil.move(place, path)


PLACES = {
    "FIFO": os.mkfifo if hasattr(os, "mkfifo") else None,
    "folder": os.mkdir,
    "link to a device": lambda path: os.symlink("/dev/zero", path),
    "link to itself": lambda path: os.symlink(path, path),
    "link to nothing": lambda path: os.symlink(f"{path}.none", path),
    "socket": sock,
    "hole": hole,
    "no file": lambda path: None,
}
MODEL = ["tokenizer.json", "config.json", "model.safetensors"]  # what a model needs to speak
NEEDED = MODEL[:1]  # what a run needs to go on
NOT_NEEDED = [resume.FILE, resume.BEFORE, "metrics.csv", "samples.txt", "loss.png", "report.html"]
NOT_NEEDED += ["train_config.json", *MODEL[1:]]
SOME = ["FIFO", "hole"]


@pytest.fixture(scope="module")
def finished(text_file, tmp_path_factory):
    """The folder of a run, and what its last line says."""
    out = tmp_path_factory.mktemp("files") / "run"
    flags = ["--data", text_file, *TINY, "--steps", "4", "--eval-every", "2", "--workers", "1"]
    assert train_shakespeare.main([*map(str, [*flags, "--quiet", "--out", out])]) == 0
    return out


def in_place_of(name, kind, finished, tmp_path):
    """A copy of the run with something else in the place of a file."""
    out = shutil.copytree(finished, tmp_path / f"{name} {kind}")
    (out / name).unlink()
    PLACES[kind](out / name)
    return out


def check_resumed(name, kind, finished, tmp_path, capsys):
    """What is needed is refused in a line; of the rest a line is said at most."""
    out = in_place_of(name, kind, finished, tmp_path)
    status = train_shakespeare.main(["--resume", "--quiet", "--out", str(out)])
    said, err = capsys.readouterr()
    if name in NEEDED:
        assert (status, said, err.count("\n")) == (2, "", 1) and name in err, (name, kind, err)
    else:
        assert status == 0 and err.count("\n") <= 2 and "Traceback" not in err, (name, kind, err)
        if name not in ("loss.png", "report.html", resume.BEFORE):
            about = os.lstat(out / name)
            assert stat.S_ISREG(about.st_mode) and about.st_size < 10**6, (name, kind)
    shutil.rmtree(out)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("kind", SOME)
def test_something_else_in_the_place_of_a_file(kind, finished, tmp_path, capsys):
    """In that of every file of a run, and of a model that speaks."""
    for name in NEEDED + NOT_NEEDED[:4] + NOT_NEEDED[6:]:
        check_resumed(name, kind, finished, tmp_path, capsys)
    for name in MODEL:
        out = in_place_of(name, kind, finished, tmp_path)
        assert generate.main([str(out), "--tokens", "1"]) == 2, name
        said, err = capsys.readouterr()
        assert said == "" and err.count("\n") == 1 and name in err, err


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
def test_anything_in_the_place_of_any_file(kind, finished, tmp_path, capsys):
    """All kinds, all files."""
    for name in NEEDED + NOT_NEEDED:
        check_resumed(name, kind, finished, tmp_path, capsys)


@posix
@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to itself", "socket"])
def test_a_lock_that_is_no_file(kind, finished, tmp_path, capsys):
    """One line."""
    out = in_place_of(".lock", kind, finished, tmp_path)
    assert train_shakespeare.main(["--resume", "--quiet", "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@posix
def test_only_regular_files_are_read(tmp_path):
    """The line says what there is instead; a link to a file is as good as the file."""
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path / "link") == b"abc"
    for name, kind in ("pipe", "a FIFO"), (".", "a folder"):
        with pytest.raises(OSError, match=f"cannot read .*: it is {kind}, not a regular file"):
            read(tmp_path / name)
    with pytest.raises(OSError, match="it is a device, not"):
        read("/dev/zero")
    with pytest.raises(OSError, match="it has 3 bytes; at most 2 are read"):
        read(tmp_path / "file", most=2)
    with pytest.raises(OSError, match="at most 1,048,576 are read"):
        hole(tmp_path / "hole")
        read_json(tmp_path / "hole")


# ---- arrays --------------------------------------------------------------------------------------


def raw(header, content=b"", length=None):
    """A file of safetensors with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HEADERS = {
    "no file": b"",
    "a length alone": b"\1" + bytes(7),
    "a length beyond the end": raw({}, length=3),
    "a length that is huge": raw({}, length=2**63),
    "a list": raw([]),
    "no JSON": raw(b"{'"),
    "deep": raw(b'{"a":' + b"[" * 100_000),
    "a number": raw({"a": 1}),
    "metadata that are numbers": raw({"__metadata__": {"a": 1}}),
    "a name twice": raw(b'{"a":{},"a":{}}'),
    "a key twice": raw(b'{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"1"),
    "an unknown dtype": raw({"a": entry([1], 0, 1, "F8_E4M3")}, b"1"),
    "half a byte": raw({"a": entry([2], 0, 1, "F4")}, b"1"),
    "a dtype in a list": raw({"a": entry([1], 0, 4, ["F32"])}, b"1234"),
    "a shape below 0": raw({"a": entry([-1], 0, -4)}),
    "false": raw({"a": entry([0], False, 0)}),
    "two below 0": raw({"a": entry([-1, -1], 0, 4)}, b"1234"),
    "half a shape": raw({"a": entry([0.5], 0, 2)}, b"12"),
    "true": raw({"a": entry([True], 0, 4)}, b"1234"),
    "a shape that is too long": raw({"a": entry([1] * 99, 0, 4)}, b"1234"),
    "a side that is too long": raw({"a": entry([0, 10**30], 0, 0)}),
    "a shape that does not fit": raw({"a": entry([2], 0, 4)}, b"1234"),
    "an end beyond the file": raw({"a": entry([2**31], 0, 2**33)}, b"1234"),
    "bytes that overlap": raw({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"),
    "bytes that nobody has": raw({"a": entry([1], 4, 8)}, b"12341234"),
    "bytes at the end": raw({"a": entry([1], 0, 4)}, b"12345"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies(case, tmp_path):
    """ValueError in one line that names the file; no array is made."""
    (tmp_path / "file").write_bytes(HEADERS[case])
    for load in (read_header, read_arrays):
        with pytest.raises(ValueError) as error:
            load(tmp_path / "file")
        assert str(error.value).startswith(f"{tmp_path / 'file'} cannot be read as safetensors: ")
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3))))
def test_arrays_come_back(shapes):
    """Ours as the library writes and reads them: any shapes, empty ones too, and all dtypes."""
    import tempfile

    import ml_dtypes  # noqa: F401

    draw = np.random.default_rng(0)
    arrays = {f"a{i}": draw.integers(0, 9, s).astype(d) for i, (d, s) in enumerate(shapes)}
    with tempfile.TemporaryDirectory() as place, Folder(place) as folder:
        write_arrays(folder, "ours", arrays, {"x": "é\n"})
        path = folder.path / "ours"
        ours, metadata = read_arrays(path)
        with safetensors.safe_open(path, "numpy") as file:
            theirs = {name: file.get_tensor(name) for name in file.keys()}
        path.write_bytes(safetensors.numpy.save(arrays))
        again, _ = read_arrays(path)
    assert metadata == {"x": "é\n"}
    for found in (ours, theirs, again):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


def test_a_hole_takes_no_memory(finished, tmp_path):
    """Of 8 GB that a header speaks of no byte is read where config.json has other shapes."""
    out = shutil.copytree(finished, tmp_path / "run")
    n = 2**31
    head = {"transformer.wte.weight": entry([n, 1], 0, 4 * n)}
    for name in ("model.safetensors", resume.FILE):
        about = read_header(finished / name).metadata
        with open(out / name, "wb") as file:
            file.write(raw({"__metadata__": about} | head))
            file.truncate(file.tell() + 4 * n)
    with peak_below(10**7):
        with pytest.raises(ValueError, match="wte.weight has shape"):
            GPT.from_pretrained(out)
        with pytest.raises(ValueError, match="is not the state of a run"):
            resume.load_state(out)


def test_a_state_with_a_tensor_too_many_takes_no_memory(finished, tmp_path):
    """A hole of 2 GB that the settings in its own header leave room for is not read."""
    for name in (resume.FILE, resume.BEFORE):
        content = (finished / name).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header, n = json.loads(content[8:end]), len(content) - end
        about = json.loads(header["__metadata__"]["about"])
        about["settings"] |= {"n_embd": 16384, "n_layer": 12}
        header["__metadata__"]["about"] = json.dumps(about)
        header["zz"] = entry([2**31], n, n + 2**31, "U8")
        (tmp_path / name).write_bytes(raw(header, content[end:]))
        os.truncate(tmp_path / name, (tmp_path / name).stat().st_size + 2**31)
    with peak_below(10**7):
        with pytest.raises(ValueError, match="lacks 'exp_avg.h.1.attn.key.weight'"):
            resume.newest_state(tmp_path)


def test_a_state_that_is_larger_than_the_machine(finished, monkeypatch):
    """Is refused before it is read."""
    monkeypatch.setattr(resume, "machine_memory", lambda: 1000)
    with pytest.raises(ValueError, match="its tensors take .* kB, and the machine has 1 kB"):
        resume.load_state(finished)


def test_one_state_is_held_at_a_time(finished, tmp_path, monkeypatch):
    """The arrays of a damaged one are gone when the one before is read."""
    out = shutil.copytree(finished, tmp_path / "run")
    content = bytearray((out / resume.FILE).read_bytes())
    content[-1] ^= 1
    (out / resume.FILE).write_bytes(content)
    first = []

    def watching(path, header):
        assert all(array() is None for array in first)
        arrays, metadata = read_arrays(path, header)
        first.extend(map(weakref.ref, arrays.values()))
        return arrays, metadata

    monkeypatch.setattr(resume, "read_arrays", watching)
    assert resume.newest_state(out)[0] == resume.BEFORE and len(first) > 2


SMALL = GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2)


@pytest.mark.parametrize(
    "name, shape, fault",
    [
        ("h.0.attn.bias", (1, 1, 4, 4), None),
        ("module.transformer.h.0.attn.masked_bias", (2**29,), None),
        ("h.1.attn.bias", (2**29,), "1 tensors too many, such as 'h.1.attn.bias'"),
        ("x0.attn.bias", (2**29,), "1 tensors too many, such as 'x0.attn.bias'"),
        ("lm_head.weight", (6, 2), "is not wte.weight"),
    ],
)
def test_other_tensors_of_a_model(name, shape, fault, tmp_path):
    """A mask of a block is not read, whatever its size; others are refused before they are."""
    GPT(SMALL).save_pretrained(tmp_path)
    path, n = tmp_path / "model.safetensors", 4 * math.prod(shape)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header, start = json.loads(content[8:end]), len(content) - end
    path.write_bytes(raw(header | {name: entry(shape, start, start + n)}, content[end:]))
    os.truncate(path, path.stat().st_size + n)
    with peak_below(10**7):
        if fault:
            with pytest.raises(ValueError, match=fault):
                GPT.from_pretrained(tmp_path)
        else:
            GPT.from_pretrained(tmp_path)


def test_a_head_that_is_tied(tmp_path):
    """It may be in the file, and is compared."""
    GPT(SMALL).save_pretrained(tmp_path)
    rewritten(tmp_path / "config.json", lambda config: {**config, "transformers_version": ""})
    arrays, _ = read_arrays(tmp_path / "model.safetensors")
    for add, fault in (0, None), (1, "is not wte.weight"):
        head = {"lm_head.weight": arrays["transformer.wte.weight"] + np.float32(add)}
        with Folder(tmp_path) as folder:
            write_arrays(folder, "model.safetensors", arrays | head, {})
        with pytest.raises(ValueError, match=fault) if fault else contextlib.nullcontext():
            GPT.from_pretrained(tmp_path)


def test_a_tokenizer_is_compared_before_a_model_is_read(finished, tmp_path, monkeypatch):
    """A model of another vocabulary may be large."""
    out = shutil.copytree(finished, tmp_path / "run")
    CharTokenizer("abc").save(out / "tokenizer.json")
    monkeypatch.setattr(checkpoint, "read_arrays", None)
    with pytest.raises(ValueError, match="is not the tokenizer of the model beside it: 3 tokens"):
        tokenizer_json.load_model(out)


@pytest.mark.parametrize("way", ["shorter", "failing", "another"])
def test_a_file_that_changes_while_it_is_read(way, tmp_path, monkeypatch):
    """Cut off, on a disk that fails, or replaced: an error, where a map would end the process."""
    with Folder(tmp_path) as folder:
        write_arrays(folder, "x", {"a": np.ones(10_000, np.float32)}, {})
    header = read_header(tmp_path / "x")
    parse = tensors.parse

    class Broken(io.BytesIO):
        def readinto(self, _):
            raise OSError(5, "Input/output error")

    def then_cut(file, size):
        found = parse(file, size)
        os.truncate(tmp_path / "x", 100)
        return found

    expected, fault = None, "it became shorter while it was read"
    if way == "shorter":
        monkeypatch.setattr(tensors, "parse", then_cut)
    elif way == "another":
        expected, fault = header._replace(metadata={"a": ""}), "it was changed while it was read"
    else:
        fault = "Input/output error"
        with opened(tmp_path / "x") as (file, size):
            content = file.read()
        fake = gpt_numpy.files.contextlib.nullcontext((Broken(content), size))
        monkeypatch.setattr(tensors, "opened", lambda *_: fake)
    with pytest.raises((ValueError, OSError), match=fault) as error:
        read_arrays(tmp_path / "x", expected)
    assert str(tmp_path / "x") in str(error.value)


@pytest.mark.parametrize("way", ["hole", "then a hole", "newlines", "commas"])
def test_a_growing_file_that_is_huge(way, finished, tmp_path, monkeypatch):
    """Only the saved bytes of it are read, or, if they have changed, its beginning."""
    monkeypatch.setattr(run_folder, "MOST_REPAIRED", 2**20)
    out = shutil.copytree(finished, tmp_path / "run")
    right = {name: (out / name).read_bytes() for name in run_folder.GROWING}
    for name, content in right.items():
        begin = {"hole": b"", "newlines": b"\n" * 2**20, "commas": b"," * 2**20}.get(way, content)
        (out / name).write_bytes(begin)
        os.truncate(out / name, 2**32)
    folder = run_folder.RunFolder.of_saved(out)
    with contextlib.closing(folder), peak_below(2**23):
        folder.truncate_to(folder.saved[0])
    assert len(folder.warnings) == (0 if way == "then a hole" else 2)
    if way == "then a hole":
        assert right == {name: (out / name).read_bytes() for name in right}


# ---- tokenizers ----------------------------------------------------------------------------------


def doubling(n):
    """The merges a a, aa aa, aaaa aaaa, ..."""
    return [("a" * 2**i, "a" * 2**i) for i in range(n)]


class Counting(dict):
    """Ranks that count how often they are looked up."""

    n = 0

    def get(self, *arguments):
        self.n += 1
        return super().get(*arguments)


@pytest.mark.parametrize("n", [8, 14])
def test_checking_merges_takes_no_square(n):
    """Of a token of 2ⁿ letters each is looked at a few times, not each pair in each step."""
    merges = [(left.encode(), right.encode()) for left, right in doubling(n)]
    ranks = Counting({left + right: rank for rank, (left, right) in enumerate(merges)})
    assert tokenizer_json.last_merge(b"a" * 2**n, ranks) == merges[-1]
    assert ranks.n <= 6 * 2**n


def slow_last_merge(token, ranks):
    """The same by looking at all pairs in every step."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:], strict=False)]
        i = pairs.index(min(pairs))
        if pairs[i] == math.inf:
            return None
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return tuple(parts) if len(parts) == 2 else None


@given(st.text("abc", min_size=2, max_size=30), st.lists(st.text("abc", min_size=2, max_size=5)))
def test_the_last_merge_is_the_slow_ones(token, tokens):
    """Of any token and any tokens that are known."""
    ranks = {known.encode(): rank for rank, known in enumerate(tokens)}
    assert tokenizer_json.last_merge(token.encode(), ranks) == slow_last_merge(
        token.encode(), ranks
    )


@pytest.mark.parametrize(
    "parts, fault",
    [
        (["a" * n for n in range(1, 60)], "its merges make tokens of 1,829 bytes; at most 1,000"),
        ([], "it has 5,000 added tokens; at most 4,096 are read"),
    ],
)
def test_a_tokenizer_that_takes_too_long(parts, fault, monkeypatch):
    """Tokens that are made letter by letter, and many that are looked for at each character."""
    ids = [*tokenizer_json.BYTE_OF, *(part + "a" for part in parts)]
    added = [] if parts else [special_token(256 + i, f"<{i}>") for i in range(5000)]
    content = {
        "model": {
            "vocab": {token: i for i, token in enumerate(ids)},
            "merges": [[part, "a"] for part in parts],
        },
        "pre_tokenizer": {"type": "ByteLevel"},
        "added_tokens": added,
    }
    monkeypatch.setattr(tokenizer_json, "MOST_MERGED", 1000)
    with pytest.raises(ValueError, match=fault):
        tokenizer_json.of_content(content, Path("tokenizer.json"))


JSON_READERS = {  # file -> who reads it, and how many bytes at most
    "config.json": (checkpoint.load_config, 2**20),
    "tokenizer_config.json": (tokenizer_json.read_settings, 2**20),
    "tokenizer.json": (lambda folder: tokenizer_json.load(folder / "tokenizer.json"), 2**24),
}


@pytest.mark.parametrize("name", JSON_READERS)
def test_json_that_would_take_all_memory(name, tmp_path):
    """Empty lists take thirty times as much memory as they have letters: they are not parsed."""
    load, most = JSON_READERS[name]
    (tmp_path / name).write_bytes(b'{"a": [' + b"[]," * (most // 3) + b"[]]}")
    with pytest.raises(OSError, match=f"{name}: it has .* bytes; at most {most:,} are read"):
        load(tmp_path)


def test_a_header_that_could_not_be_read(tmp_path):
    """Is not written."""
    with Folder(tmp_path) as folder, pytest.raises(OSError, match="at most 2,097,152 can be read"):
        write_arrays(folder, "x", {}, {"": "x" * 2**21})
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "x").write_bytes(raw({"__metadata__": {"": "x" * 2**21}}))
    with pytest.raises(ValueError, match="its header cannot have 2097178 bytes"):
        read_header(tmp_path / "x")


# ---- texts ---------------------------------------------------------------------------------------


@posix
def test_a_pipe_without_a_writer(tmp_path, monkeypatch):
    """Is given up; one whose writer takes its time is waited for."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(reading, "SECONDS", 0.1)
    with pytest.raises(ValueError, match="pipe is a pipe that no program writes to"):
        load_corpus(tmp_path / "pipe")

    def write():
        with open(tmp_path / "pipe", "wb") as file:
            time.sleep(0.4)
            file.write(b"abc")

    monkeypatch.setattr(reading, "SECONDS", 30)
    writer = threading.Thread(target=write)
    writer.start()
    assert load_corpus(tmp_path / "pipe").text == "abc"
    writer.join()
    with pytest.raises(ValueError, match="/dev/zero is neither a file nor a pipe"):
        load_corpus("/dev/zero")


@posix
def test_a_file_that_blocks(tmp_path, monkeypatch):
    """As /proc/kmsg does, which says that it is a regular file: one line, and nothing is lost."""
    os.mkfifo(tmp_path / "blocks.txt")
    end = os.open(tmp_path / "blocks.txt", os.O_RDWR)
    monkeypatch.setattr(reading.Path, "is_file", lambda _: True)
    monkeypatch.setattr(gpt_numpy.files, "check_regular", lambda _: None)
    try:
        for begun in b"", b"abc\n", b'{"text": "abc"}\n', b"\x1f\x8b":
            os.write(end, begun)
            for name in "blocks.txt", "blocks.jsonl":
                (tmp_path / "blocks.txt").rename(tmp_path / name)
                with pytest.raises(OSError, match="cannot read .*: Resource temporarily unav"):
                    load_corpus(tmp_path / name)
                (tmp_path / name).rename(tmp_path / "blocks.txt")
    finally:
        os.close(end)


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="needs root, on Linux")
def test_the_kernels_messages_are_no_text(tmp_path):
    """They are read when they come, and waited for."""
    (tmp_path / "link.txt").symlink_to("/proc/kmsg")
    with pytest.raises((OSError, ValueError)):
        load_corpus(tmp_path / "link.txt")


@posix
def test_a_cache_that_is_no_file(tmp_path, monkeypatch):
    """What stands in the place of a file in the cache is replaced, or not used."""
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path))
    monkeypatch.setattr("gpt_numpy.corpus.large.SMALL", 10)
    (tmp_path / "long.txt").write_text("abc" * 99)
    files = Files([tmp_path / "long.txt"])
    path = cache_path(files.stamps(), ".json")
    path.parent.mkdir()
    os.mkfifo(path)
    assert len(text_in(files)) == 297 and path.is_file()
    for change in ({"length": "x"}, {"alphabet": None}, {"fingerprint": [1]}):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert len(text_in(files)) == 297
        assert json.loads(path.read_text())["length"] == 297
    os.mkfifo(tmp_path / "ids.npy")
    with pytest.raises(OSError, match="a FIFO"):
        IdFile(tmp_path / "ids.npy")
    write_ids(tmp_path / "ids.npy", [np.arange(5)], 5)
    assert IdFile(tmp_path / "ids.npy")[:].tolist() == [0, 1, 2, 3, 4]
    os.mkfifo(tmp_path / sources.FILE)
    monkeypatch.setattr(sources.grammar, "generate", lambda: "verse")
    corpus = sources.shakespeare_or_verse()
    assert corpus.text == "verse" and "it is a FIFO, not a regular file" in corpus.reason


# ---- quoting -------------------------------------------------------------------------------------


def test_what_is_quoted_can_be_shown():
    """In one line, with no sign that a terminal obeys, and not too long."""
    assert quoted(ESCAPE) == r"'\x1b]0;title\x07'"
    assert printable("a\n\t\x9b\u202e\ud800é") == r"a\n\t\x9b\u202e\ud800é"
    assert quoted(b"\x1b") == r"b'\x1b'" and quoted({"a": [1]}) == "{'a': [1]}"
    for show in (quoted, printable, message):
        long = show("x" * 10**6)
        assert len(long) <= 1010 and " ... " in long
    assert message(KeyError("a")) == "'a' is missing"
    assert message(OSError(2, "No such file", "a\n")) == r"a\n: No such file"


def rewritten(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content)), encoding="utf-8")


def renamed_tensor(path, name):
    arrays, metadata = read_arrays(path)
    arrays[name] = arrays.pop("transformer.ln_f.weight")
    with Folder(path.parent) as folder:
        write_arrays(folder, path.name, arrays, metadata)


LONG = ESCAPE + "\n" + "x" * 3_000_000
HOSTILE = {  # what is done to a folder
    "a number": ("config.json", lambda path: rewritten(path, lambda c: c | {"n_head": LONG})),
    "a kind": ("config.json", lambda path: rewritten(path, lambda c: c | {"model_type": [LONG]})),
    "a flag": ("config.json", lambda path: rewritten(path, lambda c: c | {"bias": LONG})),
    "a tensor": ("model.safetensors", lambda path: renamed_tensor(path, LONG[:90_000])),
    "a class": (
        "tokenizer_config.json",
        lambda path: rewritten(path, lambda c: c | {"tokenizer_class": LONG}),
    ),
    "a token": (
        "tokenizer.json",
        lambda path: rewritten(
            path, lambda c: c | {"model": {"vocab": {LONG: 0}, "merges": [LONG]}}
        ),
    ),
    "an added token": (
        "tokenizer.json",
        lambda path: rewritten(
            path,
            lambda c: (
                c
                | {"model": {"vocab": {"a": 0}, "merges": ["a a"]}, "pre_tokenizer": {"type": LONG}}
                | {"added_tokens": [{"id": 9, "content": LONG, "single_word": True}]}
            ),
        ),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_value_is_quoted(case, finished, tmp_path, capsys):
    """One line of less than 1,200 characters, in which nothing is an order to the terminal."""
    name, spoil = HOSTILE[case]
    out = shutil.copytree(finished, tmp_path / "run")
    spoil(out / name)
    assert generate.main([str(out), "--tokens", "1"]) == 2
    said, err = capsys.readouterr()
    assert said == "" and err.count("\n") == 1 and len(err) < 1200
    assert err.rstrip("\n").isprintable(), err


@posix
def test_hostile_arguments_are_quoted(finished, tmp_path, capsys):
    """Names of files, values and flags."""
    name = tmp_path / f"a\n{ESCAPE}"
    for main, flags in (
        (train_shakespeare.main, ["--data", name]),
        (train_shakespeare.main, ["--resume", "--out", name]),
        (train_shakespeare.main, ["--preset", ESCAPE + "x" * 100_000]),
        (generate.main, [name]),
        (generate.main, [finished, "--prompt", ESCAPE]),
    ):
        assert main([*map(str, flags)]) == 2
        said, err = capsys.readouterr()
        assert said == "" and err.count("\n") == 1 and len(err) < 1200
        assert err.rstrip("\n").isprintable(), err
    for main in (train_shakespeare.main, generate.main):
        with pytest.raises(SystemExit):
            main([f"--x{ESCAPE}"])
        said, err = capsys.readouterr()
        assert said == "" and r"--x\x1b]0;title\x07" in re.sub(r"[│\s]", "", err)
        assert "\x1b" not in err


# ---- the rest ------------------------------------------------------------------------------------


def test_no_room_for_shared_memory(monkeypatch):
    """An error that says where room is needed, before the system ends the process."""
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda folder: usage)
    memory = workers.to_shared_memory(np.arange(5.0))
    assert workers.vector(memory).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(
        MemoryError,
        match="the processes need 1,008 more bytes of shared memory, but .* has 1,000 bytes left",
    ):
        workers.to_shared_memory(np.zeros(126))


INTERRUPTED = """
import builtins, os, runpy, signal, sys

def imported(name, *rest, ours=builtins.__import__):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGINT)
    return ours(name, *rest)

builtins.__import__ = imported
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
@pytest.mark.parametrize("name", ["train_shakespeare", "generate"])
def test_ctrl_c_while_libraries_are_loaded(name):
    """The program ends by it, without a word."""
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, EXAMPLES / f"{name}.py", "gpt_numpy"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_is_an_exception_once_they_are(monkeypatch):
    """In the program itself, where it is handled."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with np.errstate(), warnings.catch_warnings():  # which run() changes for good
            assert program.run(lambda: signal.getsignal(2) == signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, before)


def test_rows_take_little_memory(tmp_path):
    """Less than a kilobyte each, however many there are."""
    from gpt_numpy.app.run_folder import COLUMNS, RunFolder

    folder, draw = RunFolder(tmp_path / "run", {}, CharTokenizer("ab")), random.Random(0)

    def log(n):
        for step in range(n):
            folder.log(**{name: draw.random() for name in COLUMNS} | {"step": step})

    log(100)
    tracemalloc.start()
    try:
        log(1000)
        assert tracemalloc.get_traced_memory()[0] < 1000 * 1000
    finally:
        tracemalloc.stop()
        folder.close()
