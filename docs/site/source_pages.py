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
IN_PROSE = re.compile(  # errors.py, random.keep_mask, clip(), see softmax
    r"(?:\w+[./])+\w+|\w+\(\)|(?:(?<=[Ss]ee )|(?<=^as )|(?<=\bas in )|(?<=\bas for ))\w+"
)
LABEL = r"[A-Z]\w*(?: \w+)?  +(?=\S)"  # "Derivation  Let dz be ..."
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
    for name, parent in (parents := [*found.items()]):
        prefix = f"{name}." if name else ""
        for node in parent.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault(prefix + node.name, node)  # of a property, its getter
                parents += [] if name else [(node.name, node)]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and not hasattr(parent, "args"):
                names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
                found |= {prefix + n.id: node for n in names if isinstance(n.ctx, ast.Store)}
    return found


def first_line(node: Any) -> int:
    return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])


@cache
def index() -> dict[str, set[Place]]:
    """The places that a word may mean: "errors.py", "random.keep_mask", "keep_mask()"."""
    found: dict[str, set[Place]] = defaultdict(set)
    for path in [*ROOT.glob("minigrad/**/*.[pc][yu]"), *ROOT.glob("gpt_numpy/**/*.[pc][yu]")]:
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
    text, found, is_test = text_of(file), {}, file.startswith(("tests/", "benchmarks/"))
    starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
    # One for each process: another one might read a file there that is half written.
    jedi.settings.cache_directory = f"{ROOT}/build/jedi/{os.getpid()}"
    script = jedi.Script(text, path=ROOT / file, project=jedi.Project(ROOT, sys_path=[str(ROOT)]))
    for name in script.get_names(all_scopes=True, references=True):
        start = starts[name.line - 1] + name.column
        if name.name not in index() or is_test and text[start - 1] == ".":  # slow to infer
            continue
        for target in name.goto(follow_imports=True)[:1]:
            path = target.module_path
            if path and path.is_relative_to(ROOT) and target.full_name:
                to = path.relative_to(ROOT).as_posix()
                anchor = target.full_name.removeprefix(target.module_name).lstrip(".")
                if anchor in definitions(to) and (to, target.line) != (file, name.line):
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
        is_word = match[0].isidentifier()  # which often means something else far away
        places = index().get(match[0] + "()" * is_word, set())
        near = {place for place in places if os.path.dirname(place[0]) == os.path.dirname(file)}
        clear = near if is_word or len(near) == 1 else places
        return link(file, min(clear), match[0]) if len(clear) == 1 else match[0]

    return IN_PROSE.sub(replace, escape(text, quote=False))


def lines_of(file: str) -> list[str]:
    """The lines of a file as HTML, in the classes of Pygments, with anchors."""
    names = names_in_code(file) if file.endswith(".py") else {}
    html = ""
    lexer = find_lexer_class_for_filename(file) or TextLexer
    for start, kind, text in lexer().get_tokens_unprocessed(text_of(file)):
        shown = linked(file, text) if kind in Comment or kind in String.Doc else escape(text)
        shown = link(file, names[start], shown) if start in names else shown
        span = f'<span class="{STANDARD_TYPES.get(kind, "")}">'
        html += span + shown.replace("\n", f"</span>\n{span}") + "</span>"
    numbered = enumerate(html.split("\n"), 1)
    lines = [f'<i id="L{i}" class="line" data-n="{i}"></i>{line}\n' for i, line in numbered]
    for name, node in definitions(file).items():
        if "." in name or not hasattr(node, "body"):  # the others have a heading
            lines[first_line(node) - 1] = f'<i id="{name}"></i>{lines[first_line(node) - 1]}'
    return lines


def prose(file: str, text: str) -> str:
    """Make HTML of a docstring: paragraphs run on; other lines stay."""
    html = ""
    for block in re.split(rf"\n\n(?=\S)|\n(?={LABEL})", text):
        if label := re.match(LABEL, block):
            width = label.end() + 3 * (not html)  # with the quotes before the first word
            block = re.sub(f"^ {{0,{width}}}", "", block[label.end() :], flags=re.M)
            html += f"<b>{label[0].strip()}</b>\n"
        for piece in block.split("\n\n"):
            fixed = re.search(r"^ |^[-*] |\S   ", piece, re.M)
            piece = dedent(piece) if fixed else re.sub(r"(.{67,})\n", r"\1 ", piece)
            shown = re.sub("`([^`]+)`", r"<code>\1</code>", linked(file, piece))
            html += f"<p{' class=fixed' * bool(fixed)}>{shown}</p>\n"
    return f'<div class="prose">{html}</div>\n'


def rows(file: str) -> Iterator[tuple[str, int, int, str, int, int]]:
    """(heading, first line, opening of the docstring, the docstring, its end, last line)."""
    text = text_of(file)
    found: dict[int, tuple] = {0: ("", None)}
    for name, node in definitions(file).items():
        owner = definitions(file)[name.partition(".")[0]]
        if not hasattr(node, "body") or "." in name and not isinstance(owner, ast.ClassDef):
            continue
        doc = node.body[0] if ast.get_docstring(node) else None
        start = first_line(node) - 1 if name else 0
        found[start] = name, doc and (doc.lineno - 1, doc.value.value, doc.end_lineno)
        if name and node is owner:
            found.setdefault(node.end_lineno, ("", None))
    for block in re.finditer(r"(?:^//.*\n)+", text if file.endswith(".cu") else "", re.M):
        a, b = (text.count("\n", 0, i) for i in block.span())
        found[a] = "", (a, re.sub("^// ?", "", block[0].rstrip(), flags=re.M), b)
    for a, b in zip(sorted(found), [*sorted(found)[1:], text.count("\n")], strict=True):
        yield found[a][0], a, *(found[a][1] or (b, "", b)), b


class SourceParser(Parser):
    """Makes a page of a source file: a row for each function and class."""

    supported = ("source",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        file = document.settings.env.current_document.docname
        lines, html = text_of(file).split("\n"), lines_of(file)
        document += (page := nodes.section("", nodes.title(file, file), ids=[file]))
        part = page
        for name, start, opening, doc, closing, end in rows(file):
            if name and "." not in name:
                page += (part := nodes.section("", nodes.title(name, name), ids=[name]))
            pieces = [prose(file, cleandoc(doc))] if doc else []
            for place, a, b in ((0, start, opening), (2, closing, end)):
                shown = [i for i in range(a, b) if lines[i].strip()]
                code = "".join(html[shown[0] : shown[-1] + 1]) if shown else ""
                pieces.insert(place, f"<pre>{code}</pre>" if code else "")
            kind = "pair" if doc and (name or file.endswith(".cu")) else "alone"
            row = f'<div class="{kind} highlight">{"".join(pieces)}</div>\n'
            part += nodes.raw("", row if any(pieces) else "", format="html")
