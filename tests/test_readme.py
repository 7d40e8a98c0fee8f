"""The README tells the truth: its code runs and prints what it says, and its files are there."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import TINY

import minigrad.tensor
from minigrad import OPS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code, printed", EXAMPLES, ids=range(len(EXAMPLES)))
def test_code_prints_what_the_readme_says(code, printed, monkeypatch, tmp_path):
    """Every block of Python is followed by its output, character for character."""
    monkeypatch.chdir(tmp_path)  # where it may leave files
    monkeypatch.setattr(minigrad.tensor, "OPS", dict(OPS))  # where the README's own op is entered
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert out.getvalue() == printed


def test_a_small_run_trains_and_speaks(tmp_path):
    """The README's first two programs, as a user starts them: what they print last."""
    run = tmp_path / "run"
    commands = [
        ["train_shakespeare.py", *TINY, "--out", run],
        ["generate.py", run, "--prompt", "O ", "--tokens", "9"],
    ]
    ends = []
    for program, *arguments in commands:
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / program, *arguments],
            capture_output=True, encoding="utf-8", cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        ends.append(done.stdout)
    last = r"\nfinal val_loss \d\.\d{4} \(perplexity [\d.]+\) after 6 steps\n$"
    assert re.search(last, ends[0]), ends[0]
    assert len(ends[1].removesuffix("\n")) == len("O ") + 9, ends[1]


def test_no_code_without_its_output():
    """There is no block of Python that the test above does not run."""
    assert len(EXAMPLES) == README.count("```python") >= 3


def test_the_files_it_names_exist():
    """Links, pictures and the files of the reading order."""
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`((?:\w+/)+\w+\.py)`", README)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


RESULTS = sorted((ROOT / "benchmarks/results").glob("*.md"))


def test_every_benchmark_has_its_result():
    """A Markdown and a JSON file for each, of one and the same command.

    A program may have several results, such as gpu-float32.md and gpu-tf32.md.
    """
    parts = {"common", "roofline", "side"}
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - parts
    measured = {path.stem.partition("-")[0] for path in RESULTS}
    assert measured <= programs
    missing = programs - measured
    not_run = README.partition("**None of this has run on a real GPU yet**")[2].partition("###")[0]
    not_run += "".join(re.findall(r"\npython .+(?= \(not measured yet\)\n)", README))
    assert {*re.findall(r"\npython benchmarks/(\w+)\.py ", not_run)} == missing
    for path in RESULTS:
        command = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["command"]
        assert f"`{command}`" in path.read_text(encoding="utf-8")
        assert (
            command in README
            and command.split()[1] == f"benchmarks/{path.stem.partition('-')[0]}.py"
        )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_are_quoted_as_they_were_measured(path):
    """Whole and to the letter; only that of scaling is too long for the README."""
    table = re.search(r"(^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert (table in README) == (path.stem != "scaling")
