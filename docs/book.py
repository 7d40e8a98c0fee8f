"""The book: the source itself as a web site, in the order of docs/reading-order.md.

    python docs/book.py              writes build/book/index.html; it needs no network
    python docs/book.py --minutes    computes the column "minutes" of that page again

A page shows one file whole and in order, character for character; colours, labels and links are all
that is added.  A notebook of the lesson is shown with the outputs that are saved in it.  A file of
the repository that a link leads to gets a page too.
"""

import ast
import base64
import json
import os
import re
import shutil
import sys
from functools import partial
from html import escape
from typing import NamedTuple

import jinja2
from book_names import ROOT, SOURCES, text_of, tree_of
from book_source import coloured, minutes, parts
from latex2mathml.converter import convert
from markdown_it import MarkdownIt

DOCS = ROOT / "docs"
OUT = ROOT / "build/book"
ORDER = "docs/reading-order.md"
PICTURES = (".png", ".svg")
EXTRA = (
    *(f"minigrad/{folder}/" for folder in ("fast", "internals", "tools", "testing", "exercises")),
    *(f"gpt_numpy/{folder}/" for folder in ("scale", "app", "hf", "lesson")),
    *("gpt_numpy/files.py", "gpt_numpy/folder.py"),
)
IMAGES = {"image/png": "png", "image/svg+xml": "svg"}  # kinds of outputs -> the ends of their files


class Row(NamedTuple):
    """A line of docs/reading-order.md."""

    line: str  # as it stands there
    files: list[str]
    idea: str  # Markdown


def reading_order() -> list[Row]:
    """The rows of ORDER.  A folder stands for the files in it that have no other row."""
    cells = [line.split("|") for line in re.findall(r"^\| `.*\|$", text_of(ORDER), re.M)]
    names = [re.findall("`(.+?)`", cell[1]) for cell in cells]
    named = sum(names, [])
    rows = []
    for cell, in_row in zip(cells, names, strict=True):
        files = []
        for name in in_row:
            inside = [f for f in SOURCES if f.rpartition("/")[0] + "/" == name and f not in named]
            files += inside or [name]
        rows.append(Row("|".join(cell), files, cell[2].strip()))
    return rows


def with_minutes(page: str) -> str:
    """The text of ORDER with the last column of its tables computed."""
    for line, files, idea in reading_order():
        cells = line.split("|")[1], f" {idea} ", f" {sum(map(minutes, files))} "
        page = page.replace(line, f"|{'|'.join(cells)}|")
    return page


class Book:
    """The pages that were asked for, by `link`."""

    def __init__(self) -> None:
        rows = reading_order()
        first = [row for row in rows if row.files[0].endswith(".ipynb")]
        extra = [row for row in rows if row.files[0].startswith(EXTRA)]
        source = [row for row in rows if row not in first + extra]
        self.sections = {
            "The lesson, as notebooks": first,
            "The source": source,
            "Not needed to understand it": extra,
        }
        self.chapters = [file for row in first + source + extra for file in row.files]
        self.documents = [path.name for path in sorted(ROOT.glob("*.md"))]
        self.documents += [
            file for file in SOURCES if re.fullmatch(r"docs/(guide/)?[^/]+\.md", file)
        ]
        self.asked = dict.fromkeys(self.chapters + self.documents)  # a set that keeps its order
        self.markdown = MarkdownIt("commonmark", {"highlight": highlight}).enable("table")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(DOCS), trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["minutes"] = minutes
        self.template = environment.get_template("book.html")

    def link(self, here: str, file: str, anchor: str = "") -> str:
        """The address of a file's page, seen from the page of the file `here`."""
        self.asked.setdefault(file)
        if file == here and anchor:
            return f"#{anchor}"
        page = file if file.endswith(PICTURES) else f"{file}.html"
        address = os.path.relpath(page, os.path.dirname(here) or ".")
        return f"{address}#{anchor}" if anchor else address

    def write(self) -> None:
        """Every page, until none is asked for that is not there."""
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        shutil.copy(DOCS / "book.css", OUT)
        self.page("index", contents=True)
        written: set[str] = set()
        while waiting := [file for file in self.asked if file not in written]:
            for file in waiting:
                if file.endswith(PICTURES):
                    (OUT / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, OUT / file)
                elif file.endswith(".md") or (ROOT / file).is_dir():
                    text = list_of(file) if (ROOT / file).is_dir() else text_of(file)
                    self.page(file, document=self.document(file, text))
                elif file.endswith(".ipynb"):
                    self.page(file, document=self.notebook(file))
                else:
                    shown = parts(file, partial(self.link, file))
                    self.page(file, parts=shown, names=outline(file))
            written |= {*waiting}

    def page(self, file: str, **content) -> None:
        """Write the page of a file, or the index."""
        neighbours, place = {}, None
        if file in self.chapters:
            place = self.chapters.index(file)
            near = {"previous": place - 1, "next": place + 1}
            neighbours = {
                w: self.chapters[i] for w, i in near.items() if 0 <= i < len(self.chapters)
            }
        known = {"book": self, "file": file, "place": place, "neighbours": neighbours}
        html = self.template.render(known, link=partial(self.link, file), **content)
        (OUT / file).parent.mkdir(parents=True, exist_ok=True)
        (OUT / f"{file}.html").write_text(html, encoding="utf-8")

    def notebook(self, file: str) -> str:
        """A notebook as HTML: prose with its formulas, code, and what is saved of the outputs."""
        formulas: list[str] = []

        def formula(match: re.Match) -> str:
            kind = "block" if match[0].startswith("$$") else "inline"
            html = convert(match[1] or match[2], display=kind)
            formulas.append(f'<span class="{kind}">{html}</span>')
            return f"\ue000{len(formulas) - 1}\ue001"  # in place of it, while Markdown is rendered

        pieces = []
        for i, cell in enumerate(json.loads(text_of(file))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                pieces.append(re.sub(r"\$\$(.+?)\$\$|\$([^$]+)\$", formula, source, flags=re.S))
                continue
            pieces.append(f"```python\n{source}\n```")
            pieces += [self.output(file, i, output) for output in cell["outputs"]]
        html = self.document(file, "\n\n".join(pieces))
        return re.sub("\ue000(\\d+)\ue001", lambda match: formulas[int(match[1])], html)

    def output(self, file: str, i: int, output: dict) -> str:
        """An output of cell i in Markdown; an image is written to a file beside the page."""
        data = output.get("data", {})
        for kind, end in IMAGES.items():
            if kind in data:
                content = "".join(data[kind])
                path = OUT / f"{file.removesuffix('.ipynb')}_{i}.{end}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(content) if end == "png" else content.encode())
                alt = escape("".join(data["text/plain"]).strip("<>"))
                return f'<figure><img src="{path.name}" alt="{alt}"></figure>'
        text = "".join(output.get("text") or data["text/plain"])
        return f'<pre class="output">{escape(text)}</pre>'

    def document(self, file: str, text: str) -> str:
        """A text in Markdown as HTML; links are seen from the page of `file`."""
        blocks = self.markdown.parse(text)
        slugs: list[str] = []
        for block, inside in zip(blocks, blocks[1:], strict=False):
            if block.type == "heading_open":  # the anchors that GitHub gives
                slug = re.sub(r"[^\w\- ]", "", inside.content.lower()).replace(" ", "-")
                block.attrSet("id", f"{slug}-{slugs.count(slug)}" if slug in slugs else slug)
                slugs.append(slug)
        for block in blocks:
            linked = False
            for token in block.children or []:
                linked = token.type == "link_open" or linked and token.type != "link_close"
                for name in {"href", "src"} & token.attrs.keys():
                    token.attrSet(name, self.address(file, str(token.attrs[name])))
                if token.type == "code_inline" and not linked and token.content in SOURCES:
                    token.type = "html_inline"
                    href = self.link(file, token.content)
                    token.content = f'<a href="{href}"><code>{token.content}</code></a>'
        html = self.markdown.renderer.render(blocks, self.markdown.options, {})
        html = html.replace("<table>", '<div class="wide"><table>')
        return html.replace("</table>", "</table></div>")

    def address(self, here: str, href: str) -> str:
        """What a link in a Markdown file becomes."""
        path, _, anchor = href.partition("#")
        if not path or re.match(r"\w+:", href):
            return href
        file = os.path.normpath(os.path.join(os.path.dirname(here), path))
        if file.startswith("..") or not (ROOT / file).exists():
            raise SystemExit(f"{here} has a link to {href}, and there is no such file")
        return self.link(here, file, anchor)


def outline(file: str) -> list[str]:
    """The functions and classes of a file, but for the private ones."""
    defined = [n for n in tree_of(file).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in defined if node.name[0] != "_"]


def list_of(folder: str) -> str:
    """What is in a folder, in Markdown."""
    names = [path.name for path in sorted((ROOT / folder).iterdir()) if path.name[0] not in "._"]
    items = [f"- [{name}]({os.path.basename(folder)}/{name})" for name in names]
    return "\n".join([f"# {folder}/\n", *items])


def highlight(code: str, language: str, _) -> str:
    return coloured("a.py" if language == "python" else "a.txt", code)


def main(arguments: list[str]) -> None:
    if arguments == ["--minutes"]:
        (ROOT / ORDER).write_text(with_minutes(text_of(ORDER)), encoding="utf-8")
    elif arguments:
        raise SystemExit(__doc__)
    else:
        Book().write()
        print(OUT.relative_to(ROOT) / "index.html")


if __name__ == "__main__":
    main(sys.argv[1:])
