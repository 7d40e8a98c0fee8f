"""The tool that tests the tests: what mistakes it makes, and that it notices what is not noticed.

The whole run takes hours: `python tests/mutants.py`.  `pytest -m slow` runs a small sample of it.
"""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import EQUIVALENT, TESTS, all_mutants, mutants_of, mutants_of_cuda, report

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

MISTAKES = {
    "a = b + c": ["a = b - c", "a = b", "a = c", "a = c + c", "a = b + b"],
    "a = b / c": ["a = b * c", "a = b", "a = c", "a = c / b", "a = c / c", "a = b / b"],
    "a = b @ c": ["a = b", "a = c", "a = c @ b", "a = c @ c", "a = b @ b"],
    "a += b": ["a -= b", "a = b", "pass"],
    "a = -b": ["a = b"],
    "a = ~b": ["a = b"],
    "a = b.T": ["a = b"],
    "a = b[..., None]": ["a = b"],
    "a = 2 * 0.5": ["a = 2 / 0.5", "a = 2", "a = 0.5", "a = 3 * 0.5", "a = 1 * 0.5", "a = 2 * 1.0"],
    "a = 0.0": ["a = 1.0"],
    "a = True": ["a = False"],
    "a = b < 1.0": ["a = b <= 1.0", "a = b >= 1.0", "a = b < 2.0"],
    "a = 0.5 < b is None": ["a = 0.5 <= b is None", "a = 0.5 >= b is None"]
    + ["a = 0.5 < b is not None", "a = 1.0 < b is None"],
    "a = not b": ["a = b"],
    "a = b and c": ["a = b or c", "a = b", "a = c", "a = c and c", "a = b and b"],
    "a = f(self.b) if c else d": ["a = f(self.b)", "a = d", "a = f(self.b) if d else d"]
    + ["a = self.b if c else d", "a = f(self.b) if c else c"],
    "a = unbroadcast(b, c)": ["a = unbroadcast(b)", "a = unbroadcast(c, b)", "a = b"]
    + ["a = unbroadcast(c, c)", "a = unbroadcast(b, b)"],
    "a = b.sum(1.5, keepdims=True)": ["a = b.sum(1.5)", "a = b", "a = b.sum(3.0, keepdims=True)"]
    + ["a = b.sum(1.5, keepdims=False)"],
    "a = xp.exp(b)": ["a = b"],
    "a = xp.einsum('ij', b)": ["a = xp.einsum('ij')", "a = xp.einsum(b, 'ij')"],
    "f(b)": ["pass", "b"],
}


CUDA_MISTAKES = {
    "a = b + c;  // d + e": ["a = b - c;  // d + e"],
    "a += b * 2;": ["a += b + 2;", "a -= b * 2;", "a = b * 2;", "a += b * 3;"],
    "if (a < n && b >= 0) return;": ["if (a <= n && b >= 0) return;", "if (a < n && b > 0) return;"]
    + ["if (a < n || b >= 0) return;", "if (a < n && b >= 1) return;"],
    "__syncthreads();": [";"],
    "a = b / c - d % e;": ["a = b / c + d % e;", "a = b * c - d % e;", "a = b / c - d / e;"],
    "x = y1[0xffu] * 1.5f;": ["x = y1[0xffu] + 1.5f;"],
    "#pragma unroll 8": [],
    "#if N == 1": [],
}


@pytest.mark.parametrize("before", CUDA_MISTAKES)
def test_the_mistakes_it_makes_in_cuda(before):
    """In the code, not in comments."""
    mutants = list(mutants_of_cuda("f.cu", f"// 1 + 1\n{before}\n"))
    assert [m.source for m in mutants] == [f"// 1 + 1\n{m}\n" for m in CUDA_MISTAKES[before]]
    assert {m.line for m in mutants} <= {2}


def test_a_mutant_of_cuda_says_where_it_is():
    """In which function, also if its declaration takes several lines."""
    source = (
        'extern "C" __global__ void __launch_bounds__(A * B) f(\n    int *x)\n{\n    *x = 1;\n}\n'
        "template <class T>\n__device__ inline unsigned int g(T x)\n{\n    return x + y;\n}\n"
    )
    assert [str(m) for m in mutants_of_cuda("f.cu", source)] == [
        "f.cu f: *x = 1;  →  *x = 2;",
        "f.cu g: return x + y;  →  return x - y;",
    ]


@pytest.mark.parametrize("before", MISTAKES)
def test_the_mistakes_it_makes(before):
    """One at a time."""
    mutants = list(mutants_of("f.py", before))
    assert [mutant.after for mutant in mutants] == MISTAKES[before]
    assert {mutant.before for mutant in mutants} == {before}


def test_a_mutant_is_the_whole_file():
    """Every other line stays as it is; the description shows the statement without its block."""
    source = """class A:

    def f(x, n=1):
        if x:
            return (x, n)
        return 0.5"""
    mutants = list(mutants_of("f.py", source))
    assert [(m.place, m.line, m.before, m.after) for m in mutants] == [
        ("A.f", 3, "def f(x, n=1):", "def f(x, n=2):"),
        ("A.f", 3, "def f(x, n=1):", "def f(x, n=0):"),
        ("A.f", 4, "if x:", "if not x:"),
        ("A.f", 5, "return (x, n)", "return (n, x)"),
        ("A.f", 5, "return (x, n)", "return (n, n)"),
        ("A.f", 5, "return (x, n)", "return (x, x)"),
        ("A.f", 6, "return 0.5", "return 1.0"),
    ]
    assert mutants[3].source == source.replace("(x, n)\n", "(n, x)\n")
    assert str(mutants[3]) == "f.py A.f: return (x, n)  →  return (n, x)"


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
    """All pages, all twins, the guards and float16; and the tests that TESTS names exist."""
    paths = [
        path for part in ("", "ops", "fast") for path in (ROOT / "minigrad" / part).glob("*.py")
    ]
    paths += [*ROOT.glob("minigrad/fast/*/*.py"), *ROOT.glob("minigrad/fast/*/*.cu")]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.stem[:2] != "__"}
    files -= {"minigrad/gradcheck.py"}  # a check of others, which test_gradcheck.py is about
    files |= {"minigrad/fast/__init__.py"}
    files |= {f"minigrad/internals/{name}.py" for name in ("guards", "half")}
    assert files == set(TESTS)
    assert all((ROOT / "tests" / name).exists() for names in TESTS.values() for name in names)


def test_an_unlisted_survivor_is_reported(monkeypatch, capsys):
    """And no longer once it is listed."""
    unlisted = (mutant for mutant in all_mutants() if str(mutant) not in EQUIVALENT)
    first, second = itertools.islice(unlisted, 2)
    assert report({first: "survived", second: "crash"}) == [first]
    assert "50.0%" in capsys.readouterr().out
    monkeypatch.setitem(EQUIVALENT, str(first), "a reason")
    assert report({first: "survived", second: "crash"}) == []
    assert "100.0%" in capsys.readouterr().out


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "tests/mutants.py", *arguments],
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_a_sample_is_noticed():
    """Six of the ops' pages, always the same ones."""
    result = run("--only", "minigrad/ops/", "--sample", "6")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    counts = re.search(r"^all +(.*)$", result.stdout, re.MULTILINE)
    total, *noticed, timed_out, equivalent, survived = map(int, counts[1].split())
    assert (total, sum(noticed), timed_out, equivalent, survived) == (6, 6, 0, 0, 0)


@pytest.mark.whole
@pytest.mark.skipif(sys.platform != "linux", reason="needs g++ on Linux")
def test_a_sample_of_cuda_is_noticed():
    """Four mistakes in a kernel, which runs on a CPU."""
    result = run("--only", "fast/gpu/gelu.cu", "--sample", "4")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr


@pytest.mark.whole
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_listed_mutants_are_excused():
    """cos(−πz) = cos(πz): such mutants are listed, so the run does not fail."""
    result = run("--only", "minigrad/schedule.py warmup_cosine: z =")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    equivalent, survived = re.search(r"^all .* (\d+) +(\d+)$", result.stdout, re.MULTILINE).groups()
    assert int(equivalent) == 2 and int(survived) == 0
    assert run("--only", "no such thing").returncode == 2
