"""Would the suite notice a mistake?  Make a great many small ones, and see which go unnoticed.

    python tests/mutants.py [--sample N] [--seed S] [--only PART_OF_A_NAME]

A mutant is the source with one small mistake: a sign, a factor, a dropped term, an off-by-one, `=`
for `+=`, operands or arguments that changed places, one name for another, a call left out (an
unbroadcast, an exp, a transpose), a negated condition.  In CUDA it is another operator or number,
or a missing barrier, and the kernel runs on a CPU.  All mutants of these kinds, of the pages, the
twins and the guards, run against the tests that matter to them: those in the files of TESTS that
call what was changed, without the tests called "caught", which plant errors of their own.
What survives is printed: either a test is missing, or the mutant computes the same function.  Then
it is listed, with the reason, in tests/equivalent_mutants.md.  Pages, twins and guards are counted
separately.

Each mutant gets a process of its own, forked when the tests are collected.
(Linux and macOS: it needs os.fork.)
"""

import argparse
import ast
import builtins
import copy
import gc
import importlib.machinery
import inspect
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before NumPy loads: a mutant gets one core
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # one process, from which mutants are forked

import pytest  # noqa: E402  after the environment is set
import torch  # noqa: E402

ROOT = Path(__file__).parents[1]


def sources(pattern):
    """Return the paths that a pattern finds, as they are written in TESTS."""
    found = sorted(ROOT.glob(pattern))
    return [path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py"]


OF_OPS = ["ops", "numerics", "errors", "tensor", "nn", "guards", "gpu"]
OF_CPU_TWINS = ["ops", "numerics", "twins", "gpu", "errors"]
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
        **dict.fromkeys(sources("minigrad/fast/cpu/*.py"), OF_CPU_TWINS),
        **dict.fromkeys(sources("minigrad/fast/gpu/*.py"), ["gpu", "kernels", "random"]),
        **dict.fromkeys(sources("minigrad/fast/gpu/*.cu"), ["kernels", "gpu"]),
        "minigrad/fast/gpu/attention.py": ["gpu", "flash"],
        "minigrad/fast/gpu/flash_attention.py": ["flash", "gpu"],
        "minigrad/fast/gpu/flash_attention.cu": ["flash", "gpu", "kernels"],
        "minigrad/fast/gpu/cublas.py": ["cublas"],
        "minigrad/fast/gpu/linear.py": ["cublas", "gpu"],
        "minigrad/fast/gpu/matmul.py": ["cublas", "gpu"],
        "minigrad/fast/__init__.py": ["twins", "cublas", "ops"],
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
            if not isinstance(op, ast.Add | ast.Mult | ast.BitOr | ast.BitAnd):
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
SYMMETRIC = ("swapaxes", "multiply", "maximum", "minimum", "max", "min", "equal", "vecdot")
SYMMETRIC += ("same_float_dtype",)
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


CUDA_FUNCTION = re.compile(
    r'(?:extern "C" __global__ void|__device__ inline [\w ]+?)'
    r"(?: __launch_bounds__\(.*?\))? (\w+)\("
)


def mutants_of_cuda(file, source):
    """Yield all mutants of a CUDA source: textual ones, outside of comments."""
    lines, place = source.splitlines(keepends=True), ""
    for i, line in enumerate(lines):
        code, slashes, comment = line.partition("//")
        if begins := CUDA_FUNCTION.match(code):
            place = begins[1]
        if code.startswith(("#pragma", "#if", "extern", "template", "struct", "typedef")):
            continue
        for before, mistakes in CUDA.items():
            for found in re.finditer(before, code):
                for mistake in mistakes:
                    new = mistake(found) if callable(mistake) else mistake
                    after = code[: found.start()] + new + code[found.end() :]
                    text = "".join([*lines[:i], after, slashes, comment, *lines[i + 1 :]])
                    yield Mutant(file, place, i + 1, code.strip(), after.strip(), text)


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


def part_of(file):
    """Return which of PARTS a file belongs to: the one with the longest path that fits."""
    return max(
        (part for part in PARTS if file.startswith(PARTS[part])), key=lambda p: len(PARTS[p])
    )


class AnotherModule(Exception):
    """A mutant differs in more than functions: a constant, a default value, a class attribute."""


def nested(code):
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def own(code):
    """Return code without what is nested in it, and without its places in lines."""
    others = tuple(c for c in code.co_consts if not isinstance(c, CodeType))
    return code.replace(co_consts=others, co_linetable=b"")


def changed_functions(old, new):
    """Yield the code objects of functions in `new` that differ from those in `old`, and of all that
    is nested in them; AnotherModule if something else differs.
    """
    names = [[code.co_qualname for code in nested(outer)] for outer in (old, new)]
    if own(old) != own(new) or names[0] != names[1]:
        raise AnotherModule
    for before, after in zip(nested(old), nested(new), strict=True):
        if not before.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
            yield from changed_functions(before, after)
        elif before != after:
            yield from with_nested(after)


def with_nested(code):
    yield code
    for inner in nested(code):
        yield from with_nested(inner)


def functions_in(file):
    """Return qualified name -> the functions of a source that are alive, closures included."""
    found = defaultdict(list)
    for x in gc.get_objects():
        if type(x) is FunctionType and x.__code__.co_filename == str(ROOT / file):
            found[x.__code__.co_qualname].append(x)
    return found


def put_in_place(mutant, functions):
    """Give functions their code in the mutant; return which ones.  AnotherModule if it cannot."""
    path = str(ROOT / mutant.file)
    source = ast.unparse(ast.parse(Path(path).read_text(encoding="utf-8")))
    codes = [compile(text, path, "exec") for text in (source, mutant.source)]
    names = set()
    for code in changed_functions(*codes):
        names.add(code.co_qualname.partition(".<locals>")[0])
        for function in functions[code.co_qualname]:
            try:
                function.__code__ = code
            except ValueError as error:  # it uses other variables of the function around it
                raise AnotherModule from error
    return names


def have_compiled(mutant):
    """Have launch.py compile the mutant of a CUDA source; return the function that does it."""
    from minigrad.fast.gpu import launch

    read_text = Path.read_text

    def read_text_of_mutant(path, *arguments, **options):
        if path == ROOT / mutant.file:
            return mutant.source
        return read_text(path, *arguments, **options)

    Path.read_text = read_text_of_mutant  # type: ignore
    for cached in (launch.sources, launch.module, launch.kernel):
        cached.cache_clear()
    return "minigrad/fast/gpu/launch.py", "launch"


def import_instead(mutant):
    """Forget the modules of this project; have Python import the mutant in place of its file."""
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", "")).startswith(f"{ROOT}{os.sep}") and module is not ME:
            del sys.modules[name]
    get_code = importlib.machinery.SourceFileLoader.get_code

    def get_code_of_mutant(loader, name):
        if os.path.samefile(loader.path, ROOT / mutant.file):
            return compile(mutant.source, loader.path, "exec")
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code_of_mutant  # type: ignore


ME = sys.modules[__name__]
LEFT_OUT = "not caught and not nvrtc and not spilled"  # the last two only compile CUDA
QUIET = ["-x", "-q", "--assert=plain", "--tb=line", "-p", "no:cacheprovider", "-k", LEFT_OUT]
NEED_SLOW = ("minigrad/fast/gpu/", "minigrad/fast/adamw.py", "minigrad/fast/flat.py")
FATES = ["survived", "tests", "crash", "timed out"]  # the first three are exit statuses


def arguments(files):
    """Return the arguments for pytest: the tests for some files, the slow ones where they matter.

    They are those that run kernels on a CPU.  All else is noticed by the quick tests alone.
    """
    tests = sorted({str(ROOT / "tests" / name) for file in files for name in TESTS[file]})
    left_out = "whole or kill or gpu"
    if not any(file.startswith(NEED_SLOW) for file in files):
        left_out = f"slow or {left_out}"
    return [*QUIET, "-m", f"not ({left_out})", *tests]


class Trial:
    """A plugin for pytest: where the tests would run, it runs them against each mutant instead.

    The tests are collected once.  Each mutant gets a process of its own, forked from this one, in
    which its functions have the mutant's code.  (If more than functions differ, pytest starts again
    there.)  Of the tests in TESTS only those run that call a changed function, the quick ones
    first; `calls`, which test calls what, comes from a run without a mutant.
    """

    def __init__(self, mutants, with_control):
        self.mutants, self.with_control, self.fate_of = mutants, with_control, {}

    def pytest_runtestloop(self, session):
        self.items = session.items
        self.functions = {file: functions_in(file) for file in {m.file for m in self.mutants}}
        self.calls = self.control(session) if self.with_control else {}
        gc.freeze()  # what processes share stays shared
        if not session.testsfailed:
            for mutant, fate in self.fates(session):
                self.fate_of[mutant] = fate
                if sys.stdout.isatty():
                    print(f"\r{len(self.fate_of)} of {len(self.mutants)}", end="\r", flush=True)
        return True

    def control(self, session):
        """Run all tests without a mutant; return {test: (seconds, {(file, function), ...})}."""
        calls = {}
        seen = set()

        def note(frame, event, _):
            if event == "call":
                seen.add(frame.f_code)

        for item, following in zip(self.items, [*self.items[1:], None], strict=True):
            seen.clear()
            begin = time.perf_counter()
            threading.setprofile(note)
            sys.setprofile(note)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            sys.setprofile(None)
            threading.setprofile(None)
            names = {
                (os.path.relpath(c.co_filename, ROOT), c.co_qualname.partition(".<locals>")[0])
                for c in seen
                if c.co_filename.startswith(str(ROOT))
            }
            calls[item.nodeid] = time.perf_counter() - begin, names
            if session.testsfailed:
                break
        return calls

    def fates(self, session):
        """Yield (mutant, fate) for each, in the order in which they end."""
        waiting, running = list(reversed(self.mutants)), {}
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                mutant = waiting.pop()
                if not (pid := os.fork()):
                    self.meet_the_tests(mutant, session)
                running[pid] = mutant
            pid, status = os.wait()
            if os.WIFSIGNALED(status):
                fate = "timed out" if os.WTERMSIG(status) == signal.SIGALRM else "crash"
            else:
                fate = FATES[os.waitstatus_to_exitcode(status)]
            yield running.pop(pid), fate

    def meet_the_tests(self, mutant, session):
        """End this process with the number of the mutant's fate, which is 0 if all tests pass."""
        status = FATES.index("crash")
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            session.config.pluginmanager.unregister(name="terminalreporter")
            signal.alarm(TIMEOUT)
            status = self.judged(mutant, session)
        finally:
            os._exit(status)  # no traceback, no clean-up: nobody is there to see it

    def judged(self, mutant, session):
        if mutant.file.endswith(".cu"):
            called = {have_compiled(mutant)}
        else:
            try:
                names = put_in_place(mutant, self.functions[mutant.file])
            except AnotherModule:
                import_instead(mutant)
                passed = pytest.main(arguments([mutant.file])) == 0
                return FATES.index("survived" if passed else "tests")
            called = {(mutant.file, name) for name in names}
        items = [
            item
            for item in self.items
            if item.path.name in TESTS[mutant.file]
            and (mutant.file.startswith(NEED_SLOW) or not item.get_closest_marker("slow"))
            and (not self.calls or self.calls[item.nodeid][1] & called)
        ]
        if self.calls:
            items.sort(key=lambda item: self.calls[item.nodeid][0])
        items.sort(key=lambda item: Path(mutant.file).stem not in item.nodeid)  # likely to notice
        for item, following in zip(items, [*items[1:], None], strict=True):
            signal.alarm(TIMEOUT)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                return FATES.index("tests")
        return FATES.index("survived")


def report(fate_of):
    """Print a line per file; return the mutants that survived and are not listed."""
    columns = [*FATES[1:], "equivalent", "survived"]
    print(f"{'noticed by':>49}")
    print(f"{'file':29} {'mutants':>7}" + "".join(f"{column:>12}" for column in columns))
    unexplained = [
        m for m, fate in fate_of.items() if fate == "survived" and str(m) not in EQUIVALENT
    ]
    for file in [*TESTS, *PARTS, "all"]:
        here = {m: f for m, f in fate_of.items() if file in (m.file, part_of(m.file), "all")}
        count = Counter(here.values())
        survived = sum(m in here for m in unexplained)
        count["equivalent"], count["survived"] = count["survived"] - survived, survived
        numbers = "".join(f"{count[column]:12}" for column in columns)
        if here:
            print(f"{file:31}{len(here):6}{numbers}")
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

    begin = time.perf_counter()
    torch.set_num_threads(1)  # more of them would not survive a fork
    torch.optim.AdamW([torch.zeros(1)])  # which loads a good deal of PyTorch
    # A sample needs no control: the suite itself shows that the tests pass without a mutant.
    trial = Trial(mutants, with_control=not options.sample)
    files = {mutant.file for mutant in mutants}
    if pytest.main(arguments(files), plugins=[trial]) or not trial.fate_of:
        sys.exit("The tests fail without a mutant, so no mutant would tell anything.")
    fate_of = trial.fate_of

    complaints = [f"survived: line {m.line} of {m}" for m in report(fate_of)]
    if not options.sample and not options.only:
        alive = {str(mutant) for mutant, fate in fate_of.items() if fate == "survived"}
        complaints += [f"listed, but noticed or gone: {text}" for text in EQUIVALENT.keys() - alive]
    minutes, seconds = divmod(round(time.perf_counter() - begin), 60)
    print(f"It took {minutes} min {seconds} s.", *complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
