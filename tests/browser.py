"""Headless Chromium for the tests: what a page shows, at the width of a phone and of a desk."""

import contextlib
import shutil

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WIDTHS = (390, 1280)


@contextlib.contextmanager
def browser():
    """A browser that pages can be opened in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@contextlib.contextmanager
def page(running, path, width, scheme="light", alone=True):
    """The file as a page; an AssertionError if its console says anything, or if it asks for
    another file.  One that is not `alone` may ask for files, and say what is no warning.
    """
    context = running.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    said, asked = [], []
    kinds = ("warning", "error")
    opened.on("console", lambda m: said.append(m.text) if alone or m.type in kinds else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.resolve().as_uri())
    yield opened
    context.close()
    assert said == []
    known = ("data:", path.resolve().as_uri() if alone else "file:")
    assert all(url.startswith(known) for url in asked), asked


def overflow(opened):
    """By how many pixels the page is wider than its window."""
    return opened.evaluate("document.documentElement.scrollWidth - innerWidth")
