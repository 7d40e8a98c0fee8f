"""The tool that tests the tests: what mistakes it makes, and that it notices what is not noticed.

The whole run takes minutes: `python tests/mutants.py`.  Here runs a small sample of it.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import EQUIVALENT, TESTS, all_mutants, mutants_of

ROOT = Path(__file__).parents[1]

MISTAKES = {
    "a = b + c": ["a = b - c", "a = b", "a = c"],
    "a = b / c": ["a = b * c", "a = b", "a = c", "a = c / b"],
    "a = b @ c": ["a = b", "a = c", "a = c @ b"],
    "a += b": ["a -= b", "a = b", "pass"],
    "a = -b": ["a = b"],
    "a = b.T": ["a = b"],
    "a = b[..., None]": ["a = b"],
    "a = 2 * 0.5": ["a = 2 / 0.5", "a = 2", "a = 0.5", "a = 3 * 0.5", "a = 1 * 0.5", "a = 2 * 1.0"],
    "a = b < c": ["a = b <= c", "a = b >= c"],
    "a = not b": ["a = b"],
    "a = b and c": ["a = b or c", "a = b", "a = c"],
    "a = b if c else d": ["a = b", "a = d"],
    "a = unbroadcast(b, c)": ["a = b"],
    "a = b.sum(c, keepdims=True)": [
        "a = b.sum(c)",
        "a = b",
        "a = b.sum(c, keepdims=False)",
    ],
    "a = xp.exp(b)": ["a = b"],
    "f(b)": ["pass", "b"],
}


@pytest.mark.parametrize("before", MISTAKES)
def test_the_mistakes_it_makes(before):
    """One at a time, each statement of the source in turn."""
    mutants = list(mutants_of("f.py", before))
    assert [mutant.after for mutant in mutants] == MISTAKES[before]
    assert {mutant.before for mutant in mutants} == {before}


def test_a_mutant_is_the_whole_file():
    """Every other line stays as it is; the description shows the statement without its block."""
    source = "def f(x, n=1):\n    if x:\n        return (x, n)\n    return None"
    assert [(m.line, m.before, m.after) for m in mutants_of("f.py", source)] == [
        (1, "def f(x, n=1):", "def f(x, n=2):"),
        (1, "def f(x, n=1):", "def f(x, n=0):"),
        (2, "if x:", "if not x:"),
        (3, "return (x, n)", "return (n, x)"),
    ]
    last = [*mutants_of("f.py", source)][-1]
    assert last.source == source.replace("(x, n)\n", "(n, x)\n")
    assert str(last) == "f.py: return (x, n)  →  return (n, x)"


def test_messages_and_imports_are_left_alone():
    """A mistake in the text of an error is none in the arithmetic."""
    source = 'import a\nfrom b import c\n"""doc"""\nraise ValueError(f"{d + 1}")\nassert d + 1'
    assert list(mutants_of("f.py", source)) == []


def test_the_list_of_equivalent_mutants_is_up_to_date():
    """Every entry is a mutant of the source as it is now, and has a reason."""
    mutants = {str(mutant) for mutant in all_mutants()}
    assert sorted(EQUIVALENT.keys() - mutants) == []
    assert all(len(reason) > 20 for reason in EQUIVALENT.values())
    assert len(EQUIVALENT) < 0.1 * len(mutants)


def test_every_file_of_arithmetic_is_covered():
    """All ops, the tape, the optimizer, the schedule; the named tests are there."""
    files = {f"minigrad/ops/{path.name}" for path in ROOT.glob("minigrad/ops/*.py")}
    files -= {"minigrad/ops/__init__.py"}
    assert files | {"minigrad/tensor.py", "minigrad/optim.py", "minigrad/schedule.py"} == set(TESTS)
    assert all((ROOT / "tests" / name).exists() for names in TESTS.values() for name in names)


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "tests/mutants.py", *arguments],
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_a_sample_is_noticed():
    """Forty of them, always the same ones."""
    result = run("--sample", "40")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^all +40 +40 +0 +0$", result.stdout, re.MULTILINE)
