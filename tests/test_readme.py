"""README.md and the pages of docs/ tell the truth: their code runs and prints what they say, their
commands exist, their tables are the measured ones, and the files that they name are there."""

import contextlib
import inspect
import io
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from command import TINY, example

import minigrad.tensor
from gpt_numpy.app.cli import Command
from minigrad import OPS

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/*.md")),
        *sorted(ROOT.glob("docs/guide/*.md")),
    ]
}
README, BENCHMARKS = PAGES["README.md"], PAGES["docs/benchmarks.md"]
OURS = ("gpt_numpy/", "minigrad/")


def test_every_page_is_read():
    """Those that once were one README are among them."""
    guides = "training generating resuming nan tokenizers huggingface gpu several-machines".split()
    names = ["README.md", *(f"docs/guide/{name}.md" for name in guides)]
    names += [f"docs/{name}.md" for name in ("benchmarks", "testing", "reading-order", "compare")]
    assert {*names, "docs/negative-results.md"} <= PAGES.keys()


def test_the_readme_is_short():
    """One sitting."""
    assert README.count("\n") <= 220


# ------------------------------------------------------------------------------- blocks of Python

EXAMPLES = [
    pytest.param(code, printed, id=f"{name}-{i}")
    for name, page in PAGES.items()
    for i, (code, printed) in enumerate(
        re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", page, flags=re.DOTALL)
    )
]


@pytest.mark.parametrize("code, printed", EXAMPLES)
def test_code_prints_what_the_page_says(code, printed, monkeypatch, tmp_path):
    """Every block of Python is followed by its output, character for character."""
    monkeypatch.chdir(tmp_path)  # where it may leave files
    monkeypatch.setattr(minigrad.tensor, "OPS", dict(OPS))  # where a page's own op is entered
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert out.getvalue() == printed


def test_no_code_without_its_output():
    """There is no block of Python that the test above does not run."""
    assert len(EXAMPLES) == sum(page.count("```python") for page in PAGES.values()) >= 10
    assert README.count("```python") >= 3


# --------------------------------------------------------------------------------------- commands


def blocks(page):
    """The lines of its blocks of code that are not Python."""
    found = re.findall(r"^```(?:text)?\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return "".join(found).splitlines()


def commands(page):
    """Whatever begins like a command, in blocks and in the prose, without comments."""
    lines = blocks(page) + re.findall(r"`([^`\n]+)`", page)
    lines = [re.split(r"\s{2,}|\s#", line)[0] for line in lines]
    begins = r"(?:\w+=\S+ )*(?:pip|python|pytest|mpirun|\.ci/run)\b"
    return [part for line in lines for part in line.split(" && ") if re.match(begins, part)]


def flags_of(command):
    """The flags of a command, but those of its prompt or of a program in quotation marks."""
    return re.findall(r"(?<= )--[a-z][\w-]*", re.sub(r'"[^"]*"', "", command))


def known(names):
    return {f"--{name.replace('_', '-')}" for name in names} | {"--help"}


TRAIN = known(f.name for f in fields(Command))
TRAIN |= {flag.replace("--", "--no-", 1) for flag in TRAIN}
GENERATE = known(inspect.signature(example("generate").speak).parameters)


@pytest.mark.parametrize("name", PAGES)
def test_its_commands_exist(name):
    """The programs, test files and markers that they name, and the flags of the two programs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = [m.partition(":")[0] for m in project["tool"]["pytest"]["ini_options"]["markers"]]
    for command in commands(PAGES[name]):
        for file in re.findall(r"\b(?:python|pytest)(?: -m \w+)? ([\w/.-]+\.py)\b", command):
            assert (ROOT / file).is_file(), command
        for module in re.findall(r"\bpython -m ([\w.]+)", command):
            path = ROOT / module.replace(".", "/")
            ours = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert ours or module in ("venv", "pytest", "sphinx"), command
        for marker in re.findall(r"\bpytest .*?-m (\w+)", command):
            assert marker in markers, command
        for extras in re.findall(r'pip install -e "\.\[([\w,-]+)\]"', command):
            assert {*extras.split(",")} <= project["project"]["optional-dependencies"].keys()
        if re.search(r"examples/train_shakespeare\.py|-m gpt_numpy train", command):
            assert {*flags_of(command)} <= TRAIN, command
        if re.search(r"examples/generate\.py|-m gpt_numpy generate", command):
            assert {*flags_of(command)} <= GENERATE, command


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/guide/")])
def test_flags_of_the_guides_exist(name):
    """Those in their prose, such as `--eval-tokens`."""
    flags = set(re.findall(r"`(--[a-z][\w-]*)[^`\n]*`", PAGES[name]))
    assert flags <= TRAIN | GENERATE


def test_commands_are_found():
    """In every form that the pages have."""
    block = "pip install -e . && X=1 mpirun -n 2 python b.py --c 3    # --d\nno\n"
    page = f"`python a.py`\n```\n{block}```\n"
    assert commands(page) == [
        "pip install -e .",
        "X=1 mpirun -n 2 python b.py --c 3",
        "python a.py",
    ]
    assert flags_of('python b.py --c 3 --prompt "--x"') == ["--c", "--prompt"]
    assert sum(len(commands(page)) for page in PAGES.values()) > 50


def test_the_two_commands():
    """They are lines of their own; the test command is the one that .ci/run takes from there."""
    lines = README.splitlines()
    assert lines.count("pip install -e . && python examples/train_shakespeare.py --open") == 1
    pattern = re.search(r"sed -n 's/(.+)/\\1/p' README\.md", (ROOT / ".ci/run").read_text())[1]
    pattern = pattern.replace(r"\(", "(").replace(r"\)", ")")  # of sed's regular expressions
    found = [line for line in lines if re.fullmatch(pattern, line)]
    assert found == ['pip install -e ".[test]" && pytest']


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


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", PAGES)
def test_the_files_it_names_exist(name):
    """Links, pictures and files in the text, such as `minigrad/nn.py`.

    compare.md also names files of other projects.
    """
    page, folder = PAGES[name], (ROOT / name).parent
    linked = re.findall(r"\]\(([^)#:]+)\)", re.sub(r"\]\(https?:[^)]*\)", "", page))
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|ipynb|cu|md))`", page)
    named += re.findall(r"`((?:\w+/)+)`", page)  # folders
    if name == "docs/compare.md":
        named = [file for file in named if file.startswith(OURS)]
    assert [file for file in linked if not (folder / file).exists()] == []
    assert [file for file in named if not (ROOT / file).exists()] == []
    assert name != "README.md" or len(linked + named) > 20


def test_the_tree_of_the_readme_is_the_repository():
    """Every file and folder of it is there, and every one of the two packages is in it."""
    tree = re.search(r"^```\n(gpt_numpy/ .*?)^```$", README, re.DOTALL | re.MULTILINE)[1]
    shown, parent = set(), ""
    for line in tree.splitlines():
        indent, names = re.match(r"( *)([\w./]+(?:, [\w./]+)*) +", line).groups()
        parent = parent if indent else ""
        shown |= {parent + name for name in names.split(", ")}
        parent = parent if indent else names
    assert [name for name in shown if not (ROOT / name).exists()] == []
    assert [name for name in shown if (ROOT / name).is_dir() != name.endswith("/")] == []
    for package in ("gpt_numpy", "minigrad"):
        inside = {
            f"{package}/{path.name}" + "/" * path.is_dir()
            for path in (ROOT / package).iterdir()
            if path.name[0] not in "._" and (path.is_dir() or path.suffix == ".py")
        }
        assert inside <= shown


# ----------------------------------------------------------------------------------- measurements

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
    not_run = PAGES["docs/guide/gpu.md"].partition("\n**None of this has run on a real GPU yet**")[
        2
    ]
    not_run += "".join(re.findall(r"\npython .+(?= \(not measured yet\)\n)", BENCHMARKS))
    assert {*re.findall(r"\npython benchmarks/(\w+)\.py ", not_run)} == missing
    for path in RESULTS:
        command = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["command"]
        assert f"`{command}`" in path.read_text(encoding="utf-8")
        assert (
            command in BENCHMARKS
            and command.split()[1] == f"benchmarks/{path.stem.partition('-')[0]}.py"
        )


def table(path):
    return re.search(r"(^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)[0]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_are_quoted_as_they_were_measured(path):
    """Whole and to the letter, on the page of the benchmarks; one of them in the README too."""
    assert table(path) in BENCHMARKS
    assert (table(path) in README) == (path.stem == "step_time")


@pytest.mark.parametrize("name", PAGES)
def test_no_table_of_times_but_the_measured_ones(name):
    """A table whose head has a unit of time, rate or memory is that of a result."""
    tables = re.findall(r"(?:^\|.*\n)+", PAGES[name], re.MULTILINE)
    measured = {table(path) for path in RESULTS}
    units = r", (?:ms|s|MB|GFLOP/s|tokens/s) \|"
    assert [t for t in tables if re.search(units, t.partition("\n")[0]) and t not in measured] == []
