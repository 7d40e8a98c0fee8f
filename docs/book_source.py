"""A source file as HTML: colours, links, line numbers, and the parts of an op told apart."""

import ast
import math
import re
from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby
from typing import Any

from book_names import (
    IN_PROSE,
    Place,
    definitions,
    names_in_code,
    place_in_prose,
    text_of,
    tree_of,
)
from pygments.lexers import find_lexer_class_for_filename
from pygments.lexers.special import TextLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

PROSE = (Comment.Single, Comment.Multiline, String.Doc)
COLOURS = {  # the first that fits; the letters are classes in book.css
    **{Comment: "c", String.Doc: "d", String: "s", Number: "m", Keyword: "k", Operator.Word: "k"},
    **{Name.Decorator: "a", Name.Function: "f", Name.Class: "f"},
}
SECTION = re.compile(r'(<span class="d">    )(Shapes|Source|Derivation|In words|Numerics)\b')


def tokens(file: str, text: str) -> Iterator[tuple]:
    """(start, kind, text) of every token, as Pygments sees them."""
    lexer = find_lexer_class_for_filename(file) or TextLexer
    return lexer().get_tokens_unprocessed(text)


def minutes(file: str) -> int:
    """How long a file takes to read: prose at 200 words a minute, code at 20 lines a minute.

    Prose is what stands in comments and docstrings.  People read 238 words of it a minute
    (Brysbaert 2019, "How many words do we read per minute?"), and fewer with formulas in between.
    A line of code is one that holds anything else.  Rounded up; with a pencil it takes longer.
    """
    if file.endswith(".ipynb"):
        file = file.replace(".ipynb", ".py")  # its text without outputs
    words, code, line = 0, set(), 1
    for _, kind, text in tokens(file, text_of(file)):
        end = line + text.count("\n")
        if kind in PROSE:
            words += len(text.split())
        elif text.strip():
            code |= {*range(line, end + 1)}
        line = end
    return math.ceil(words / 200 + len(code) / 20)


def coloured(file: str, text: str, hrefs: list[str] | None = None) -> str:
    """A text as HTML, no element of which goes on over the end of a line; `hrefs` by character."""
    hrefs = hrefs or [""] * len(text)
    html = []
    for start, kind, value in tokens(file, text):
        colour = next((letter for one, letter in COLOURS.items() if kind in one), "")
        places = range(start, start + len(value))
        for (end_of_line, href), same in groupby(places, lambda i: (text[i] == "\n", hrefs[i])):
            piece = escape("".join(text[i] for i in same), quote=False)
            if href:
                piece = f'<a href="{href}">{piece}</a>'
            if colour and not end_of_line:
                piece = f'<span class="{colour}">{piece}</span>'
            html.append(piece)
    return "".join(html)


def kinds_of_lines(file: str) -> list[str]:
    """For every line: "opening", "sheet" (an op's docstring), "forward", "backward" or "code"."""
    lines, tree = text_of(file).splitlines(), tree_of(file)
    kinds = ["code"] * len(lines)

    def fill(node: Any, kind: str) -> None:
        kinds[node.lineno - 1 : node.end_lineno] = [kind] * (node.end_lineno - node.lineno + 1)

    if ast.get_docstring(tree):
        fill(tree.body[0], "opening")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and "op" in map(ast.unparse, node.decorator_list):
            start = node.body[0].lineno - 1
            fill(node, "forward")
            kinds[node.lineno - 1 : start] = ["code"] * (start - node.lineno + 1)
            fill(node.body[0], "sheet")
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "backward":
                    fill(part, "backward")
            for i in range(start + 1, node.end_lineno or 0):
                if not lines[i] and kinds[i] == "forward":  # it belongs to what stands above it
                    kinds[i] = kinds[i - 1]
    return kinds


def parts(file: str, link: Callable[..., str]) -> list[tuple[str, str]]:
    """(kind, HTML) of the parts of a file, which together are its text; link(*place) is an href."""
    text = text_of(file)
    lines = text.splitlines(keepends=True)
    hrefs = [""] * len(text)

    def mark(start: int, word: str, place: Place | None) -> None:
        if place and text.startswith(word, start):
            hrefs[start : start + len(word)] = [link(*place)] * len(word)

    for start, kind, value in tokens(file, text):
        if kind in PROSE:
            for word in IN_PROSE.finditer(value):
                mark(start + word.start(), word[0], place_in_prose(file, word[0]))
    for number, column, name, place in names_in_code(file):
        before = lines[number - 1].encode()[:column].decode()
        mark(sum(map(len, lines[: number - 1])) + len(before), name, place)

    html = coloured(file, text, hrefs).splitlines(keepends=True)
    for i, line in enumerate(html):
        html[i] = f'<a class="n" id="L{i + 1}" href="#L{i + 1}" tabindex="-1"></a>{line}'
    for name, number in definitions(file).items():
        html[number - 1] = f'<span id="{name}"></span>{html[number - 1]}'

    found = []
    for kind, group in groupby(zip(kinds_of_lines(file), lines, html, strict=True), lambda x: x[0]):
        part = [(line, marked) for _, line, marked in group]
        shown = paragraphs(part) if kind == "opening" else "".join(marked for _, marked in part)
        if kind in ("opening", "sheet"):
            shown = shown.replace('"""', '<span class="q">"""</span>')
        found.append((kind, SECTION.sub(r"\1<b>\2</b>", shown) if kind == "sheet" else shown))
    return found


def paragraphs(lines: list[tuple[str, str]]) -> str:
    """A module's docstring: paragraphs run on, what is indented stays as it was laid out."""

    def tag_of(pair):
        line, _ = pair
        return "pre" if line.startswith("    ") else "p" if line.strip() else ""

    html = ""
    for tag, group in groupby(lines, tag_of):
        inside = "".join(marked for _, marked in group)
        if tag == "p":
            inside = re.sub("`([^`<]*)`", "`<code>\\1</code>`", inside)
            inside = inside.replace("`", '<span class="q">`</span>')
        html += f"<{tag}>{inside}</{tag}>" if tag else inside
    return html
