"""The site: this repository, as Sphinx shows it.

    pip install -e ".[docs]" && python -m sphinx -q -j auto -c docs/site . build/site

The pages are the files themselves, where they are in the repository, so the same links work on the
site and in a clone.  toc.yml has the navigation.

Why Sphinx: MyST-NB shows the notebooks as they are saved and executes nothing, and -W makes a
broken link an error.  The alternative was Material for MkDocs.  It prints at every build that its
end of life is 5 May 2027, and its plugin for offline search loads a script from unpkg.com into the
reader's browser.
"""

import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))

import source_pages

project = html_title = "minigrad and gpt_numpy"
extensions = ["myst_nb", "sphinx_external_toc"]
external_toc_path = "docs/site/toc.yml"
# "": a source file's page has the whole name of the file, because dropout.py and dropout.cu differ
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", "": "source"}
folders = ("minigrad", "gpt_numpy", "examples", "tests", "benchmarks", "docs")
include_patterns = ["*.md", "LICENSE", "pyproject.toml"]
include_patterns += [f"{d}/**.{kind}" for d in folders for kind in "md py cu js ipynb".split()]
exclude_patterns = ["examples/lesson/*.py", "**/.*"]  # the notebooks are made from these scripts
nb_execution_mode = "off"
smartquotes = False
highlight_language = "text"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_static_path = html_css_files = ["site.css"]
html_copy_source = False
html_context = {"default_mode": "auto"}
html_extra_path = ["index.html"]
html_sidebars: dict[str, list[str]] = {"**.py": [], "**.cu": [], "README": []}
html_theme_options = {
    "collapse_navigation": True,
    "footer_end": [],
    "footer_start": [],
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
}


def link_files(app, document):
    """Link the names of files in Markdown's `code` to their pages."""
    for node in [*document.findall(nodes.literal)]:
        page = app.project.path2doc(node.astext())
        if page in app.env.found_docs and not isinstance(node.parent.parent, nodes.reference):
            uri = app.builder.get_relative_uri(app.env.docname, page)
            node.replace_self(nodes.reference("", "", node.deepcopy(), internal=True, refuri=uri))


def mathml(display):
    """A visitor of formulas.  Browsers show MathML without a script and without a network."""

    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def setup(app):
    app.add_source_parser(source_pages.SourceParser)
    app.add_html_math_renderer("mathml", mathml("inline"), mathml("block"))
    app.connect("doctree-read", link_files)
    # sphinx_external_toc loads it, and it does not say that it is safe: it replaces one method
    app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True
    return {"parallel_read_safe": True}
