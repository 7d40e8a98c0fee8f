"""`python -m minigrad.exercises [FOLDER [NAME ...]]`: what is done, what is wrong, what is open."""

import argparse
import sys
from pathlib import Path

from minigrad.exercises.check import DONE, OPEN, WRONG, check
from minigrad.exercises.hints import FORWARD, FUNCTIONS, HINTS
from minigrad.exercises.make import exercises

FOLDER = Path("examples/exercises")


def hints():
    """Return {exercise: its hint}."""
    return HINTS | {f"{name}_forward": hint for name, (_, hint) in FORWARD.items()} | FUNCTIONS


def new(folder):
    """Write the unsolved exercises into a new folder."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in exercises().items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    print(f"{len(hints())} exercises are in {folder}")


def table(folder, names):
    """Print the state of the exercises that are named; return how many are done."""
    states = []
    for name in names:
        state, remark = check(folder, name)
        states.append(state)
        print(f"{name:22} {state:5}   {remark}".rstrip())
    done, wrong, left = (states.count(state) for state in (DONE, WRONG, OPEN))
    print(f"\n{done} done, {wrong} wrong, {left} open, of {len(states)}")
    return done


def main(arguments=None):
    """Return the exit status: 0 if all checked exercises are done, 1 if not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m minigrad.exercises", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    parser.add_argument("names", nargs="*", metavar="NAME", help="check only these; default: all")
    parser.add_argument("--hint", metavar="NAME", help="print a hint for an exercise, and stop")
    parser.add_argument("--new", action="store_true", help="write unsolved exercises into FOLDER")
    given = parser.parse_args(arguments)
    for name in [*given.names, *([given.hint] if given.hint else [])]:
        if name not in hints():
            parser.error(f"there is no exercise {name!r}: {', '.join(hints())}")
    if given.hint:
        print(hints()[given.hint])
        return 0
    if given.new:
        if given.names:
            parser.error("--new writes all exercises: name only the folder")
        new(given.folder)
        return 0
    if not given.folder.is_dir():
        parser.error(f"there is no folder {given.folder}; --new {given.folder} makes it")
    names = given.names or [*hints()]
    return 0 if table(given.folder, names) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
