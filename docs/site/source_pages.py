"""Sphinx pages of source files: each docstring beside its code, each name linked to its definition.

Jedi finds what a name means; it reads the code and does not run it.  The anchor of a definition is
its name ("GPT.forward"), that of a line is its number ("L12").
"""

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from html import escape
from inspect import cleandoc
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from typing import Any

import jedi
from docutils import nodes
from pygments.lexers import find_lexer_class_for_filename
from pygments.lexers.special import TextLexer
from pygments.token import STANDARD_TYPES, Comment, String
from sphinx.parsers import Parser

ROOT = Path(__file__).parents[2]
PACKAGES = ("minigrad/", "gpt_numpy/")
IN_PROSE = re.compile(r"(?:\w+/)*\w+\.(?:py|cu)\b|(?:\w+\.)+\w+\b|\w+\(\)")  # a file, a.b, f()
LABEL = re.compile(r"([A-Z]\w*(?: \w+)?)  +(?=\S)")  # "Derivation  Let dz be ..."
Place = tuple[str, str]  # the path of a file, and an anchor in it or ""


@cache
def text_of(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def definitions(file: str) -> dict[str, Any]:
    """The nodes of a module, "", and of what it, its classes and its functions define, by name.

    Of a function these are the functions in it, not its variables.
    """
    found: dict[str, Any] = {"": ast.parse(text_of(file) if file.endswith(".py") else "")}

    def collect(parent: ast.AST, prefix: str) -> None:
        for node in getattr(parent, "body", []):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault(prefix + node.name, node)  # of a property, its getter
                if not prefix:
                    collect(node, f"{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign) and not hasattr(parent, "args"):
                names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
                found.update({prefix + n.id: node for n in names if isinstance(n.ctx, ast.Store)})

    collect(found[""], "")
    return found


def first_line(node: Any) -> int:
    return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])


@cache
def index() -> dict[str, set[Place]]:
    """The places that a word may mean: "errors.py", "random.keep_mask", "keep_mask()"."""
    found: dict[str, set[Place]] = defaultdict(set)
    for path in (path for folder in PACKAGES for path in (ROOT / folder).rglob("*.[pc][yu]")):
        file = path.relative_to(ROOT).as_posix()
        parts, module = file.split("/"), file.split(".")[0].removesuffix("/__init__").split("/")
        for i in range(len(parts)):
            found["/".join(parts[i:])].add((file, ""))
            found[".".join(module[i:])].add((file, ""))
        for name in definitions(file):
            for word in (f"{module[-1]}.{name}", f"{name}()", name.split(".")[-1]):
                found[word].add((file, name))
    return found


def names_in_code(file: str) -> dict[int, Place]:
    """Where the names of a file lead, by their offsets in its text."""
    text, found = text_of(file), {}
    starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
    script = jedi.Script(text, path=ROOT / file, project=jedi.Project(ROOT, sys_path=[str(ROOT)]))
    for name in script.get_names(all_scopes=True, references=True):
        start = starts[name.line - 1] + name.column
        if name.name not in index():
            continue
        if text[start - 1] == "." and file.startswith(("tests/", "benchmarks/")):
            continue  # an attribute takes time to infer
        for target in name.goto(follow_imports=True)[:1]:
            path, full_name = target.module_path, target.full_name
            if not (path and full_name and path.is_relative_to(ROOT)):
                continue
            to = path.relative_to(ROOT).as_posix()
            anchor = full_name.removeprefix(target.module_name).lstrip(".")
            itself = (to, target.line, target.column) == (file, name.line, name.column)
            if anchor in definitions(to) and not itself:
                found[start] = to, anchor
    for name in re.finditer(r'(?<=OPS\[")\w+', text):  # operators.py calls the ops in this way
        ops = (place for place in index()[f"{name[0]}()"] if place[0].startswith("minigrad/ops/"))
        found.update({name.start(): place for place in ops})
    return found


def link(here: str, place: Place, shown: str) -> str:
    file, name = place
    page = "" if file == here and name else os.path.relpath(f"{file}.html", os.path.dirname(here))
    return f'<a href="{page}{"#" * bool(name)}{name}">{shown}</a>'


def linked(file: str, text: str) -> str:
    """Prose as HTML, with links where it is clear what a word means."""

    def replace(match: re.Match) -> str:
        places = index().get(match[0], set())
        near = {place for place in places if os.path.dirname(place[0]) == os.path.dirname(file)}
        clear = near if len(near) == 1 else places
        return link(file, min(clear), match[0]) if len(clear) == 1 else match[0]

    return IN_PROSE.sub(replace, escape(text, quote=False))


def lines_of(file: str, names: dict[int, Place]) -> list[str]:
    """The lines of a file as HTML, in the classes of Pygments, with anchors."""
    html = [""]
    lexer = find_lexer_class_for_filename(file) or TextLexer
    for start, kind, value in lexer().get_tokens_unprocessed(text_of(file)):
        is_prose = kind in Comment or kind in String.Doc
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        for i, piece in enumerate(value.split("\n")):
            shown = linked(file, piece) if is_prose else escape(piece, quote=False)
            shown = link(file, names[start], shown) if start in names and i == 0 else shown
            html += [""] * (i > 0)
            html[-1] += f'<span class="{STANDARD_TYPES[kind]}">{shown}</span>' if piece else ""
    anchors = [f'<i id="L{i}" class="line" data-n="{i}"></i>' for i in range(1, len(html) + 1)]
    for name, node in definitions(file).items():
        if "." in name or not hasattr(node, "body"):  # the others have a heading
            anchors[first_line(node) - 1] += f'<i id="{name}"></i>'
    return [f"{anchor}{line}\n" for anchor, line in zip(anchors, html, strict=True)]


def prose(file: str, text: str) -> str:
    """A docstring as HTML: paragraphs run on; what is indented or aligned keeps its lines."""
    html, indent = "", 0
    for block in re.split(rf"\n[ ]*\n|\n(?={LABEL.pattern.replace('(', '(?:', 1)})", text):
        if label := LABEL.match(block):
            indent = label.end()
            html += f"<b>{label[1]}</b>\n"
            block = " " * indent + block[indent:]
        elif not block.startswith(" " * indent):
            indent = 0
        lines = [line if line[:indent].strip() else line[indent:] for line in block.split("\n")]
        for indented, group in groupby(lines, lambda line: line.startswith(" ")):
            piece = dedent("\n".join(group))
            fixed = indented or "\n" in piece and re.search(r"\S   |^[-*] ", piece, re.M)
            shown = re.sub("`([^`<]+)`", r"<code>\1</code>", linked(file, piece))
            html += f"<p{' class=fixed' * bool(fixed)}>{shown}</p>\n"
    return f'<div class="prose">{html}</div>\n'


def rows(file: str) -> Iterator[tuple[str, int, int, str, int, int]]:
    """(heading, first line, opening of the docstring, the docstring, its end, last line)."""
    text, starts = text_of(file), {0: ""}
    docs: dict[int, tuple[int, str, int]] = {}
    for block in re.finditer(r"(?:^//.*\n)+", text if file.endswith(".cu") else "", re.M):
        a, b = (text.count("\n", 0, i) for i in block.span())
        starts[a], docs[a] = "", (a, re.sub("^// ?", "", block[0].rstrip(), flags=re.M), b)
    for name, node in definitions(file).items():
        owner = definitions(file)[name.partition(".")[0]]
        if not hasattr(node, "body") or "." in name and not isinstance(owner, ast.ClassDef):
            continue
        start = first_line(node) - 1 if name else 0
        starts[start] = name
        if name and node is owner:
            starts.setdefault(node.end_lineno, "")
        if ast.get_docstring(node):
            docs[start] = node.body[0].lineno - 1, node.body[0].value.value, node.body[0].end_lineno
    for a, b in zip(sorted(starts), [*sorted(starts)[1:], text.count("\n")], strict=True):
        yield starts[a], a, *docs.get(a, (b, "", b)), b


class SourceParser(Parser):
    """Makes a page of a source file: a row for each function and class."""

    supported = ("source",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        env = document.settings.env
        file = env.current_document.docname
        lines, html = text_of(file).split("\n"), lines_of(file, env.config.names.get(file, {}))
        document += (page := nodes.section("", nodes.title(file, file), ids=[file]))
        part = page
        for name, start, opening, doc, closing, end in rows(file):
            if name and "." not in name:
                page += (part := nodes.section("", nodes.title(name, name), ids=[name]))
            pieces = []
            for a, b in ((start, opening), (closing, end)):
                shown = [i for i in range(a, b) if lines[i].strip()] or [b]
                code = "".join(html[shown[0] : min(shown[-1] + 1, b)])
                pieces.append(f"<pre>{code}</pre>" if code else "")
            pieces[1:1] = [prose(file, cleandoc(doc))] if doc else []
            kind = "pair" if doc and (name or file.endswith(".cu")) else "alone"
            row = f'<div class="{kind} highlight">{"".join(pieces)}</div>\n'
            part += nodes.raw("", row if any(pieces) else "", format="html")
