"""The book: every page is there, shows its file, and leads where it says."""

import ast
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import WIDTHS, browser, needs_browser, overflow
from browser import page as open_page

from minigrad import OPS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "build", "runs", "*.egg-info")
VOID = {"meta", "link", "img", "br", "hr", "wbr"}


class Page(HTMLParser):
    """What a page links to, its anchors, and the text of the elements of some classes."""

    def __init__(self, path):
        super().__init__()
        self.hrefs, self.sources, self.ids, self.texts, self.open = [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], path

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.hrefs += [attributes["href"]] if tag == "a" else []
        self.sources += [attributes[k] for k in ("src", "href") if tag != "a" and k in attributes]
        if tag not in VOID:
            classes = attributes.get("class", "").split()
            self.open.append((tag, classes))
            self.texts += [(classes, [])] if {"src", "label", "output"} & {*classes} else []

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop()[0] == tag

    def handle_data(self, data):
        if any({"src", "label", "output"} & {*classes} for _, classes in self.open):
            self.texts[-1][1].append(data)

    def text(self, kind):
        return ["".join(pieces) for classes, pieces in self.texts if kind in classes]


def build(folder):
    """The command, as a reader runs it."""
    return subprocess.run(
        [sys.executable, folder / "docs/book.py"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of the book, and its pages by their paths there."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
    done = build(folder)
    assert (done.returncode, done.stderr) == (0, "")
    out = folder / "build/book"
    assert done.stdout == "build/book/index.html\n"
    return out, {p.relative_to(out).as_posix(): Page(p) for p in out.rglob("*.html")}


@pytest.fixture(scope="module")
def builder():
    """The modules of docs/, as the command has them."""
    sys.path.insert(0, str(ROOT / "docs"))
    import book

    sys.path.remove(str(ROOT / "docs"))
    return book


def test_every_link_leads_somewhere(book):
    """Files and anchors; nothing is loaded from elsewhere, and no anchor is there twice."""
    out, pages = book
    count = 0
    for name, page in pages.items():
        assert len(page.ids) == len({*page.ids}), name
        assert not any(urlsplit(source).scheme for source in page.sources), name
        for href in page.hrefs + page.sources:
            parts = urlsplit(href)
            if parts.scheme:
                continue
            path = os.path.normpath(out / os.path.dirname(name) / unquote(parts.path))
            target = os.path.relpath(path, out) if parts.path else name
            assert (out / target).is_file(), (name, href)
            assert not parts.fragment or parts.fragment in pages[target].ids, (name, href)
            count += 1
    assert count > 10_000
    css = (out / "book.css").read_text(encoding="utf-8")
    assert "url(" not in css and "@import" not in css


def test_the_source_is_shown_as_it_is(book):
    """Every page of a source file holds its text, character for character, and all its lines."""
    out, pages = book
    shown = 0
    for name, page in pages.items():
        file = out.parents[1] / name.removesuffix(".html")
        if file.suffix in (".py", ".cu"):
            text = file.read_text(encoding="utf-8")
            assert "".join(page.text("src")) == text, name
            lines = [f"L{i + 1}" for i in range(text.count("\n"))]
            assert [id for id in page.ids if re.fullmatch(r"L\d+", id)] == lines
            shown += 1
    assert shown > 60


def test_the_reading_order(book, builder):
    """The contents list it; each file has its page, and leads to the one before and after it.

    The pages of the engine come before the files that nobody needs to understand it.
    """
    out, pages = book
    chapters = [file for row in builder.reading_order() for file in row.files]
    lesson, source = chapters[:12], chapters[12:]
    assert lesson == sorted(f"{LESSON}{p.name}" for p in (ROOT / LESSON).glob("*.ipynb"))
    assert source[0] == "gpt_numpy/train.py" and "minigrad/fast/gpu/dropout.cu" in source
    extra = [file for file in source if file.startswith(builder.EXTRA)]
    assert source[-len(extra) :] == extra and source.index("minigrad/tensor.py") < 8
    modules = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("[mg]*[dy]/**/*.py")}
    assert {m for m in modules if not m.endswith(("/__init__.py", "/__main__.py"))} <= {*source}
    assert len(chapters) == len({*chapters})
    listed = [href.removesuffix(".html") for href in pages["index.html"].hrefs]
    assert [file for file in listed if file in chapters] == chapters
    for before, after in zip(chapters, chapters[1:], strict=False):
        for one, other in ((before, after), (after, before)):
            href = os.path.relpath(f"{other}.html", os.path.dirname(one))
            assert href in pages[f"{one}.html"].hrefs


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_has_its_formula_forward_and_backward(name, book):
    """In this order, with labels, under an anchor of its name."""
    _, pages = book
    function = sys.modules[OPS[name].__module__].__dict__[name]
    page = pages[OPS[name].__module__.replace(".", "/") + ".py.html"]
    assert {name, f"{name}.backward"} <= {*page.ids}
    parts = [(kinds, "".join(pieces)) for kinds, pieces in page.texts]
    formula = function.__doc__.partition("\n")[0]
    at = next(i for i, (_, text) in enumerate(parts) if text.startswith(f'    """{formula}\n'))
    assert f"def {name}(" in parts[at - 1][1]
    labels = [text for kinds, text in parts[at + 1 : at + 7 : 2] if "label" in kinds]
    assert labels[: labels.index("backward") + 2][-2:] == ["backward", "forward"]
    backward = parts[at + 2 + 2 * labels.index("backward")][1]
    assert backward.startswith("    def backward(dout):") and "return" in backward
    assert re.search(
        r"^    return .*backward$", parts[at + 4 + 2 * labels.index("backward")][1], re.M
    )


@pytest.mark.parametrize(
    "file, line, word, target",
    [
        ("gpt_numpy/model.py", "F.attention(", "attention", "minigrad/ops/attention.py"),
        ("gpt_numpy/model.py", "self._initialize()", "_initialize", "gpt_numpy/model.py"),
        ("gpt_numpy/train.py", "minigrad.schedule", "warmup_cosine", "minigrad/schedule.py"),
        ("minigrad/internals/operators.py", 'OPS["neg"](', "neg", "minigrad/ops/elementwise.py"),
        ("minigrad/ops/dropout.py", "(x, p, key)", "keep_mask", "minigrad/random.py"),
        ("minigrad/ops/attention.py", "row by row; see", "softmax", "minigrad/ops/softmax.py"),
        (
            "minigrad/fast/gpu/dropout.cu",
            "random.keep_mask()",
            "random.keep_mask",
            "minigrad/random.py",
        ),
        (
            "minigrad/ops/__init__.py",
            "(internals/errors.py)",
            "internals/errors.py",
            "minigrad/internals/errors.py",
        ),
        ("minigrad/fast/cpu/gelu.py", "@twin(ops.gelu", "gelu", "minigrad/ops/gelu.py"),
        ("gpt_numpy/model.py", "sample.stream(self", "sample", "gpt_numpy/sample.py"),
    ],
)
def test_a_name_leads_to_what_it_means(file, line, word, target, book):
    """In imports, calls, operators and prose."""
    html = (book[0] / f"{file}.html").read_text(encoding="utf-8").splitlines()
    href = os.path.relpath(f"{target}.html", os.path.dirname(file)) if target != file else ""
    anchor = "" if target.endswith(f"/{word}") or word == "sample" else f"#{word.split('.')[-1]}"
    anchor = anchor.replace("#_", "#GPT._")
    shown = [row for row in html if line in re.sub("<[^>]*>", "", row)]
    assert shown and all(f'<a href="{href}{anchor}">{word}</a>' in row for row in shown)


def test_names_of_a_function_are_not_those_of_the_module(builder, monkeypatch):
    """A parameter or a variable hides the import of the same name; no link is a guess."""
    names = sys.modules["book_names"]
    code = "from minigrad import nn, random\n\ndef f(nn):\n    return nn.Linear, random.philox\n"
    monkeypatch.setattr(names, "tree_of", lambda file: ast.parse(code if file == "f.py" else ""))
    found = {name: place for line, _, name, place in names.names_in_code("f.py") if line == 4}
    assert found["nn"] is None and found["Linear"] is None
    assert found["random"] == ("minigrad/random.py", "")
    # A method is not a function, "bits" is a word, and a tokenizer no module.
    assert names.place_in_prose("gpt_numpy/tokenizer.py", "fingerprint()") is None
    assert names.place_in_prose("gpt_numpy/model.py", "tokenizer.fingerprint") is None
    assert names.place_in_prose("gpt_numpy/app/report.py", "bits") is None


LESSON = "examples/lesson/"


def test_notebooks_show_what_is_saved_in_them(book):
    """Every cell's code and printed output, images with a description, formulas as MathML."""
    out, pages = book
    notebooks = sorted((ROOT / LESSON).glob("*.ipynb"))
    assert len(notebooks) == 12
    for path in notebooks:
        page = pages[f"{LESSON}{path.name}.html"]
        html = (out / f"{LESSON}{path.name}.html").read_text(encoding="utf-8")
        cells = nbformat.read(path, 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        printed = [output.text for output in outputs if "text" in output]
        assert page.text("output") == printed, path
        images = [source for source in page.sources if source.startswith(path.stem)]
        assert len(images) == len(outputs) - len(printed), path
        assert html.count('alt="figure: ') == sum(name.endswith(".png") for name in images)
        plain = unescape(re.sub("<[^>]*>", "", html))
        assert all(cell.source in plain for cell in cells if cell.cell_type == "code"), path
        prose = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
        n_formulas = len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", prose, re.DOTALL))
        assert html.count("<math ") == n_formulas and "$" not in plain, path
    assert "examples/exercises.html" in {  # the link of a notebook to a folder leads to its list
        os.path.normpath(LESSON + href)
        for href in pages[f"{LESSON}02_build_a_tape.ipynb.html"].hrefs
    }


def test_minutes(builder, monkeypatch):
    """Words by 200 and lines by 20, counted by hand and rounded up: 300 / 200 + 12 / 20 = 2.1."""
    source = sys.modules["book_source"]
    text = '"""' + "word " * 149 + 'word"""\n\n' + "x = 1\n" * 11
    text += 'y = "a word"  #' + " word" * 149 + "\n"
    monkeypatch.setattr(source, "text_of", lambda file: text)
    assert source.minutes("file.py") == 3


def test_the_reading_order_has_the_minutes(builder):
    """Those that are computed."""
    page = (ROOT / builder.ORDER).read_text(encoding="utf-8")
    assert builder.with_minutes(page) == page, "run: python docs/book.py --minutes"


def test_every_document_is_in_the_book(book):
    """README.md, CONTRIBUTING.md and the like, and the pages of docs/ and docs/guide/."""
    _, pages = book
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/guide/*.md")]
    names = {path.relative_to(ROOT).as_posix() for path in documents}
    assert len(names) > 15 and {f"{name}.html" for name in names} <= {*pages["index.html"].hrefs}


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen(width, book, chromium):
    """No page scrolls sideways, on a desktop no code either; and no error is logged."""
    notebooks = [f"{LESSON}{name}.ipynb" for name in ("04_cross_entropy", "09_attention")]
    sources = ["minigrad/ops/layer_norm.py", "gpt_numpy/train.py"]
    for name in ("index", "README.md", *sources, *notebooks):
        with open_page(chromium, book[0] / f"{name}.html", width, alone=False) as opened:
            assert overflow(opened) <= 0, name
            if width == 1280 and name.endswith(".py"):
                more = "all => all.map(e => e.scrollWidth - e.clientWidth)"
                assert max(opened.eval_on_selector_all("pre", more)) <= 0, name
