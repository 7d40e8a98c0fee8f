"""The site: every page is there, shows its file, and leads where it says."""

import importlib.util
import json
import os
import re
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
from filelock import FileLock

from minigrad import OPS

ROOT = Path(__file__).parents[1]
LESSON = "examples/lesson/"
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
VOID = {"meta", "link", "img", "br", "hr", "wbr", "input", "source", "path"}


def module(path):
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


reading_order = module(ROOT / "docs/reading_order.py")


class Page(HTMLParser):
    """What a page links to and loads, its anchors, and the text of its rows and outputs."""

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.hrefs, self.loaded, self.ids, self.texts, self.open = [], [], [], [], []
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.hrefs += [attributes["href"]] if tag == "a" and "href" in attributes else []
        if attributes.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loaded += [attributes[LOADED[tag]]] if LOADED.get(tag) in attributes else []
        if tag not in VOID:
            kinds = {*(attributes.get("class") or "").split()}
            self.open.append((tag, kinds))
            self.texts += [(kinds, [])] if kinds & {"pair", "alone", "output"} else []

    def handle_endtag(self, tag):
        while tag not in VOID and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if any(kinds & {"pair", "alone", "output"} for _, kinds in self.open):
            self.texts[-1][1].append(data)

    def text(self, *kinds):
        return ["".join(pieces) for found, pieces in self.texts if found & {*kinds}]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the site, built once, with warnings as errors, and its pages."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    out = shared / "site"
    with FileLock(shared / "site.lock"):
        if not (out / "index.html").exists():
            found = re.search("python (-m sphinx .*) build/site$", text("docs/site/conf.py"), re.M)
            strictly = ["-W", "--keep-going", *found[1].split()]
            done = subprocess.run(
                [sys.executable, *strictly, out],
                cwd=ROOT,
                capture_output=True,
                encoding="utf-8",
            )
            assert done.returncode == 0, done.stderr
    found = [path for path in out.rglob("*.html") if "_static" not in path.parts]
    return out, {p.relative_to(out).as_posix(): Page(p) for p in found}


def text(file):
    return (ROOT / file).read_text(encoding="utf-8")


def sources():
    """The files of both packages."""
    return [
        path.relative_to(ROOT).as_posix()
        for folder in ("minigrad", "gpt_numpy")
        for path in sorted((ROOT / folder).rglob("*.[pc][yu]"))
    ]


@pytest.mark.slow
def test_every_link_leads_somewhere(site):
    """Files and anchors; nothing is loaded from elsewhere, and no anchor is there twice."""
    out, pages = site
    count = 0
    for name, page in pages.items():
        assert len(page.ids) == len({*page.ids}), name
        assert not any(urlsplit(address).scheme not in ("", "data") for address in page.loaded), (
            name
        )
        for href in page.hrefs + page.loaded:
            parts = urlsplit(href)
            if parts.scheme:
                continue
            path = os.path.normpath(out / os.path.dirname(name) / unquote(parts.path))
            target = os.path.relpath(path, out) if parts.path else name
            assert (out / target).is_file(), (name, href)
            anchor = unquote(parts.fragment)
            assert not anchor or anchor in pages[target].ids, (name, href)
            count += 1
    assert count > 10_000
    for path in out.rglob("*.css"):
        css = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"""(url\(|@import) *["']?https?:""", css), path


@pytest.mark.slow
def test_the_source_is_shown_as_it_is(site):
    """A page of a source file has all of its text, in its order."""
    _, pages = site
    for file in sources():
        page = pages[f"{file}.html"]
        shown = "".join("".join(page.text("pair", "alone")).split())
        source = re.sub(r'\br"""', '"""', text(file))
        if file.endswith(".cu"):
            source = re.sub("^// ?", "", source, flags=re.MULTILINE)
        marks = r'//|"""|[\\`]'
        assert re.sub(marks, "", shown) == re.sub(marks, "", "".join(source.split())), file


@pytest.mark.slow
def test_a_docstring_is_beside_its_code(site):
    """Every documented function and class of the engine is a row, with a heading or an anchor."""
    _, pages = site
    for name, function in OPS.items():
        page = pages[sys.modules[function.__module__].__name__.replace(".", "/") + ".py.html"]
        assert {name, f"{name}.backward"} <= {*page.ids}
        formula = " ".join(function.__doc__.partition("\n")[0].replace("`", "").split())
        row = next(row for row in page.text("pair") if f"def {name}(" in row)
        assert formula in " ".join(row.split())
        before, _, after = row.partition("def backward(")
        assert f"def {name}(" in before and re.search(r"^    return .*backward$", after, re.M)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, line, word, target",
    [
        ("gpt_numpy/model.py", "F.attention(", "attention", "minigrad/ops/attention.py#attention"),
        ("gpt_numpy/model.py", "self._initialize()", "_initialize", "#GPT._initialize"),
        (
            "gpt_numpy/model.py",
            "config.n_embd",
            "n_embd",
            "gpt_numpy/config.py#Architecture.n_embd",
        ),
        ("gpt_numpy/model.py", "sample.stream(self", "sample", "gpt_numpy/sample.py"),
        (
            "gpt_numpy/model.py",
            "self.parameters()",
            "parameters",
            "minigrad/nn.py#Module.parameters",
        ),
        ("gpt_numpy/train.py", "minigrad.schedule", "schedule", "minigrad/schedule.py"),
        (
            "minigrad/internals/operators.py",
            'OPS["neg"](',
            "neg",
            "minigrad/ops/elementwise.py#neg",
        ),
        ("minigrad/ops/dropout.py", "(x, p, key)", "keep_mask", "minigrad/random.py#keep_mask"),
        ("minigrad/fast/cpu/gelu.py", "@twin(ops.gelu", "gelu", "minigrad/ops/gelu.py#gelu"),
        (
            "minigrad/fast/gpu/dropout.cu",
            "keep_mask()",
            "random.keep_mask",
            "minigrad/random.py#keep_mask",
        ),
        (
            "minigrad/ops/__init__.py",
            "errors.py",
            "internals/errors.py",
            "minigrad/internals/errors.py",
        ),
    ],
)
def test_a_name_leads_to_what_it_means(file, line, word, target, site):
    """In imports, calls, methods, attributes, operators and prose."""
    path, _, anchor = target.partition("#")
    href = os.path.relpath(f"{path}.html", os.path.dirname(file)) if path else ""
    href += f"#{anchor}" * bool(anchor)
    rows = site[1][f"{file}.html"].html.splitlines()
    shown = [row for row in rows if line in unescape(re.sub("<[^>]*>", "", row))]
    assert shown and all(f'<a href="{href}">{word}</a>' in row for row in shown)


@pytest.mark.slow
def test_the_reading_order_is_that_of_the_pages(site):
    """Each file of the order leads to the next; the order has every module of both packages."""
    _, pages = site
    chapters = [file for row in reading_order.rows() for file in row.files]
    lesson, source = chapters[:12], chapters[12:]
    assert lesson == sorted(f"{LESSON}{path.name}" for path in (ROOT / LESSON).glob("*.ipynb"))
    assert source[0] == "gpt_numpy/train.py" and "minigrad/fast/gpu/dropout.cu" in source
    assert len(chapters) == len({*chapters})
    assert {file for file in sources() if not re.search("__(init|main)__", file)} <= {*source}
    for before, after in zip(source, source[1:], strict=False):
        href = os.path.relpath(f"{after}.html", os.path.dirname(before))
        assert href in pages[f"{before}.html"].hrefs, (before, after)


@pytest.mark.slow
def test_notebooks_show_what_is_saved_in_them(site):
    """Every cell's code and printed output, the figures, and formulas as MathML."""
    _, pages = site
    notebooks = sorted((ROOT / LESSON).glob("*.ipynb"))
    assert len(notebooks) == 12
    for path in notebooks:
        page = pages[f"{LESSON}{path.stem}.html"]
        cells = nbformat.read(path, 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        printed = [output.text.strip() for output in outputs if "text" in output]
        plain = unescape(re.sub("<[^>]*>", "", page.html))
        assert all(words in plain for words in printed), path
        images = [image for image in page.loaded if "_images/" in image]
        assert len(images) >= len(outputs) - len(printed) - plain.count("<svg"), path
        assert all(cell.source in plain for cell in cells if cell.cell_type == "code"), path
        prose = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
        n_formulas = len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", prose, re.DOTALL))
        assert page.html.count("<math ") == n_formulas and "$" not in plain, path


@pytest.mark.slow
def test_every_document_is_on_the_site(site):
    """README.md is its front page; the pages of docs/, CHANGELOG.md and CONTRIBUTING.md follow."""
    out, pages = site
    assert "url=README.html" in (out / "index.html").read_text(encoding="utf-8")
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/guide/*.md")]
    names = {path.relative_to(ROOT).as_posix().removesuffix(".md") for path in documents}
    assert len(names) > 15 and {f"{name}.html" for name in names} <= {*pages}
    learn = [f"{LESSON}README.html", "docs/reading-order.html", "docs/guide/README.html"]
    assert {*learn, "docs/testing.html", "docs/compare.html"} <= {*pages["README.html"].hrefs}
    assert "../gpt_numpy/train.py.html" in pages["docs/reading-order.html"].hrefs


@pytest.mark.slow
def test_the_search_knows_formulas(site):
    """The words of a derivation, and the functions' names, which are headings."""
    index = (site[0] / "searchindex.js").read_text(encoding="utf-8")
    for word in ("layer_norm", "warmup_cosine", json.dumps("δᵢⱼ"), "perplex"):
        assert word in index


def test_minutes():
    """Words by 200 and lines by 20, counted by hand and rounded up: 300 / 200 + 12 / 20 = 2.1."""
    source = '"""' + "word " * 149 + 'word"""\n\n' + "x = 1\n" * 11
    source += 'y = "a word"  #' + " word" * 149 + "\n"
    assert reading_order.minutes("file.py", source) == 3


def test_the_reading_order_has_the_minutes():
    """Those that are computed."""
    assert reading_order.with_minutes() == text("docs/reading-order.md"), (
        "run: python docs/reading_order.py"
    )


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen(width, site, chromium):
    """No page scrolls sideways; a docstring is beside its code, on a phone above it; no error."""
    notebooks = [f"{LESSON}{name}" for name in ("04_cross_entropy", "09_attention")]
    sources = ["minigrad/ops/layer_norm.py", "gpt_numpy/train.py"]
    for name in ("README", "docs/guide/training", *sources, *notebooks):
        with open_page(chromium, site[0] / f"{name}.html", width, alone=False) as opened:
            assert overflow(opened) <= 0, name
            if name in sources:
                left = "all => all.map(e => e.getBoundingClientRect().left)"
                places = [
                    opened.eval_on_selector_all(f".pair > {e}", left) for e in ("pre", ".prose")
                ]
                assert (max(places[1]) < min(places[0])) == (width == 1280), name
