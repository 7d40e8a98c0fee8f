"""Exercises: every op with an empty `backward`, some forward passes, and a checker.

    python -m minigrad.exercises [FOLDER]        check what you wrote, in examples/exercises
    python -m minigrad.exercises --hint softmax  one sentence that helps
    python -m minigrad.exercises --new FOLDER    a folder of your own, with nothing solved

The solutions are the pages of minigrad/ops/.  make.py makes the files from them, and check.py runs
the cases and checks that prove the pages themselves (minigrad/testing/).
"""
