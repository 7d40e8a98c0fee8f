"""The order of docs/reading-order.md, and the minutes in its tables.

python docs/reading_order.py     computes the column "minutes" of that page again
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

from pygments.lexers import find_lexer_class_for_filename
from pygments.token import Comment, String

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reading-order.md"


class Row(NamedTuple):
    """A line of the page."""

    line: str  # as it is there
    files: list[str]


def rows() -> list[Row]:
    """Return the rows of the tables.  A folder means the files in it that have no other row."""
    lines = re.findall(r"^\| `.*\|$", PAGE.read_text(encoding="utf-8"), re.M)
    names = [re.findall("`(.+?)`", line.split("|")[1]) for line in lines]
    named = {name for in_row in names for name in in_row}
    found = []
    for line, in_row in zip(lines, names, strict=True):
        files = []
        for name in in_row:
            inside = [f"{name}{path.name}" for path in sorted((ROOT / name).glob("*.[pc][yu]"))]
            files += [file for file in inside if file not in named] or [name]
        found.append(Row(line, files))
    return found


def minutes(file: str, text: str | None = None) -> int:
    """Return how long a file takes to read: prose at 200 words a minute, code at 20 lines a minute.

    Prose is what is in comments and docstrings.  People read 238 words of it a minute
    (Brysbaert 2019, "How many words do we read per minute?"), and fewer with formulas in between.
    A line of code is one that holds anything else.  Rounded up; with a pencil it takes longer.
    """
    file = file.replace(".ipynb", ".py")  # the text of a notebook without outputs
    text = (ROOT / file).read_text(encoding="utf-8") if text is None else text
    words, code, line = 0, set(), 1
    for _, kind, token in find_lexer_class_for_filename(file)().get_tokens_unprocessed(text):
        end = line + token.count("\n")
        if any(kind in prose for prose in (Comment.Single, Comment.Multiline, String.Doc)):
            words += len(token.split())
        elif token.strip():
            code |= {*range(line, end + 1)}
        line = end
    return math.ceil(words / 200 + len(code) / 20)


def with_minutes() -> str:
    """Return the text of the page with the last column of its tables computed."""
    page = PAGE.read_text(encoding="utf-8")
    for line, files in rows():
        cells = line.split("|")
        cells[-2] = f" {sum(map(minutes, files))} "
        page = page.replace(line, "|".join(cells))
    return page


if __name__ == "__main__":
    PAGE.write_text(with_minutes(), encoding="utf-8")
