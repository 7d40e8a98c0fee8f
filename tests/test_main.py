"""`python -m gpt_numpy` starts the programs of examples/."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpt_numpy import __main__ as command

ROOT = Path(__file__).parents[1]


def output(arguments, folder):
    """The exit status and the output of a Python program that is started in `folder`."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, encoding="utf-8", cwd=folder
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "word, file", [("train", "train_shakespeare.py"), ("generate", "generate.py")]
)
def test_a_word_starts_its_program(word, file, tmp_path):
    """From any folder: what --help prints is the same as that of the file."""
    by_word = output(["-m", "gpt_numpy", word, "--help"], tmp_path)
    assert by_word == output([ROOT / "examples" / file, "--help"], tmp_path)
    assert by_word[0] == 0 and "--seed" in by_word[1]


def test_the_exit_status_is_that_of_the_program(tmp_path):
    """And so are its errors."""
    status, out, err = output(["-m", "gpt_numpy", "generate", "nothing-here"], tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("generate: there is no model in nothing-here: run python"), err


@pytest.mark.parametrize(
    "words, error",
    [
        (
            ["trian"],
            "gpt_numpy: there is no command 'trian'; the commands are train and generate\n",
        ),
        ([], "gpt_numpy: no command was given; the commands are train and generate\n"),
    ],
)
def test_another_word_is_an_error(words, error, capsys):
    """In one line, with status 2."""
    assert command.main(*words) == 2
    assert capsys.readouterr() == ("", error)


def test_the_wheel_has_its_own_examples(tmp_path, monkeypatch, capsys):
    """They run where there is no clone around the package; without both, the error says so."""
    monkeypatch.setattr(command, "__file__", str(tmp_path / "gpt_numpy/__main__.py"))
    assert command.main("train") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "examples/train_shakespeare.py" in err

    (tmp_path / "gpt_numpy/examples").mkdir(parents=True)
    (tmp_path / "gpt_numpy/examples/train_shakespeare.py").write_text("print('the wheel')")
    assert command.main("train") == 0
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/train_shakespeare.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert command.main("train", "--steps", "2") == 0
    assert capsys.readouterr().out == "the wheel\n['--steps', '2']\n"


def test_help_names_both_words(capsys):
    """With status 0."""
    assert command.main("--help") == 0
    out, err = capsys.readouterr()
    assert err == "" and all(f"python -m gpt_numpy {word} " in out for word in command.PROGRAMS)
