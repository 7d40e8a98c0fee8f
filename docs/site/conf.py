"""The site: this repository, as Sphinx shows it.

    pip install -e ".[docs]" && python -m sphinx -q -j auto -c docs/site . build/site

The pages are the files themselves, where they are in the repository, so the same links work on the
site and in a clone.
"""

import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "docs/site")]

import reading_order  # noqa: E402
import source_pages  # noqa: E402

project = html_title = "minigrad and gpt_numpy"
root_doc = "README"
extensions = ["myst_nb"]
# "": a source file's page has the whole name of the file, because dropout.py and dropout.cu differ
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", "": "source"}
include_patterns = [
    *("*.md", "docs/**.md", "tests/*.md", "benchmarks/results/*.md", "examples/*/README.md"),
    *("minigrad/**.py", "gpt_numpy/**.py", "**.cu", "examples/*.py", "examples/exercises/*.py"),
    *("examples/lesson/*.ipynb", "tests/**.py", "benchmarks/*.py", "docs/**.py"),
    *("pyproject.toml", "LICENSE"),
]
exclude_patterns = ["build", ".*", "**/.*"]
nb_execution_mode = "off"
smartquotes = False
highlight_language = "text"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_context = {"default_mode": "auto"}
html_sidebars: dict[str, list[str]] = {"**.py": [], "**.cu": [], "README": []}
html_theme_options = {
    "collapse_navigation": True,
    "footer_end": [],
    "footer_start": [],
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
}
TREES = {  # the navigation: the pages below a page
    "README": [
        "Learn </examples/lesson/README>",
        "Read </docs/reading-order>",
        "Use </docs/guide/README>",
        "Check </docs/testing>",
        "Compare </docs/compare>",
        "Contribute </CONTRIBUTING>",
    ],
    "examples/lesson/README": ["/examples/lesson/*", "/examples/exercises/README"],
    "examples/exercises/README": ["/examples/exercises/*"],
    "docs/reading-order": [
        f"/{file}" for row in reading_order.rows() for file in row.files if file[-3:] != "ynb"
    ]
    + ["/gpt_numpy/__*", "/minigrad/__*"],
    "docs/guide/README": ["/docs/guide/training", "/docs/guide/*"],
    "docs/testing": ["/docs/benchmarks", "/tests/**"],
    "docs/benchmarks": ["/benchmarks/**"],
    "docs/compare": ["/docs/negative-results"],
    "CONTRIBUTING": ["/CHANGELOG", "/docs/*.py", "/docs/site/*", "/pyproject.toml", "/LICENSE"],
}


def add_tree(app, docname, source):
    """Add the navigation to a page; where code is hosted, the page is read without it."""
    if docname in TREES:
        tree = "\n".join(TREES[docname])
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{tree}\n```\n"


def link_files(app, document):
    """Link names of files to their pages, and show links to files without a page as text."""
    env = app.env
    here = Path(env.doc2path(env.docname)).parent
    for node in [*document.findall(addnodes.pending_xref)]:
        if node["refdomain"] == "doc":
            exists = node["reftarget"] not in env.found_docs
        else:
            exists = (here / node["reftarget"]).is_dir()
        if exists and node["reftype"] == "myst":
            node.replace_self(node.children)
    for node in [*document.findall(nodes.literal)]:
        target = app.project.path2doc(node.astext())
        if target in env.found_docs and not isinstance(node.parent.parent, nodes.reference):
            options = {"refdomain": "std", "reftype": "doc", "refexplicit": True}
            link = addnodes.pending_xref("", reftarget=f"/{target}", refdoc=env.docname, **options)
            node.replace_self(link)
            link += node


def resolve_names(app):
    """Find what the names in the code mean, in all processes, before pages are made."""
    found = app.project.discover(exclude_patterns, include_patterns)
    files = sorted(file for file in found if file.endswith(".py"))
    with ProcessPoolExecutor() as pool:
        names = pool.map(source_pages.names_in_code, files, chunksize=8)
        app.config.names = dict(zip(files, names, strict=True))


def front_page(app, error):
    if not error:
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")


def mathml(display):
    """A visitor of formulas.  Browsers show MathML without a script and without a network."""

    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def setup(app):
    app.add_source_parser(source_pages.SourceParser)
    app.add_config_value("names", {}, "", dict)
    app.add_html_math_renderer("mathml", mathml("inline"), mathml("block"))
    app.connect("builder-inited", resolve_names)
    app.connect("source-read", add_tree)
    app.connect("doctree-read", link_files)
    app.connect("build-finished", front_page)
    return {"parallel_read_safe": True}
