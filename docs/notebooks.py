"""Execute the lesson: make examples/lesson/*.ipynb, with outputs, from the *.py beside them.

    python docs/notebooks.py                 all of them
    python docs/notebooks.py 06 11           those whose names begin so

The .py is the source, in jupytext's percent format; edit that one.  What a notebook prints must be
the same on every machine: no times, no paths, no digits that depend on a BLAS library.
"""

import os
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

LESSON = Path(__file__).parents[1] / "examples/lesson"
TIME_LIMIT = (
    3600  # seconds for a cell; on a quiet machine a whole notebook takes less than one minute
)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def unexecuted(path):
    """Return the notebook that a .py file in percent format describes, without outputs."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", nbformat.from_dict({})
    return notebook


def execute(notebook, folder, **options):
    """Run all cells in a new kernel, in `folder`; CellExecutionError if one of them fails."""
    NotebookClient(
        notebook,
        timeout=TIME_LIMIT,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        **options,
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)  # without the version of this Python
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs):
    """Return outputs with what is printed in several pieces joined: the pieces depend on timing."""
    result: list[Any] = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def printed_by(cell):
    """Return the text outputs of a cell: what it printed, and the text of its last value."""
    outputs = cell.get("outputs", [])
    return [output.text if "text" in output else output.data["text/plain"] for output in outputs]


def main(prefixes):
    """Execute the notebooks whose names begin with one of the prefixes, or all."""
    for path in sorted(LESSON.glob("[0-9]*.py")):
        if not prefixes or path.name.startswith(tuple(prefixes)):
            notebook = execute(unexecuted(path), LESSON)
            nbformat.write(notebook, path.with_suffix(".ipynb"))
            print(os.path.relpath(path.with_suffix(".ipynb")), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
