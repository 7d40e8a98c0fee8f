"""Would the suite notice a mistake?  Make a great many small ones, and see which go unnoticed.

    python tests/mutants.py [--sample N] [--seed S] [--only PART_OF_A_NAME]

A mutant is the source with one small mistake: a sign, a factor, a dropped term, an off-by-one, `=`
for `+=`, operands or arguments that changed places, one name for another, a call left out (an
unbroadcast, an exp, a transpose), a negated condition.  In CUDA it is another operator or number,
or a missing barrier, and the kernel runs on a CPU.  All mutants of these kinds, of the pages,
the twins and the guards, run against the tests that matter to them.  Those of ops, of twins and of
the tape first run against PyTorch on the cases, in one memory layout, which takes a tenth of a
second.  Those that pass run against the files in TESTS, without the tests called "caught", which
plant errors of their own.
What survives is printed: either a test is missing, or the mutant computes the same function.  Then
it is listed, with the reason, in tests/equivalent_mutants.md.  Pages, twins and guards are counted
separately.

Each mutant gets a process of its own, forked when NumPy and PyTorch are loaded.
(Linux and macOS: it needs os.fork.)
"""

import argparse
import ast
import builtins
import contextlib
import copy
import importlib.machinery
import inspect
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before NumPy loads: a mutant gets one core
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading them takes longer than most mutants

ROOT = Path(__file__).parents[1]


def sources(pattern):
    """Return the paths that a pattern finds, as they are written in TESTS."""
    found = sorted(ROOT.glob(pattern))
    return [path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py"]


OF_OPS = ["ops", "numerics", "errors", "tensor", "nn", "gpu"]
OF_VECTORS = ["optim", "flat", "gpu"]
TESTS = {  # file -> the tests that matter to it
    file: [f"test_{name}.py" for name in names]
    for file, names in {
        **dict.fromkeys(sources("minigrad/ops/*.py"), OF_OPS),
        "minigrad/backend.py": ["backend", *OF_OPS],
        "minigrad/tensor.py": ["tensor", "guards", "flat", *OF_OPS, "anomaly"],
        "minigrad/nn.py": ["nn", "ops"],
        "minigrad/optim.py": OF_VECTORS,
        "minigrad/schedule.py": ["schedule"],
        "minigrad/random.py": ["random", "ops", "gpu"],
        **dict.fromkeys(sources("minigrad/fast/cpu/*.py"), ["ops", "numerics", "gpu", "errors"]),
        **dict.fromkeys(sources("minigrad/fast/gpu/*.py"), ["gpu", "kernels", "random"]),
        **dict.fromkeys(sources("minigrad/fast/gpu/*.cu"), ["kernels", "gpu"]),
        "minigrad/fast/__init__.py": ["ops"],
        "minigrad/fast/arrays.py": ["backend", "ops", "numerics", *OF_VECTORS],
        "minigrad/fast/flat.py": OF_VECTORS,
        "minigrad/fast/adamw.py": OF_VECTORS,
        "minigrad/internals/guards.py": ["guards", "tensor", "errors", "operators", *OF_VECTORS],
        "minigrad/internals/half.py": ["numerics", "ops"],
    }.items()
}
PARTS = {"pages": "minigrad/", "twins": "minigrad/fast/", "guards": "minigrad/internals/"}
TIMEOUT = 240  # seconds, for each set of tests


class Mutant(NamedTuple):
    file: str
    place: str  # the function or class around it
    line: int
    before: str  # the statement, without what is nested in it
    after: str
    source: str  # of the whole file

    def __str__(self):
        return f"{self.file} {self.place}: {self.before}  →  {self.after}"


# ---- making mutants ------------------------------------------------------------------------------

OTHER = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult], ast.FloorDiv: [ast.Mult], ast.Mod: [ast.Mult], ast.LShift: [ast.RShift],
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.And: [ast.Or],
    ast.Or: [ast.And],
}  # fmt: skip


def without(listed, i):
    return [*listed[:i], *listed[i + 1 :]]


def swapped(listed, i):
    """With the places i and i + 1 exchanged."""
    return [*listed[:i], listed[i + 1], listed[i], *listed[i + 2 :]]


def replacements(node):
    """The mistakes that one can make at a node: nodes that might stand in its place."""
    match node:
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, other(), right) for other in OTHER.get(type(op), []))
            yield from (left, right)
            if not isinstance(op, ast.Add | ast.Mult | ast.BitOr):
                yield ast.BinOp(right, op, left)
        case ast.AugAssign(target, op, value):
            yield from (ast.AugAssign(target, other(), value) for other in OTHER.get(type(op), []))
            yield from (ast.Assign([target], value), ast.Pass())
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield operand
        case ast.Compare(left, ops, right):
            for i, op in enumerate(ops):
                for other in OTHER[type(op)]:
                    yield ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], right)
        case ast.BoolOp(op, values):
            yield from (ast.BoolOp(other(), values) for other in OTHER[type(op)])
            yield from values
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.If(test, body, orelse) if not isinstance(body[0], ast.Raise):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Call(function, arguments, keywords):
            for i in range(len(keywords)):
                yield ast.Call(function, arguments, without(keywords, i))
            for i in range(1, len(arguments)):
                yield ast.Call(function, without(arguments, i), keywords)
                if not ast.unparse(function).endswith(SYMMETRIC):
                    yield ast.Call(function, swapped(arguments, i - 1), keywords)
            if isinstance(function, ast.Attribute) and ast.unparse(function.value) not in MODULES:
                yield function.value
            elif arguments and not isinstance(arguments[0], ast.Starred | ast.Constant):
                yield arguments[0]
        case ast.Attribute(value, "T"):
            yield value
        case ast.Subscript(value, ast.Tuple() | ast.Constant() | ast.Slice()):
            yield value
        case ast.Return(ast.Tuple(elements)) if "backward" not in ast.unparse(node):
            for i in range(len(elements) - 1):
                yield ast.Return(ast.Tuple(swapped(elements, i), ast.Load()))
        case ast.Expr(ast.Call()):
            yield ast.Pass()


MODULES = ("xp", "math", "random", "heapq", "itertools", "functools", "inspect", "contextlib")
SYMMETRIC = ("swapaxes", "multiply", "maximum", "equal")
UNMISTAKABLE = (*MODULES, *dir(builtins), "self", "OPS", "Tensor", "backward")
DEVICE = ("array_module", "to_numpy", "to_device")  # left out or swapped, they name no array
SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)


def children(node):
    """(field, place or None, child) of the nodes below, without messages, imports and types."""
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns", "type_params"):
            continue
        listed = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, child in listed:
            if isinstance(child, ast.Call) and ast.unparse(child.func) in DEVICE:
                continue
            if isinstance(child, ast.AST) and not isinstance(child, SKIPPED):
                yield field, i, child


def alone(statement):
    """A statement without the block that is nested in it."""
    bare = copy.copy(statement)
    for field in ("body", "orelse", "finalbody", "handlers", "cases", "decorator_list"):
        if isinstance(getattr(bare, field, None), list):
            setattr(bare, field, [])
    return bare


def header(statement):
    return " ".join(ast.unparse(alone(statement)).split())


def variables(statement):
    """The names of values that a statement reads: one may be mistaken for another."""
    nodes = [*ast.walk(alone(statement))]
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    read = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return [name for name in dict.fromkeys(read) if name not in {*called, *UNMISTAKABLE}]


def mutants_of(file, source):
    """All mutants of a Python source, in its order, each text once."""
    statements = ast.parse(source).body
    texts = [ast.unparse(statement) for statement in statements]
    for k, statement in enumerate(statements):
        seen = {texts[k]}  # only this statement changes: unparsing the whole file takes longer
        for place, line, before, after, text in mutants_in(ast.Module([statement], [])):
            if text not in seen:
                seen.add(text)
                whole = "\n".join([*texts[:k], text, *texts[k + 1 :]])
                yield Mutant(file, place, line, before, after, whole)


CUDA = {  # what may stand in a line -> the mistakes in its place
    r" \+ ": [" - "], r" - ": [" + "], r" \* ": [" + "], r" / ": [" * "], r" % ": [" / "],
    r" < ": [" <= "], r" <= ": [" < "], r" > ": [" >= "], r" >= ": [" > "], r" == ": [" != "],
    r" && ": [" || "], r" \|\| ": [" && "], r" \+= ": [" -= ", " = "], r" >> ": [" << "],
    r"__syncthreads\(\);": [";"], r"(?<![\w.#])[0-9]+(?![\w.]|u\b)": [lambda m: str(int(m[0]) + 1)],
}  # fmt: skip


def mutants_of_cuda(file, source):
    """Yield all mutants of a CUDA source: textual ones, outside of comments."""
    lines = source.splitlines(keepends=True)
    for i, line in enumerate(lines):
        code, slashes, comment = line.partition("//")
        place = re.findall(
            r"^(?:extern|__device__).*?(\w+)\(", "".join(lines[: i + 1]), re.MULTILINE
        )
        if code.startswith(("#pragma", "extern", "template", "struct", "typedef")):
            continue
        for before, mistakes in CUDA.items():
            for found in re.finditer(before, code):
                for mistake in mistakes:
                    new = mistake(found) if callable(mistake) else mistake
                    after = code[: found.start()] + new + code[found.end() :]
                    text = "".join([*lines[:i], after, slashes, comment, *lines[i + 1 :]])
                    around = place[-1] if place else ""
                    yield Mutant(file, around, i + 1, code.strip(), after.strip(), text)


def mutants_in(tree):
    """Yield what there is to know of each mutant of a tree: Mutant without the file."""

    def walk(node, statement, place):
        for field, i, child in children(node):
            inner, around = statement, place
            if isinstance(child, ast.stmt):
                inner = child
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                around = f"{place}.{child.name}".lstrip(".")
            before = header(inner) if isinstance(inner, ast.stmt) else ""
            mistakes = [*replacements(child)]
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                names = variables(inner)
                others = [name for name in names if name != child.id and child.id in names]
                mistakes += [ast.Name(other, ast.Load()) for other in others]
            for new in mistakes:
                put(node, field, i, new)
                text = ast.unparse(ast.fix_missing_locations(tree))
                yield around, inner.lineno, before, header(new if inner is child else inner), text
            put(node, field, i, child)
            yield from walk(child, inner, around)

    yield from walk(tree, None, "")


def put(node, field, i, child):
    """Make `child` the field of a node, or entry i of the list that the field is."""
    if i is None:
        setattr(node, field, child)
    else:
        getattr(node, field)[i] = child


def unchanged(file):
    """The mutant without a mistake, which must survive."""
    return Mutant(file, "", 0, "", "", (ROOT / file).read_text(encoding="utf-8"))


def all_mutants():
    for file in TESTS:
        make = mutants_of_cuda if file.endswith(".cu") else mutants_of
        yield from make(file, (ROOT / file).read_text(encoding="utf-8"))


# ---- the list of those that compute the same function --------------------------------------------

LIST = (ROOT / "tests/equivalent_mutants.md").read_text(encoding="utf-8")
EQUIVALENT = {  # mutant -> the heading that it stands under, which is the reason
    line.strip(): section.partition("\n")[0]
    for section in LIST.split("\n## ")[1:]
    for line in section.splitlines()
    if line.startswith("    ")
}

# ---- killing them --------------------------------------------------------------------------------


def put_in_place(mutant):
    """Have Python import the mutant in place of the file, and launch.py read it."""
    read_text = Path.read_text

    def read_text_of_mutant(path, *arguments, **options):
        if path == ROOT / mutant.file:
            return mutant.source
        return read_text(path, *arguments, **options)

    Path.read_text = read_text_of_mutant  # type: ignore
    get_code = importlib.machinery.SourceFileLoader.get_code

    def get_code_of_mutant(loader, name):
        if os.path.samefile(loader.path, ROOT / mutant.file):
            return compile(mutant.source, loader.path, "exec")
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code_of_mutant  # type: ignore


def part_of(file):
    """Return which of PARTS a file belongs to: the one with the longest path that fits."""
    return max(
        (part for part in PARTS if file.startswith(PARTS[part])), key=lambda p: len(PARTS[p])
    )


FATES = ["survived", "wrong value", "crash", "other tests", "timed out"]  # exit statuses, in order


def meet_the_tests(mutant):
    """The number of its fate, which is 0 if all tests pass.  Changes this process for good."""
    import pytest

    put_in_place(mutant)
    import minigrad
    from minigrad.tensor import OPS, TWINS
    from minigrad.testing.cases import CASES
    from minigrad.testing.checks import by_pytorch

    def is_mutated(function):
        file = inspect.unwrap(function).__code__.co_filename
        return mutant.file == "minigrad/tensor.py" or os.path.samefile(file, ROOT / mutant.file)

    is_twin = part_of(mutant.file) == "twins"
    functions = {name: TWINS.get((name, "cpu")) if is_twin else op for name, op in OPS.items()}
    names = [name for name, function in functions.items() if function and is_mutated(function)]
    for name in names:
        for case in CASES[name]:
            try:
                with contextlib.nullcontext() if is_twin else minigrad.plain():
                    by_pytorch(name, case)
            except AssertionError:
                return FATES.index("wrong value")
    # First the tests with the op's name in theirs, which are few and likely to notice.
    rest = "not caught"
    if mutant.file.endswith(".cu"):
        rest += " and not nvrtc and not spilled"  # which only compile
        names = [Path(mutant.file).stem] * (mutant.file != "minigrad/fast/gpu/prelude.cu")
    named = " or ".join(names)
    stages = [f"{rest} and ({named})", f"{rest} and not ({named})"]
    for tests in stages if 0 < len(names) < len(OPS) else [rest]:
        signal.alarm(TIMEOUT)
        files = [str(ROOT / "tests" / name) for name in TESTS[mutant.file]]
        quick = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-k", tests]
        if pytest.main([*quick, *files]) not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            return FATES.index("other tests")
    return FATES.index("survived")


def fork(mutant, log):
    """Start a process that ends with the mutant's fate and writes to the file `log`; its number."""
    pid = os.fork()
    if pid:
        return pid
    status = FATES.index("crash")
    try:
        signal.alarm(TIMEOUT)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = meet_the_tests(mutant)
    finally:
        os._exit(status)  # no traceback, no clean-up: nobody is there to see it


def fates(mutants, n_processes, log=os.devnull):
    """Yield (mutant, fate) for each, in the order in which they end."""
    import numpy  # noqa: F401  so that no mutant has to wait for them
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # which loads a good deal of PyTorch
    waiting, running = list(reversed(mutants)), {}
    while waiting or running:
        while waiting and len(running) < n_processes:
            mutant = waiting.pop()
            running[fork(mutant, log)] = mutant
        pid, status = os.wait()
        if os.WIFSIGNALED(status):
            fate = "timed out" if os.WTERMSIG(status) == signal.SIGALRM else "crash"
        else:
            fate = FATES[os.waitstatus_to_exitcode(status)]
        yield running.pop(pid), fate


def report(fate_of):
    """Print a line per file; return the mutants that survived and are not listed."""
    columns = [*FATES[1:], "equivalent", "survived"]
    print(f"{'noticed by':>49}")
    print(f"{'file':29}{'mutants':>8}" + "".join(f"{column:>12}" for column in columns))
    unexplained = [
        m for m, fate in fate_of.items() if fate == "survived" and str(m) not in EQUIVALENT
    ]
    for file in [*TESTS, *PARTS, "all"]:
        here = {m: f for m, f in fate_of.items() if file in (m.file, part_of(m.file), "all")}
        count = Counter(here.values())
        survived = sum(m in here for m in unexplained)
        count["equivalent"], count["survived"] = count["survived"] - survived, survived
        numbers = "".join(f"{count[column]:12}" for column in columns)
        print(f"{file:29}{len(here):8}{numbers}")
    share = 1 - len(unexplained) / max(1, len(fate_of) - count["equivalent"])
    print(f"\nOf those that are not listed as equivalent {share:.1%} are noticed.")
    return unexplained


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose description has it")
    options = parser.parse_args()
    mutants = [mutant for mutant in all_mutants() if options.only in str(mutant)]
    if options.sample:
        mutants = [mutant for mutant in mutants if str(mutant) not in EQUIVALENT]
    if len(mutants) < (options.sample or 1):
        parser.error(f"there are {len(mutants)} such mutants")
    if options.sample:
        mutants = random.Random(options.seed).sample(mutants, options.sample)

    begin, n_processes = time.perf_counter(), os.cpu_count() or 1
    files = {tuple(TESTS[m.file]): m.file for m in mutants}  # one for each set of tests
    if options.sample:
        files = {}  # the suite itself shows that the tests pass without a mutant
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        for control, fate in fates([unchanged(file) for file in files.values()], 1, log):
            if fate != "survived":
                print(log.read_text(encoding="utf-8"))
                sys.exit(f"{control.file} as it is: {fate}. So no mutant would tell anything.")
    fate_of = {}
    for mutant, fate in fates(mutants, n_processes):
        fate_of[mutant] = fate
        if sys.stdout.isatty():
            print(f"\r{len(fate_of)} of {len(mutants)}", end="\r", flush=True)

    complaints = [f"survived: line {m.line} of {m}" for m in report(fate_of)]
    if not options.sample and not options.only:
        alive = {str(mutant) for mutant, fate in fate_of.items() if fate == "survived"}
        complaints += [f"listed, but noticed or gone: {text}" for text in EQUIVALENT.keys() - alive]
    minutes, seconds = divmod(round(time.perf_counter() - begin), 60)
    print(f"It took {minutes} min {seconds} s.", *complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
