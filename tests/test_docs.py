"""The Markdown files tell the truth: their links lead somewhere, their numbers are right."""

import inspect
import re
import subprocess
import textwrap
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mutants import mutants_of

import minigrad.tensor
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.gradcheck import gradcheck
from minigrad.tensor import OPS, TWINS, op
from minigrad.testing.cases import CASES
from minigrad.testing.checks import by_finite_differences, by_pytorch

ROOT = Path(__file__).parents[1]
SOURCES = ["benchmarks", "docs", "examples", "gpt_numpy", "minigrad", "tests"]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in SOURCES for page in ROOT.glob(f"{name}/**/*.md"))]
)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(page):
    """What a link to a heading of the page may be called, by GitHub's rules."""
    seen: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def prose(page):
    """The page without its blocks of code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def broken(page):
    """The links of a page, but those into the web, that lead nowhere."""
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"https?://", link):
            continue
        if not target.exists() or anchor and anchor not in anchors(target):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """To a file that is there, and a heading that it has."""
    assert [*broken(page)] == []


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md", "docs/negative-results.md"])
def test_the_files_it_names_exist(page):
    """Those in the text, such as `tests/mutants.py`."""
    named = re.findall(r"`[^`\n]*?((?:\w+/)+\w+\.py)\b", read(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_broken_links_are_noticed(tmp_path):
    """A file, a heading here or there, the second of a name; not what is code, or in the web."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, c_d - e\n## Two\n## Two\n```\n# no\n[x](code.md)\n```\n"
        "`[x](y)` [x](page.md) [x](page.md#a-b-c_d---e) [x](#two-1) [x](https://a.b/#c)\n"
        "[x](gone.md) [x](#no) [x](#two-2) [x](page.md#b)\n"
    )
    assert [*broken(page)] == ["gone.md", "#no", "#two-2", "page.md#b"]


def test_lines_are_what_the_command_counts():
    """docs/compare.md rounds them: they may be off by a hundred.  Its table has their sum."""
    page = read("docs/compare.md")
    lines = re.findall(r"^(cat .+ \| wc -l) +# ([\d,]+):", page, re.MULTILINE)
    assert len(lines) == 6
    numbers = [int(printed.replace(",", "")) for _, printed in lines]
    for (command, _), printed in zip(lines, numbers, strict=True):
        counted = int(subprocess.check_output(command, shell=True, cwd=ROOT))
        assert abs(counted - printed) <= 100, f"{command} says {counted}"
    assert f"[{sum(numbers[1:]):,}](#our-line-counts)" in page  # the first is a part of the second
    assert f"the tape and the ops are {numbers[0]:,} lines" in read("README.md")


OURS = {name: f for name, f in OPS.items() if f.__module__.startswith("minigrad.ops.")}


def test_every_op_is_derived_and_counted():
    """In its docstring; and there are as many as the pages say."""
    assert [name for name, f in OURS.items() if "Derivation  " not in f.__doc__] == []
    for page in ("docs/compare.md", "CHANGELOG.md"):
        counts = {int(n) for n in re.findall(r"\b(\d+) ops\b", read(page))}
        assert counts - {4} == {len(OURS)}, page  # micrograd has 4
    assert f"All {len(CASES)} ops and modules agree." in read("docs/testing.md")


def test_tolerances_are_those_of_the_judges():
    """The row of ours in docs/compare.md."""
    row = re.search(r"^\| \*\*ours\*\* \| arrays.*$", read("docs/compare.md"), re.MULTILINE)[0]
    for judge, unit in ((by_pytorch, "of the largest entry"), (by_finite_differences, "of ‖dx‖")):
        tolerance = inspect.signature(judge).parameters["tolerance"].default
        assert float(re.search(rf"(1e-\d+) {unit}", row)[1]) == tolerance


def test_the_op_of_contributing_works(monkeypatch):
    """Its derivative is right, it has as many mutants as the page says, and its twin equals it."""
    page = read("CONTRIBUTING.md")
    blocks = map(textwrap.dedent, re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    code, twin_code = (block for block in blocks if "def silu" in block)
    assert "silu" not in OPS
    monkeypatch.setattr(minigrad.tensor, "OPS", ops := dict(OPS))
    monkeypatch.setattr(minigrad.fast, "OPS", ops)
    monkeypatch.setattr(minigrad.fast, "TWINS", twins := dict(TWINS))
    names = {"op": op, "array_module": array_module}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    silu = names["silu"]
    gradcheck(silu, [np.array([-2.0, 0.0, 3.0])])
    assert f"This `silu` has {len([*mutants_of('f.py', code)])} mutants" in page

    names = {"twin": twin, "ops": SimpleNamespace(silu=silu), "np": np}
    exec(compile(twin_code, "CONTRIBUTING.md", "exec"), names)
    x, dout = np.array([-2.0, 0.0, 3.0]), np.array([0.3, -1.0, 2.0])
    s = 1 / (1 + np.exp(-x))
    for function in (silu.__wrapped__, twins["silu", "cpu"]):
        out, backward = function(x)
        np.testing.assert_allclose(out, x * s, rtol=1e-15)
        np.testing.assert_allclose(backward(dout), [dout * (s + x * s * (1 - s))], rtol=1e-15)


def test_the_first_change_is_that_of_this_version():
    """CHANGELOG.md begins with the version in pyproject.toml."""
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[0] == version


def test_the_citation_is_of_this_project():
    """CITATION.cff, pyproject.toml and LICENSE agree on version, licence and authors."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    citation = read("CITATION.cff")
    assert citation.startswith("cff-version: 1.2.0\n")
    for key in ("version", "license"):
        assert re.findall(rf"^{key}: (.+)$", citation, re.MULTILINE) == [project[key]]
    (author,) = project["authors"]
    assert f"authors:\n  - name: {author['name']}\n" in citation
    assert project["license-files"] == ["LICENSE"]
    assert re.search(rf"^Copyright \(c\) \d+ {author['name']}$", read("LICENSE"), re.MULTILINE)
    assert read("LICENSE").startswith(f"{project['license']} License\n")


def test_files_that_are_not_python_are_in_the_wheel():
    """What lies in the two packages beside modules is package data."""
    setuptools = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]
    data = setuptools["package-data"]
    for package in ("minigrad", "gpt_numpy"):
        for path in (ROOT / package).rglob("*"):
            folder = ".".join(path.parent.relative_to(ROOT).parts)
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            assert folder in setuptools["packages"], path
            assert path.suffix == ".py" or any(path.match(p) for p in data.get(folder, [])), path


def test_what_did_not_pay_has_the_numbers_of_its_result():
    """Where a row of docs/negative-results.md names a result, its numbers stand there."""
    n_checked = 0
    for row in re.findall(r"^\| .*$", read("docs/negative-results.md"), re.MULTILINE):
        if "/results/" not in row:
            continue
        files = re.findall(r"\(((?:\.\./)?[\w/]+\.md)", row)
        source = " ".join(read(f"docs/{file}") for file in files)
        for number in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?", row.split(" | ")[1]):
            assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)", source), (
                row,
                number,
            )
            n_checked += 1
    assert n_checked > 10
