"""Where the names in a source file lead.

A place is (file, anchor): the file's path from the repository's root, and a name that is defined in
it ("layer_norm", "GPT.forward"), or "" for the whole file.  Python's own rules tell what a name
means: those of the function hide those of the module.  Where they do not tell, there is no link.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("minigrad", "gpt_numpy", "examples", "benchmarks", "tests", "docs")
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".cu", ".md", ".ipynb") and ".ipynb_checkpoints" not in path.parts
]
FUNCTIONS = "minigrad/ops/__init__.py"  # also imported as F

Place = tuple[str, str]


@cache
def text_of(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse(text_of(file) if file.endswith(".py") else "")


@cache
def definitions(file: str) -> dict[str, int]:
    """What a file defines, functions inside a class or an op too, and its first line."""
    found = {}
    for node in tree_of(file).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                for part in [node, *node.body]:
                    if isinstance(part, ast.FunctionDef | ast.ClassDef):
                        key = name if part is node else f"{name}.{part.name}"
                        found[key] = min([part.lineno, *(d.lineno for d in part.decorator_list)])
            case ast.Assign() | ast.AnnAssign():
                names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
                found |= {n.id: node.lineno for n in names if isinstance(n.ctx, ast.Store)}
    return found


@cache
def imports(file: str) -> dict[str, tuple[str, str]]:
    """{name: (module, what of it)} of all import statements."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree_of(file)):
        match node:
            case ast.ImportFrom(module=str(module), level=0):
                found |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
            case ast.Import():
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = (alias.name if alias.asname else top, "")
    return found


def module(name: str) -> Place | None:
    path = name.replace(".", "/")
    return next(((f, "") for f in (f"{path}.py", f"{path}/__init__.py") if f in SOURCES), None)


def find(file: str, name: str) -> Place | None:
    """What `name` means in a module: its own definition, or what it imports."""
    if name in definitions(file):
        return file, name
    if name not in imports(file):
        return None
    source, part = imports(file)[name]
    place = module(source)
    if place == (file, ""):  # a package that imports its own modules
        return module(f"{source}.{part}")
    return member(place, part) if place and part else place


def member(place: Place | None, name: str) -> Place | None:
    """The attribute `name` of a module or a class."""
    match place:
        case (file, ""):
            package = file.removesuffix("/__init__.py").replace("/", ".")
            return find(file, name) or module(f"{package}.{name}")
        case (file, anchor) if f"{anchor}.{name}" in definitions(file):
            return file, f"{anchor}.{name}"
    return None


def bound(node: ast.AST) -> set[str]:
    """Names that a function, or whatever is inside it, makes its own."""
    names = set()
    for part in ast.walk(node):
        match part:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if part is not node:
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                names.add(name)
    return names


def names_in_code(file: str) -> Iterator[tuple[int, int, str, Place | None]]:
    """(line, column in bytes, name, place) of the names in the code."""

    def place(node, hidden, owner):
        match node:
            case ast.Name(id="self") if owner:
                return file, owner
            case ast.Name(id=name) if name not in hidden:
                return find(file, name)
            case ast.Attribute(value=value, attr=name):
                return member(place(value, hidden, owner), name)

    def is_variable(name):  # of this file: where it is set first may not be what it means
        line = definitions(file).get(name)
        if line is None or name.isupper():
            return False
        return not text_of(file).splitlines()[line - 1].startswith(("def ", "class ", "@"))

    def visit(node, hidden, owner):
        inner = hidden
        match node:
            case ast.JoinedStr():  # before Python 3.12 its parts do not know where they stand
                return
            case ast.ImportFrom(module=str(source), level=0):
                yield node.lineno, node.col_offset + len("from "), source, module(source)
                for alias in node.names:
                    target = find(file, alias.asname or alias.name)
                    yield alias.lineno, alias.col_offset, alias.name, target
            case ast.Import():
                for alias in node.names:
                    yield alias.lineno, alias.col_offset, alias.name, module(alias.name)
            case ast.Name(id=name, ctx=ast.Load()) if name != "self" and not is_variable(name):
                yield node.lineno, node.col_offset, name, place(node, hidden, owner)
            case ast.Attribute(attr=name, end_col_offset=int(end)):
                start = end - len(name.encode())
                yield node.end_lineno, start, name, place(node, hidden, owner)
            case ast.Subscript(value=ast.Name("OPS"), slice=ast.Constant(str(name)) as key):
                yield key.lineno, key.col_offset + 1, name, find(FUNCTIONS, name)
            case ast.ClassDef(name=owner):
                inner = hidden | bound(node)  # a class's names are not seen from its functions
            case ast.FunctionDef() | ast.Lambda() | ast.GeneratorExp():
                inner = hidden = hidden | bound(node)
            case ast.ListComp() | ast.SetComp() | ast.DictComp():
                inner = hidden = hidden | bound(node)
        for child in ast.iter_child_nodes(node):
            own = hidden if isinstance(child, ast.FunctionDef) else inner
            yield from visit(child, own, owner)

    yield from visit(tree_of(file), frozenset(), "")


IN_PROSE = re.compile(
    r"(?:\w+/)*\w+\.(?:py|cu|md)\b"  # errors.py, ops/__init__.py
    r"|(?:\w+\.)+\w+"  # minigrad.random, random.keep_mask
    r"|\w+\(\)"  # adamw()
    r"|(?:(?<=[Ss]ee )|(?<=as )|(?<=as in ))\w+"  # see softmax
)


def place_in_prose(file: str, word: str) -> Place | None:
    """Where a word of a comment or a docstring leads."""
    if word.endswith((".py", ".cu", ".md")):
        named = [source for source in SOURCES if f"/{source}".endswith(f"/{word}")]
        beside = f"{file.rpartition('/')[0]}/{word}"
        one = beside if beside in named else named[0] if len(named) == 1 else None
        return (one, "") if one else None
    if word.endswith("()"):
        name = word.removesuffix("()")
        is_method = any(key.endswith(f".{name}") for key in definitions(file))
        return None if is_method else find(file, name)
    first, *rest = word.split(".")
    if not rest:
        return find(FUNCTIONS, first) if file.startswith("minigrad/ops/") else None
    inside = module(f"{file.partition('/')[0]}.{first}")  # a neighbour: what it defines itself
    if inside and ".".join(rest) in definitions(inside[0]):
        return inside[0], ".".join(rest)
    for place in (find(file, first), module(first)):
        for name in rest:
            place = member(place, name)
        if place:
            return place
    return None
