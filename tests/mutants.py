"""Would the suite notice a mistake?  Make every small one there is, and see which goes unnoticed.

    python tests/mutants.py [--sample N] [--seed S] [--only PART_OF_A_NAME]

A mutant is the source with one small mistake: a sign, a factor, a dropped term, an off-by-one, `=`
for `+=`, operands that changed places, a call left out (an unbroadcast, an exp, a transpose), a
condition turned round.  Every mutant of the ops, the tape, AdamW, clipping and the schedule meets
the tests that matter to it: first the judges of minigrad/proof, which take a tenth of a second, and
if they see nothing the whole files of tests.  What survives is printed: either a test is missing,
or the mutant computes the same function, and then it is listed, with the reason, in
tests/equivalent_mutants.py.

Each mutant gets a process of its own, forked when NumPy and PyTorch are loaded, and a minute.
(Linux and macOS: it needs os.fork.)
"""

import argparse
import ast
import copy
import importlib.machinery
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before NumPy loads: a mutant gets one core

ROOT = Path(__file__).parents[1]
OPS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("minigrad/ops/[a-z]*.py"))]
TESTS = {  # file -> the tests that matter to it
    **dict.fromkeys(OPS, ["test_ops.py", "test_tensor.py", "test_nn.py"]),
    "minigrad/tensor.py": ["test_tensor.py", "test_ops.py", "test_nn.py"],
    "minigrad/optim.py": ["test_optim.py"],
    "minigrad/schedule.py": ["test_schedule.py"],
}
TIMEOUT = 60  # seconds


class Mutant(NamedTuple):
    file: str
    line: int
    before: str  # the statement, without what is nested in it
    after: str
    source: str  # of the whole file

    def __str__(self):
        return f"{self.file}: {self.before}  →  {self.after}"


# ---- making mutants ------------------------------------------------------------------------------

OTHER = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult], ast.FloorDiv: [ast.Mult], ast.Mod: [ast.Mult], ast.LShift: [ast.RShift],
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.And: [ast.Or],
    ast.Or: [ast.And],
}  # fmt: skip


def replacements(node):
    """The mistakes that one can make at a node: nodes that might stand in its place."""
    match node:
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, other(), right) for other in OTHER.get(type(op), []))
            yield from (left, right)
            if not isinstance(op, ast.Add | ast.Mult | ast.BitOr):
                yield ast.BinOp(right, op, left)
        case ast.AugAssign(target, op, value):
            yield from (ast.AugAssign(target, other(), value) for other in OTHER[type(op)])
            yield from (ast.Assign([target], value), ast.Pass())
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.Compare(left, [op, *rest], right):
            yield from (ast.Compare(left, [other(), *rest], right) for other in OTHER[type(op)])
        case ast.BoolOp(op, values):
            yield from (ast.BoolOp(other(), values) for other in OTHER[type(op)])
            yield from values
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value)
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.If(test, body, orelse) if not isinstance(body[0], ast.Raise):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Call(function, arguments, keywords):
            for i in range(len(keywords)):
                yield ast.Call(function, arguments, keywords[:i] + keywords[i + 1 :])
            if isinstance(function, ast.Attribute) and ast.unparse(function.value) != "xp":
                yield function.value
            elif arguments and not isinstance(arguments[0], ast.Starred):
                yield arguments[0]
        case ast.Attribute(value, "T"):
            yield value
        case ast.Subscript(value, ast.Tuple() | ast.Constant() | ast.Slice()):
            yield value
        case ast.Return(ast.Tuple(elements)):
            for i in range(len(elements) - 1):
                swapped = [*elements[:i], elements[i + 1], elements[i], *elements[i + 2 :]]
                yield ast.Return(ast.Tuple(swapped, ast.Load()))
        case ast.Expr(ast.Call()):
            yield ast.Pass()


SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
DEVICE = ("array_module", "to_host", "to_device")  # with NumPy alone there is nothing to choose


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


def header(statement):
    """A statement in one line, without the block that is nested in it."""
    alone = copy.copy(statement)
    for field in ("body", "orelse", "finalbody", "handlers"):
        if isinstance(getattr(alone, field, None), list):
            setattr(alone, field, [])
    if isinstance(alone, ast.FunctionDef | ast.ClassDef):
        alone.decorator_list = []
    return " ".join(ast.unparse(alone).split())


def mutants_of(file, source):
    """All mutants of a Python source, in its order, each text once."""
    tree, seen = ast.parse(source), {ast.unparse(ast.parse(source))}

    def walk(node, statement):
        for field, i, child in children(node):
            inner = child if isinstance(child, ast.stmt) else statement
            held = getattr(node, field)
            before = header(inner) if isinstance(inner, ast.stmt) else ""
            for new in replacements(child):
                if i is None:
                    setattr(node, field, new)
                else:
                    held[i] = new
                text = ast.unparse(ast.fix_missing_locations(tree))
                if text not in seen:
                    seen.add(text)
                    after = header(new if inner is child else inner)
                    yield Mutant(file, inner.lineno, before, after, text)
            if i is None:
                setattr(node, field, child)
            else:
                held[i] = child
            yield from walk(child, inner)

    yield from walk(tree, None)


def unchanged(file):
    """The mutant without a mistake, which must survive."""
    return Mutant(file, 0, "", "", (ROOT / file).read_text(encoding="utf-8"))


def all_mutants():
    for file in TESTS:
        yield from mutants_of(file, (ROOT / file).read_text(encoding="utf-8"))


# ---- killing them --------------------------------------------------------------------------------


def put_in_place(mutant):
    """Have Python import the mutant in place of the file."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def get_code_of_mutant(loader, name):
        if os.path.samefile(loader.path, ROOT / mutant.file):
            return compile(mutant.source, loader.path, "exec")
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code_of_mutant  # type: ignore


def notice(mutant):
    """Whether the tests that matter see a difference.  Changes this process for good."""
    import pytest

    put_in_place(mutant)
    from minigrad.proof.cases import CASES
    from minigrad.proof.judges import by_pytorch
    from minigrad.tensor import OPS

    for name, op in OPS.items():
        file = op.__wrapped__.__code__.co_filename
        if mutant.file == "minigrad/tensor.py" or os.path.samefile(file, ROOT / mutant.file):
            for case in CASES[name]:
                by_pytorch(name, case)  # raises if it sees one
    files = [str(ROOT / "tests" / name) for name in TESTS[mutant.file]]
    return pytest.main(["-x", "-p", "no:cacheprovider", *files]) != 0


def fork(mutant):
    """Start a process, status 1 if it notices the mutant, else 0; return its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(TIMEOUT)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = int(notice(mutant))
    finally:
        os._exit(status)  # no traceback, no clean-up: nobody is there to see it


def survivors(mutants, n_processes):
    """Yield (mutant, whether it survived) for each, in the order in which they end."""
    import numpy  # noqa: F401  so that no mutant has to wait for them
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # which loads a good deal of PyTorch
    waiting, running = list(reversed(mutants)), {}
    while waiting or running:
        while waiting and len(running) < n_processes:
            mutant = waiting.pop()
            running[fork(mutant)] = mutant
        pid, status = os.wait()
        yield running.pop(pid), status == 0


def chosen(options, listed):
    """The mutants that the flags ask for, and whether these are all."""
    mutants = [mutant for mutant in all_mutants() if options.only in str(mutant)]
    if options.sample:
        unlisted = [mutant for mutant in mutants if str(mutant) not in listed]
        mutants = random.Random(options.seed).sample(unlisted, options.sample)
    return mutants, not (options.sample or options.only)


def report(mutants, alive, listed):
    """Print a line per file; return the mutants that survived and are not listed."""
    print(f"{'file':30}{'mutants':>10}{'killed':>10}{'equivalent':>12}{'survived':>10}")
    for file in [*TESTS, ""]:
        here = [mutant for mutant in mutants if mutant.file.startswith(file)]
        survived = [mutant for mutant in here if mutant in alive and str(mutant) not in listed]
        equivalent = sum(mutant in alive for mutant in here) - len(survived)
        killed = len(here) - equivalent - len(survived)
        print(f"{file or 'all':30}{len(here):10}{killed:10}{equivalent:12}{len(survived):10}")
    share = killed / (killed + len(survived))
    print(f"\n{share:.1%} of those that are not listed as equivalent are noticed.")
    return survived


def main():
    from equivalent_mutants import EQUIVALENT

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose description has it")
    mutants, complete = chosen(parser.parse_args(), EQUIVALENT)

    begin, n_processes = time.perf_counter(), os.cpu_count() or 1
    files = {tuple(tests): file for file, tests in TESTS.items()}  # one for each set of tests
    for mutant, survived in survivors([unchanged(file) for file in files.values()], n_processes):
        if not survived:
            sys.exit(f"{mutant.file} fails its tests as it is: a kill would mean nothing")
    alive = set()
    for i, (mutant, survived) in enumerate(survivors(mutants, n_processes)):
        if survived:
            alive.add(mutant)
        if sys.stdout.isatty():
            print(f"\r{i + 1} of {len(mutants)}", end="\r", flush=True)

    complaints = [
        f"survived: line {mutant.line} of {mutant}" for mutant in report(mutants, alive, EQUIVALENT)
    ]
    if complete:
        gone = EQUIVALENT.keys() - {str(mutant) for mutant in alive}
        complaints += [f"listed as equivalent, but noticed or gone: {text}" for text in gone]
    minutes, seconds = divmod(round(time.perf_counter() - begin), 60)
    print(f"It took {minutes} min {seconds} s.", *complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
