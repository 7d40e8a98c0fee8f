"""examples/generate.py, run as a user runs it."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from command import EXAMPLES, assert_refused, example, exit_status

from gpt_numpy import GPT, GPTConfig
from gpt_numpy.bpe import BYTES
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, load, special_token
from minigrad import manual_seed

pytestmark = pytest.mark.slow

speak = example("generate")


@pytest.fixture
def trained(train):
    return train("run").folder


@pytest.fixture
def run(trained, capsys):
    """run(*flags) -> what is printed, by the model of a short run."""

    def run(*flags, folder=trained):
        assert exit_status(speak.main, folder, *flags) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.fixture
def typed(monkeypatch):
    """typed(content) puts bytes into standard input."""

    def typed(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return typed


def test_a_trained_model_speaks(run):
    """The prompt and as many characters as asked for, the same again with the same seed."""
    texts = []
    for seed in (1, 1, 2):
        out = run("--prompt", "the cat", "--tokens", 50, "--seed", seed)
        assert out.startswith("the cat") and len(out) == len("the cat") + 50 + 1
        texts.append(out)
    assert texts[0] == texts[1] != texts[2]


def test_it_says_what_the_model_generates(run, trained):
    """With all knobs turned: the text of GPT.generate with the same ones."""
    flags = "--tokens 40 --temperature 0.7 --top-k 9 --top-p 0.9 --seed 5".split()
    tokenizer, model = load(trained / "tokenizer.json"), GPT.from_pretrained(trained)
    options = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": 5}
    ids = model.generate(tokenizer.encode("the ")[None], 40, **options)
    assert run("--prompt", "the ", *flags) == tokenizer.decode(ids.numpy()[0]) + "\n"


def test_samples_are_the_rows_of_a_batch(run):
    """Each under its number; the first is what it would be alone."""
    flags = ["--prompt", "a cat", "--tokens", 30, "--seed", 3]
    alone, three = run(*flags), run(*flags, "--samples", 3)
    heads = re.split(r"--- sample (\d) ---\n", three)
    assert heads[0] == "" and heads[1::2] == ["1", "2", "3"]
    texts = [text.removesuffix("\n") for text in heads[2::2]]
    assert texts[0] == alone and len(set(texts)) == 3
    assert all(len(text.rstrip("\n")) == 5 + 30 for text in texts)


@pytest.mark.parametrize("samples", [1, 2])
def test_it_stops_before_a_text(run, samples):
    """Where it comes up first in what was written, not in the prompt; it is left out."""
    flags = ["--prompt", "the", "--tokens", 60, "--seed", 1, "--samples", samples]
    whole = [re.sub("--- .*\n", "", part) for part in run(*flags).split("\n--- ")]
    stop = whole[0][20:23]  # three characters from the midst
    cut = run(*flags, "--stop", stop)
    first = cut.split("\n--- ")[0].removeprefix("--- sample 1 ---\n").removesuffix("\n")
    assert first == "the" + whole[0].removeprefix("--- sample 1 ---\n")[3:].partition(stop)[0]


@pytest.mark.parametrize("stop", ["h", "the", "at\nsat", "ththe"])
@pytest.mark.parametrize("text", ["the cat\nsatththe end", "th", "ththththe", "no"])
def test_a_sample_holds_back_what_may_be_the_stop(stop, text):
    """Character by character: never a part of the stop text, and nothing is lost."""
    tokenizer = CharTokenizer.from_text("theca\nsndo ")
    sample = speak.Sample(tokenizer, stop)
    shown = ""
    for id in tokenizer.encode(text):
        shown += sample.add(id)
        assert text.partition(stop)[0].startswith(shown)
    assert sample.ended == (stop in text)
    assert shown + sample.end() == text.partition(stop)[0]


def test_a_character_is_shown_when_it_is_whole():
    """Tokens of bytes: nothing until the last byte; what never becomes whole is marked."""
    tokenizer = BPETokenizer.from_text("", 256)
    sample = speak.Sample(tokenizer, "")
    ids = tokenizer.encode("é😀").tolist()
    assert [sample.add(id) for id in ids] == ["", "é", "", "", "", "😀"]
    assert [sample.add(ids[0]), sample.end()] == ["", "�"]


def test_a_prompt_from_standard_input(run, typed):
    """--prompt - reads it, several lines of it too."""
    typed(b"the cat\nsat on")
    assert run("--prompt", "-", "--tokens", 20).startswith("the cat\nsat on")


def test_nothing_is_written_after_the_stop(run, monkeypatch):
    """The model is not asked for what nobody will see."""
    stream, n = GPT.stream, []
    counted = lambda *args, **options: (n.append(1) or ids for ids in stream(*args, **options))  # noqa: E731
    monkeypatch.setattr(GPT, "stream", counted)
    text = run("--prompt", "the", "--tokens", 60)
    n.clear()
    run("--prompt", "the", "--tokens", 60, "--stop", text[5])
    assert len(n) < 10


def test_a_terminal_obeys_no_text(capsys, monkeypatch):
    """Control characters go to a file as they are, and to a terminal as signs."""
    tokenizer = BPETokenizer.from_text("", 256)
    columns = [np.array([id]) for id in tokenizer.encode("a\x1b[2Jb\n")]
    for is_terminal, shown in ((False, ">a\x1b[2Jb\n\n"), (True, ">a�[2Jb\n\n")):
        monkeypatch.setattr("sys.stdout.isatty", lambda answer=is_terminal: answer)
        speak.show(">", columns, [speak.Sample(tokenizer, "")])
        assert capsys.readouterr().out == shown


def test_prompts_line_by_line(trained, typed, capsys):
    """Each is answered; what is unknown is said, and the next one is read; the end is the end."""
    typed(b"the cat\n\nROMEO\na\n" + b"caf\xe9\nthe cat\n")
    assert exit_status(speak.main, trained, "--interactive", "--tokens", 20) == 0
    out, err = capsys.readouterr()
    texts = re.findall(r"(?:the cat|a).{20}", out, re.S)
    assert len(texts) == 3 and texts[0] != texts[2]  # another seed for another line
    unknown, invalid = err.splitlines()
    assert "'E', 'M', 'O', 'R'" in unknown and "not UTF-8" in invalid


def test_prompts_that_are_typed(trained, monkeypatch, capsys):
    """In a terminal input() asks, until Ctrl-D."""
    bad = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    lines = iter([bad, "the cat", EOFError])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    def type_in(_):
        line = next(lines)
        return line if isinstance(line, str) else raise_(line)

    monkeypatch.setattr("builtins.input", type_in)
    assert exit_status(speak.main, trained, "--interactive", "--tokens", 20) == 0
    out, err = capsys.readouterr()
    assert (
        out.startswith("the cat")
        and err == "generate: the prompt is not UTF-8: invalid start byte\n"
    )


def test_a_pipe_is_answered_line_by_line(trained):
    """Before it is closed."""
    command = [sys.executable, EXAMPLES / "generate.py", trained, "--interactive", "--tokens", "5"]
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        for _ in range(2):
            process.stdin.write("the cat\n")
            process.stdin.flush()
            assert process.stdout.read(7) == "the cat"
            process.stdout.read(7)  # five more, the end of the line and an empty one
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture
def folder(tmp_path):
    """folder(tokenizer, **settings): a model with this tokenizer, as if it had been trained."""

    def make(tokenizer, rows=None, **settings):
        manual_seed(0)
        shape = {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8}
        model = GPT(GPTConfig(vocab_size=rows or tokenizer.vocab_size, **shape))
        model.save_pretrained(tmp_path)
        tokenizer.save(tmp_path / "tokenizer.json")
        config = tmp_path / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | settings))
        return tmp_path

    return make


def test_the_default_prompt_is_known(run, folder):
    """A text of one line has no newline: the vocabulary's first character stands in for it."""
    out = run("--tokens", 5, folder=folder(CharTokenizer("cab")))
    assert out.startswith("c") and len(out) == 1 + 5 + 1
    assert len(run("--tokens", 5, folder=folder(CharTokenizer("\ncab")))) == 5 + 1


@pytest.mark.parametrize("given", [b"the\r\ncat", b"\xef\xbb\xbfthe\ncat", b"the\rcat"])
def test_a_prompt_is_read_as_a_training_text_is(run, typed, given):
    """Whatever ends its lines, and without a byte-order mark; in a flag too."""
    expected = run("--prompt", "the\ncat", "--tokens", 9)
    typed(given)
    assert run("--prompt", "-", "--tokens", 9) == expected
    assert run("--prompt", given.decode(), "--tokens", 9) == expected
    assert run("--prompt", "the", "--stop", "\r\n") == run("--prompt", "the", "--stop", "\n")


def test_lines_of_windows(trained, typed, capsys):
    """Prompts from a file with a byte-order mark and Windows' ends of lines."""
    typed(b"\xef\xbb\xbfthe\r\ncat\r\n")
    assert exit_status(speak.main, trained, "--interactive", "--tokens", 5) == 0
    out, err = capsys.readouterr()
    assert out.startswith("the") and err == ""


def test_ctrl_c_ends_the_reply(trained, typed, monkeypatch, capsys):
    """The next prompt is asked for; where it waits for one, Ctrl-C ends the program."""
    stream, n = GPT.stream, []

    def interrupted(*args, **options):
        n.append(1)
        for i, ids in enumerate(stream(*args, **options)):
            if len(n) == 2 and i == 4:
                raise KeyboardInterrupt
            yield ids

    monkeypatch.setattr(GPT, "stream", interrupted)
    typed(b"the\ncat\ndog\n")
    assert exit_status(speak.main, trained, "--interactive", "--tokens", 9) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(r"the.{9}\n\ncat.{4}\n\ndog.{9}\n\n", out, re.S)
    monkeypatch.setattr(speak, "lines", lambda: raise_(KeyboardInterrupt))
    assert exit_status(speak.main, trained, "--interactive") == 130


def test_it_stops_at_the_end_of_a_text(run, folder, capsys):
    """At eos_token_id, one or several; or at <|endoftext|>; it is not shown."""
    where = folder(CharTokenizer("abcdefgh"))
    flags = ["--prompt", "a", "--tokens", 60, "--samples", 2]
    whole = run(*flags, folder=where)
    for eos, ends in ((2, "c"), ([1, 4], "be")):
        folder(CharTokenizer("abcdefgh"), eos_token_id=eos)
        assert run(*flags, folder=where) == whole
        expected = re.sub(rf"(?m)^a(.*?)[{ends}].*$", r"a\1", whole)
        assert run(*flags, "--stop-at-eos", folder=where) == expected != whole
    folder(CharTokenizer("abcdefgh"))
    assert_refused(capsys, speak.main, [where, "--stop-at-eos"], ["--stop-at-eos", str(where)])
    folder(CharTokenizer("abcdefgh"), eos_token_id="end")
    assert_refused(capsys, speak.main, [where, "--stop-at-eos"], ["eos_token_id must be"])


def test_the_end_of_text_is_known_by_its_name(folder):
    """Where config.json does not say; generation_config.json comes first."""
    tokens = [bytes([byte]) for byte in BYTES] + [b"<|endoftext|>"]
    tokenizer = BPETokenizer(tokens, [], [special_token(256, "<|endoftext|>")])
    where = folder(tokenizer)
    assert speak.ends(where, tokenizer) == [256]
    folder(tokenizer, eos_token_id=9)
    assert speak.ends(where, tokenizer) == [9]
    (where / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert speak.ends(where, tokenizer) == [7, 8]


def test_an_end_within_a_character():
    """What was held back is shown before the sample ends."""
    tokenizer = BPETokenizer.from_text("", 256)
    sample = speak.Sample(tokenizer, "stop", last_ids=[7])
    ids = tokenizer.encode("no st").tolist()
    assert "".join(map(sample.add, ids)) + sample.add(7) == "no st"
    assert sample.ended and sample.add(ids[0]) == sample.end() == ""


def test_a_padded_vocabulary(run, folder):
    """Of 261 tokens in 264 rows: the last three are never written."""
    tokenizer = BPETokenizer.from_text("abcdefg " * 20, 261)
    where = folder(tokenizer, rows=264)
    assert run("--tokens", 300, "--temperature", 50, folder=where)


def test_a_repetition_penalty(run):
    """Other tokens than without; 1 is none."""
    flags = ["--prompt", "the", "--tokens", 30, "--temperature", 0]
    plain = run(*flags)
    assert run(*flags, "--repetition-penalty", 1) == plain
    assert run(*flags, "--repetition-penalty", 5) != plain


def raise_(error):
    raise error


def test_ctrl_c_ends_it_quietly(trained, monkeypatch, capsys):
    """Status 130, no traceback."""
    monkeypatch.setattr(GPT, "stream", lambda *_, **__: raise_(KeyboardInterrupt))
    assert exit_status(speak.main, trained) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_who_leaves(trained):
    """`| head -c 5` in a shell: no complaint."""
    command = [sys.executable, EXAMPLES / "generate.py", trained, "--tokens", "3000"]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    process.stdout.read(5)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1 and error == b""


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--prompt", "ROMEO!"], ["'!', 'E', 'M', 'O', 'R'", "vocabulary"]),
        (["--prompt", ""], ["prompt is empty", "at least one"]),
        (["--prompt", "caf\udce9"], ["prompt is not UTF-8"]),
        (["--temperature", "-1"], ["temperature", "at least 0", "-1"]),
        (["--top-k", "0"], ["top_k", "at least 1", "0"]),
        (["--top-p", "1.5"], ["top_p", "at most 1", "1.5"]),
        (["--top-p", "0"], ["top_p", "above 0", "0"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--repetition-penalty", "0"], ["repetition_penalty", "above 0", "0"]),
        (["--tokens", "-1"], ["--tokens", "-1"]),
        (["--samples", "0"], ["--samples", "at least 1"]),
        (["--interactive", "--prompt", "a"], ["--interactive", "leave out --prompt"]),
        (["--interactive", "--top-k", "0"], ["top_k", "at least 1"]),
    ],
)
def test_bad_options_are_refused(trained, capsys, flags, parts):
    """In one line that names what is wrong, before anything is printed."""
    assert_refused(capsys, speak.main, [trained, *flags], parts)


def test_a_prompt_that_is_no_text_is_refused(trained, typed, capsys):
    """Bytes from standard input that are not UTF-8; nothing at all."""
    for content, part in ((b"caf\xe9", "not UTF-8"), (b"", "empty")):
        typed(content)
        assert_refused(capsys, speak.main, [trained, "--prompt", "-"], [part])


def test_without_a_model_it_says_how_to_get_one(tmp_path, capsys):
    """It names the folder and the command that would fill it."""
    folder = tmp_path / "none"
    parts = ["no model", str(folder), "python examples/train_shakespeare.py"]
    assert_refused(capsys, speak.main, [folder], parts)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_broken_model_names_the_file(trained, capsys, name):
    """One that is cut off."""
    path = trained / name
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(capsys, speak.main, [trained], [str(path)])


def test_another_vocabulary_is_refused(trained, capsys):
    """A tokenizer that has not as many tokens as the model, or as many others."""
    tokenizer = load(trained / "tokenizer.json")
    same_size = tokenizer.characters[:-1] + "☃"
    for characters in ("abc", same_size):
        CharTokenizer(characters).save(trained / "tokenizer.json")
        parts = [str(trained / "tokenizer.json"), "is not the tokenizer of the model"]
        assert_refused(capsys, speak.main, [trained], parts)


def test_a_model_that_is_spoiled_is_refused(trained, capsys):
    """Weights that are NaN, infinite or huge make no text."""
    for bad in (np.nan, np.inf, 1e30):
        model = GPT.from_pretrained(trained)
        for p in model.parameters():
            p.data = np.full_like(p.data, bad)
            p.data[0] = -1
        model.save_pretrained(trained)
        assert exit_status(speak.main, trained, "--prompt", "a") == 2
        err = capsys.readouterr().err
        assert "generate: the model is broken" in err and err.count("\n") == 1
