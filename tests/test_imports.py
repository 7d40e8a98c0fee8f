"""The direction of imports: a reader is never sent upwards, and no two files need each other.

Parsed from the source, imports inside of functions included.  Two things are no imports between
files: minigrad/__init__.py, the front door, which opens everything; and what is below
`if __name__ == "__main__":`, which runs in a program of its own.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {"tensor", "ops", "nn", "optim", "schedule", "backend", "random", "gradcheck"}
BELOW = {  # page -> the pages that it may import; any may import internals
    "backend": set(),
    "schedule": set(),
    "tensor": {"backend"},
    "random": {"backend"},
    "ops": {"backend", "random", "tensor"},
    "nn": {"backend", "random", "tensor", "ops"},
    "optim": {"backend", "tensor"},
    "gradcheck": {"tensor"},
}


def files():
    """Return dotted name -> path of every file of the package."""
    paths = (ROOT / "minigrad").rglob("*.py")
    names = {path.relative_to(ROOT).with_suffix(""): path for path in paths}
    return {".".join(p.parts).removesuffix(".__init__"): path for p, path in names.items()}


FILES = files()


def is_main(node):
    """Return whether a statement is `if __name__ == "__main__":`, without an else."""
    return (
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "__name__ == '__main__'"
        and not node.orelse
    )


def imported_by(source, name, is_package=False, known=FILES):
    """Return the files of the package that this source text imports.

    `from package import name` imports the file package/name.py if there is one, and otherwise
    package/__init__.py, where the name must come from.
    """
    found = set()
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not is_main(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([base] if base else [])])
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                found.add(inside if inside in known else base)
    return found & known.keys() - {name}


GRAPH = {
    name: imported_by(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    for name, path in FILES.items()
}


def circle(graph):
    """Return names of which each imports the next, and the last the first; [] without a circle."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph[name]):
            if found := visit(other):
                return found
        path.pop()
        done.add(name)
        return []

    return next(filter(None, map(visit, sorted(graph))), [])


def unit(name):
    """Return the part of the package that a file belongs to: "ops" of minigrad.ops.gelu."""
    return name.split(".")[1] if "." in name else ""


def test_no_circle_of_imports():
    """Of files: whichever you open, the files that it needs do not need it."""
    assert circle({name: others - {"minigrad"} for name, others in GRAPH.items()}) == []


def test_nobody_imports_through_the_front_door():
    """`from minigrad import Tensor` inside of the package would need all of it."""
    importers = {name for name, others in GRAPH.items() if "minigrad" in others}
    assert importers <= {"minigrad.__main__"}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_imports_what_is_below_it(page):
    """backend <- tensor <- ops <- nn, optim, schedule; never fast or tools."""
    names = [name for name in GRAPH if unit(name) == page]
    assert names, f"there is no page {page}"
    for name in names:
        upwards = {unit(other) for other in GRAPH[name]} - BELOW[page] - {page, "internals"}
        assert not upwards, f"{name} imports {sorted(upwards)}"


def test_every_file_is_placed():
    """A new page must be added to the table above."""
    assert {unit(name) for name in FILES} == (
        PAGES | {"", "fast", "internals", "tools", "testing", "exercises", "__main__"}
    )
    assert set(BELOW) == PAGES


def test_internals_need_no_page_but_backend():
    """So that a page may import any of them."""
    for name, others in GRAPH.items():
        if unit(name) == "internals":
            assert {unit(other) for other in others} <= {"internals", "backend"}, name


def test_nobody_needs_the_twins():
    """Only the front door, the proofs (which compare both or switch it off) and the twins."""
    for name, others in GRAPH.items():
        if any(unit(other) == "fast" for other in others):
            assert unit(name) in ("", "fast", "testing", "exercises"), name


def test_the_engine_needs_numpy_alone():
    """Besides the standard library: CuPy and PyTorch are imported where they are asked for."""
    program = "import sys, minigrad; print(*sys.modules)"
    run = [sys.executable, "-c", program]
    modules = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    tops = {module.partition(".")[0] for module in modules.split()}
    allowed = set(sys.stdlib_module_names) | {"numpy", "minigrad"}
    assert {top for top in tops - allowed if not is_startup(top)} == set()


def test_a_training_loop_needs_no_more():
    """What downloads, draws progress bars or reads text files is imported by those who do that."""
    program = "import sys, gpt_numpy.scale.train; print(*sys.modules)"
    run = [sys.executable, "-c", program]
    modules = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"requests", "rich", "pooch", "regex", "asyncio"} & {*modules.split()}


def is_startup(top):
    """Return whether Python imports this module when it starts, for an editable install say."""
    program = "import sys; print(*sys.modules)"
    run = [sys.executable, "-c", program]
    modules = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    return top in {module.partition(".")[0] for module in modules}


# ---- the test itself can fail --------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, found",
    [
        ("import minigrad.ops as ops", {"minigrad.ops"}),
        ("from minigrad import ops, Tensor", {"minigrad.ops", "minigrad"}),
        ("def f():\n    from minigrad.fast import twin", {"minigrad.fast"}),
        ("from minigrad.ops.gelu import A", {"minigrad.ops.gelu"}),
        ("from . import backend", {"minigrad.backend"}),
        ("from .ops import gelu", {"minigrad.ops.gelu"}),
        ("import numpy as np", set()),
        ("if True:\n    import minigrad.nn", {"minigrad.nn"}),
        ("if __name__ == '__main__':\n    import minigrad.nn", set()),
    ],
)
def test_imports_are_found(source, found):
    """In every spelling, at any depth."""
    assert imported_by(source, "minigrad.tensor") == found


def test_a_circle_is_found():
    """Of two, of three, and none where two ways lead to one file."""
    assert circle({"a": {"b"}, "b": {"a"}}) == ["a", "b"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
