"""The README tells the truth: its code runs and prints what it says, and its files are there."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import minigrad.tensor
from minigrad import OPS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code, printed", EXAMPLES, ids=range(len(EXAMPLES)))
def test_code_prints_what_the_readme_says(code, printed, monkeypatch):
    """Every block of Python is followed by its output, character for character."""
    monkeypatch.setattr(minigrad.tensor, "OPS", dict(OPS))  # where the README's own op is entered
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert out.getvalue() == printed


def test_no_code_without_its_output():
    """There is no block of Python that the test above does not run."""
    assert len(EXAMPLES) == README.count("```python") >= 3


def test_the_files_it_names_exist():
    """Links, pictures and the files of the reading order."""
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`((?:\w+/)+\w+\.py)`", README)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
