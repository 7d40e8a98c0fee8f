"""Run the programs of examples/ by name:

python -m gpt_numpy train --data my.txt         examples/train_shakespeare.py --data my.txt
python -m gpt_numpy generate --prompt "Once"    examples/generate.py --prompt "Once"
"""

import runpy
import sys
from pathlib import Path

PROGRAMS = {"train": "train_shakespeare.py", "generate": "generate.py"}


def main(word: str = "", *arguments: str) -> int:
    """Run the program that `word` names, as if its file had been started; return the exit status.

    A program that runs ends with SystemExit, so this returns only if none ran.
    """
    if word in ("-h", "--help"):
        print(__doc__)
        return 0
    if word not in PROGRAMS:
        given = f"there is no command {word!r}" if word else "no command was given"
        print(f"gpt_numpy: {given}; the commands are train and generate", file=sys.stderr)
        return 2
    package = Path(__file__).parent
    paths = [folder / "examples" / PROGRAMS[word] for folder in (package.parent, package)]
    path = next(filter(Path.is_file, paths), None)  # that of the clone, else that of the wheel
    if path is None:
        print(
            f"gpt_numpy: {word} runs examples/{PROGRAMS[word]}, which is missing: install the "
            "package again, or run it in a clone of the repository",
            file=sys.stderr,
        )
        return 2
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
